//! What a client is made with, what it tells its driver, and what it tells the application.

use super::RoomState;
use crate::codes::Code;
use crate::publisher::{Bounds, OutboxFull, Settled, Ticket};
use crate::v1;

/// What a client is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Random id of this client; with it publishes are numbered. Never shared by two publishers (LC-HS-021).
    pub instance: String,
    /// What the client says about itself.
    pub info: v1::ClientInfo,
    /// The device of the user; empty: none named.
    pub device: String,
    /// Bounds of the queue of durable publishes.
    pub outbox: Bounds,
    /// How long a durable publish may wait before it is given up.
    pub outbox_ttl_ms: u64,
    /// Whether the application can be asked for a new token while it is connected.
    pub renews_tokens: bool,
    /// Random; spreads the client's reconnects.
    pub seed: u64,
}

/// How the client stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Not started.
    Idle,
    /// Opening a connection.
    Connecting,
    /// Welcomed by a node.
    Connected,
    /// Without a connection; the next attempt comes by itself.
    Suspended {
        /// Why the last connection or attempt ended: a code of the table, 0 if the transport gave none.
        code: u32,
    },
    /// Over for good.
    Closed {
        /// Why: a code of the table; NORMAL if the application closed it.
        code: u32,
    },
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Get a token and open a transport, then call [`super::Client::opened`], [`super::Client::failed`] or [`super::Client::no_token`].
    Connect {
        /// The code with which the node refused the last token: ask the application for a new one; 0: it did not.
        refused: u32,
        /// Connect there instead; empty: the usual address.
        address: String,
    },
    /// Write what [`super::Client::poll_output`] still gives, then close the transport with this code.
    Disconnect(Code),
    /// Ask the application for a new token, then call [`super::Client::renewed`] or [`super::Client::not_renewed`].
    RenewToken {
        /// The code with which the node refused the one before; 0: it did not.
        refused: u32,
    },
}

/// What happened, for the application.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The client's state changed.
    State(ClientState),
    /// A room's state changed.
    Room(String, RoomState),
    /// Something waits in [`super::Client::next_batch`].
    Ready(String),
    /// A signal, or that one was taken back.
    Signal(String, Box<v1::Signal>),
    /// A publish ended.
    Settled(Ticket, Settled),
    /// The node took this token in place of the one before: connect with it from now on.
    TokenRefreshed(String),
    /// A page of history, or why there is none.
    Page(Ticket, Result<Box<v1::HistoryPage>, v1::Error>),
}

/// A command that cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
    /// There is no connection, and the request is not worth keeping.
    #[error("not connected")]
    NotConnected,
    /// The queue of durable publishes is full.
    #[error(transparent)]
    OutboxFull(#[from] OutboxFull),
    /// Too many requests wait for their answer.
    #[error("too many requests are waiting")]
    TooMany,
    /// The request is larger than the node's limit.
    #[error("larger than the node's limit of a record")]
    TooLarge,
}
