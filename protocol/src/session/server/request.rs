//! What a session asks of its driver, and what it is told in return.

use std::sync::Arc;

use crate::position::{DurableLane, Position};
use crate::v1;

/// What is the same for all connections of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node, for Welcome.
    pub node: String,
    /// What the node serves.
    pub capabilities: Vec<v1::Capability>,
    /// What the node accepts.
    pub limits: v1::Limits,
    /// When to ping and when to give up.
    pub heartbeat: v1::Heartbeat,
    /// The window in which clients spread reconnects.
    pub reconnect: v1::ReconnectWindow,
    /// How long a connection may take to send Hello.
    pub hello_within_ms: u64,
    /// How long a client may take nothing of what waits for it (LC-FLOW-005).
    pub no_progress_ms: u64,
    /// Bytes of each durable lane that wait in the session at most, but for one record; beyond it durable events stay in
    /// the log, and transients in the connection's mailbox. It is also the most that a room may send in its turn.
    pub lane_bytes: usize,
    /// Bytes of lane bulk that a connection gets in a second, over a longer time; 0: as many as it takes.
    pub bulk_bytes_per_second: u32,
}

/// What a node learnt from the credential and puts in Welcome.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Id of the connection, unique in the cluster.
    pub connection_id: String,
    /// The user.
    pub user: String,
    /// The device; empty: none named.
    pub device: String,
    /// When the token expires, ms since the Unix epoch; 0: never.
    pub token_expires_at_ms: u64,
    /// Signals that it lets the connection send in a second; 0: as many as the node's limits say.
    pub signals_per_second: u32,
}

/// What the session asks of its driver. Answer each by the command that its doc names.
#[derive(Debug)]
pub enum Request {
    /// Check the token: [`super::Session::accept`] or [`super::Session::close`].
    Authenticate(Box<v1::Hello>),
    /// Check a newer token: [`super::Session::refreshed`] or [`super::Session::refuse_refresh`]. What came after it waits
    /// until then, so that it is judged by the rights that hold (LC-AUTH-020).
    RefreshToken {
        /// Id for the answer.
        id: u32,
        /// The token.
        token: String,
    },
    /// Open a room: [`super::Session::subscribed`] or [`super::Session::refuse_subscribe`].
    Subscribe {
        /// Where the answer goes.
        asked: Asked,
        /// What was asked.
        subscribe: v1::Subscribe,
    },
    /// A subscription was ended and answered; forget it.
    Unsubscribed {
        /// Its handle.
        handle: u64,
    },
    /// Publish: [`super::Session::published`] or [`super::Session::refuse_publish`].
    Publish {
        /// Id for the answer.
        id: u32,
        /// What was asked; `lane` and `delivery` may be unspecified.
        publish: v1::Publish,
        /// The envelope, decoded for whoever checks rights.
        envelope: Box<v1::Envelope>,
    },
    /// Signal: [`super::Session::done`] or [`super::Session::refuse`].
    Signal {
        /// Id for the answer; 0: no answer is expected.
        id: u32,
        /// What was asked.
        signal: v1::Signal,
        /// The envelope, decoded.
        envelope: Box<v1::Envelope>,
    },
    /// Read a page: [`super::Session::history_page`] or [`super::Session::refuse_history`].
    History {
        /// Id for the answer.
        id: u32,
        /// What was asked.
        history: v1::History,
    },
}

/// Where a Subscribe came from, and so how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An entry of Hello: refused by Unsubscribed (LC-HS-012).
    InHello,
    /// A frame with this id: refused by Error.
    Frame(u32),
}

impl Asked {
    /// The id of the answer.
    pub fn id(self) -> u32 {
        match self {
            Self::InHello => 0,
            Self::Frame(id) => id,
        }
    }
}

/// What to read from a room for this connection: answer with [`super::Session::deliver`] or
/// [`super::Session::read_again`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The room.
    pub room: Arc<str>,
    /// The subscription.
    pub handle: u64,
    /// Which opening of the connection it is read for.
    pub(super) opening: u32,
    /// The epoch of the place.
    pub epoch: u64,
    /// The lane.
    pub lane: DurableLane,
    /// Read what comes after this seq.
    pub after: u64,
    /// Bytes of records that fit now.
    pub bytes: usize,
    /// Whether it had to wait, since the lane had no room: the connection catches up instead of following.
    pub held_back: bool,
}

/// A room opened for this connection.
#[derive(Debug)]
pub struct Opened {
    /// The room.
    pub room: Arc<str>,
    /// The handle of (room, epoch).
    pub handle: u64,
    /// Where delivery begins.
    pub position: Position,
    /// The head of the log.
    pub head: Position,
    /// The newest order.
    pub head_order: u64,
    /// Whether a position was asked for and nothing after it is lost.
    pub recovered: bool,
    /// What the epochs in between lost.
    pub rolled_back: Vec<v1::Gap>,
    /// What is known of missed transients.
    pub missed_transients: Option<v1::MissedTransients>,
    /// The transient count at the start.
    pub transients: Option<v1::TransientMark>,
    /// Whether the log cannot be reached at present.
    pub degraded: bool,
}
