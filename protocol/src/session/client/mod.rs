//! The client's side: rooms, publishes and signals that outlive connections, and the connection of the moment.
//!
//! ```text
//!            connect()                 opened()                 Welcome
//!  ┌──────┐ ─────────▶ ┌────────────┐ ─────────▶ ┌───────────┐ ─────────▶ ┌──────┐
//!  │ Idle │            │ Connecting │            │ Handshake │            │ Open │
//!  └──────┘            └────────────┘            └───────────┘            └──────┘
//!                        ▲        │ failed()           │ close, time-out      │ close, no Pong,
//!                        │        ▼                    │                      │ GoAway
//!                        │      ┌─────────┐ ◀──────────┴──────────────────────┘
//!                        └───── │ Waiting │
//!                   delay over  └─────────┘   a code that says stop, close() ──▶ Closed
//! ```
//!
//! Methods come in four families: *inputs* ([`Client::opened`], [`Client::failed`], [`Client::no_token`],
//! [`Client::handle_record`], [`Client::handle_closed`], [`Client::handle_timeout`], [`Client::network_changed`],
//! [`Client::path_lost`], [`Client::entered_background`], [`Client::entered_foreground`], [`Client::renewed`], [`Client::not_renewed`]), *commands* of the application
//! ([`Client::connect`], [`Client::subscribe`], [`Client::publish`], [`Client::signal`], [`Client::history`],
//! [`Client::next_batch`], [`Client::refresh_token`], [`Client::close`] …), *outputs* ([`Client::poll_action`], [`Client::poll_output`],
//! [`Client::poll_event`], [`Client::poll_timeout`]) and getters. After each input or command drain all outputs.

mod api;
mod bounds;
mod frames;
mod held;
mod life;
mod link;
mod publish;
mod refresh;
mod room;
mod rooms;
mod signals;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

pub use self::api::{Action, ClientState, CommandError, Event, Options};
use self::held::{Held, HeldFrame};
use self::life::{Ground, Probe};
pub use self::publish::{Kept, OldOutbox, PublishOptions, Queued};
use self::publish::{OutboxUser, stamped};
use self::refresh::Refresh;
use self::room::Room;
pub use self::room::{RoomState, SubscribeOptions};
pub use self::signals::Outgoing;
use self::signals::Signals;
use super::Now;
use super::server::VERSION;
use crate::codec::{self, CodecError};
use crate::codes::Code;
use crate::credit::{Gate, Meter};
use crate::fragment::{self, Assembler};
use crate::lane::{Lane, Lanes};
use crate::outbox::{Outbox, Output, Route};
use crate::publisher::{Publisher, Ticket};
use crate::v1;
use crate::v1::frame::Body;

/// Optional parts that the client can use.
const CAPABILITIES: [v1::Capability; 7] = [
    v1::Capability::History,
    v1::Capability::Signals,
    v1::Capability::Refresh,
    v1::Capability::Replicated,
    v1::Capability::Fragments,
    v1::Capability::Credit,
    v1::Capability::Focus,
];
/// How long opening a transport, and then the answer to Hello, may take.
const CONNECT_WITHIN_MS: u64 = 10_000;
/// Heartbeat and reconnect window until a Welcome says otherwise.
const HEARTBEAT: v1::Heartbeat = v1::Heartbeat { ping_after_ms: 25_000, pong_within_ms: 10_000, idle_close_ms: 60_000 };
const RECONNECT: v1::ReconnectWindow = v1::ReconnectWindow { min_ms: 500, max_ms: 20_000 };
/// Fresh tokens refused in a row before the client stops asking for more.
const TOKENS_REFUSED_MAX: u32 = 3;
/// Requests other than durable publishes that wait for their answer; beyond it they are refused to the application.
const PENDING_MAX: usize = 1024;
/// Upload bytes of a lane that are handed to the outbox at a time; the rest stays where rooms take turns and what waits can
/// still be given up.
const UPLOAD_BYTES: usize = 8 * 1024;
/// Frames under an unknown handle are kept this long and this many bytes, since on QUIC they may overtake the
/// Subscribed that names it (LC-QUIC-010).
const HELD_BYTES_MAX: usize = 64 * 1024;
const HELD_MS: u64 = 2_000;
/// Handles of dropped frames that are remembered: more than rooms that a node lets a connection have.
const DROPPED_HANDLES_MAX: usize = 256;
/// Largest record taken from a node: its own limit is not known before Welcome.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Least time after which a Subscribe that was refused for now is sent again.
const ASK_AGAIN_MS: u64 = 500;

enum Pending {
    Publish(Ticket),
    History(Ticket),
    Subscribe(String),
    /// The new token.
    Refresh(String),
    Ignored,
}

/// What only an open connection has.
struct Open {
    opened_at_ms: u64,
    sent_at_ms: u64,
    pong_by_ms: Option<u64>,
    /// After a hint; unless it is answered the client connects anew at once.
    probe: Option<Probe>,
    leave_at_ms: Option<u64>,
    leave_to: String,
    in_flight_max: usize,
    /// The node's limit; 0: not said.
    record_bytes: usize,
    /// Whether the node can answer a publish only once it is replicated.
    replicates: bool,
    /// Whether the node puts rooms before others.
    focuses: bool,
    /// It serves History.
    reads: bool,
    /// It serves signals.
    signals: bool,
    refresh: Refresh,
    pending: BTreeMap<u32, Pending>,
    held: Held,
}

enum Link {
    Idle,
    Waiting {
        until_ms: u64,
        /// The code with which the token was refused; 0: it was not.
        refused: u32,
        address: String,
        code: u32,
    },
    Connecting {
        deadline_ms: u64,
    },
    /// Events may overtake Welcome where streams overtake one another.
    Handshake {
        deadline_ms: u64,
        held: Held,
    },
    Open(Box<Open>),
    Closed {
        code: u32,
    },
}

/// The client's side of the protocol.
pub struct Client {
    options: Options,
    link: Link,
    /// Whether the transport keeps the order of lane urgent: it folds all lanes into one pipe.
    ordered: bool,
    outbox: Outbox,
    /// Frames of the node that came in part.
    assembler: Assembler,
    /// What of lanes normal and bulk is under way to the node, and what came of them (LC-FLOW-010).
    gate: Gate,
    meter: Meter,
    rooms: BTreeMap<String, Room>,
    publisher: Publisher,
    /// Whose publishes the outbox holds that outlives the process; `None`: there is no such outbox.
    outbox_user: Option<OutboxUser>,
    signals: Signals,
    heartbeat: v1::Heartbeat,
    reconnect: v1::ReconnectWindow,
    attempt: u32,
    ground: Ground,
    tokens_refused: u32,
    /// The code of an Error that said `closing`.
    closing: Option<u32>,
    connection_id: String,
    /// Rooms of a connection, as the node said last.
    rooms_max: usize,
    next_id: u32,
    next_ticket: u64,
    /// Node's clock minus ours, ms.
    clock_offset_ms: i64,
    random: u64,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Client {
    /// A client that does nothing until [`Self::connect`].
    pub fn new(options: Options) -> Self {
        Self {
            link: Link::Idle,
            ordered: true,
            outbox: Outbox::default(),
            assembler: Assembler::default(),
            gate: Gate::default(),
            meter: Meter::default(),
            rooms: BTreeMap::new(),
            publisher: Publisher::new(options.outbox),
            outbox_user: None,
            signals: Signals::default(),
            heartbeat: HEARTBEAT,
            reconnect: RECONNECT,
            attempt: 0,
            ground: Ground::Foreground,
            tokens_refused: 0,
            closing: None,
            connection_id: String::new(),
            rooms_max: usize::MAX,
            next_id: 0,
            next_ticket: 0,
            clock_offset_ms: 0,
            random: options.seed,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            options,
        }
    }

    // Inputs.

    /// A transport is open; `ordered` says whether it folds all lanes into one pipe, and so keeps the order inside lane
    /// urgent. On such a one large records leave in pieces, if the node takes them (LC-FRM-030).
    pub fn opened(&mut self, now: Now, token: String, ordered: bool) {
        if !matches!(self.link, Link::Connecting { .. }) {
            return;
        }
        self.ordered = ordered;
        self.outbox.clear();
        self.assembler = Assembler::default();
        (self.gate, self.meter) = (Gate::default(), Meter::default());
        self.closing = None;
        let id = self.id();
        let wanted = self.rooms.iter_mut().filter(|(_, room)| room.wanted());
        // The rest is asked for after Welcome, which may allow more (LC-SDK-005).
        let subscriptions = wanted
            .take(self.rooms_max)
            .map(|(name, room)| {
                room.asked = Some(0);
                room.subscribe(name)
            })
            .collect();
        let hello = v1::Hello {
            version_min: VERSION,
            version_max: VERSION,
            token,
            instance: self.options.instance.clone(),
            replaces: self.connection_id.clone(),
            client: Some(self.options.info.clone()),
            capabilities: self.capabilities(),
            subscriptions,
            device: self.options.device.clone(),
        };
        self.outbox.push(Lane::Control, codec::encode_body(id, Body::Hello(hello)));
        self.link = Link::Handshake { deadline_ms: now.monotonic_ms + CONNECT_WITHIN_MS, held: Held::default() };
    }

    fn capabilities(&self) -> Vec<i32> {
        let can = |capability: &v1::Capability| match capability {
            v1::Capability::Refresh => self.options.renews_tokens,
            _ => true,
        };
        CAPABILITIES.into_iter().filter(can).map(i32::from).collect()
    }

    /// The transport could not be opened.
    pub fn failed(&mut self, now: Now) {
        if matches!(self.link, Link::Connecting { .. }) {
            self.lost(now, 0);
        }
    }

    /// There is no token but one that was refused with this code, and it is not sent again (LC-AUTH-022): over for good.
    pub fn no_token(&mut self, now: Now, code: u32) {
        if matches!(self.link, Link::Connecting { .. }) {
            self.stop(now, code);
        }
    }

    /// The transport closed; `code` is its close code, if it gave one.
    pub fn handle_closed(&mut self, now: Now, code: Option<u16>) {
        if matches!(self.link, Link::Handshake { .. } | Link::Open(_)) {
            let code = self.closing.take().or(code.map(u32::from)).unwrap_or(0);
            self.lost(now, code);
        }
    }

    /// Takes one encoded frame: an item of [`codec::records`]. `stream` is the lane of the stream or datagram on which it
    /// came; `None` on a transport that folds all lanes into one pipe.
    pub fn handle_record(&mut self, now: Now, stream: Option<Lane>, record: Bytes) {
        let bytes = record.len();
        let whole = match codec::decode(record) {
            Ok(frame) => {
                if let Some(lane) = frame.body.as_ref().map(Lane::of).or(stream) {
                    // Taken, wherever it waits from here on: a room that its application does not read is left, not held up.
                    self.meter.consumed(now.monotonic_ms, lane, codec::record_len(bytes));
                }
                bounds::checked(stream, frame)
            }
            Err(fault) => Err(fault),
        };
        let whole = match whole {
            Ok(v1::Frame { body: Some(Body::Fragment(fragment)), .. }) => self.assemble(now, fragment),
            Ok(v1::Frame { body: Some(Body::FragmentAbort(abort)), .. }) => return self.assembler.abort(&abort),
            Ok(frame) => Ok(Some((frame, bytes))),
            Err(fault) => Err(fault),
        };
        match whole {
            Ok(Some((v1::Frame { id, body: Some(body) }, bytes))) => self.handle_frame(now, id, body, bytes),
            Ok(_) => {}
            Err(fault) => self.give_up(now, fault.code),
        }
    }

    fn handle_frame(&mut self, now: Now, id: u32, body: Body, bytes: usize) {
        match &mut self.link {
            Link::Handshake { held, .. } => match body {
                Body::Welcome(welcome) => self.welcomed(now, welcome),
                Body::Error(error) if error.closing => self.told_to_close(now, error.code),
                Body::Event(_) | Body::Gap(_) | Body::Signal(_) if !self.ordered => {
                    // What does not fit is asked for again once the subscription is known.
                    held.push(HeldFrame { at_ms: now.monotonic_ms, bytes, body });
                }
                _ => self.give_up(now, Code::Protocol),
            },
            Link::Open(_) => self.handle_body(now, id, body, bytes),
            _ => {}
        }
    }

    /// Takes a piece of a frame; returns the frame and its bytes once it is whole (LC-FRM-030, LC-FRM-031).
    fn assemble(&mut self, now: Now, fragment: v1::Fragment) -> Result<Option<(v1::Frame, usize)>, CodecError> {
        let bytes_max = self.record_bytes_max().unwrap_or(RECORD_BYTES_MAX);
        let Some((lane, frame)) = self.assembler.take(now.monotonic_ms, fragment, bytes_max)? else { return Ok(None) };
        let bytes = frame.len();
        let frame = bounds::checked(Some(lane), fragment::decode(frame)?)?;
        Ok(Some((frame, bytes)))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.publisher.handle_timeout(now.monotonic_ms);
        // What still waits here waits for the share of its lane, and a copy would take it.
        let may_copy = self.outbox.bytes(Lane::Urgent) == 0 && !self.outbox.is_one_queue();
        self.publisher.note_overdue(now.monotonic_ms, may_copy);
        self.meter.handle_timeout(now.monotonic_ms);
        let due = |at: u64| at <= now.monotonic_ms;
        match &self.link {
            Link::Waiting { until_ms, refused, address, .. } if due(*until_ms) && self.may_connect() => {
                let (refused, address) = (*refused, address.clone());
                self.begin(now, refused, address);
            }
            Link::Connecting { deadline_ms } | Link::Handshake { deadline_ms, .. } if due(*deadline_ms) => {
                self.actions.push_back(Action::Disconnect(Code::HandshakeTimeout));
                self.lost(now, Code::HandshakeTimeout.number().into());
            }
            Link::Open(open) if open.leave_at_ms.is_some_and(due) => {
                let address = open.leave_to.clone();
                self.count_life(now);
                self.actions.push_back(Action::Disconnect(Code::Normal));
                self.detach();
                match self.may_connect() {
                    true => self.begin(now, 0, address),
                    false => self.wait(now.monotonic_ms, 0, address, Code::GoingAway.number().into()),
                }
            }
            Link::Open(open) if open.pong_by_ms.is_some_and(due) => self.give_up(now, Code::IdleTimeout),
            Link::Open(_) => self.handle_open_timeout(now),
            _ => {}
        }
    }

    fn handle_open_timeout(&mut self, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        if open.pong_by_ms.is_none() && open.sent_at_ms + u64::from(self.heartbeat.ping_after_ms) <= now.monotonic_ms {
            open.pong_by_ms = Some(now.monotonic_ms + u64::from(self.heartbeat.pong_within_ms));
            self.ping(now);
        }
        self.assembler.forget_silent(now.monotonic_ms);
        self.expire_held(now);
        self.refresh_timeout(now);
        let again: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.again_at_ms.is_some_and(|at| at <= now.monotonic_ms))
            .map(|(name, _)| name.clone())
            .collect();
        for name in again {
            self.ask(&name);
        }
    }

    // Commands.

    /// Begins to connect, and stays connected until [`Self::close`].
    pub fn connect(&mut self, now: Now) {
        if matches!(self.link, Link::Idle) {
            self.begin(now, 0, String::new());
        }
    }

    /// Lets all lanes leave as one queue, on this connection and later ones: to measure what lanes are worth.
    pub fn set_one_queue(&mut self, one_queue: bool) {
        self.outbox.set_one_queue(one_queue);
    }

    /// Queues a signal; a newer one of the same room, type and key takes its place.
    pub fn signal(&mut self, now: Now, signal: Outgoing) {
        self.signals.push(now, signal);
    }

    /// Asks for a page of history.
    ///
    /// # Errors
    /// [`CommandError::NotConnected`] or [`CommandError::TooMany`].
    pub fn history(&mut self, history: v1::History) -> Result<Ticket, CommandError> {
        let ticket = self.ticket();
        if matches!(&self.link, Link::Open(open) if !open.reads) {
            let (code, detail) = (Code::Unimplemented.number().into(), "the node serves no history".into());
            let refused = v1::Error { code, detail, room: history.room, ..v1::Error::default() };
            self.events.push_back(Event::Page(ticket, Err(refused)));
            return Ok(ticket);
        }
        self.request(Body::History(history), Pending::History(ticket))?;
        Ok(ticket)
    }

    /// Closes for good. Unsettled publishes are dropped with a memory outbox: wait for them first.
    pub fn close(&mut self, now: Now) {
        self.stop(now, Code::Normal.number().into());
    }

    // Outputs.

    /// The next thing that the driver has to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next record to write, of one of the lanes for which the transport has room. Of lanes normal and bulk no more is
    /// given than may be under way (LC-FLOW-010).
    pub fn poll_output(&mut self, now: Now, lanes: Lanes) -> Option<Output> {
        self.fill(now);
        if let Some(copy) = self.next_copy(now, lanes) {
            return Some(copy);
        }
        self.make_credit(now, lanes);
        let open = self.may_leave(now);
        let mut output = self.outbox.pop_stamped(now.monotonic_ms, lanes.and(open), stamped)?;
        self.gate.sent(now.monotonic_ms, output.lane, output.record.len());
        if output.route == Route::Message {
            // Publishes of a room have to be stored in order: streams that overtake one another would only have them
            // refused as out of order and sent again.
            output.route = Route::Stream(Lane::Urgent);
        }
        if let Link::Open(open) = &mut self.link {
            open.sent_at_ms = now.monotonic_ms;
        }
        Some(output)
    }

    /// The lanes of which the next record may be under way. In one queue credit would hold up everything.
    fn may_leave(&mut self, now: Now) -> Lanes {
        // By the clock that nobody sets: a device's calendar may jump.
        self.outbox.expire(now.monotonic_ms);
        self.settle_late();
        match self.outbox.is_one_queue() {
            true => Lanes::ALL,
            false => self.gate.lanes(|lane| self.outbox.next_bytes(lane)),
        }
    }

    /// Credit is made as control drains, so that none but the newest waits.
    fn make_credit(&mut self, now: Now, lanes: Lanes) {
        if lanes.contains(Lane::Control)
            && matches!(self.link, Link::Open(_))
            && self.outbox.bytes(Lane::Control) == 0
            && let Some(credit) = self.meter.poll(now.monotonic_ms)
        {
            self.outbox.push(Lane::Control, codec::encode_body(0, Body::Credit(credit)));
        }
    }

    /// Says how many bytes the path to the node carries, as far as the transport sees it; `None`: it does not. To be called
    /// before records are taken.
    pub fn set_window(&mut self, path: Option<u64>) {
        self.gate.set_window(path);
    }

    /// Says how long a round trip to the node takes, if the path loses packets and the transport gives an output of
    /// [`Route::Message`] a stream of its own: then an urgent publish whose answer is overdue goes once more on one; `None`: never.
    pub fn set_round_trip(&mut self, path: Option<Duration>) {
        let ms = path.map(|path| u64::try_from(path.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX / 4));
        self.publisher.set_round_trip(ms);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some((ticket, settled)) = self.publisher.poll_settled() {
            return Some(Event::Settled(ticket, settled));
        }
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called, monotonic ms. `drained`: the time with which
    /// [`Self::poll_output`] was called last. With a later one, what became due between them would be neither made nor told.
    pub fn poll_timeout(&self, drained: Now) -> Option<u64> {
        let link = match &self.link {
            Link::Idle | Link::Closed { .. } => return None,
            Link::Waiting { until_ms, .. } => self.may_connect().then_some(*until_ms),
            Link::Connecting { deadline_ms } | Link::Handshake { deadline_ms, .. } => Some(*deadline_ms),
            Link::Open(open) => {
                let ping =
                    (open.pong_by_ms.is_none()).then(|| open.sent_at_ms + u64::from(self.heartbeat.ping_after_ms));
                let held = open.held.expires_at_ms();
                let again = self.rooms.values().filter_map(|room| room.again_at_ms).min();
                // What may be sent already is made as the transport takes it, and not by time.
                let signals = self.signals.poll_timeout().filter(|at| *at > drained.monotonic_ms);
                let refresh = open.refresh.poll_timeout();
                let silent = self.assembler.poll_timeout();
                let credit = self.meter.poll_timeout();
                let all = [open.pong_by_ms, open.leave_at_ms, ping, held, again, signals, refresh, silent, credit];
                all.into_iter().flatten().min()
            }
        };
        [link, self.publisher.poll_timeout(drained.monotonic_ms)].into_iter().flatten().min()
    }

    // Getters.

    /// How the client stands.
    pub fn state(&self) -> ClientState {
        match &self.link {
            Link::Idle => ClientState::Idle,
            Link::Waiting { code, .. } => ClientState::Suspended { code: *code },
            Link::Connecting { .. } | Link::Handshake { .. } => ClientState::Connecting,
            Link::Open(_) => ClientState::Connected,
            Link::Closed { code } => ClientState::Closed { code: *code },
        }
    }

    /// Durable publishes that are not settled.
    pub fn unsettled(&self) -> usize {
        self.publisher.unsettled()
    }

    /// The node's clock, as far as it is known.
    pub fn node_time_ms(&self, now: Now) -> u64 {
        now.wall_ms.saturating_add_signed(self.clock_offset_ms)
    }

    /// Largest record, and on a WebSocket largest message, that the node takes; `None`: not known.
    pub fn record_bytes_max(&self) -> Option<usize> {
        match &self.link {
            Link::Open(open) if open.record_bytes > 0 => Some(open.record_bytes),
            _ => None,
        }
    }

    /// Bytes of frames that came in part.
    pub fn unfinished_bytes(&self) -> usize {
        self.assembler.bytes()
    }

    /// What of lanes normal and bulk is under way.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The id of the present or last connection; empty before the first.
    pub fn connection_id(&self) -> &str {
        &self.connection_id
    }

    // Requests.

    fn id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1).max(1);
        self.next_id
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn request(&mut self, body: Body, pending: Pending) -> Result<u32, CommandError> {
        self.request_until(body, pending, None)
    }

    /// Queues a request that is not sent later than then, monotonic ms.
    fn request_until(&mut self, body: Body, pending: Pending, expires_at_ms: Option<u64>) -> Result<u32, CommandError> {
        let id = self.id();
        let Link::Open(open) = &mut self.link else { return Err(CommandError::NotConnected) };
        if open.pending.len() >= PENDING_MAX {
            return Err(CommandError::TooMany);
        }
        let (lane, record) = (Lane::of(&body), codec::encode_body(id, body));
        if open.record_bytes > 0 && record.len() > open.record_bytes {
            return Err(CommandError::TooLarge);
        }
        open.pending.insert(id, pending);
        self.queue(lane, id, record, expires_at_ms);
        Ok(id)
    }

    /// Moves publishes and signals into the outbox while it has room.
    fn fill(&mut self, now: Now) {
        let Link::Open(open) = &self.link else { return };
        let serves_signals = open.signals;
        self.fill_publishes(now);
        while serves_signals && self.outbox.bytes(Lane::Signal) == 0 {
            let Some(signal) = self.signals.poll(now) else { break };
            let ttl_ms = u64::from(signal.ttl_ms);
            let expires_at_ms = (ttl_ms != 0).then(|| now.monotonic_ms + ttl_ms);
            let record = codec::encode_body(0, Body::Signal(signal));
            if self.fits(&record) {
                self.queue(Lane::Signal, 0, record, expires_at_ms);
            }
        }
    }

    /// Whether the node takes a record of this size (LC-HS-020).
    fn fits(&self, record: &Bytes) -> bool {
        self.record_bytes_max().is_none_or(|max| record.len() <= max)
    }
}
