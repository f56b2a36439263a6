//! One stream to the peer: what waits for it, and how it begins and ends.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::binding::Purpose;
use lanecast_protocol::lane::Lane;
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
        Self::begin(Stream::Open(stream), Purpose::Control, Bytes::new())
    }

    /// A new unidirectional stream, opened as soon as the peer allows one.
    pub(super) fn open(link: &Link, purpose: Purpose) -> Self {
        Self::open_now(link, purpose).unwrap_or_else(|| {
            let connection = link.connection().clone();
            let opening = async move { connection.open_uni().await }.boxed();
            Self::begin(Stream::Opening(opening), purpose, link.preamble())
        })
    }

    /// A new unidirectional stream, if the peer allows one now.
    pub(super) fn open_now(link: &Link, purpose: Purpose) -> Option<Self> {
        let stream = link.connection().open_uni().now_or_never()?.ok()?;
        Some(Self::begin(Stream::Open(stream), purpose, link.preamble()))
    }

    fn begin(mut stream: Stream, purpose: Purpose, preamble: Bytes) -> Self {
        if let Stream::Open(stream) = &mut stream {
            // Fails on streams that are closed, which this one is not.
            let _ = stream.set_priority(priority(purpose.lane()));
        }
        let pending = [preamble, purpose.header()].into_iter().filter(|part| !part.is_empty()).collect();
        Self { stream, purpose, pending, ends: false, ended: false }
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

    /// Writes what waits, and the end. `progress` is set if the connection took something.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, progress: &mut bool) -> Poll<Result<Written, Gone>> {
        let stream = loop {
            match &mut self.stream {
                Stream::Open(stream) => break stream,
                Stream::Opening(opening) => {
                    let stream = ready!(opening.poll_unpin(cx)).map_err(|_| Gone)?;
                    let _ = stream.set_priority(priority(self.purpose.lane()));
                    self.stream = Stream::Open(stream);
                }
            }
        };
        while !self.pending.is_empty() {
            let taken = ready!(pin!(stream.write_chunks(self.pending.make_contiguous())).poll(cx));
            match taken {
                Ok(written) => {
                    *progress = true;
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
            *progress = true;
            // Fails if the peer stopped the stream, which its acknowledgement shows.
            let _ = stream.finish();
        }
        Poll::Ready(Ok(Written::All))
    }
}

/// quinn sends strictly by priority; between lanes this is the order of the outbox.
fn priority(lane: Lane) -> i32 {
    4 - lane.index() as i32
}
