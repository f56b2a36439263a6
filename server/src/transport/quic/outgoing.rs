//! One stream to the peer: what waits for it, and how it begins and ends.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::binding::Purpose;
use lanecast_protocol::lane::{Lane, Lanes};
use quinn::{ConnectionError, SendStream, StoppedError, WriteError};

use super::link::Link;
use crate::transport::Gone;

/// Whatever became of a stream's end.
pub(super) type End = BoxFuture<'static, Result<(), StoppedError>>;

enum Stream {
    /// The peer allows no further stream at the moment.
    Opening(BoxFuture<'static, Result<SendStream, ConnectionError>>),
    Open(SendStream),
}

/// A stream that this side writes. Holds what it was given until the connection takes it.
pub(super) struct Outgoing {
    stream: Stream,
    purpose: Purpose,
    pending: VecDeque<Bytes>,
    /// It ends behind what is pending.
    ends: bool,
    /// Its end is on the way.
    ended: bool,
    is_prioritized: bool,
}

/// What the connection took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Something got through, if only an end.
    pub(super) is_some: bool,
    pub(super) bytes: usize,
    /// Of which lanes.
    pub(super) lanes: Lanes,
}

impl Progress {
    pub(super) fn add(&mut self, lane: Lane, bytes: usize) {
        self.is_some = true;
        self.bytes += bytes;
        self.lanes = self.lanes.with(lane);
    }
}

/// How much of a stream got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing waits.
    All,
    /// The peer wants no more of it.
    Stopped,
}

impl Outgoing {
    /// The node's half of the bidirectional stream.
    pub(super) fn control(stream: SendStream) -> Self {
        Self::begin(Stream::Open(stream), Purpose::Control, Bytes::new(), true)
    }

    /// A new unidirectional stream, opened as soon as the peer allows one.
    pub(super) fn open(link: &Link, purpose: Purpose) -> Self {
        Self::open_now(link, purpose).unwrap_or_else(|| {
            let connection = link.connection().clone();
            let opening = async move { connection.open_uni().await }.boxed();
            Self::begin(Stream::Opening(opening), purpose, link.preamble(), link.is_prioritized)
        })
    }

    /// A new unidirectional stream, if the peer allows one now.
    pub(super) fn open_now(link: &Link, purpose: Purpose) -> Option<Self> {
        let stream = link.connection().open_uni().now_or_never()?.ok()?;
        Some(Self::begin(Stream::Open(stream), purpose, link.preamble(), link.is_prioritized))
    }

    fn begin(stream: Stream, purpose: Purpose, preamble: Bytes, is_prioritized: bool) -> Self {
        let pending = [preamble, purpose.header()].into_iter().filter(|part| !part.is_empty()).collect();
        let outgoing = Self { stream, purpose, pending, ends: false, ended: false, is_prioritized };
        outgoing.prioritize();
        outgoing
    }

    pub(super) fn lane(&self) -> Lane {
        self.purpose.lane()
    }

    /// Says whether QUIC is told that its lane goes before others.
    pub(super) fn set_prioritized(&mut self, is_prioritized: bool) {
        self.is_prioritized = is_prioritized;
        self.prioritize();
    }

    fn prioritize(&self) {
        if let Stream::Open(stream) = &self.stream {
            // Fails on streams that have ended, whose order does not matter.
            let _ = stream.set_priority(if self.is_prioritized { priority(self.lane()) } else { 0 });
        }
    }

    pub(super) fn push(&mut self, record: Bytes) {
        self.pending.push_back(record);
    }

    /// Nothing comes after what was pushed.
    pub(super) fn end(&mut self) {
        self.ends = true;
    }

    /// Whether something waits for the connection to take it.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty() || (self.ends && !self.ended)
    }

    /// Drops what was not acknowledged.
    pub(super) fn reset(&mut self) {
        self.pending.clear();
        self.ended = true;
        if let Stream::Open(stream) = &mut self.stream {
            // Fails if its end was acknowledged, in which case there is nothing to drop.
            let _ = stream.reset(0u32.into());
        }
    }

    /// Resolves when the peer has acknowledged everything up to the end, or wants no more of it. Of an open stream.
    pub(super) fn acknowledged(&mut self) -> Option<End> {
        let Stream::Open(stream) = &mut self.stream else { return None };
        let stopped = stream.stopped();
        Some(async move { stopped.await.map(drop) }.boxed())
    }

    /// Writes what waits, and the end.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, progress: &mut Progress) -> Poll<Result<Written, Gone>> {
        if let Stream::Opening(opening) = &mut self.stream {
            self.stream = Stream::Open(ready!(opening.poll_unpin(cx)).map_err(|_| Gone)?);
            self.prioritize();
        }
        let lane = self.lane();
        let Stream::Open(stream) = &mut self.stream else { return Poll::Pending };
        while !self.pending.is_empty() {
            let taken = ready!(pin!(stream.write_chunks(self.pending.make_contiguous())).poll(cx));
            match taken {
                Ok(written) => {
                    progress.add(lane, written.bytes);
                    self.pending.drain(..written.chunks);
                }
                Err(WriteError::Stopped(_)) => {
                    self.reset();
                    return Poll::Ready(Ok(Written::Stopped));
                }
                Err(_) => return Poll::Ready(Err(Gone)),
            }
        }
        // What an idle connection keeps.
        self.pending.shrink_to(4);
        if self.ends && !self.ended {
            self.ended = true;
            progress.add(lane, 0);
            // Fails if the peer stopped the stream, which its acknowledgement shows.
            let _ = stream.finish();
        }
        Poll::Ready(Ok(Written::All))
    }
}

/// quinn sends strictly by priority, and streams of one priority in turns. Control and urgent go before all others, which
/// share the path by what is written of them: a strict order would starve the last.
fn priority(lane: Lane) -> i32 {
    match lane {
        Lane::Control => 2,
        Lane::Urgent => 1,
        Lane::Normal | Lane::Signal | Lane::Bulk => 0,
    }
}
