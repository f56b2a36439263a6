//! A new token on the same connection, before the old one expires (LC-SDK-019).
//!
//! ```text
//!         Welcome, expiry known             time, or asked for            token
//!  ┌──────┐ ─────────▶ ┌─────────┐ ─────────────────────▶ ┌───────┐ ─────────────▶ ┌──────┐
//!  │ Idle │            │ Waiting │                        │ Asked │                │ Sent │
//!  └──────┘            └─────────┘ ◀───── no token ────── └───────┘                └──────┘
//!                           ▲                                                          │
//!                           └────────── TokenRefreshed, Error, no answer ──────────────┘
//! ```
//!
//! A refusal changes nothing: the old token holds until it expires, and then the node closes the connection with a code
//! that has the application asked for a new one.

use super::{Action, Client, Event, Link, Pending};
use crate::codes::Code;
use crate::session::Now;
use crate::v1;
use crate::v1::frame::Body;

/// A new token is asked for when a tenth of the life is left, or this much; and up to half as much earlier, so that
/// clients whose tokens were made together do not ask together.
const LEAD_MAX_MS: u64 = 60_000;
/// Least time between two refreshes: a provider that hands out tokens which are nearly over is not asked without pause.
const PAUSE_MS: u64 = 1_000;
/// How long the application may take for a token, and the node for its answer.
const STEP_WITHIN_MS: u64 = 10_000;

#[derive(Debug, Default)]
enum State {
    /// Nothing to do: the token does not expire, or has.
    #[default]
    Idle,
    Waiting {
        at_ms: u64,
    },
    /// The application was asked for a token.
    Asked {
        by_ms: u64,
    },
    /// The node was sent one.
    Sent {
        by_ms: u64,
    },
}

/// Where a connection stands with its token.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    /// The node takes a new token, and the application can be asked for one.
    is_served: bool,
    /// When the token expires, monotonic ms; `None`: never, as far as is known.
    expires_at_ms: Option<u64>,
    /// The code with which the last new token was refused; 0: none was.
    refused: u32,
    state: State,
}

impl Refresh {
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::Idle => None,
            State::Waiting { at_ms } => Some(at_ms),
            State::Asked { by_ms } | State::Sent { by_ms } => Some(by_ms),
        }
    }

    /// Tries again when half of what is left has passed.
    fn again(&mut self, now_ms: u64, after_ms: u64) {
        let left_ms = self.expires_at_ms.map_or(0, |at| at.saturating_sub(now_ms));
        let wait_ms = (left_ms / 2).max(PAUSE_MS).max(after_ms);
        self.state = match wait_ms < left_ms {
            true => State::Waiting { at_ms: now_ms + wait_ms },
            false => State::Idle,
        };
    }
}

impl Client {
    // Inputs.

    /// The application gave the token that [`Action::RenewToken`] asked for.
    pub fn renewed(&mut self, now: Now, token: String) {
        if !self.is_asked() {
            return;
        }
        let sent = self.request(Body::RefreshToken(v1::RefreshToken { token: token.clone() }), Pending::Refresh(token));
        let Link::Open(open) = &mut self.link else { return };
        match sent {
            Ok(_) => open.refresh.state = State::Sent { by_ms: now.monotonic_ms + STEP_WITHIN_MS },
            Err(_) => open.refresh.again(now.monotonic_ms, 0),
        }
    }

    /// The application gave no token.
    pub fn not_renewed(&mut self, now: Now) {
        if self.is_asked()
            && let Link::Open(open) = &mut self.link
        {
            open.refresh.again(now.monotonic_ms, 0);
        }
    }

    fn is_asked(&self) -> bool {
        matches!(&self.link, Link::Open(open) if matches!(open.refresh.state, State::Asked { .. }))
    }

    // Commands.

    /// Asks the application for a new token now, and hands it to the node: for an application that knows of new rights.
    /// Does nothing without a connection, where the node does not take it, and while a refresh is under way.
    pub fn refresh_token(&mut self, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        if open.refresh.is_served && matches!(open.refresh.state, State::Idle | State::Waiting { .. }) {
            open.refresh.state = State::Asked { by_ms: now.monotonic_ms + STEP_WITHIN_MS };
            self.actions.push_back(Action::RenewToken { refused: open.refresh.refused });
        }
    }

    // What frames and time do.

    /// A node welcomed this client.
    pub(super) fn begin_refresh(&mut self, now: Now, is_served: bool, expires_at_ms: u64) {
        let Link::Open(open) = &mut self.link else { return };
        open.refresh = Refresh { is_served: is_served && self.options.renews_tokens, ..Refresh::default() };
        self.plan_refresh(now, expires_at_ms, 0);
    }

    /// `expires_at_ms`: the node's clock, 0: never.
    fn plan_refresh(&mut self, now: Now, expires_at_ms: u64, pause_ms: u64) {
        let left_ms = expires_at_ms.saturating_sub(self.node_time_ms(now));
        let lead_ms = (left_ms / 10).min(LEAD_MAX_MS);
        let early_ms = lead_ms + self.draw(lead_ms / 2 + 1);
        let Link::Open(open) = &mut self.link else { return };
        let refresh = &mut open.refresh;
        refresh.expires_at_ms = (expires_at_ms != 0).then_some(now.monotonic_ms + left_ms);
        let wait_ms = left_ms.saturating_sub(early_ms).max(pause_ms);
        refresh.state = match refresh.is_served && expires_at_ms != 0 {
            true => State::Waiting { at_ms: now.monotonic_ms + wait_ms },
            false => State::Idle,
        };
    }

    pub(super) fn token_refreshed(&mut self, now: Now, token: String, expires_at_ms: u64) {
        if let Link::Open(open) = &mut self.link {
            open.refresh.refused = 0;
        }
        self.events.push_back(Event::TokenRefreshed(token));
        self.plan_refresh(now, expires_at_ms, PAUSE_MS);
    }

    pub(super) fn refresh_refused(&mut self, now: Now, error: &v1::Error) {
        let Link::Open(open) = &mut self.link else { return };
        open.refresh.refused = error.code;
        open.refresh.is_served &= error.code != u32::from(Code::Unimplemented.number());
        match open.refresh.is_served {
            true => open.refresh.again(now.monotonic_ms, error.retry_after_ms.into()),
            false => open.refresh.state = State::Idle,
        }
    }

    pub(super) fn refresh_timeout(&mut self, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        if open.refresh.poll_timeout().is_none_or(|at| at > now.monotonic_ms) {
            return;
        }
        match open.refresh.state {
            State::Waiting { .. } => self.refresh_token(now),
            // A late answer still counts: it stays among the pending requests.
            State::Asked { .. } | State::Sent { .. } => open.refresh.again(now.monotonic_ms, 0),
            State::Idle => {}
        }
    }
}
