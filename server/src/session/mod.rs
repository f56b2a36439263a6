//! One task for each connection: it owns the protocol session, its transport and its mailbox.
//!
//! ```text
//! transport ──records──▶ protocol session ──requests──▶ hub, engine
//!     ▲                        │  ▲                          │
//!     └──────── outputs ───────┘  └── marks, transients, ────┘
//!                                     signals (mailbox)
//! ```
//!
//! After every input the task drains requests, marks, reads, what may be lost, and then outputs: all that is ready
//! leaves in one write, without a timer. It never waits for a room: what the engine is asked for are futures that the
//! connection owns, bounded by kind, and polled beside input and output. While a write is under way the task goes on reading, so a slow client still
//! gets its requests handled; what it does not take stays in the log, or waits in the mailbox under its bound.

mod pending;
mod registry;
mod requests;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::log::Start;
use lanecast_protocol::lossy::Popped;
use lanecast_protocol::place::Stored;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::server::{Read, Request, Session, filtered};
use lanecast_protocol::v1;

use self::pending::{Again, Done, Pending, READ_BYTES_MAX, READS_MAX, Task, Why};
pub use self::registry::{Command, Entry, Owner, Registry};
pub(crate) use self::requests::revoked;
use crate::auth::Identity;
use crate::auth::rights::TypeFilter;
use crate::engine::EngineError;
use crate::hub::{Hub, Interest, Mark, ReadOut, Room};
use crate::node::Node;
use crate::rates::{Bucket, Rate};
use crate::telemetry::labels;
use crate::trace::Follower;
use crate::transport::{Gone, Received, Transport};

/// Transport reads handled before outputs are drained: requests that came together are answered together.
const RECEIVED_PER_TURN: usize = 64;
/// How long the peer has to close after an Error that said why.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Control bytes waiting beyond which no further input is read: the client has to take its answers first.
const CONTROL_BYTES_BUSY: usize = 32 * 1024;
/// Bytes after which lanes are filled again while the transport goes on taking. Less than a lane holds: one that is empty for
/// a moment leaves its share to the others (LC-LANE-007).
const REFILL_BYTES: usize = 4 * 1024;
/// Bytes that are written before input has its turn.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Time that one write of a throttled connection may take: what was handed over can no longer be overtaken.
const THROTTLED_WRITE_MS: u64 = 50;

/// A subscription of this connection.
struct Joined {
    handle: u64,
    room: Arc<Room>,
    signals: bool,
    types: TypeFilter,
}

/// One connection of a client.
pub struct Connection<T> {
    node: Arc<Node>,
    session: Session,
    transport: T,
    labels: (labels::Transport, labels::Encoding),
    peer: SocketAddr,
    entry: Arc<Entry>,
    identity: Option<Identity>,
    /// The device that Welcome said.
    device: Box<str>,
    instance: Box<str>,
    /// A newer token may allow less than one by which something waits: what waits is looked at once more.
    refreshed: bool,
    joined: Vec<Joined>,
    signals: Bucket,
    /// The rate of that bucket, which a newer token may change.
    signals_rate: Option<Rate>,
    /// What waits; made when something does.
    pending: Option<Box<Pending>>,
    /// Queued bytes by lane as the node's gauges know them.
    counted_bytes: [u32; 5],
    /// Whether input is looked at before output in the next wait.
    input_first: bool,
    /// Whether all lanes leave as one queue.
    one_queue: bool,
    /// What is on its way, where that is traced.
    follower: Option<Box<Follower>>,
    /// Once the session closes: until when its last words may take, monotonic ms.
    close_by_ms: Option<u64>,
    /// With a rate limit: when the next write may begin, monotonic ms.
    write_at_ms: u64,
    /// Whether the transport may take more at once.
    writes_on: bool,
}

/// What ended a wait.
enum Wake {
    Flushed(Result<(), Gone>),
    Received(Received),
    Done(Done),
    /// The mailbox, or a deadline.
    Other,
}

impl<T: Transport> Connection<T> {
    /// A connection whose transport is open.
    pub fn new(node: Arc<Node>, transport: T, labels: (labels::Transport, labels::Encoding), peer: SocketAddr) -> Self {
        let entry = node.registry.add(peer, node.clock.now_ms());
        let session = new_session(&node, labels.0, now(&node));
        node.metrics.connections.of(labels).inc();
        Self {
            node,
            session,
            transport,
            labels,
            peer,
            entry,
            identity: None,
            device: Box::default(),
            instance: Box::default(),
            refreshed: false,
            joined: Vec::new(),
            signals: Bucket::default(),
            signals_rate: None,
            pending: None,
            counted_bytes: [0; 5],
            one_queue: false,
            follower: None,
            input_first: true,
            close_by_ms: None,
            write_at_ms: 0,
            writes_on: false,
        }
    }

    /// Counts the time for Hello from when the transport was opened, which may be earlier.
    pub fn opened(mut self, opened: Now) -> Self {
        self.session = new_session(&self.node, self.labels.0, opened);
        self
    }

    /// Runs the connection to its end. Boxed, since a future keeps what it was given beside what it made of it.
    pub async fn run(mut self: Box<Self>) {
        loop {
            self.work();
            let held = self.start_write();
            if self.is_done() {
                break Box::pin(self.close()).await;
            }
            match self.wait(held).await {
                Wake::Flushed(Ok(())) => {
                    self.trace_written();
                    let moved = self.transport.moved();
                    self.session.progress(self.now(), moved, self.transport.is_busy());
                }
                Wake::Flushed(Err(Gone)) | Wake::Received(Received::Closed) => break,
                Wake::Received(received) => {
                    if !self.receive_all(received) {
                        break;
                    }
                }
                Wake::Done(done) => self.finish(done),
                Wake::Other => self.session.handle_timeout(self.now()),
            }
        }
    }

    /// Whether the session closes and has said why, or could not for too long.
    fn is_done(&mut self) -> bool {
        if self.session.closing().is_none() {
            return false;
        }
        let now_ms = self.now().monotonic_ms;
        let by_ms = *self.close_by_ms.get_or_insert(now_ms + self.session.no_progress_ms());
        let said = !self.session.has_output() && self.transport.takes().contains(Lane::Control);
        said || by_ms <= now_ms
    }

    fn now(&self) -> Now {
        now(&self.node)
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.node.hub
    }

    // Input.

    /// Handles what came, and what else is there already. Returns false if the peer is gone.
    fn receive_all(&mut self, first: Received) -> bool {
        let mut received = first;
        for left in (0..RECEIVED_PER_TURN).rev() {
            match received {
                Received::Closed => return false,
                Received::Fault(fault) => self.session.handle_fault(fault),
                Received::Records(records, stream) => {
                    for record in records {
                        match record {
                            Ok(record) => {
                                if let Some(lane) = self.session.handle_record(self.now(), stream, record) {
                                    self.node.metrics.frames_in.of(lane).inc();
                                }
                            }
                            Err(fault) => self.session.handle_fault(fault),
                        }
                        self.handle_requests();
                    }
                }
            }
            // What is polled must be handled: nothing is polled after the last turn.
            if left == 0 || !self.wants_input() {
                break;
            }
            // A waker that does nothing is safe here: the wait that follows registers the real one.
            match self.transport.poll_recv(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(next) => received = next,
                Poll::Pending => break,
            }
        }
        true
    }

    fn wants_input(&self) -> bool {
        self.session.closing().is_none() && self.session.queued_bytes(Lane::Control) < CONTROL_BYTES_BUSY
    }

    /// Waits for whatever comes first; `held`: when a write may begin that waits, monotonic ms.
    async fn wait(&mut self, held: Option<u64>) -> Wake {
        let now_ms = self.now().monotonic_ms;
        let again = self.pending.as_ref().and_then(|pending| pending.due_at_ms());
        let deadlines = [self.session.poll_timeout(), self.close_by_ms, held, again];
        let deadline = deadlines.into_iter().flatten().min();
        let sleep = Duration::from_millis(deadline.map_or(u64::from(u32::MAX), |at| at.saturating_sub(now_ms)));
        let entry = Arc::clone(&self.entry);
        let mut woken = pin!(entry.mailbox.woken());
        let mut sleep = pin!(tokio::time::sleep(sleep));
        poll_fn(|cx| {
            // First, whatever the client sends: what is under way may hold the turn of a room, for which others wait.
            if let Some(pending) = &mut self.pending
                && let Poll::Ready(done) = pending.poll(cx)
            {
                return Poll::Ready(Wake::Done(done));
            }
            // Input and output take turns: neither a client that drains as fast as the node writes nor one that sends
            // without a pause keeps the other side waiting.
            for input in [self.input_first, !self.input_first] {
                if input
                    && self.wants_input()
                    && let Poll::Ready(received) = self.transport.poll_recv(cx)
                {
                    self.input_first = false;
                    return Poll::Ready(Wake::Received(received));
                }
                if !input
                    && self.transport.is_busy()
                    && let Poll::Ready(flushed) = self.transport.poll_flush(cx)
                {
                    self.input_first = true;
                    return Poll::Ready(Wake::Flushed(flushed));
                }
            }
            if self.writes_on || woken.as_mut().poll(cx).is_ready() || sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wake::Other);
            }
            Poll::Pending
        })
        .await
    }

    // Work.

    fn work(&mut self) {
        self.handle_requests();
        self.obey();
        self.queue_as_told();
        for mark in self.entry.mailbox.take_marks() {
            match mark {
                Mark::Ready { handle, lanes } => {
                    for lane in DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]) {
                        self.session.mark_ready(handle, lane);
                    }
                }
                Mark::Epoch { handle } => {
                    // The place stands still until the room was opened again, whatever is being read of it.
                    if self.session.suspend(handle).is_some() {
                        self.pending().open(handle);
                    }
                }
            }
        }
        self.try_again();
        self.session.tell_degraded(self.hub().is_degraded());
        self.read_rooms();
        self.take_lossy();
        self.pending.take_if(|pending| pending.is_empty());
    }

    /// Lets lanes leave apart and at the pace of the path, or, to see what that is worth, all as one queue and as fast as
    /// the transport takes them.
    fn queue_as_told(&mut self) {
        let one_queue = self.node.config.lanes.one_queue || self.entry.has_one_queue();
        if std::mem::replace(&mut self.one_queue, one_queue) != one_queue {
            self.session.set_one_queue(one_queue);
            self.transport.set_paced(!one_queue);
        }
    }

    fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    /// Begins what may take long, and finishes it if it did not.
    fn begin(&mut self, task: Task) {
        if let Some(done) = self.pending().begin(task) {
            self.finish(done);
        }
    }

    fn try_again(&mut self) {
        let now_ms = self.now().monotonic_ms;
        let Some(pending) = &mut self.pending else { return };
        for (what, failed) in pending.due(now_ms) {
            let call = match what {
                Again::Read(read) => {
                    self.session.read_again(&read);
                    labels::EngineCall::Read
                }
                Again::Open(handle) => {
                    self.reopen(now_ms, handle);
                    labels::EngineCall::Follow
                }
            };
            self.node.metrics.retries.of(call).inc_by(failed.into());
        }
    }

    /// Does what others told the connection to do.
    fn obey(&mut self) {
        for command in self.entry.take_commands() {
            match command {
                Command::GoAway(go_away) => self.session.go_away(self.now(), go_away),
                Command::Close(refusal) => self.session.close(refusal),
                Command::Unsubscribe(room) => {
                    self.session.unsubscribed(&room, v1::UnsubscribedCause::Server, None);
                    self.handle_requests();
                }
            }
        }
    }

    /// Takes what may be lost, of lanes that can be written now: the rest waits where it can still be conflated or
    /// dropped (LC-SIG-009).
    fn take_lossy(&mut self) {
        let now = self.now();
        let takes = self.transport.takes();
        if takes.is_empty() {
            return;
        }
        let (refreshed, joined) = (self.refreshed, &self.joined);
        let session = std::cell::RefCell::new(&mut self.session);
        let excluded_in = |handle, kind: &str| {
            let joined = joined.iter().find(|joined| joined.handle == handle)?;
            if joined.types.passes(kind) { None } else { session.borrow().position(handle).map(|place| place.epoch) }
        };
        let metrics = &self.node.metrics;
        let expired = self.entry.mailbox.take_lossy(
            now.wall_ms,
            |handle| session.borrow().focus_of(handle),
            |lane| takes.contains(lane) && session.borrow().has_room(lane),
            |lane, Popped { handle, record, expiry, gap }| {
                if let Some(cause) = gap {
                    metrics.gaps.of((labels::GapCause::of(cause), lane)).inc();
                }
                // What came before the newer token was let in by the types of the former one.
                let record = if refreshed { filtered(&record, excluded_in) } else { Some(record) };
                if let Some(record) = record {
                    session.borrow_mut().send(lane, handle, record, expiry);
                }
            },
        );
        metrics.drops.of((Lane::Signal, labels::DropReason::Expired)).inc_by(expired);
    }

    fn handle_requests(&mut self) {
        while let Some(request) = self.session.poll_request() {
            match request {
                Request::Authenticate(hello) => self.authenticate(hello),
                Request::RefreshToken { id, token } => self.refresh(id, token),
                Request::Subscribe { asked, subscribe } => self.subscribe(asked, subscribe),
                Request::Unsubscribed { handle } => self.leave(handle),
                Request::Publish { id, publish, envelope } => self.publish(id, publish, &envelope),
                Request::Signal { id, signal, envelope } => self.signal(id, signal, &envelope),
                Request::History { id, history } => self.history(id, history),
            }
        }
    }

    /// Reads what rooms have, while the lanes have room. What the node has of a room is read at once; the log is asked
    /// for by futures, and a slow one delays only its own lane of its own room.
    fn read_rooms(&mut self) {
        let mut waits = Vec::new();
        while let Some(read) = self.session.next_read() {
            let Some(joined) = self.joined.iter().find(|joined| joined.handle == read.handle) else { continue };
            let room = Arc::clone(&joined.room);
            if let Some(out) = self.hub().read_cached(&room, read.handle, read.lane, read.after, read.bytes) {
                self.deliver(&read, out);
            } else if self.pending().reads < READS_MAX {
                self.pending().reads += 1;
                let hub = Arc::clone(self.hub());
                self.begin(Box::pin(async move {
                    let bytes_max = read.bytes.min(READ_BYTES_MAX);
                    let result = hub.read_log(&room, read.handle, read.lane, read.after, bytes_max).await;
                    Done::Read { read, result }
                }));
            } else {
                waits.push(read);
            }
        }
        waits.iter().for_each(|read| self.session.read_again(read));
    }

    fn deliver(&mut self, read: &Read, out: ReadOut) {
        let Some(joined) = self.joined.iter().find(|joined| joined.handle == read.handle) else { return };
        let metrics = &self.node.metrics;
        if let Some(since_ms) = out.cached_since_ms {
            let age_ms = self.node.clock.now_ms().saturating_sub(since_ms);
            metrics.publish_to_deliver.of(read.lane.into()).observe(age_ms as f64 / 1000.0);
        }
        if read.held_back {
            metrics.catch_ups.of((read.lane.into(), out.source)).inc();
            if let Some(board) = self.entry.mailbox.board() {
                board.caught_up(read.lane.into(), out.source);
            }
        }
        let wanted = |event: &Stored| joined.types.passes(&event.event_type);
        for cause in self.session.deliver(now(&self.node), read, out.batch, out.more, wanted) {
            metrics.gaps.of((labels::GapCause::of(cause), read.lane.into())).inc();
        }
        if let Some(after) = out.ahead {
            let room = Arc::clone(&joined.room);
            self.read_ahead(room, read.handle, read.lane, after);
        }
    }

    fn read_ahead(&mut self, room: Arc<Room>, handle: u64, lane: DurableLane, after: u64) {
        if std::mem::replace(&mut self.pending().reads_ahead[lane], true) {
            return;
        }
        let hub = Arc::clone(self.hub());
        self.begin(Box::pin(async move {
            hub.read_ahead(&room, handle, lane, after).await;
            Done::ReadAhead(lane)
        }));
    }

    fn finish_read(&mut self, read: Read, result: Result<ReadOut, EngineError>) {
        self.pending().reads -= 1;
        match result {
            Ok(out) => self.deliver(&read, out),
            Err(error) => {
                self.node.metrics.engine_failed(labels::EngineCall::Read, &read.room, &error);
                let now_ms = self.now().monotonic_ms;
                self.pending().retry(now_ms, Again::Read(read));
            }
        }
    }

    /// A room's epoch ended: go on in the new one, from where this connection is.
    fn reopen(&mut self, now_ms: u64, handle: u64) {
        // The client may have left, or moved, since.
        let Some(position) = self.session.position(handle) else { return };
        let Some(joined) = self.joined.iter().find(|joined| joined.handle == handle) else { return };
        let name = Arc::clone(joined.room.name());
        if self.session.is_held(&name) || !self.session.may_open() {
            return self.pending().block(now_ms, Again::Open(handle));
        }
        let interest = Interest {
            start: Start::Position(position),
            transients: None,
            signals: joined.signals,
            types: joined.types.clone(),
            live: false,
        };
        self.session.hold(&name);
        self.open(Why::Epoch(handle), name, interest);
    }

    fn count_rolled_back(&self, gaps: &[v1::Gap]) {
        for lane in gaps.iter().filter_map(|gap| Lane::from_wire(gap.lane)) {
            self.node.metrics.gaps.of((labels::GapCause::RolledBack, lane)).inc();
        }
    }

    fn leave(&mut self, handle: u64) {
        if let Some(at) = self.joined.iter().position(|joined| joined.handle == handle) {
            let joined = self.joined.swap_remove(at);
            self.hub().leave(&joined.room, &self.entry.mailbox);
        }
    }

    // Output.

    /// Writes what may leave. With a rate limit: when what waits may leave, monotonic ms; by this look at the clock and no
    /// later one, so that it is not forgotten if that time is over by then.
    fn start_write(&mut self) -> Option<u64> {
        let now = self.now();
        if self.write_at_ms > now.monotonic_ms && self.session.closing().is_none() {
            return self.held(now);
        }
        let rate = self.entry.rate();
        let limit = rate.map_or(WRITE_BYTES_MAX, |rate| (rate * THROTTLED_WRITE_MS / 1000).max(256) as usize);
        let mut bytes = 0;
        self.writes_on = false;
        while bytes < limit {
            let sent = self.send(now, REFILL_BYTES.min(limit - bytes));
            if sent == 0 {
                break;
            }
            bytes += sent;
            self.writes_on = rate.is_none() && bytes >= limit;
            self.read_rooms();
            self.take_lossy();
        }
        if bytes > 0 {
            self.write_at_ms = rate.map_or(0, |rate| now.monotonic_ms + bytes as u64 * 1000 / rate);
            self.node.metrics.writes.inc();
        }
        self.session.progress(now, Lanes::NONE, self.transport.is_busy());
        self.count_queues();
        self.held(now)
    }

    fn held(&self, now: Now) -> Option<u64> {
        Some(self.write_at_ms).filter(|at| *at > now.monotonic_ms && self.session.has_output())
    }

    /// Hands the transport about so many bytes of what may leave; returns how many it took.
    fn send(&mut self, now: Now, bytes_max: usize) -> usize {
        let (session, metrics, board) = (&mut self.session, &self.node.metrics, self.entry.mailbox.board());
        session.set_window(self.transport.window());
        let (traces, connection, joined) = (&self.node.traces, &self.entry.id, &self.joined);
        let mut follower = traces.is_on().then(|| self.follower.get_or_insert_default());
        let room_of =
            |handle| joined.iter().find(|known| known.handle == handle).map(|known| Arc::clone(known.room.name()));
        self.transport.send(bytes_max, &mut |lanes| {
            let output = session.poll_output(now, lanes)?;
            metrics.frames_out.of(output.lane).inc();
            metrics.queue_age.of(output.lane).observe(output.waited_ms as f64 / 1000.0);
            if let Some(board) = board {
                board.sent(output.lane, output.record.len(), output.waited_ms);
            }
            if let Some(follower) = &mut follower {
                follower.popped(traces, connection, &output.record, room_of);
            }
            Some(output)
        })
    }

    /// The transport has written what it took: all of it once it is idle.
    fn trace_written(&mut self) {
        if let Some(follower) = self.follower.as_mut().filter(|_| !self.transport.is_busy()) {
            follower.written(&self.node.traces, &self.entry.id);
        }
    }

    /// Brings the node's gauges up to what this connection holds now.
    fn count_queues(&mut self) {
        let (metrics, board) = (&self.node.metrics, self.entry.mailbox.board());
        let queued_bytes = Lane::ALL.into_iter().map(|lane| self.session.queued_bytes(lane) as u64).sum();
        self.entry.set_queued_bytes(queued_bytes);
        for (lane, counted) in Lane::ALL.into_iter().zip(&mut self.counted_bytes) {
            let bytes = self.session.queued_bytes(lane) as u32;
            if bytes != *counted {
                metrics.queue_bytes.of(lane).inc_by(i64::from(bytes) - i64::from(*counted));
                *counted = bytes;
            }
            if let Some(board) = board {
                board.queued(lane, self.session.queued_records(lane), bytes as usize);
            }
        }
        for (lane, expired) in Lane::ALL.into_iter().zip(self.session.take_expired()) {
            if expired == 0 {
                continue;
            }
            metrics.drops.of((lane, labels::DropReason::Expired)).inc_by(expired.into());
            if lane != Lane::Signal {
                metrics.gaps.of((labels::GapCause::Expired, lane)).inc_by(expired.into());
            }
            if let Some(board) = board {
                board.dropped(lane, labels::DropReason::Expired, expired.into());
            }
        }
    }

    /// Says goodbye: the Error is out, the close frame follows, and the peer has a moment to answer.
    async fn close(&mut self) {
        // Nothing drives it from here on, and it may hold the turn of a room.
        self.pending = None;
        let code = self.session.closing().unwrap_or(Code::Normal);
        self.node.metrics.closes.of(code).inc();
        tracing::debug!(connection = &*self.entry.id, peer = %self.peer, %code, "closing");
        self.transport.start_close(code);
        let closed = poll_fn(|cx| {
            if let Poll::Ready(Err(Gone)) = self.transport.poll_flush(cx) {
                return Poll::Ready(());
            }
            loop {
                match self.transport.poll_recv(cx) {
                    Poll::Ready(Received::Closed) => return Poll::Ready(()),
                    // After a fault the stream cannot be understood any more; the time-out ends the wait.
                    Poll::Ready(Received::Fault(_)) | Poll::Pending => return Poll::Pending,
                    Poll::Ready(Received::Records(..)) => {}
                }
            }
        });
        // A peer that does not answer is dropped: it was told why.
        let _ = tokio::time::timeout(CLOSE_WAIT, closed).await;
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.session.transport_closed();
        for (lane, counted) in Lane::ALL.into_iter().zip(self.counted_bytes) {
            self.node.metrics.queue_bytes.of(lane).dec_by(counted.into());
        }
        for joined in self.joined.drain(..) {
            self.node.hub.leave(&joined.room, &self.entry.mailbox);
        }
        self.node.registry.remove(&self.entry);
        self.node.metrics.connections.of(self.labels).dec();
    }
}

/// The session of a fresh connection.
fn new_session(node: &Node, transport: labels::Transport, opened: Now) -> Session {
    let mut session = Session::new(Arc::clone(&node.session), opened);
    session.set_pipe(transport == labels::Transport::WebSocket);
    session
}

/// The node's time as sessions take it.
pub(crate) fn now(node: &Node) -> Now {
    Now { monotonic_ms: node.clock.elapsed().as_millis() as u64, wall_ms: node.clock.now_ms() }
}
