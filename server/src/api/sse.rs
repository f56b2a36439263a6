//! `GET /v1/rooms/{room}/events` with `Accept: text/event-stream`: a subscription for anything that reads HTTP.
//!
//! Promises: the ids are positions, so that whoever comes back with one gets exactly what followed (LC-API-021). The
//! stream is pulled: while the client takes nothing, nothing is read for it, and its place in the log waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::focus::Focus;
use lanecast_protocol::json::message_to_json;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::log::Start;
use lanecast_protocol::lossy::Popped;
use lanecast_protocol::place::{Place, Step};
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::room::RoomName;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body as Frame;
use prost::Message;
use tokio::sync::oneshot;

use super::Caller;
use super::query::Query;
use crate::admission::{self, AddressSlot, UserSlot};
use crate::auth::rights::Verb;
use crate::engine::EngineError;
use crate::history::rolled_back;
use crate::http::error::Refused;
use crate::hub::{Interest, Mark, Subscription};
use crate::node::Node;
use crate::publish::{engine_refusal, forbidden};
use crate::session::{Command, Entry, Owner, revoked};
use crate::telemetry::labels::{DropReason, Encoding, EngineCall, GapCause, ReplayOutcome, Transport};

/// A comment after this long without an item: below the 30 s after which common proxies give up (LC-API-025).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes of events read at once, and about as many handed to the connection at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Opens the stream.
pub(super) async fn stream(
    node: Arc<Node>,
    caller: Caller,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Refused> {
    let start = query.start(headers)?;
    let signals = query.signals()?;
    if !caller.identity.allows(Verb::Subscribe, &caller.room) {
        return Err(forbidden().into());
    }
    if node.shutdown.is_draining() {
        return Err(Refused::new(Code::GoingAway, "The node shuts down.").retry_after(node.config.drain.spread_ms));
    }
    node.rates.request(&node.metrics, &caller.identity)?;
    let address = caller.client.slot(&node.admission)?;
    let Some(user) = node.admission.user(&caller.identity.user) else {
        return Err(admission::too_many("user").into());
    };
    let types = caller.identity.subscribe_filter(&caller.room);
    let interest = Interest { start, transients: None, signals, types, live: signals };
    let expires_at_ms = caller.identity.expires_at_ms;
    let joined = join(node, caller, (address, user), interest).await?;
    let mut stream = Stream::new(joined, expires_at_ms);
    stream.begin(start).await;
    let body = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// A mailbox in a room. Dropping it leaves the room.
struct Joined {
    node: Arc<Node>,
    name: RoomName,
    interest: Interest,
    entry: Arc<Entry>,
    subscription: Subscription,
    _address: Option<AddressSlot>,
}

/// The places that a stream takes: of its address, if the socket does not hold it, and of its user.
type Slots = (Option<AddressSlot>, UserSlot);

impl Drop for Joined {
    fn drop(&mut self) {
        self.node.hub.leave(&self.subscription.room, &self.entry.mailbox);
        self.node.registry.remove(&self.entry);
        self.node.metrics.connections.of((Transport::Sse, Encoding::Json)).dec();
    }
}

/// Subscribes. It runs as a task of its own, since the client may go while the engine is asked, and a subscription that
/// nobody waits for must be left again.
async fn join(node: Arc<Node>, caller: Caller, slots: Slots, interest: Interest) -> Result<Joined, Refused> {
    let (joined, answer) = oneshot::channel();
    let shutdown = node.shutdown.clone();
    shutdown.spawn(async move {
        let Caller { identity, client, room: name } = caller;
        let entry = node.registry.add(client.address, node.clock.now_ms());
        let (address, user) = slots;
        entry.hold(user);
        let subscribed = node.hub.subscribe(&name, interest.clone(), &entry.mailbox).await;
        let result = match subscribed {
            Ok(subscription) => {
                node.metrics.connections.of((Transport::Sse, Encoding::Json)).inc();
                let device = identity.device.unwrap_or_default();
                entry.set_mark(identity.mark.clone());
                let owner =
                    Owner { user: Arc::clone(&identity.user), device: device.clone(), instance: Box::default() };
                node.registry.welcome(&entry, owner);
                // Whoever revokes looks at the registry after it was written down: one of both sees the other.
                if node.auth.is_revoked(&identity.user, &device, &identity.mark) {
                    entry.command(Command::Close(revoked()));
                }
                Ok(Joined { node, name, interest, entry, subscription, _address: address })
            }
            Err(error) => {
                node.registry.remove(&entry);
                node.metrics.engine_failed(EngineCall::Follow, &name, &error);
                Err(engine_refusal(error).into())
            }
        };
        // If nobody waits any more, the answer comes back here and is dropped.
        drop(joined.send(result));
    });
    answer.await.unwrap_or_else(|_| Err(Refused::new(Code::GoingAway, "The node shuts down.")))
}

/// One stream.
struct Stream {
    joined: Joined,
    place: Place,
    ready: PerLane<bool>,
    expires_at_ms: u64,
    /// Items that wait for the client to take them.
    out: String,
    ended: bool,
}

/// What ended a wait.
enum Wake {
    /// The mailbox, or a command.
    Mailbox,
    KeepAlive,
    Expired,
}

impl Stream {
    fn new(joined: Joined, expires_at_ms: u64) -> Self {
        let place = Place::at(joined.subscription.opened.log.position);
        let ready = PerLane::from_fn(|_| true);
        Self { joined, place, ready, expires_at_ms, out: String::new(), ended: false }
    }

    fn node(&self) -> &Arc<Node> {
        &self.joined.node
    }

    /// The first items: the retry time, the subscription, and the live signals.
    async fn begin(&mut self, start: Start) {
        let retry_ms = self.node().config.reconnect.min_ms;
        self.out.push_str(&format!("retry: {retry_ms}\n"));
        self.push_subscribed(v1::SubscribedCause::Unspecified);
        if let Start::Position(_) = start {
            self.count_replay();
        }
        if !self.joined.interest.signals {
            return;
        }
        let Joined { node, entry, subscription, .. } = &self.joined;
        if let Err(error) = node.hub.enliven(&subscription.room, &entry.mailbox).await {
            // Signals may be lost; the subscription is worth more.
            node.metrics.engine_failed(EngineCall::Follow, &self.joined.name, &error);
        }
    }

    /// The next bytes of the stream; `None` when it has ended. Waits until there are some.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.out.is_empty() {
                return Some(std::mem::take(&mut self.out).into());
            }
            if self.ended {
                return None;
            }
            if let Some(command) = self.joined.entry.take_commands().pop() {
                self.obey(command);
                continue;
            }
            if let Err(error) = self.gather().await {
                self.end(Refused::from(engine_refusal(error)));
                continue;
            }
            if !self.out.is_empty() {
                continue;
            }
            match self.wait().await {
                Wake::Mailbox => {}
                Wake::KeepAlive => self.out.push_str(":\n\n"),
                Wake::Expired => self.end(Refused::new(Code::TokenExpired, "The token has expired.")),
            }
        }
    }

    /// Does what others told the stream to do: there is one subscription, so each command ends it.
    fn obey(&mut self, command: Command) {
        self.end(match command {
            Command::GoAway(away) => {
                Refused::new(Code::GoingAway, "The node shuts down.").retry_after(away.retry_after_ms)
            }
            Command::Close(refusal) => refusal.into(),
            Command::Unsubscribe(_) => Refused::new(Code::Disconnected, "The subscription was ended by a command."),
        });
    }

    async fn wait(&self) -> Wake {
        let node = self.node();
        let left_ms = self.expires_at_ms.saturating_sub(node.clock.now_ms());
        let expiry = if self.expires_at_ms == 0 { None } else { Some(Duration::from_millis(left_ms)) };
        let expires_first = expiry.is_some_and(|expiry| expiry <= KEEP_ALIVE);
        tokio::select! {
            () = self.joined.entry.mailbox.woken() => Wake::Mailbox,
            () = tokio::time::sleep(expiry.unwrap_or(KEEP_ALIVE).min(KEEP_ALIVE)) => {
                if expires_first { Wake::Expired } else { Wake::KeepAlive }
            }
        }
    }

    /// Turns what is new into items, up to about a chunk. The highest ready lane goes first.
    async fn gather(&mut self) -> Result<(), EngineError> {
        for mark in self.joined.entry.mailbox.take_marks() {
            match mark {
                Mark::Ready { handle, lanes } if handle == self.joined.subscription.handle => {
                    for lane in DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]) {
                        self.ready[lane] = true;
                    }
                }
                Mark::Epoch { handle } if handle == self.joined.subscription.handle => self.reopen().await?,
                // Of a handle that has ended.
                Mark::Ready { .. } | Mark::Epoch { .. } => {}
            }
        }
        while self.out.len() < CHUNK_BYTES
            && let Some(lane) = DurableLane::ALL.into_iter().find(|lane| self.ready[*lane])
        {
            self.read(lane).await?;
        }
        self.take_lossy();
        Ok(())
    }

    async fn read(&mut self, lane: DurableLane) -> Result<(), EngineError> {
        let Subscription { room, handle, .. } = &self.joined.subscription;
        let read = self.node().hub.read(room, *handle, lane, self.place.sent(lane), CHUNK_BYTES).await;
        let read = read.inspect_err(|error| {
            self.node().metrics.engine_failed(EngineCall::Read, &self.joined.name, error);
        })?;
        self.ready[lane] = read.more;
        // Each item's id is the place behind it, so the walk is followed step by step.
        let mut position = self.place.position();
        let now_ms = self.node().clock.now_ms();
        let types = self.joined.interest.types.clone();
        for step in self.place.advance(lane, read.batch, now_ms, |event| types.passes(&event.event_type)) {
            match step {
                Step::Event { seq, record, .. } => {
                    position.set_seq(lane, seq);
                    let Joined { node, entry, subscription, .. } = &self.joined;
                    node.traces.handed_over(subscription.room.name(), lane, seq, &entry.id);
                    self.push_record(record, Some(position));
                }
                Step::Gap { from, to, cause } => {
                    position.set_seq(lane, to);
                    let lane = v1::Lane::from(lane).into();
                    let gap = v1::Gap { lane, from, to, cause: cause.into(), ..Default::default() };
                    self.push_gap(gap, Some(position));
                }
            }
        }
        Ok(())
    }

    /// The room's epoch ended: goes on in the new one, from where this stream is (LC-API-024).
    async fn reopen(&mut self) -> Result<(), EngineError> {
        let start = Start::Position(self.place.position());
        let interest = Interest { start, live: false, ..self.joined.interest.clone() };
        let hub = Arc::clone(&self.joined.node.hub);
        let subscribed = hub.subscribe(&self.joined.name, interest, &self.joined.entry.mailbox).await;
        self.joined.subscription = subscribed.inspect_err(|error| {
            self.node().metrics.engine_failed(EngineCall::Follow, &self.joined.name, error);
        })?;
        self.place = Place::at(self.joined.subscription.opened.log.position);
        self.ready = PerLane::from_fn(|_| true);
        self.push_subscribed(v1::SubscribedCause::Epoch);
        Ok(())
    }

    /// Transients and signals, as far as they fit.
    fn take_lossy(&mut self) {
        let now_ms = self.node().clock.now_ms();
        let mut records = VecDeque::new();
        let mut bytes = self.out.len();
        let fitting = std::cell::Cell::new(bytes);
        let expired = self.joined.entry.mailbox.take_lossy(
            now_ms,
            |_| Focus::Default,
            |_| fitting.get() < CHUNK_BYTES,
            |_, Popped { record, expiry, .. }| {
                bytes += record.len();
                fitting.set(bytes);
                match expiry {
                    // Nobody is handed what has expired, only the gap in its place, if it has one.
                    Some(expiry) if expiry.at_ms <= now_ms => records.push_back(expiry.instead),
                    _ => records.push_back(record),
                }
            },
        );
        self.node().metrics.drops.of((Lane::Signal, DropReason::Expired)).inc_by(expired);
        for record in records.into_iter().filter(|record| !record.is_empty()) {
            self.push_record(record, None);
        }
    }

    // Items.

    fn push_subscribed(&mut self, cause: v1::SubscribedCause) {
        let opened = &self.joined.subscription.opened;
        let position = opened.log.position;
        let subscribed = v1::Subscribed {
            room: self.joined.name.to_string(),
            handle: 0,
            position: Some(position.into()),
            head: Some(opened.log.head.into()),
            head_order: opened.log.head_order,
            recovered: opened.log.recovered,
            rolled_back: opened.log.rolled_back.iter().map(rolled_back).collect(),
            missed_transients: Some(opened.missed_transients),
            transients: Some(opened.transients),
            cause: cause.into(),
            degraded: false,
        };
        self.push("subscribed", "Subscribed", &subscribed, Some(position));
        // A reader that knows events and gaps only learns of it too.
        for gap in subscribed.rolled_back {
            self.count_gap(&gap);
            self.push("gap", "Gap", &gap, Some(position));
        }
    }

    /// A record as the hub shares it, without the handle that means nothing here.
    fn push_record(&mut self, record: Bytes, id: Option<Position>) {
        let frame = codec::records(record, usize::MAX).next().and_then(|cut| cut.and_then(codec::decode).ok());
        let epoch = self.place.epoch;
        match frame.and_then(|frame| frame.body) {
            Some(Frame::Event(event)) => self.push("event", "Event", &v1::Event { handle: 0, epoch, ..event }, id),
            Some(Frame::Gap(gap)) => self.push_gap(gap, id),
            Some(Frame::Signal(signal)) => self.push("signal", "Signal", &v1::Signal { handle: 0, ..signal }, id),
            other => tracing::error!(room = %self.joined.name, ?other, "a room shared what is no item of a stream"),
        }
    }

    fn push_gap(&mut self, gap: v1::Gap, id: Option<Position>) {
        let gap = v1::Gap { handle: 0, epoch: self.place.epoch, ..gap };
        self.count_gap(&gap);
        self.push("gap", "Gap", &gap, id);
    }

    fn count_gap(&self, gap: &v1::Gap) {
        if let Some(lane) = DurableLane::from_wire(gap.lane) {
            self.node().metrics.gaps.of((GapCause::of(gap.cause()), lane.into())).inc();
        }
    }

    fn push(&mut self, kind: &str, name: &str, message: &impl Message, id: Option<Position>) {
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        // Canonical JSON has no line ends of its own, so it is one line of data.
        let data = message_to_json(name, message);
        self.out.push_str(&format!("event: {kind}\n{id}data: {data}\n\n"));
    }

    fn end(&mut self, why: Refused) {
        self.out.push_str(&format!("event: error\ndata: {}\n\n", why.to_json()));
        self.ended = true;
    }

    fn count_replay(&self) {
        let log = &self.joined.subscription.opened.log;
        let outcome = match (log.recovered, log.rolled_back.is_empty()) {
            (true, _) => ReplayOutcome::Recovered,
            (false, true) => ReplayOutcome::Trimmed,
            (false, false) => ReplayOutcome::RolledBack,
        };
        self.node().metrics.replays.of(outcome).inc();
    }
}
