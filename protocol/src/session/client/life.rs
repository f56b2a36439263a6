//! What the application says of the device: that the network changed, and that it goes to the background and comes back.
//!
//! ```text
//!              entered_background()                     a durable publish waits
//!  ┌────────────┐ ─────────────────▶ ┌────────────┐ ─────────────────────────────▶ at most 8 attempts in a row,
//!  │ Foreground │                    │ Background │                                with backoff
//!  └────────────┘ ◀───────────────── └────────────┘
//!              entered_foreground(): connects at once, or probes what there is
//! ```

use super::{CONNECT_WITHIN_MS, Client, Link, Open};
use crate::codes::Code;
use crate::session::Now;

/// After a hint a Pong is expected this soon (LC-QUIC-012, LC-SDK-022).
const PROBE_MS: u64 = 2_000;
/// Attempts in a row that may fail in the background. A Welcome, a further publish and a hint begin anew.
const BACKGROUND_ATTEMPTS_MAX: u32 = 8;

/// Where the application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    Foreground,
    Background { attempts_left: u32 },
}

impl Ground {
    const BACKGROUND: Self = Self::Background { attempts_left: BACKGROUND_ATTEMPTS_MAX };

    /// There is a new reason to connect.
    pub(super) fn refresh(&mut self) {
        if matches!(self, Self::Background { .. }) {
            *self = Self::BACKGROUND;
        }
    }

    /// An attempt begins.
    pub(super) fn spend(&mut self) {
        if let Self::Background { attempts_left } = self {
            *attempts_left = attempts_left.saturating_sub(1);
        }
    }
}

/// Asks whether the node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// The stamp of its Ping. An earlier Pong may have lain in a buffer, and proves nothing.
    stamp: u64,
}

impl Probe {
    /// Whether a Pong with this stamp is an answer.
    pub(super) fn is_answered_by(self, stamp: u64) -> bool {
        stamp >= self.stamp
    }
}

impl Client {
    /// The network changed (another Wi-Fi, a new address): waiting is pointless, and the connection may be dead. Without
    /// one the client connects at once; one that is there is given up unless a Pong comes within 2 s.
    pub fn network_changed(&mut self, now: Now) {
        self.ground.refresh();
        self.hint(now);
    }

    /// The address from which the connection went is gone, and the connection with it: connects at once.
    pub fn path_lost(&mut self, now: Now) {
        if matches!(self.link, Link::Handshake { .. } | Link::Open(_)) {
            self.give_up(now, Code::IdleTimeout);
        }
        self.network_changed(now);
    }

    /// The application is no longer in front of its user: a connection stays while the system lets it, and none is opened
    /// unless a durable publish waits.
    pub fn entered_background(&mut self, _now: Now) {
        self.ground = Ground::BACKGROUND;
    }

    /// The application is in front of its user again, perhaps after it was frozen: connects at once, or asks whether its
    /// connection still lives.
    pub fn entered_foreground(&mut self, now: Now) {
        self.ground = Ground::Foreground;
        self.hint(now);
    }

    fn hint(&mut self, now: Now) {
        match &mut self.link {
            Link::Waiting { until_ms, .. } => {
                *until_ms = now.monotonic_ms;
                self.attempt = 0;
            }
            // Its owner opens it anew.
            Link::Connecting { deadline_ms } => *deadline_ms = now.monotonic_ms + CONNECT_WITHIN_MS,
            Link::Handshake { deadline_ms, .. } => *deadline_ms = now.monotonic_ms + PROBE_MS,
            Link::Open(open) => {
                open.probe(now);
                self.ping(now);
            }
            Link::Idle | Link::Closed { .. } => {}
        }
        self.handle_timeout(now);
    }

    /// Whether a connection may be opened now.
    pub(super) fn may_connect(&self) -> bool {
        match self.ground {
            Ground::Foreground => true,
            Ground::Background { attempts_left } => attempts_left > 0 && self.publisher.unsettled() > 0,
        }
    }
}

impl Open {
    /// A Pong is wanted for the Ping that is sent now.
    fn probe(&mut self, now: Now) {
        // Hints that follow one another give no more time. A deadline that passed says nothing: who was frozen then missed
        // an answer that may be there.
        let before = self.pong_by_ms.filter(|at| self.probe.is_some() && *at > now.monotonic_ms);
        let by = now.monotonic_ms + PROBE_MS;
        self.pong_by_ms = Some(before.map_or(by, |before| before.min(by)));
        self.probe = Some(Probe { stamp: now.monotonic_ms });
        self.sent_at_ms = now.monotonic_ms;
    }

    /// A Pong with this stamp came.
    pub(super) fn answered(&mut self, stamp: u64) {
        if self.probe.is_none_or(|probe| probe.is_answered_by(stamp)) {
            (self.pong_by_ms, self.probe) = (None, None);
        }
    }
}
