//! Client of Lanecast: rooms as streams with honest gaps.
//!
//! # What it promises
//!
//! - **Each seq once.** Every durable event of a subscribed room comes exactly once, in the order of its lane, as an
//!   [`Event`] or inside a [`Gap`]: over lost connections, restarts of the node and a log that was trimmed. Nothing
//!   else gets past a seq.
//! - **Acknowledged means stored.** A durable publish resolves when the node stored it. Until then the client keeps it
//!   and sends it again after a reconnect; the node stores it once. With an outbox file ([`Builder::outbox_file`]) that
//!   holds over the end of the process as well.
//! - **Where it was, it goes on.** Over reconnects by itself, over the end of the process from a file of positions
//!   ([`Builder::positions_file`]) or from what the application stored ([`Subscription::position`]).
//! - **Nothing is unbounded.** Each queue has a bound, and a policy when it is full, which its type states.
//! - **Cancelling is safe.** A future that is dropped loses no event; each async method says what holds for it.
//!
//! # What it refuses
//!
//! - A silent downgrade: an encrypted address stays encrypted, also where a node sends the client elsewhere.
//! - Choosing what to drop. A full outbox is an error, because only the application knows what matters.
//!
//! # In reading order
//!
//! [`Client`] and its [`Builder`]; [`Room`]; [`Subscription`], [`Event`] and [`Gap`]; [`Publish`] and [`Published`]; [`Outbox`];
//! [`Signal`], [`SendSignal`] and [`Signals`]; [`History`]; [`TypedRoom`] and [`codec`]; [`Error`].
#![forbid(unsafe_code)]

mod builder;
mod client;
pub mod codec;
mod disk;
mod error;
mod event;
mod feed;
mod history;
#[cfg(feature = "json")]
mod json;
mod outbox;
mod owner;
mod positions;
mod publish;
mod room;
mod signal;
mod state;
mod subscription;
mod token;
mod transport;
mod typed;

pub use lanecast_protocol::codes::Code;
/// How much a room matters to the user now: [`Room::focus`].
pub use lanecast_protocol::focus::Focus;
/// A lane that a publisher can choose: urgent overtakes normal, normal overtakes bulk, in every queue up to the
/// subscriber.
pub use lanecast_protocol::position::DurableLane as Lane;
pub use lanecast_protocol::position::{Cursor, ParseError, Position};

pub use crate::builder::Builder;
pub use crate::client::Client;
pub use crate::error::{
    ConnectError, ConnectErrorKind, Error, FlushError, FlushErrorKind, HistoryError, HistoryErrorKind, PublishError,
    PublishErrorKind, SignalError, SignalErrorKind, SubscribeError, SubscribeErrorKind,
};
pub use crate::event::{Body, Event, Gap, GapCause, Missing, Sender};
pub use crate::history::{Direction, History, Page};
pub use crate::outbox::{Outbox, OutboxSync, Outcome, Outcomes};
pub use crate::publish::{Publish, Published, Receipt};
pub use crate::room::Room;
pub use crate::signal::{SendSignal, Signal, SignalChange, Signals};
pub use crate::state::{Cause, ClientState, RoomState};
pub use crate::subscription::{Subscribe, Subscription};
pub use crate::token::TokenRequest;
pub use crate::typed::{TypedEvent, TypedRoom, TypedSubscription};
