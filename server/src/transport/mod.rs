//! What carries a session's records: the seam behind which a WebSocket and a QUIC connection look alike.
//!
//! A transport gives whole records in and takes [`Output`]s; what a record means is the session's business, and how
//! routes are folded into pipes, streams and datagrams is the transport's.

pub mod quic;
pub mod upgrade;
pub mod websocket;

use std::task::{Context, Poll};

use lanecast_protocol::codec::{CodecError, Records};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::Output;

/// What came from the peer.
#[derive(Debug)]
pub enum Received {
    /// Records, in order, and the lane of the stream or datagram on which they came; none on a transport that folds all
    /// lanes into one pipe.
    Records(Records, Option<Lane>),
    /// Bytes that the protocol forbids; the session closes with the code.
    Fault(CodecError),
    /// The peer is gone, or has closed its side.
    Closed,
}

/// Where a transport takes outputs from: the next one of one of these lanes.
pub type Source<'a> = dyn FnMut(Lanes) -> Option<Output> + 'a;

/// A connection to a peer.
pub trait Transport: Send {
    /// The next thing that came. Cancel safe.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received>;

    /// The lanes of which it takes outputs now. What is handed over can no longer be reordered, so a lane whose last
    /// output is not written takes no further one; a pipe is one lane in this. Control and urgent are taken whenever
    /// something can be written at all, the other lanes only while they would not wait in a queue beyond this one.
    fn takes(&self) -> Lanes;

    /// Takes outputs of the lanes that it [`takes`](Self::takes) while they fit into one write of about `bytes_max`, in
    /// the order given; returns their bytes, 0 if there was nothing to send. It may take more at once: ask again.
    fn send(&mut self, bytes_max: usize, next: &mut Source<'_>) -> usize;

    /// Whether something was handed over that is not written, or whose end has to be waited for, or lanes that were asked
    /// for could not be taken.
    fn is_busy(&self) -> bool;

    /// Drives what was handed over: `Ready(Ok)` each time some of it got through, so that it may take more. To be called
    /// while it [`is_busy`](Self::is_busy). Cancel safe.
    ///
    /// # Errors
    /// If the peer is gone.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>>;

    /// The lanes of which something got through since this was asked last, be it a part of a record: one that takes long is
    /// progress too (LC-FLOW-005). None on a transport that does not see parts; what it takes next says the same.
    fn moved(&mut self) -> Lanes {
        Lanes::NONE
    }

    /// Bytes that the path to the client carries, as far as this transport sees it; `None`: it does not, or what it sees
    /// may end at a proxy.
    fn window(&self) -> Option<u64> {
        None
    }

    /// Switches off, and on again, what keeps the queues beyond this one short: for comparison.
    fn set_paced(&mut self, _is_paced: bool) {}

    /// Begins to close with a code of the table; flush as after [`Self::send`], then wait for [`Received::Closed`].
    /// Dropping it closes at once.
    fn start_close(&mut self, code: Code);
}

/// The peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is gone")]
pub struct Gone;
