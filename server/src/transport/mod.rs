//! What carries a session's records: the seam behind which a WebSocket and a QUIC connection look alike.
//!
//! A transport gives whole records in and takes [`Output`]s; what a record means is the session's business, and how
//! routes are folded into pipes, streams and datagrams is the transport's.

pub mod upgrade;
pub mod websocket;

use std::task::{Context, Poll};

use lanecast_protocol::codec::{CodecError, Records};
use lanecast_protocol::codes::Code;
use lanecast_protocol::outbox::Output;

/// What came from the peer.
#[derive(Debug)]
pub enum Received {
    /// Records, in order.
    Records(Records),
    /// Bytes that the protocol forbids; the session closes with the code.
    Fault(CodecError),
    /// The peer is gone, or has closed its side.
    Closed,
}

/// A connection to a peer.
pub trait Transport: Send {
    /// The next thing that came. Cancel safe.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received>;

    /// Takes outputs from `next` while they fit into one write of about `bytes_max`, in the order given; returns the
    /// bytes of that write, 0 if there was nothing to send. Call it only when the former write was flushed: what is
    /// handed over can no longer be reordered, so it is kept small.
    fn send(&mut self, bytes_max: usize, next: &mut dyn FnMut() -> Option<Output>) -> usize;

    /// Writes what was handed over: `Ready(Ok)` when the operating system took it all. Cancel safe.
    ///
    /// # Errors
    /// If the peer is gone.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>>;

    /// Begins to close with a code of the table; flush as after [`Self::send`], then wait for [`Received::Closed`].
    fn start_close(&mut self, code: Code);
}

/// The peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is gone")]
pub struct Gone;
