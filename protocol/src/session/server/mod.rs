//! The node's side of one connection.
//!
//! ```text
//!                    Hello                accept()
//!  ┌────────────┐ ──────────▶ ┌────────────────┐ ──────────▶ ┌──────┐
//!  │ AwaitHello │             │ Authenticating │             │ Open │
//!  └────────────┘             └────────────────┘             └──────┘
//!        │ time-out, other frame      │ close()                 │ misbehaviour, idle,
//!        ▼                            ▼                         ▼ no progress, close()
//!  ┌─────────┐  Error sent   ┌────────┐
//!  │ Closing │ ────────────▶ │ Closed │
//!  └─────────┘               └────────┘
//! ```
//!
//! Methods come in four families: *inputs* ([`Session::handle_record`], [`Session::handle_fault`],
//! [`Session::handle_timeout`], [`Session::progress`]), *commands* that answer what the session asked for
//! ([`Session::accept`], [`Session::subscribed`], [`Session::published`], [`Session::refuse`], [`Session::deliver`] …),
//! *outputs* ([`Session::poll_request`], [`Session::next_read`], [`Session::poll_output`], [`Session::poll_timeout`],
//! [`Session::closing`]) and getters. After each input or command drain requests, then reads, then outputs.
//!
//! Durable delivery is pull: [`Session::mark_ready`] says that a room's lane has something new, and the session
//! asks for it with [`Session::next_read`] while the lane's queue has room (LC-FLOW-003). It never holds more than
//! that, whatever the room's rate.

mod check;
mod frames;
mod request;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

pub use self::check::{TOKEN_BYTES_MAX, body_len, check_envelope, check_numbers, check_subscribe};
pub use self::request::{Accepted, Asked, Config, Opened, Read, Request};
use super::{Now, Refusal};
use crate::codec::{self, CodecError};
use crate::codes::Code;
use crate::lane::Lane;
use crate::outbox::{CONTROL_BYTES_MAX, Expiry, Outbox, Output};
use crate::place::{Batch, Place, Step, Stored};
use crate::position::{DurableLane, PerLane, Position};
use crate::v1;
use crate::v1::frame::Body;

/// Frames that may follow Hello in the same flight, before it was answered.
const EARLY_FRAMES_MAX: usize = 256;
/// Bytes of those frames.
const EARLY_BYTES_MAX: usize = 1024 * 1024;
/// Requests that wait for the driver, beyond what Hello holds.
const REQUESTS_MAX: usize = 1024;
/// Requests for history that wait until their page has room in lane bulk.
const HISTORIES_MAX: usize = 256;
/// Bytes of a room name that are repeated in a refusal: more than any valid name has.
const ECHO_BYTES_MAX: usize = 1024;
/// Control bytes beyond which no further Subscribe is taken up, so that answers are made as control drains.
const CONTROL_BYTES_BUSY: usize = CONTROL_BYTES_MAX / 2;
/// Bytes of signals that wait in the session at most.
const SIGNAL_BYTES_MAX: usize = 4 * 1024;
/// The only version of the protocol.
pub const VERSION: u32 = 1;
#[derive(Debug)]
struct Subscription {
    room: Arc<str>,
    handle: u64,
    place: Place,
    ready: PerLane<bool>,
}

#[derive(Debug)]
enum State {
    AwaitHello {
        deadline_ms: u64,
    },
    Authenticating {
        id: u32,
        early: Vec<v1::Frame>,
        early_bytes: usize,
        instance: String,
        subscriptions: Vec<v1::Subscribe>,
    },
    Open(Open),
    Closing(Code),
    Closed(Code),
}

#[derive(Debug, Default)]
struct Open {
    subscriptions: Vec<Subscription>,
    publishes_in_flight: u32,
    /// Whose turn it is in each lane, so that a long replay of one room does not delay the others (LC-LANE-004).
    turn: PerLane<u32>,
    /// A GoAway was sent; the connection closes then.
    leaves_at_ms: Option<u64>,
    /// The token expires then.
    expires_at_ms: Option<u64>,
}

/// What waits for the driver, in the order in which it came (LC-FRM-015).
#[derive(Debug)]
enum Waiting {
    Request(Request),
    Unsubscribe { id: u32, room: String },
}

/// The node's side of one connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    state: State,
    outbox: Outbox,
    requests: VecDeque<Waiting>,
    /// Apart from the others, so that a client that does not take its pages delays none of its publishes.
    histories: VecDeque<(u32, v1::History)>,
    heard_at_ms: u64,
    /// Since when bytes wait without any being taken; `None`: nothing waits.
    stuck_since_ms: Option<u64>,
}

impl Session {
    /// A session on a fresh connection.
    pub fn new(config: Arc<Config>, now: Now) -> Self {
        let deadline_ms = now.monotonic_ms + config.hello_within_ms;
        Self {
            config,
            state: State::AwaitHello { deadline_ms },
            outbox: Outbox::default(),
            requests: VecDeque::new(),
            histories: VecDeque::new(),
            heard_at_ms: now.monotonic_ms,
            stuck_since_ms: None,
        }
    }

    // Inputs.

    /// Takes one encoded frame: an item of [`codec::records`]. Returns the lane on which it travelled, if it is known.
    pub fn handle_record(&mut self, now: Now, record: Bytes) -> Option<Lane> {
        match codec::decode(record) {
            Ok(frame) => {
                let lane = frame.body.as_ref().map(Lane::of);
                self.handle_frame(now, frame);
                lane
            }
            Err(fault) => {
                self.handle_fault(fault);
                None
            }
        }
    }

    /// Takes one decoded frame.
    pub fn handle_frame(&mut self, now: Now, frame: v1::Frame) {
        self.heard_at_ms = now.monotonic_ms;
        self.outbox.set_now(now.wall_ms);
        match &mut self.state {
            State::AwaitHello { .. } => match frame.body {
                Some(Body::Hello(hello)) => self.handle_hello(frame.id, hello),
                _ => self.close(Refusal::new(Code::ExpectedHello, "the first frame must be Hello")),
            },
            State::Authenticating { early, early_bytes, .. } => {
                *early_bytes += frame.encoded_len();
                if early.len() == EARLY_FRAMES_MAX || *early_bytes > EARLY_BYTES_MAX {
                    self.close(Refusal::new(Code::ControlOverflow, "too many frames before Welcome"));
                } else {
                    early.push(frame);
                }
            }
            State::Open(_) => self.handle_open(now, frame),
            State::Closing(_) | State::Closed(_) => {}
        }
    }

    /// Takes a fault of the transport or the codec: the connection closes with its code.
    pub fn handle_fault(&mut self, fault: CodecError) {
        self.close(Refusal::new(fault.code, fault.detail));
    }

    /// Checks the deadlines.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.poll_timeout().is_none_or(|deadline| now.monotonic_ms < deadline) {
            return;
        }
        match &self.state {
            State::AwaitHello { .. } => self.close(Refusal::new(Code::HandshakeTimeout, "no Hello in time")),
            State::Open(open) if open.leaves_at_ms.is_some_and(|at| at <= now.monotonic_ms) => {
                self.close(Refusal::new(Code::GoingAway, "the time that GoAway named is over"));
            }
            State::Open(open) if open.expires_at_ms.is_some_and(|at| at <= now.monotonic_ms) => {
                self.close(Refusal::new(Code::TokenExpired, "the token has expired"));
            }
            State::Authenticating { .. } | State::Open(_) => {
                let stuck =
                    self.stuck_since_ms.is_some_and(|since| since + self.config.no_progress_ms <= now.monotonic_ms);
                if stuck {
                    self.close(Refusal::new(Code::NoProgress, "nothing was taken for too long"));
                } else {
                    self.close(Refusal::new(Code::IdleTimeout, "nothing was received for too long"));
                }
            }
            State::Closing(_) | State::Closed(_) => {}
        }
    }

    /// Says that the transport took bytes; `waiting` whether it holds more.
    pub fn progress(&mut self, now: Now, waiting: bool) {
        self.outbox.set_now(now.wall_ms);
        self.stuck_since_ms = waiting.then_some(now.monotonic_ms);
    }

    // Commands.

    /// Welcomes the client.
    pub fn accept(&mut self, now: Now, accepted: Accepted) {
        let State::Authenticating { id, early, instance, subscriptions, .. } = &mut self.state else { return };
        let (id, early, instance) = (*id, std::mem::take(early), std::mem::take(instance));
        let subscribes =
            subscriptions.drain(..).map(|subscribe| Request::Subscribe { asked: Asked::InHello, subscribe });
        self.requests.extend(subscribes.map(Waiting::Request));
        let expires_at_ms = (accepted.token_expires_at_ms != 0)
            .then(|| now.monotonic_ms + accepted.token_expires_at_ms.saturating_sub(now.wall_ms));
        self.state = State::Open(Open { expires_at_ms, ..Open::default() });
        let welcome = v1::Welcome {
            version: VERSION,
            capabilities: self.config.capabilities.iter().map(|&capability| capability.into()).collect(),
            connection_id: accepted.connection_id,
            user: accepted.user,
            device: accepted.device,
            instance,
            heartbeat: Some(self.config.heartbeat),
            limits: Some(self.config.limits),
            server_time_ms: now.wall_ms,
            reconnect: Some(self.config.reconnect),
            node: self.config.node.clone(),
            token_expires_at_ms: accepted.token_expires_at_ms,
        };
        self.control(id, Body::Welcome(welcome));
        for frame in early {
            self.handle_frame(now, frame);
        }
    }

    /// Answers a request that has nothing else to say (LC-FRM-014).
    pub fn done(&mut self, id: u32) {
        if id != 0 {
            self.control(id, Body::Done(v1::Done {}));
        }
    }

    /// Refuses a request. With id 0 the client learns of it all the same.
    pub fn refuse(&mut self, id: u32, refusal: Refusal) {
        self.control(id, Body::Error(error(refusal, false)));
    }

    /// Answers a Publish.
    pub fn published(&mut self, id: u32, published: v1::Published) {
        self.publish_settled();
        if id != 0 {
            self.control(id, Body::Published(published));
        }
    }

    /// Refuses a Publish.
    pub fn refuse_publish(&mut self, id: u32, refusal: Refusal) {
        self.publish_settled();
        self.refuse(id, refusal);
    }

    fn publish_settled(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.publishes_in_flight = open.publishes_in_flight.saturating_sub(1);
        }
    }

    /// Refuses a Subscribe.
    pub fn refuse_subscribe(&mut self, asked: Asked, refusal: Refusal) {
        if let Asked::Frame(id) = asked {
            return self.refuse(id, refusal);
        }
        let cause = v1::UnsubscribedCause::Refused.into();
        let code = refusal.code.number().into();
        self.control(0, Body::Unsubscribed(v1::Unsubscribed { room: refusal.room, cause, code }));
    }

    /// Begins a subscription, or moves the place of one, and answers it. With a cause it comes unasked: the room
    /// has a new epoch, and `opened.position` is where the place stands in it.
    pub fn subscribed(&mut self, id: u32, opened: Opened, cause: v1::SubscribedCause) {
        let State::Open(open) = &mut self.state else { return };
        let place = Place::at(opened.position);
        // A position below the head has something to read, be it only the gap of a trimmed log.
        let ready = PerLane::from_fn(|lane| opened.head.seq(lane) > opened.position.seq(lane));
        let subscription = Subscription { room: opened.room.clone(), handle: opened.handle, place, ready };
        match open.subscriptions.iter_mut().find(|known| known.room == opened.room) {
            Some(known) => {
                let former = std::mem::replace(known, subscription).handle;
                // What waits of the former place would come behind this answer, from before or beyond the new place.
                let unasked = cause != v1::SubscribedCause::Unspecified;
                self.forget_queued(former, unasked.then_some(opened.position));
            }
            None => open.subscriptions.push(subscription),
        }
        let frame = v1::Subscribed {
            room: opened.room.to_string(),
            handle: opened.handle,
            position: Some(opened.position.into()),
            head: Some(opened.head.into()),
            head_order: opened.head_order,
            recovered: opened.recovered,
            rolled_back: opened.rolled_back,
            missed_transients: opened.missed_transients,
            transients: opened.transients,
            cause: cause.into(),
            degraded: opened.degraded,
        };
        self.control(id, Body::Subscribed(frame));
    }

    /// Ends a subscription unasked.
    pub fn unsubscribed(&mut self, room: &str, cause: v1::UnsubscribedCause, code: Option<Code>) {
        let State::Open(open) = &mut self.state else { return };
        let Some(at) = open.subscriptions.iter().position(|known| &*known.room == room) else { return };
        let gone = open.subscriptions.remove(at);
        self.forget_queued(gone.handle, None);
        self.requests.push_back(Waiting::Request(Request::Unsubscribed { handle: gone.handle }));
        let code = code.map_or(0, |code| code.number().into());
        self.control(0, Body::Unsubscribed(v1::Unsubscribed { room: room.to_owned(), cause: cause.into(), code }));
    }

    /// Sends a page of history; it rides bulk.
    pub fn history_page(&mut self, id: u32, page: v1::HistoryPage) {
        if !self.is_open() {
            return;
        }
        self.outbox.push(Lane::Bulk, codec::encode_body(id, Body::HistoryPage(page)));
    }

    /// Says that a lane of a room has something after the place.
    pub fn mark_ready(&mut self, handle: u64, lane: DurableLane) {
        if let State::Open(open) = &mut self.state
            && let Some(subscription) = open.subscriptions.iter_mut().find(|known| known.handle == handle)
        {
            subscription.ready[lane] = true;
        }
    }

    /// Hands over what was read; returns the gaps that it led to. `more` says that the log has further events after the
    /// batch.
    pub fn deliver(
        &mut self,
        now: Now,
        read: &Read,
        batch: Batch,
        more: bool,
        wanted: impl Fn(&Stored) -> bool,
    ) -> Vec<v1::GapCause> {
        let mut gaps = Vec::new();
        let State::Open(open) = &mut self.state else { return gaps };
        let Some(subscription) = open.subscriptions.iter_mut().find(|known| known.handle == read.handle) else {
            return gaps;
        };
        if subscription.place.sent(read.lane) != read.after {
            // A Subscribe moved the place while the log was being read.
            return gaps;
        }
        subscription.ready[read.lane] = more;
        self.outbox.set_now(now.wall_ms);
        let epoch = subscription.place.epoch;
        let gap = |from, to, cause| gap_record(read.handle, read.lane, epoch, from, to, cause);
        let lane = Lane::from(read.lane);
        for step in subscription.place.advance(read.lane, batch, now.wall_ms, wanted) {
            match step {
                Step::Gap { from, to, cause } => {
                    gaps.push(cause);
                    self.outbox.push(lane, gap(from, to, cause));
                }
                Step::Event { expires_at_ms: 0, record, .. } => self.outbox.push(lane, record),
                Step::Event { seq, expires_at_ms, record } => {
                    let instead = gap(seq, seq, v1::GapCause::Expired);
                    self.outbox.push_expiring(lane, record, Expiry { at_ms: expires_at_ms, instead });
                }
            }
        }
        gaps
    }

    /// Queues a record that the log does not hold: a transient event, a gap of transients or a signal. Ask
    /// [`Self::has_room`] first; beyond it they wait, and are dropped, in the connection's mailbox.
    pub fn send(&mut self, lane: Lane, record: Bytes, expiry: Option<Expiry>) {
        if !self.is_open() {
            return;
        }
        match expiry {
            None => self.outbox.push(lane, record),
            Some(expiry) => self.outbox.push_expiring(lane, record, expiry),
        }
    }

    /// Tells the client to connect elsewhere; the connection closes after `closes_in_ms`.
    pub fn go_away(&mut self, now: Now, go_away: v1::GoAway) {
        if let State::Open(open) = &mut self.state {
            open.leaves_at_ms = Some(now.monotonic_ms + u64::from(go_away.closes_in_ms));
            self.control(0, Body::GoAway(go_away));
        } else {
            self.close(Refusal::new(Code::GoingAway, "the node shuts down"));
        }
    }

    /// Closes the connection: an Error, then the transport's close with the same code.
    pub fn close(&mut self, refusal: Refusal) {
        if matches!(self.state, State::Closing(_) | State::Closed(_)) {
            return;
        }
        self.state = State::Closing(refusal.code);
        self.requests.clear();
        self.histories.clear();
        self.outbox.clear();
        self.outbox.push(Lane::Control, codec::encode_body(0, Body::Error(error(refusal, true))));
    }

    // Outputs.

    /// The next request to the driver.
    pub fn poll_request(&mut self) -> Option<Request> {
        loop {
            let busy = self.outbox.bytes(Lane::Control) > CONTROL_BYTES_BUSY;
            let waiting = match self.requests.front() {
                None => return self.next_history(),
                Some(Waiting::Request(Request::Subscribe { .. })) if busy => return self.next_history(),
                Some(_) => self.requests.pop_front()?,
            };
            match waiting {
                Waiting::Request(Request::Subscribe { asked, subscribe }) => match self.admit(&subscribe) {
                    Ok(()) => return Some(Request::Subscribe { asked, subscribe }),
                    Err(refusal) => self.refuse_subscribe(asked, refusal.in_room(subscribe.room)),
                },
                Waiting::Request(request) => return Some(request),
                Waiting::Unsubscribe { id, room } => {
                    if let Some(handle) = self.end(id, &room) {
                        return Some(Request::Unsubscribed { handle });
                    }
                }
            }
        }
    }

    /// The next page to read, once lane bulk has room for it.
    fn next_history(&mut self) -> Option<Request> {
        if self.outbox.bytes(Lane::Bulk) >= self.config.lane_bytes {
            return None;
        }
        let (id, history) = self.histories.pop_front()?;
        Some(Request::History { id, history })
    }

    /// Drops what waits of a handle, or what of it lies beyond a position.
    fn forget_queued(&mut self, handle: u64, through: Option<Position>) {
        for lane in [Lane::Urgent, Lane::Normal, Lane::Signal, Lane::Bulk] {
            self.outbox.revise(lane, |record| still_due(record, handle, through));
        }
    }

    fn admit(&self, subscribe: &v1::Subscribe) -> Result<(), Refusal> {
        check_subscribe(subscribe)?;
        let limit = self.config.limits.rooms as usize;
        let State::Open(open) = &self.state else { return Ok(()) };
        let known = open.subscriptions.iter().any(|known| *known.room == *subscribe.room);
        if !known && open.subscriptions.len() >= limit {
            return Err(Refusal::new(Code::TooManyRooms, format!("at most {limit} rooms")));
        }
        Ok(())
    }

    fn end(&mut self, id: u32, room: &str) -> Option<u64> {
        let State::Open(open) = &mut self.state else { return None };
        let Some(at) = open.subscriptions.iter().position(|known| &*known.room == room) else {
            self.refuse(id, Refusal::new(Code::NotSubscribed, "not subscribed").in_room(room));
            return None;
        };
        let gone = open.subscriptions.remove(at);
        self.forget_queued(gone.handle, None);
        self.control(id, Body::Unsubscribed(v1::Unsubscribed { room: room.to_owned(), cause: 0, code: 0 }));
        Some(gone.handle)
    }

    /// The next read of a room's log, while its lane has room here.
    pub fn next_read(&mut self) -> Option<Read> {
        let State::Open(open) = &mut self.state else { return None };
        let count = open.subscriptions.len();
        for lane in DurableLane::ALL {
            let queued = self.outbox.bytes(lane.into());
            if count == 0 || queued >= self.config.lane_bytes {
                continue;
            }
            let turn = open.turn[lane] as usize;
            let Some(at) = (0..count).map(|step| (turn + step) % count).find(|&at| open.subscriptions[at].ready[lane])
            else {
                continue;
            };
            open.turn[lane] = at as u32 + 1;
            let subscription = &open.subscriptions[at];
            return Some(Read {
                room: subscription.room.clone(),
                handle: subscription.handle,
                epoch: subscription.place.epoch,
                lane,
                after: subscription.place.sent(lane),
                bytes: self.config.lane_bytes - queued,
            });
        }
        None
    }

    /// The next record to write. When it is `None` and [`Self::closing`] says a code, close the transport with it and
    /// call [`Self::transport_closed`].
    pub fn poll_output(&mut self, now: Now) -> Option<Output> {
        self.outbox.pop(now.wall_ms)
    }

    /// How much expired in the queue, by lane as in [`Lane::ALL`], since this was called last.
    pub fn take_expired(&mut self) -> [u32; 5] {
        self.outbox.take_expired()
    }

    /// When [`Self::handle_timeout`] wants to be called, monotonic ms.
    pub fn poll_timeout(&self) -> Option<u64> {
        let idle = self.heard_at_ms + u64::from(self.config.heartbeat.idle_close_ms);
        let stuck = self.stuck_since_ms.map(|since| since + self.config.no_progress_ms);
        match &self.state {
            State::AwaitHello { deadline_ms } => Some(*deadline_ms),
            State::Authenticating { .. } => Some(idle),
            State::Open(open) => [Some(idle), stuck, open.leaves_at_ms, open.expires_at_ms].into_iter().flatten().min(),
            State::Closing(_) | State::Closed(_) => None,
        }
    }

    /// The transport is gone: nothing more will be asked or sent. Returns the handles that were subscribed.
    pub fn transport_closed(&mut self) -> Vec<u64> {
        let code = self.closing().unwrap_or(Code::Normal);
        let handles = match &self.state {
            State::Open(open) => open.subscriptions.iter().map(|subscription| subscription.handle).collect(),
            _ => Vec::new(),
        };
        self.state = State::Closed(code);
        self.outbox.clear();
        self.requests.clear();
        self.histories.clear();
        handles
    }

    // Getters.

    /// The code with which the session closes, once it does.
    pub fn closing(&self) -> Option<Code> {
        match self.state {
            State::Closing(code) | State::Closed(code) => Some(code),
            _ => None,
        }
    }

    /// Whether the client was welcomed and the session is not closing.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether a record of this lane may be given to [`Self::send`] now. Signals get little room: as long as they wait
    /// in the mailbox a newer one takes their place.
    pub fn has_room(&self, lane: Lane) -> bool {
        let bytes_max = if lane == Lane::Signal { SIGNAL_BYTES_MAX } else { self.config.lane_bytes };
        self.is_open() && self.outbox.bytes(lane) < bytes_max
    }

    /// Unsent bytes of a lane.
    pub fn queued_bytes(&self, lane: Lane) -> usize {
        self.outbox.bytes(lane)
    }

    /// Whether anything waits to be written.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The place of a subscription, in its epoch.
    pub fn position(&self, handle: u64) -> Option<Position> {
        let State::Open(open) = &self.state else { return None };
        open.subscriptions.iter().find(|known| known.handle == handle).map(|known| known.place.position())
    }

    /// The handle of a subscribed room.
    pub fn handle_of(&self, room: &str) -> Option<u64> {
        let State::Open(open) = &self.state else { return None };
        open.subscriptions.iter().find(|known| &*known.room == room).map(|known| known.handle)
    }
}

/// What becomes of a queued record when a subscription ends or moves; `None`: it is not sent any more. With a position
/// only what lies beyond it goes (LC-RES-010).
///
/// Records are looked into instead of being labelled, since this is rare and queues are long-lived.
fn still_due(record: &Bytes, handle: u64, through: Option<Position>) -> Option<Bytes> {
    let frame = codec::records(record.clone(), usize::MAX).next().and_then(|frame| codec::decode(frame.ok()?).ok());
    let through = |wire| Some(through?.seq(DurableLane::from_wire(wire)?));
    let keep = match frame.and_then(|frame| frame.body) {
        Some(Body::Event(event)) if event.handle == handle => through(event.lane).is_some_and(|last| event.seq <= last),
        Some(Body::Gap(gap)) if gap.handle == handle => match through(gap.lane) {
            Some(last) if gap.to > last => {
                let lane = DurableLane::from_wire(gap.lane)?;
                let cause = v1::GapCause::try_from(gap.cause).ok()?;
                return (gap.from <= last).then(|| gap_record(handle, lane, gap.epoch, gap.from, last, cause));
            }
            last => last.is_some(),
        },
        Some(Body::Signal(signal)) if signal.handle == handle => through(v1::Lane::Normal.into()).is_some(),
        _ => true,
    };
    keep.then(|| record.clone())
}

fn error(mut refusal: Refusal, closing: bool) -> v1::Error {
    if refusal.room.len() > ECHO_BYTES_MAX {
        // One absurd name must not overflow lane control.
        refusal.room.truncate(refusal.room.floor_char_boundary(ECHO_BYTES_MAX));
    }
    v1::Error {
        code: refusal.code.number().into(),
        detail: refusal.detail,
        room: refusal.room,
        retry_after_ms: refusal.retry_after_ms,
        closing,
    }
}

/// The record of a durable gap.
pub fn gap_record(handle: u64, lane: DurableLane, epoch: u64, from: u64, to: u64, cause: v1::GapCause) -> Bytes {
    let gap = v1::Gap {
        handle,
        lane: v1::Lane::from(lane).into(),
        epoch,
        from,
        to,
        count: 0,
        cause: cause.into(),
        refillable: cause == v1::GapCause::Unknown,
    };
    codec::encode_body(0, Body::Gap(gap))
}
