//! The Lanecast protocol, without I/O.
#![forbid(unsafe_code)]

pub mod codec;
pub mod codes;
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
pub mod session;
pub mod tracker;

/// The schema as Rust types, generated from `proto/lanecast/v1`.
///
/// Fields of type `Envelope` are [`bytes::Bytes`] here: see `build.rs`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, unreachable_pub)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/lanecast.v1.rs"));
}
