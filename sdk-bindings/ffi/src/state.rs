//! How a client and its rooms stand.

use tokio::sync::watch;

/// Why something ended.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Cause {
    /// The code of the table, also one that this version does not know; 0: no node gave one.
    pub code: u32,
    /// For developers; never to be parsed.
    pub detail: String,
}

impl From<&lanecast::Cause> for Cause {
    fn from(cause: &lanecast::Cause) -> Self {
        Self { code: cause.code.unwrap_or(0), detail: cause.detail.clone() }
    }
}

/// How a client stands.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ClientState {
    /// Not started.
    Idle,
    /// Opening a connection.
    Connecting,
    /// Welcomed by a node.
    Connected,
    /// Without a connection; the next attempt comes by itself.
    Suspended {
        /// Why the last one ended.
        cause: Cause,
    },
    /// Over for good.
    Closed {
        /// Why.
        cause: Cause,
    },
    /// A state that this library does not know.
    Unknown,
}

impl From<&lanecast::ClientState> for ClientState {
    fn from(state: &lanecast::ClientState) -> Self {
        match state {
            lanecast::ClientState::Idle => Self::Idle,
            lanecast::ClientState::Connecting => Self::Connecting,
            lanecast::ClientState::Connected => Self::Connected,
            lanecast::ClientState::Suspended(cause) => Self::Suspended { cause: cause.into() },
            lanecast::ClientState::Closed(cause) => Self::Closed { cause: cause.into() },
            _ => Self::Unknown,
        }
    }
}

/// How a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
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
    /// Subscribed, but the node cannot reach the room's log at present.
    Degraded,
    /// Over.
    Ended {
        /// Why; `None`: ended by the application.
        cause: Option<Cause>,
    },
    /// A state that this library does not know.
    Unknown,
}

impl From<&lanecast::RoomState> for RoomState {
    fn from(state: &lanecast::RoomState) -> Self {
        match state {
            lanecast::RoomState::Subscribing => Self::Subscribing,
            lanecast::RoomState::CatchingUp { recovered } => Self::CatchingUp { recovered: *recovered },
            lanecast::RoomState::Live { recovered } => Self::Live { recovered: *recovered },
            lanecast::RoomState::Degraded => Self::Degraded,
            lanecast::RoomState::Ended(cause) => Self::Ended { cause: cause.as_ref().map(Into::into) },
            _ => Self::Unknown,
        }
    }
}

/// What a watched value is, once that differs from `after`; `None`: it will not change any more.
pub(crate) async fn changed<T, U: PartialEq>(
    mut watched: watch::Receiver<T>,
    after: Option<U>,
    map: impl Fn(&T) -> U,
) -> Option<U> {
    let changed = watched.wait_for(|value| after.as_ref() != Some(&map(value))).await;
    changed.ok().map(|value| map(&value))
}
