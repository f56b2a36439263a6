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

mod answers;
mod check;
mod delivery;
mod frames;
mod limits;
mod progress;
mod request;
mod rooms;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

pub use self::check::{TOKEN_BYTES_MAX, body_len, check_envelope, check_numbers, check_subscribe};
pub use self::delivery::gap_record;
use self::limits::{Cap, Limit};
use self::progress::Progress;
pub use self::request::{Accepted, Asked, Config, Opened, Read, Request};
pub use self::rooms::filtered;
use super::{Now, Refusal};
use crate::binding;
use crate::codec::{self, CodecError};
use crate::codes::Code;
use crate::credit::{Gate, Meter};
use crate::focus::{Focus, Turns};
use crate::fragment::Assembler;
use crate::lane::{Lane, Lanes};
use crate::outbox::{CONTROL_BYTES_MAX, Outbox, Output};
use crate::place::Place;
use crate::position::{PerLane, Position};
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
/// Pages of history that are read at once.
const PAGES_IN_FLIGHT_MAX: u32 = 4;
/// Control bytes beyond which no further Subscribe is taken up, so that answers are made as control drains.
const CONTROL_BYTES_BUSY: usize = CONTROL_BYTES_MAX / 2;
/// Bytes of signals that wait in the session at most.
const SIGNAL_BYTES_MAX: usize = 4 * 1024;
/// The only version of the protocol.
pub const VERSION: u32 = 1;
/// Rooms that are being opened at once; further Subscribes wait their turn.
const OPENINGS_MAX: usize = 32;

/// Whether a lane of a room has something after the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    No,
    /// Something came; before that it had been read to its end.
    Fresh,
    /// There is more than was read.
    Yes,
    /// The driver reads it.
    Reading,
    /// The driver reads it, and something came since it was asked to.
    ReadingAgain,
    /// The epoch ended: nothing is read until the room was opened again.
    Suspended,
}

impl Ready {
    fn is_yes(self) -> bool {
        matches!(self, Self::Fresh | Self::Yes)
    }

    fn is_reading(self) -> bool {
        matches!(self, Self::Reading | Self::ReadingAgain)
    }
}

#[derive(Debug)]
struct Subscription {
    room: Arc<str>,
    handle: u64,
    /// Which opening of the connection began it: what was read for an earlier one is not delivered.
    opening: u32,
    place: Place,
    ready: PerLane<Ready>,
    /// Lanes that were ready and found no room.
    held_back: PerLane<bool>,
    /// The head and its order when it was opened.
    head: Position,
    head_order: u64,
    /// What the client was told last of the log (LC-SUB-018).
    degraded: bool,
    /// How much it matters to the client's user (LC-FLOW-020).
    focus: Focus,
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
        /// The client named the capability CREDIT.
        counts: bool,
    },
    Open(Open),
    Closing(Code),
    Closed(Code),
}

#[derive(Debug, Default)]
struct Open {
    subscriptions: Vec<Subscription>,
    publishes_in_flight: u32,
    /// Publishes that the driver has, by room. What depends on their effect waits (LC-FRM-015).
    publishing: Vec<(Box<str>, u32)>,
    /// Rooms that are being opened: requests about them wait. At most [`OPENINGS_MAX`].
    held: Vec<Arc<str>>,
    /// Entries of Hello that are not answered: everything else waits for them (LC-HS-012, LC-HS-013).
    hello_left: usize,
    /// One of them is being opened.
    hello_opens: bool,
    /// Counts openings.
    openings: u32,
    /// Pages of history that the driver reads.
    pages_in_flight: u32,
    /// What clients are told of the log, and whether some subscription was told otherwise.
    degraded: bool,
    untold: bool,
    /// Whose turn it is in each lane and focus, so that a long replay of one room does not delay the others (LC-LANE-004).
    turn: PerLane<[u32; Focus::COUNT]>,
    /// Which focus has its turn.
    turns: PerLane<Turns>,
    /// A GoAway was sent; the connection closes then.
    leaves_at_ms: Option<u64>,
    /// The token expires then.
    expiry: Option<Expiry>,
    /// The driver checks a newer token: everything else waits.
    refreshing: bool,
    /// Signals that the client may send in a second.
    signals_per_second: Limit,
}

/// When a token expires, by both clocks: the one wakes the session, and the other one also counts the time in which the
/// machine slept.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    monotonic_ms: u64,
    wall_ms: u64,
}

impl Expiry {
    /// `at_ms` is the node's clock; 0: never.
    fn at(now: Now, at_ms: u64) -> Option<Self> {
        let left_ms = at_ms.saturating_sub(now.wall_ms);
        (at_ms != 0).then(|| Self { monotonic_ms: now.monotonic_ms.saturating_add(left_ms), wall_ms: at_ms })
    }

    fn has_passed(self, now: Now) -> bool {
        self.monotonic_ms <= now.monotonic_ms || self.wall_ms <= now.wall_ms
    }
}

/// What waits for the driver, in the order in which it came (LC-FRM-015).
#[derive(Debug)]
enum Waiting {
    Request(Request),
    Unsubscribe {
        id: u32,
        room: String,
    },
    History {
        id: u32,
        history: v1::History,
    },
    Focus {
        id: u32,
        room: String,
        focus: Focus,
    },
    /// Came while entries of Hello were not answered.
    Ping {
        id: u32,
        pong: v1::Pong,
    },
}

impl Waiting {
    /// The room, and whether it depends on the publishes before it.
    fn room(&self) -> Option<(&str, bool)> {
        match self {
            Self::Request(Request::Subscribe { subscribe, .. }) => Some((&subscribe.room, true)),
            Self::Unsubscribe { room, .. } => Some((room, true)),
            Self::History { history, .. } => Some((&history.room, true)),
            Self::Request(Request::Publish { publish, .. }) => Some((&publish.room, false)),
            Self::Request(Request::Signal { signal, .. }) => Some((&signal.room, false)),
            Self::Focus { room, .. } => Some((room, false)),
            Self::Request(_) | Self::Ping { .. } => None,
        }
    }
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
    progress: Progress,
    /// What of lanes normal and bulk is under way to the client, and what came of them (LC-FLOW-010).
    gate: Gate,
    meter: Meter,
    /// Frames of the client that came in part.
    assembler: Assembler,
    /// The transport folds all lanes into one pipe.
    is_pipe: bool,
    /// The operator's cap of lane bulk.
    cap: Option<Box<Cap>>,
}

impl Session {
    /// A session on a fresh connection.
    pub fn new(config: Arc<Config>, now: Now) -> Self {
        let deadline_ms = now.monotonic_ms + config.hello_within_ms;
        let capped = config.bulk_bytes_per_second > 0;
        let cap = capped.then(|| Box::new(Cap::new(now.monotonic_ms, config.bulk_bytes_per_second)));
        Self {
            config,
            state: State::AwaitHello { deadline_ms },
            outbox: Outbox::default(),
            requests: VecDeque::new(),
            histories: VecDeque::new(),
            heard_at_ms: now.monotonic_ms,
            progress: Progress::default(),
            gate: Gate::default(),
            meter: Meter::default(),
            assembler: Assembler::default(),
            is_pipe: false,
            cap,
        }
    }

    /// Says before Hello whether the transport folds all lanes into one pipe: there large records leave in pieces, if the
    /// client takes them (LC-FRM-030).
    pub fn set_pipe(&mut self, is_pipe: bool) {
        self.is_pipe = is_pipe;
    }

    /// Lets all lanes leave as one queue, to measure what lanes are worth.
    pub fn set_one_queue(&mut self, one_queue: bool) {
        self.outbox.set_one_queue(one_queue);
    }

    // Inputs.

    /// Takes one encoded frame: an item of [`codec::records`]. Returns its lane, if it is known. `stream` is the lane of
    /// the stream or datagram on which it came; `None` on a transport that folds all lanes into one pipe.
    pub fn handle_record(&mut self, now: Now, stream: Option<Lane>, record: Bytes) -> Option<Lane> {
        let bytes = codec::record_len(record.len());
        match codec::decode(record) {
            Ok(frame) => {
                let lane = frame.body.as_ref().map(Lane::of);
                if let Some(lane) = lane.or(stream) {
                    self.meter.consumed(now.monotonic_ms, lane, bytes);
                }
                match binding::check_lane(stream, lane) {
                    Ok(()) => self.handle_frame(now, frame),
                    Err(fault) => self.handle_fault(fault),
                }
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
            State::Open(open) if open.expiry.is_some_and(|expiry| expiry.has_passed(now)) => self.close(expired()),
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
        self.assembler.forget_silent(now.monotonic_ms);
        self.meter.handle_timeout(now.monotonic_ms);
        if let Some(cap) = &mut self.cap {
            cap.fill(now.monotonic_ms);
        }
        let due = |at_ms: u64| at_ms <= now.monotonic_ms;
        match &self.state {
            State::AwaitHello { deadline_ms } if due(*deadline_ms) => {
                self.close(Refusal::new(Code::HandshakeTimeout, "no Hello in time"))
            }
            State::Open(open) if open.leaves_at_ms.is_some_and(due) => {
                self.close(Refusal::new(Code::GoingAway, "the time that GoAway named is over"));
            }
            State::Open(open) if open.expiry.is_some_and(|expiry| expiry.has_passed(now)) => self.close(expired()),
            State::Open(_) if self.stuck_at_ms().is_some_and(due) => {
                self.close(Refusal::new(Code::NoProgress, "nothing was taken for too long"));
            }
            State::Authenticating { .. } | State::Open(_) if due(self.idle_at_ms()) => {
                self.close(Refusal::new(Code::IdleTimeout, "nothing was received for too long"));
            }
            _ => {}
        }
    }

    /// Says how the transport gets on: of which lanes something got through, and whether it holds more. To be called after
    /// each write, and each time that something got through.
    pub fn progress(&mut self, now: Now, through: Lanes, is_busy: bool) {
        self.outbox.set_now(now.wall_ms);
        self.progress.moved(now.monotonic_ms, through);
        let waiting = is_busy || self.has_output();
        self.progress.look(now.monotonic_ms, waiting, !through.is_empty() && self.outbox.is_empty());
    }

    /// Says how many bytes the path carries, as far as the transport sees it; `None`: it does not. To be called before
    /// records are taken.
    pub fn set_window(&mut self, path: Option<u64>) {
        self.gate.set_window(path);
    }

    // Outputs.

    /// The next request to the driver. One that is about a room whose opening is not answered waits, and so does one
    /// that depends on publishes to its room which are not; requests about other rooms pass it (LC-FRM-015).
    pub fn poll_request(&mut self) -> Option<Request> {
        loop {
            let Some(waiting) = self.next_waiting() else {
                return if self.is_refreshing() { None } else { self.next_history() };
            };
            match waiting {
                Waiting::Request(Request::Subscribe { asked, subscribe }) => match self.admit(&subscribe) {
                    Ok(()) => {
                        self.hold(&subscribe.room.as_str().into());
                        if let State::Open(open) = &mut self.state {
                            open.hello_opens = asked == Asked::InHello;
                        }
                        return Some(Request::Subscribe { asked, subscribe });
                    }
                    Err(refusal) => self.refuse_subscribe(asked, refusal.in_room(subscribe.room)),
                },
                Waiting::Request(Request::Publish { id, publish, envelope }) => {
                    self.publishing(&publish.room);
                    return Some(Request::Publish { id, publish, envelope });
                }
                Waiting::Request(request) => {
                    if let (Request::RefreshToken { .. }, State::Open(open)) = (&request, &mut self.state) {
                        open.refreshing = true;
                    }
                    return Some(request);
                }
                Waiting::Unsubscribe { id, room } => {
                    if let Some(handle) = self.end(id, &room) {
                        return Some(Request::Unsubscribed { handle });
                    }
                }
                Waiting::Focus { id, room, focus } => self.focus(id, &room, focus),
                Waiting::Ping { id, pong } => self.control(id, Body::Pong(pong)),
                Waiting::History { id, history } if self.histories.len() < HISTORIES_MAX => {
                    self.histories.push_back((id, history));
                }
                Waiting::History { .. } => {
                    self.close(Refusal::new(Code::ControlOverflow, "too many requests at once"));
                }
            }
        }
    }

    fn is_refreshing(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.refreshing)
    }

    /// The first request that need not wait.
    fn next_waiting(&mut self) -> Option<Waiting> {
        let State::Open(open) = &self.state else { return self.requests.pop_front() };
        if open.refreshing {
            return None;
        }
        let may_open = self.may_open();
        if open.hello_left > 0 {
            let next = may_open && !open.hello_opens;
            return if next { self.requests.pop_front() } else { None };
        }
        let mut passed: Vec<&str> = Vec::new();
        let at = self.requests.iter().position(|waiting| {
            let Some((room, depends)) = waiting.room() else { return true };
            let waits = open.held.iter().any(|held| **held == *room)
                || depends && open.publishing.iter().any(|(of, _)| **of == *room)
                || !may_open && matches!(waiting, Waiting::Request(Request::Subscribe { .. }))
                || passed.contains(&room);
            if waits && !passed.contains(&room) {
                passed.push(room);
            }
            !waits
        })?;
        self.requests.remove(at)
    }

    fn publishing(&mut self, room: &str) {
        if let State::Open(open) = &mut self.state {
            match open.publishing.iter_mut().find(|(of, _)| **of == *room) {
                Some((_, count)) => *count += 1,
                None => open.publishing.push((room.into(), 1)),
            }
        }
    }

    /// The next page to read, once lane bulk has room for it.
    fn next_history(&mut self) -> Option<Request> {
        if self.outbox.bytes(Lane::Bulk) >= self.config.lane_bytes {
            return None;
        }
        let State::Open(open) = &mut self.state else { return None };
        if open.pages_in_flight == PAGES_IN_FLIGHT_MAX {
            return None;
        }
        let (id, history) = self.histories.pop_front()?;
        open.pages_in_flight += 1;
        Some(Request::History { id, history })
    }

    /// The next record to write, of one of the lanes for which the transport has room. When it is `None` for all lanes
    /// and [`Self::closing`] says a code, close the transport with it and call [`Self::transport_closed`].
    ///
    /// Of lanes normal and bulk no more is given than may be under way (LC-FLOW-010).
    pub fn poll_output(&mut self, now: Now, lanes: Lanes) -> Option<Output> {
        self.make_credit(now, lanes);
        let mut open = self.may_leave(now);
        if let Some(cap) = &mut self.cap {
            cap.fill(now.monotonic_ms);
            if cap.opens_at_ms().is_some() {
                open = open.without(Lane::Bulk);
            }
        }
        let output = self.outbox.pop(now.wall_ms, lanes.and(open))?;
        if let Some(cap) = &mut self.cap
            && output.lane == Lane::Bulk
        {
            cap.sent(output.record.len());
        }
        self.gate.sent(now.monotonic_ms, output.lane, output.record.len());
        self.progress.moved(now.monotonic_ms, Lanes::NONE.with(output.lane));
        Some(output)
    }

    /// The lanes of which the next record may be under way. In one queue credit would hold up everything.
    fn may_leave(&mut self, now: Now) -> Lanes {
        self.outbox.expire(now.wall_ms);
        match self.outbox.is_one_queue() {
            true => Lanes::ALL,
            false => self.gate.lanes(|lane| self.outbox.next_bytes(lane)),
        }
    }

    /// Credit is made as control drains, so that of those that a client does not take none but the newest waits.
    fn make_credit(&mut self, now: Now, lanes: Lanes) {
        if lanes.contains(Lane::Control)
            && self.is_open()
            && self.outbox.bytes(Lane::Control) == 0
            && let Some(credit) = self.meter.poll(now.monotonic_ms)
        {
            self.control(0, Body::Credit(credit));
        }
    }

    /// How much expired in the queue, by lane as in [`Lane::ALL`], since this was called last.
    pub fn take_expired(&mut self) -> [u32; 5] {
        self.outbox.take_expired()
    }

    /// When [`Self::handle_timeout`] wants to be called, monotonic ms.
    pub fn poll_timeout(&self) -> Option<u64> {
        let idle = self.idle_at_ms();
        match &self.state {
            State::AwaitHello { deadline_ms } => Some(*deadline_ms),
            State::Authenticating { .. } => Some(idle),
            State::Open(open) => {
                let expiry = open.expiry.map(|expiry| expiry.monotonic_ms);
                let silent = self.assembler.poll_timeout();
                let credit = self.meter.poll_timeout();
                let capped = self.capped_until_ms();
                let all = [Some(idle), self.stuck_at_ms(), open.leaves_at_ms, expiry, silent, credit, capped];
                all.into_iter().flatten().min()
            }
            State::Closing(_) | State::Closed(_) => None,
        }
    }

    fn idle_at_ms(&self) -> u64 {
        self.heard_at_ms + u64::from(self.config.heartbeat.idle_close_ms)
    }

    /// When the client will have taken nothing of what waits for too long (LC-FLOW-005).
    fn stuck_at_ms(&self) -> Option<u64> {
        let since = self.progress.stuck_since_ms(|lane| self.outbox.bytes(lane) > 0)?;
        // What the cap holds back is not the client's fault.
        let since = since.max(self.capped_until_ms().unwrap_or(0));
        Some(since + self.config.no_progress_ms)
    }

    /// Until when the cap holds back what waits of lane bulk.
    fn capped_until_ms(&self) -> Option<u64> {
        let cap = self.cap.as_ref().filter(|_| self.outbox.bytes(Lane::Bulk) > 0)?;
        cap.opens_at_ms()
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

    /// How long a peer may take nothing, ms (LC-FLOW-005).
    pub fn no_progress_ms(&self) -> u64 {
        self.config.no_progress_ms
    }

    /// Unsent bytes of a lane.
    pub fn queued_bytes(&self, lane: Lane) -> usize {
        self.outbox.bytes(lane)
    }

    /// Unsent records of a lane.
    pub fn queued_records(&self, lane: Lane) -> usize {
        self.outbox.records(lane)
    }

    /// What of lanes normal and bulk is under way.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether anything waits to be written.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The handle of a subscribed room.
    pub fn handle_of(&self, room: &str) -> Option<u64> {
        let State::Open(open) = &self.state else { return None };
        open.subscriptions.iter().find(|known| &*known.room == room).map(|known| known.handle)
    }
}

fn expired() -> Refusal {
    Refusal::new(Code::TokenExpired, "the token has expired")
}
