//! What goes to the node: outputs to the streams and datagrams that carry them.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lanecast_protocol::binding::{Purpose, Sender, StreamId, Target};
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::Output;
use quinn::{Connection, ConnectionError, SendDatagramError, SendStream, VarInt, WriteError};

use super::super::{Source, Turn};
use super::over;

/// Bytes of a lane that are handed over at a time: what is in a stream can no longer be overtaken.
const LANE_BYTES: usize = 16 * 1024;
/// The ordered lanes, in the order in which they are written.
const ORDERED: [Lane; 4] = [Lane::Control, Lane::Urgent, Lane::Normal, Lane::Bulk];

enum State {
    /// Waits until the node lets another stream be opened.
    Opening(BoxFuture<'static, Result<SendStream, ConnectionError>>),
    Open(SendStream),
}

/// A stream and what it has not taken.
struct Out {
    state: State,
    lane: Lane,
    unsent: VecDeque<Bytes>,
    unsent_bytes: usize,
    prioritized: bool,
}

/// A stream with one signal, or one urgent message.
struct Single {
    id: StreamId,
    out: Out,
    /// Resolves when its end is acknowledged, once all of it is written.
    acknowledged: Option<BoxFuture<'static, ()>>,
}

/// The sending side.
pub(super) struct Outgoing {
    connection: Connection,
    sender: Sender,
    /// As [`ORDERED`]; opened when first used.
    ordered: [Option<Out>; ORDERED.len()],
    /// Bounded by the sender.
    singles: Vec<Single>,
    /// A datagram for which there was no room.
    datagram: Option<BoxFuture<'static, Result<(), SendDatagramError>>>,
    /// Something was handed over completely, so there is room for more.
    written: bool,
    /// Whether QUIC is told which lane goes first.
    prioritized: bool,
}

impl Outgoing {
    pub(super) fn new(connection: Connection, control: SendStream) -> Self {
        let control = Out::new(State::Open(control), Purpose::Control);
        Self {
            connection,
            sender: Sender::default(),
            ordered: [Some(control), None, None, None],
            singles: Vec::new(),
            datagram: None,
            written: false,
            prioritized: true,
        }
    }

    /// Tells QUIC which lane goes first, or no longer: for comparison.
    pub(super) fn set_prioritized(&mut self, prioritized: bool) {
        self.prioritized = prioritized;
        for out in self.ordered.iter_mut().flatten() {
            out.set_prioritized(prioritized);
        }
    }

    /// Takes outputs of the lanes that have room. Returns whether there were any.
    pub(super) fn take(&mut self, next: &mut Source<'_>) -> bool {
        let mut any = false;
        loop {
            let lanes = self.lanes();
            let Some(output) = (!lanes.is_empty()).then(|| next(lanes)).flatten() else { return any };
            any = true;
            self.place(output);
        }
    }

    fn lanes(&self) -> Lanes {
        let mut lanes = self.sender.lanes();
        if self.datagram.is_some() {
            lanes = lanes.without(Lane::Signal);
        }
        for (lane, out) in ORDERED.into_iter().zip(&self.ordered) {
            if out.as_ref().is_some_and(|out| out.unsent_bytes >= LANE_BYTES) {
                lanes = lanes.without(lane);
            }
        }
        lanes
    }

    fn place(&mut self, output: Output) {
        let datagram_bytes = self.connection.max_datagram_size().unwrap_or(0);
        // The sender holds back what it will give again when it may go.
        let Some((output, target)) = self.sender.offer(output, datagram_bytes) else { return };
        self.carry_out(output, target);
    }

    fn carry_out(&mut self, output: Output, target: Target) {
        match target {
            Target::Control => self.append(Lane::Control, output.record),
            Target::Lane(lane) => self.append(lane, output.record),
            Target::Datagram => self.send_datagram(output.record),
            Target::Signal { stream, supersedes } => {
                if let Some(at) = self.singles.iter().position(|single| Some(single.id) == supersedes) {
                    self.singles.swap_remove(at).out.reset();
                }
                self.send_single(stream, Purpose::Signal, output.record);
            }
            Target::Message(stream) => self.send_single(stream, Purpose::Message, output.record),
            Target::Ordered(_) => self.append(Lane::Urgent, output.record),
        }
    }

    fn append(&mut self, lane: Lane, record: Bytes) {
        let Some(at) = ORDERED.into_iter().position(|ordered| ordered == lane) else { return };
        let (connection, prioritized) = (&self.connection, self.prioritized);
        let out = self.ordered[at].get_or_insert_with(|| {
            let mut out = Out::new(opening(connection), Purpose::Lane(lane));
            out.set_prioritized(prioritized);
            out
        });
        out.push(record);
    }

    fn send_datagram(&mut self, record: Bytes) {
        if self.connection.datagram_send_buffer_space() >= record.len() {
            // Only a path that shrank in this moment refuses it, and a signal may get lost.
            let _ = self.connection.send_datagram(record);
            self.written = true;
            return;
        }
        let connection = self.connection.clone();
        self.datagram = Some(async move { connection.send_datagram_wait(record).await }.boxed());
    }

    fn send_single(&mut self, id: StreamId, purpose: Purpose, record: Bytes) {
        let mut out = Out::new(opening(&self.connection), purpose);
        out.set_prioritized(self.prioritized);
        out.push(record);
        self.singles.push(Single { id, out, acknowledged: None });
    }

    /// Writes. Ready when something was taken completely, or the connection is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        for out in self.ordered.iter_mut().flatten() {
            if out.unsent_bytes == 0 {
                continue;
            }
            match out.poll_write(cx) {
                Poll::Ready(Ok(())) => self.written = true,
                Poll::Ready(Err(error)) => return Poll::Ready(broken(error)),
                Poll::Pending => {}
            }
        }
        if let Some(error) = self.poll_singles(cx) {
            return Poll::Ready(broken(error));
        }
        if let Some(datagram) = &mut self.datagram
            && datagram.poll_unpin(cx).is_ready()
        {
            (self.datagram, self.written) = (None, true);
        }
        match std::mem::take(&mut self.written) {
            true => Poll::Ready(Turn::Written),
            false => Poll::Pending,
        }
    }

    fn poll_singles(&mut self, cx: &mut Context<'_>) -> Option<WriteError> {
        let mut at = 0;
        while at < self.singles.len() {
            match self.singles[at].poll(cx) {
                // A node that stops reading one wants to have no more of it.
                Poll::Ready(Ok(()) | Err(WriteError::Stopped(_))) => {
                    self.sender.acknowledged(self.singles.swap_remove(at).id);
                    while let Some((output, target)) = self.sender.release() {
                        self.carry_out(output, target);
                    }
                    self.written = true;
                }
                Poll::Ready(Err(error)) => return Some(error),
                Poll::Pending => at += 1,
            }
        }
        None
    }

    /// Writes what was taken, ends the streams, and waits until the node has all. The caller bounds the wait.
    pub(super) async fn finish(mut self) {
        let mut ends = FuturesUnordered::new();
        for out in self.ordered.iter_mut().flatten() {
            if std::future::poll_fn(|cx| out.poll_write(cx)).await.is_err() {
                return;
            }
            ends.extend(out.end());
        }
        while ends.next().await.is_some() {}
    }
}

impl Single {
    /// Ready when its end is acknowledged.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        if self.acknowledged.is_none() {
            ready!(self.out.poll_write(cx))?;
            self.acknowledged = self.out.end();
        }
        match &mut self.acknowledged {
            Some(acknowledged) => acknowledged.poll_unpin(cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Out {
    fn new(state: State, purpose: Purpose) -> Self {
        let unsent = VecDeque::new();
        let mut out = Self { state, lane: purpose.lane(), unsent, unsent_bytes: 0, prioritized: true };
        out.prioritize();
        out.push(purpose.header());
        out
    }

    fn set_prioritized(&mut self, prioritized: bool) {
        self.prioritized = prioritized;
        self.prioritize();
    }

    fn prioritize(&self) {
        let State::Open(stream) = &self.state else { return };
        // Strict between lanes, as in our queues. A stream that is closed already needs no priority.
        let _ = stream.set_priority(if self.prioritized { -(self.lane.index() as i32) } else { 0 });
    }

    fn push(&mut self, bytes: Bytes) {
        self.unsent_bytes += bytes.len();
        self.unsent.push_back(bytes);
    }

    /// Ready when all was taken.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        loop {
            match &mut self.state {
                State::Opening(opening) => {
                    let stream = ready!(opening.poll_unpin(cx)).map_err(WriteError::ConnectionLost)?;
                    self.state = State::Open(stream);
                    self.prioritize();
                }
                State::Open(_) if self.unsent.is_empty() => return Poll::Ready(Ok(())),
                State::Open(stream) => {
                    let chunks = self.unsent.make_contiguous();
                    let written = ready!(pin!(stream.write_chunks(chunks)).poll_unpin(cx))?;
                    self.unsent.drain(..written.chunks);
                    self.unsent_bytes -= written.bytes;
                }
            }
        }
    }

    /// Ends the stream; resolves when the node has all of it.
    fn end(&mut self) -> Option<BoxFuture<'static, ()>> {
        let State::Open(stream) = &mut self.state else { return None };
        stream.finish().ok()?;
        Some(stream.stopped().map(drop).boxed())
    }

    fn reset(&mut self) {
        if let State::Open(stream) = &mut self.state {
            // One that has ended needs no reset.
            let _ = stream.reset(VarInt::from_u32(0));
        }
    }
}

fn opening(connection: &Connection) -> State {
    let connection = connection.clone();
    State::Opening(async move { connection.open_uni().await }.boxed())
}

fn broken(error: WriteError) -> Turn {
    match error {
        WriteError::ConnectionLost(error) => over(&error),
        error => Turn::Over { code: None, detail: format!("a stream broke: {error}") },
    }
}
