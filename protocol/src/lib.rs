//! The Lanecast protocol, without I/O: bytes and time go in, records, requests and deadlines come out.
//!
//! In reading order:
//! - [`v1`], [`codec`] and `json`: the schema, and packets cut into records and frames;
//! - [`codes`], [`position`], [`room`], [`lane`]: the table of codes, numbers, names and patterns, priority classes;
//! - [`log`]: what a room stores, numbers and forgets; [`place`] reads it for one subscriber, every seq once;
//! - [`outbox`], [`schedule`], [`fragment`], [`lossy`]: what waits for a transport, which lane leaves next, how large frames
//!   leave in pieces, and what may be lost on the way to a slow one;
//! - [`credit`]: how much of a lane may be under way, so that what waits can still be overtaken;
//! - [`focus`]: which rooms go first;
//! - [`binding`]: how lanes become streams and datagrams on a transport that has them;
//! - [`tracker`], [`inbox`], [`publisher`]: what a client received, what its application took, what it still has to send;
//! - [`session`]: the state machines of both roles, which put all of this together.
//!
//! It refuses to know tasks, sockets, clocks and randomness; a lint and a test of its dependencies keep it so.
#![forbid(unsafe_code)]

pub mod binding;
pub mod codec;
pub mod codes;
pub mod credit;
pub mod focus;
pub mod fragment;
pub mod inbox;
#[cfg(feature = "json")]
pub mod json;
pub mod lane;
pub mod log;
pub mod lossy;
pub mod outbox;
pub mod place;
pub mod position;
pub mod publisher;
pub mod room;
pub mod schedule;
pub mod session;
pub mod tracker;

/// The schema as Rust types, generated from `proto/lanecast/v1`.
///
/// Fields of type `Envelope` are [`bytes::Bytes`] here: see `build.rs`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, unreachable_pub)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/lanecast.v1.rs"));
}
