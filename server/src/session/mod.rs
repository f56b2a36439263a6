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
//! leaves in one write, without a timer. While a write is under way the task goes on reading, so a slow client still
//! gets its requests handled; what it does not take stays in the log, or waits in the mailbox under its bound.

mod registry;
mod requests;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::place::Stored;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::server::{Request, Session};
use lanecast_protocol::v1;

pub use self::registry::{Command, Entry, Owner, Registry};
use self::requests::{Bucket, PendingPublish};
use crate::auth::Identity;
use crate::auth::rights::TypeFilter;
use crate::hub::{Hub, Mark, Room};
use crate::node::Node;
use crate::telemetry::labels;
use crate::transport::{Gone, Received, Transport};

/// Transport reads handled before outputs are drained: requests that came together are answered together.
const RECEIVED_PER_TURN: usize = 64;
/// How long the peer has to close after an Error that said why.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Control bytes waiting beyond which no further input is read: the client has to take its answers first.
const CONTROL_BYTES_BUSY: usize = 32 * 1024;
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
    instance: Box<str>,
    joined: Vec<Joined>,
    signals: Bucket,
    /// Publishes that the engine has not answered at once; made when there is one.
    publishes: Option<Box<FuturesUnordered<PendingPublish>>>,
    /// Queued bytes by lane as the node's gauges know them.
    counted_bytes: [u32; 5],
    /// Whether input is looked at before output in the next wait.
    input_first: bool,
    /// Whether a write is under way.
    writing: bool,
    /// With a rate limit: when the next write may begin, monotonic ms.
    write_at_ms: u64,
}

/// What ended a wait.
enum Wake {
    Flushed(Result<(), Gone>),
    Received(Received),
    Published(requests::Answer),
    /// The mailbox, or a deadline.
    Other,
}

impl<T: Transport> Connection<T> {
    /// A connection whose transport is open.
    pub fn new(node: Arc<Node>, transport: T, labels: (labels::Transport, labels::Encoding), peer: SocketAddr) -> Self {
        let entry = node.registry.add(peer, node.clock.now_ms());
        let session = Session::new(Arc::clone(&node.session), now(&node));
        let limits = &node.config.limits;
        let signals = Bucket::new(limits.signals_per_second, limits.signals_burst);
        node.metrics.connections.of(labels).inc();
        Self {
            node,
            session,
            transport,
            labels,
            peer,
            entry,
            identity: None,
            instance: Box::default(),
            joined: Vec::new(),
            signals,
            publishes: None,
            counted_bytes: [0; 5],
            input_first: true,
            writing: false,
            write_at_ms: 0,
        }
    }

    /// Runs the connection to its end.
    pub async fn run(mut self) {
        loop {
            self.work().await;
            self.start_write();
            if self.session.closing().is_some() && !self.writing && !self.session.has_output() {
                break Box::pin(self.close()).await;
            }
            match self.wait().await {
                Wake::Flushed(Ok(())) => {
                    self.writing = false;
                    self.session.progress(self.now(), self.session.has_output());
                }
                Wake::Flushed(Err(Gone)) | Wake::Received(Received::Closed) => break,
                Wake::Received(received) => {
                    if !self.receive_all(received).await {
                        break;
                    }
                }
                Wake::Published(answer) => self.answer_publish(answer),
                Wake::Other => self.session.handle_timeout(self.now()),
            }
        }
    }

    fn now(&self) -> Now {
        now(&self.node)
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.node.hub
    }

    // Input.

    /// Handles what came, and what else is there already. Returns false if the peer is gone.
    async fn receive_all(&mut self, first: Received) -> bool {
        let mut received = first;
        for left in (0..RECEIVED_PER_TURN).rev() {
            match received {
                Received::Closed => return false,
                Received::Fault(fault) => self.session.handle_fault(fault),
                Received::Records(records) => {
                    for record in records {
                        match record {
                            Ok(record) => {
                                if let Some(lane) = self.session.handle_record(self.now(), record) {
                                    self.node.metrics.frames_in.of(lane).inc();
                                }
                            }
                            Err(fault) => self.session.handle_fault(fault),
                        }
                        self.handle_requests().await;
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

    async fn wait(&mut self) -> Wake {
        let now_ms = self.now().monotonic_ms;
        let throttled = (self.session.has_output() && !self.writing).then_some(self.write_at_ms);
        let deadline = [self.session.poll_timeout(), throttled].into_iter().flatten().min();
        let sleep = Duration::from_millis(deadline.map_or(u64::from(u32::MAX), |at| at.saturating_sub(now_ms)));
        let entry = Arc::clone(&self.entry);
        let mut woken = pin!(entry.mailbox.woken());
        let mut sleep = pin!(tokio::time::sleep(sleep));
        poll_fn(|cx| {
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
                    && self.writing
                    && let Poll::Ready(flushed) = self.transport.poll_flush(cx)
                {
                    self.input_first = true;
                    return Poll::Ready(Wake::Flushed(flushed));
                }
            }
            if let Some(publishes) = &mut self.publishes
                && let Poll::Ready(Some(answer)) = publishes.poll_next_unpin(cx)
            {
                return Poll::Ready(Wake::Published(answer));
            }
            if woken.as_mut().poll(cx).is_ready() || sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wake::Other);
            }
            Poll::Pending
        })
        .await
    }

    // Work.

    async fn work(&mut self) {
        self.handle_requests().await;
        self.obey().await;
        for mark in self.entry.mailbox.take_marks() {
            match mark {
                Mark::Ready { handle, lanes } => {
                    for lane in DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]) {
                        self.session.mark_ready(handle, lane);
                    }
                }
                Mark::Epoch { handle } => Box::pin(self.reopen(handle)).await,
            }
        }
        self.read_rooms().await;
        if !self.writing {
            // While a write is under way they wait where they can still be conflated or dropped (LC-SIG-009).
            self.take_lossy();
        }
    }

    /// Does what others told the connection to do.
    async fn obey(&mut self) {
        for command in self.entry.take_commands() {
            match command {
                Command::GoAway(go_away) => self.session.go_away(self.now(), go_away),
                Command::Close(refusal) => self.session.close(refusal),
                Command::Unsubscribe(room) => {
                    self.session.unsubscribed(&room, v1::UnsubscribedCause::Server, None);
                    self.handle_requests().await;
                }
            }
        }
    }

    fn take_lossy(&mut self) {
        let now = self.now();
        let session = std::cell::RefCell::new(&mut self.session);
        self.entry.mailbox.take_lossy(
            now.wall_ms,
            |lane| session.borrow().has_room(lane),
            |lane, record, expiry| session.borrow_mut().send(lane, record, expiry),
        );
    }

    /// The futures of rare requests are boxed: what they hold while they wait would else be part of every idle
    /// connection.
    async fn handle_requests(&mut self) {
        while let Some(request) = self.session.poll_request() {
            match request {
                Request::Authenticate(hello) => self.authenticate(&hello),
                Request::Subscribe { asked, subscribe } => Box::pin(self.subscribe(asked, subscribe)).await,
                Request::Unsubscribed { handle } => self.leave(handle),
                Request::Publish { id, publish, envelope } => self.publish(id, publish, &envelope),
                Request::Signal { id, signal, envelope } => Box::pin(self.signal(id, signal, &envelope)).await,
                Request::History { id, history } => Box::pin(self.history(id, history)).await,
            }
        }
    }

    /// Reads what rooms have, while the lanes have room.
    async fn read_rooms(&mut self) {
        while let Some(read) = self.session.next_read() {
            let Some(joined) = self.joined.iter().find(|joined| joined.handle == read.handle) else { break };
            let (room, types) = (Arc::clone(&joined.room), joined.types.clone());
            let metrics = &self.node.metrics;
            match self.node.hub.read(&room, read.handle, read.lane, read.after, read.bytes).await {
                Ok(out) => {
                    if let Some(since_ms) = out.cached_since_ms {
                        let age_ms = self.node.clock.now_ms().saturating_sub(since_ms);
                        metrics.publish_to_deliver.of(read.lane.into()).observe(age_ms as f64 / 1000.0);
                    }
                    let wanted = |event: &Stored| types.passes(&event.event_type);
                    for cause in self.session.deliver(now(&self.node), &read, out.batch, out.more, wanted) {
                        metrics.gaps.of((labels::GapCause::of(cause), read.lane.into())).inc();
                    }
                }
                Err(error) => {
                    metrics.engine_failed(labels::EngineCall::Read, room.name(), &error);
                    // The room stays ready; the next mark, or the next drain of the lane, asks again.
                    break;
                }
            }
        }
    }

    /// A room's epoch ended: go on in the new one, from where this connection is.
    async fn reopen(&mut self, handle: u64) {
        let Some(position) = self.session.position(handle) else { return };
        let Some(at) = self.joined.iter().position(|joined| joined.handle == handle) else { return };
        let interest = crate::hub::Interest {
            start: lanecast_protocol::log::Start::Position(position),
            transients: None,
            signals: self.joined[at].signals,
            types: self.joined[at].types.clone(),
        };
        let name = Arc::clone(self.joined[at].room.name());
        match self.node.hub.subscribe(&name, interest, &self.entry.mailbox).await {
            Ok(subscription) => {
                self.joined[at].handle = subscription.handle;
                self.joined[at].room = Arc::clone(&subscription.room);
                let opened = requests::opened(name, subscription);
                self.count_rolled_back(&opened.rolled_back);
                self.session.subscribed(0, opened, v1::SubscribedCause::Epoch);
            }
            Err(error) => {
                self.node.metrics.engine_failed(labels::EngineCall::Head, &name, &error);
                let cause = v1::UnsubscribedCause::Server;
                self.session.unsubscribed(&name, cause, Some(Code::Unavailable));
            }
        }
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

    fn start_write(&mut self) {
        let now = self.now();
        if self.writing || (self.write_at_ms > now.monotonic_ms && self.session.closing().is_none()) {
            return;
        }
        let rate = self.entry.rate();
        let bytes_max = rate.map_or(usize::MAX, |rate| (rate * THROTTLED_WRITE_MS / 1000).max(256) as usize);
        let (session, metrics) = (&mut self.session, &self.node.metrics);
        let bytes = self.transport.send(bytes_max, &mut || {
            let output = session.poll_output(now)?;
            metrics.frames_out.of(output.lane).inc();
            metrics.queue_age.of(output.lane).observe(output.waited_ms as f64 / 1000.0);
            Some(output)
        });
        if bytes > 0 {
            self.writing = true;
            self.write_at_ms = rate.map_or(0, |rate| now.monotonic_ms + bytes as u64 * 1000 / rate);
            self.node.metrics.writes.inc();
            self.session.progress(now, true);
        }
        self.count_queues();
    }

    /// Brings the node's gauges up to what this connection holds now.
    fn count_queues(&mut self) {
        let metrics = &self.node.metrics;
        for (lane, counted) in Lane::ALL.into_iter().zip(&mut self.counted_bytes) {
            let bytes = self.session.queued_bytes(lane) as u32;
            if bytes != *counted {
                metrics.queue_bytes.of(lane).inc_by(i64::from(bytes) - i64::from(*counted));
                *counted = bytes;
            }
        }
        for (lane, expired) in Lane::ALL.into_iter().zip(self.session.take_expired()) {
            if expired > 0 {
                metrics.drops.of((lane, labels::DropReason::Expired)).inc_by(expired.into());
            }
        }
    }

    /// Says goodbye: the Error is out, the close frame follows, and the peer has a moment to answer.
    async fn close(&mut self) {
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
                    Poll::Ready(Received::Records(_)) => {}
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

fn now(node: &Node) -> Now {
    Now { monotonic_ms: node.clock.elapsed().as_millis() as u64, wall_ms: node.clock.now_ms() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use lanecast_protocol::outbox::Output;

    struct Silent;

    impl Transport for Silent {
        fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Received> {
            Poll::Pending
        }
        fn send(&mut self, _: usize, _: &mut dyn FnMut() -> Option<Output>) -> usize {
            0
        }
        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
            Poll::Ready(Ok(()))
        }
        fn start_close(&mut self, _: Code) {}
    }

    #[test]
    fn an_idle_connection_is_small() {
        let node = Arc::new(Node::new(Config::default(), Clock::manual(0)));
        let labels = (labels::Transport::WebSocket, labels::Encoding::Binary);
        let connection = Connection::new(node, Silent, labels, ([127, 0, 0, 1], 0).into());
        let (state, future) = (size_of_val(&connection), size_of_val(&connection.run()));
        assert!(state <= 1024 && future <= 2560, "the connection has {state} bytes, its task {future}");
    }
}
