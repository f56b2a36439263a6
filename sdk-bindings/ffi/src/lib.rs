//! The Rust SDK behind a C interface, from which `lanecast-bindgen` generates the inner layer of the Kotlin and Swift SDKs.
//!
//! # What it promises
//!
//! - **It maps types and decides nothing.** Every rule of the protocol is the Rust SDK's, every idiom the wrapper's.
//! - **Pulled in batches.** Whatever comes by itself, events, signals, outcomes, is asked for, and a batch is kept until
//!   the next call says that it was handled ([`Subscription::next_batch`]). A call that is cancelled at any moment
//!   therefore loses nothing.
//! - **Everything that waits can be cancelled**, from Kotlin by dropping the call, from Swift, whose cancelling does not
//!   reach Rust, by a [`Cancellation`].
//! - **No panic leaves it.** One inside becomes an error of kind [`ErrorKind::Internal`].
//! - **Everything is counted** ([`live`]), so that a wrapper can prove that it leaks nothing.
//!
//! # What it refuses
//!
//! - Calling the application: there is one callback, [`LogSink`]. Tokens are asked for by the wrapper
//!   ([`Client::token_requests`]).
//! - Names that other languages give a meaning of their own: `close`, `message`, `toString`.
//!
//! # In reading order
//!
//! [`connect`] and [`Options`]; [`Client`]; [`TokenRequests`]; [`Room`]; [`Publication`] and [`Receipt`]; [`Subscription`],
//! [`Event`] and [`Gap`]; [`Signals`]; [`HistoryRequest`]; [`Outcomes`]; [`FfiError`]; [`LogSink`]; [`live`].
// What uniffi generates for C is unsafe by nature; nothing written by hand here is.
#![allow(unsafe_code, reason = "the generated C interface")]

#[cfg(target_os = "android")]
mod android;
mod cancel;
mod client;
mod error;
mod event;
mod history;
mod live;
mod log;
mod options;
mod outbox;
mod publish;
mod pull;
mod room;
mod run;
mod signal;
mod state;
mod subscription;
mod token;

pub use crate::cancel::Cancellation;
pub use crate::client::Client;
pub use crate::error::{ErrorKind, FfiError};
pub use crate::event::{Body, Event, Gap, GapCause, Item, Lane, Missing, Sender};
pub use crate::history::{Direction, HistoryRequest, Page};
pub use crate::live::{Live, live};
pub use crate::log::{LogLevel, LogSink, set_log_sink};
pub use crate::options::{Options, OutboxBounds, OutboxSync, connect};
pub use crate::outbox::{Outcome, OutcomeBatch, Outcomes};
pub use crate::publish::{Delivery, Publication, Published, Receipt};
pub use crate::room::{Focus, Room};
pub use crate::signal::{Signal, SignalBatch, SignalChange, SignalToSend, Signals};
pub use crate::state::{Cause, ClientState, RoomState};
pub use crate::subscription::{Batch, Start, SubscribeOptions, Subscription};
pub use crate::token::{TokenRequest, TokenRequests};

uniffi::setup_scaffolding!("lanecast_ffi");

/// The version of this library. A wrapper of another version must not use it: it compares this first of all, and says
/// which versions met.
#[uniffi::export]
pub fn library_version() -> String {
    env!("CARGO_PKG_VERSION").into()
}
