//! How a client and its rooms stand.

use std::fmt;

use lanecast_protocol::codes::Code;
use lanecast_protocol::session::client as session;

/// Why something ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The code of the table, also one that this version does not know; `None`: no node gave one.
    pub code: Option<u32>,
    /// For developers; never to be parsed.
    pub detail: String,
}

impl Cause {
    pub(crate) fn new(code: u32, detail: impl Into<String>) -> Self {
        Self { code: (code != 0).then_some(code), detail: detail.into() }
    }

    /// The row's code, if this version knows the number.
    pub fn known_code(&self) -> Option<Code> {
        self.code.and_then(Code::from_number)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.known_code(), self.code) {
            (Some(code), _) => write!(f, "{code} {}", code.row().sentence)?,
            (None, Some(number)) => write!(f, "code {number}")?,
            (None, None) => f.write_str("no code")?,
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, " {}", self.detail) }
    }
}

/// How a client stands.
///
/// ```text
///  Idle ──▶ Connecting ──▶ Connected
///              ▲   │           │
///              │   ▼           ▼
///             Suspended ◀──────┘       Closed: from each of them, for good
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(tag = "name", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ClientState {
    /// Not started.
    Idle,
    /// Opening a connection.
    Connecting,
    /// Welcomed by a node.
    Connected,
    /// Without a connection; the next attempt comes by itself.
    Suspended(Cause),
    /// Over for good: closed by the application, or with a code that forbids to come back.
    Closed(Cause),
}

impl ClientState {
    pub(crate) fn new(state: session::ClientState, detail: &str) -> Self {
        match state {
            session::ClientState::Idle => Self::Idle,
            session::ClientState::Connecting => Self::Connecting,
            session::ClientState::Connected => Self::Connected,
            session::ClientState::Suspended { code } => Self::Suspended(Cause::new(code, detail)),
            session::ClientState::Closed { code } => Self::Closed(Cause::new(code, detail)),
        }
    }
}

/// How a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(tag = "name", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RoomState {
    /// Asked for and not answered, or without a connection.
    Subscribing,
    /// Subscribed; events from before that are still coming.
    CatchingUp {
        /// Whether it goes on where it was and no durable event is missing.
        recovered: bool,
    },
    /// Subscribed, and everything up to the head at that time has come.
    Live {
        /// Whether it went on where it was and no durable event is missing.
        recovered: bool,
    },
    /// Subscribed, but the node cannot reach the room's log at present: durable events follow once it can.
    Degraded,
    /// Over. Without a cause: ended by the application.
    #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::maybe_cause"))]
    Ended(Option<Cause>),
}

impl RoomState {
    /// Whether the node has answered the subscription.
    pub fn is_subscribed(&self) -> bool {
        matches!(self, Self::CatchingUp { .. } | Self::Live { .. } | Self::Degraded)
    }
}

impl From<session::RoomState> for RoomState {
    fn from(state: session::RoomState) -> Self {
        match state {
            session::RoomState::Subscribing => Self::Subscribing,
            session::RoomState::CatchingUp { recovered, .. } => Self::CatchingUp { recovered },
            session::RoomState::Live { recovered, .. } => Self::Live { recovered },
            session::RoomState::Degraded => Self::Degraded,
            session::RoomState::Ended { code } => Self::Ended(code.map(|code| Cause::new(code, ""))),
        }
    }
}
