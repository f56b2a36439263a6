//! The socket of one connection, from accept to close, through the upgrade to a WebSocket.
//!
//! Everything that must last exactly as long as the socket lives inside it, so that no layer above has to hand it on:
//! the slot among the connections that the node takes, and the hold by which a drain waits for it. TLS stands above it,
//! the bounds on unsent bytes inside it; a [`Pace`] takes word of them past TLS and HTTP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lanecast_pacing::{Pace, PacedTcp};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::AddressSlot;

/// A connected socket.
///
/// A write that makes no progress at all for the stall time fails: a peer that takes nothing would otherwise hold its
/// slot for as long as it likes, since HTTP has no heartbeat. Reads have deadlines of their own, above.
#[derive(Debug)]
pub struct Socket {
    stream: PacedTcp,
    stall: Duration,
    /// Armed while a write waits. Boxed: nearly always there is none.
    stalled: Option<Pin<Box<Sleep>>>,
    _slot: Slot,
}

/// What a socket holds of the node.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    _address: Option<AddressSlot>,
    _hold: TaskTrackerToken,
    open: Gauge,
}

impl Slot {
    pub(super) fn new(permit: OwnedSemaphorePermit, hold: TaskTrackerToken, open: Gauge) -> Self {
        open.inc();
        Self { _permit: permit, _address: None, _hold: hold, open }
    }

    /// Holds the place among the connections of an address too.
    pub(super) fn with_address(mut self, slot: Option<AddressSlot>) -> Self {
        self._address = slot;
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream, stall: Duration, slot: Slot) -> Self {
        Self { stream: PacedTcp::new(stream), stall, stalled: None, _slot: slot }
    }

    /// Tells when it has room, for what goes on above it after an upgrade.
    pub(super) fn pace(&self) -> Pace {
        self.stream.pace()
    }

    /// Watches over a write that came to `written`.
    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        stalled.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
