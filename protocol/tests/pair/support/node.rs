//! A node in miniature: server sessions over the pure log of each room, with the queues of what may be lost.
//!
//! It does what a real node does and nothing more: no clock, no tasks, and rights only as far as a scenario asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use lanecast_protocol::codec::{self, EventFront};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::log::{
    Append, Direction, HistoryQuery, Numbers, Origin, Outcome, Publisher, Retention, RolledBack,
};
use lanecast_protocol::log::{RoomLog, Start};
use lanecast_protocol::lossy::{LiveSignal, Popped, SignalKey, SignalQueue, TransientQueue, Under};
use lanecast_protocol::place::{Batch, Stored};
use lanecast_protocol::position::{Cursor, DurableLane, PerLane, Position};
use lanecast_protocol::session::server::{Accepted, Asked, Config, Opened, Read, Request, Session, check_numbers};
use lanecast_protocol::session::{Now, Refusal};
use lanecast_protocol::v1;

use super::app::text_of;

/// Everything is kept.
pub const KEEP: Retention = Retention { events_max: usize::MAX, age_ms_max: u64::MAX };

pub struct Room {
    pub log: RoomLog,
    pub handle: u64,
    transients: PerLane<u64>,
    signals: Vec<(SignalKey, v1::Signal)>,
}

#[derive(Clone)]
struct Subscription {
    room: String,
    handle: u64,
    signals: bool,
}

/// A connection.
pub struct Conn {
    pub session: Session,
    pub user: String,
    pub instance: String,
    subscriptions: Vec<Subscription>,
    transients: PerLane<TransientQueue>,
    signals: SignalQueue,
}

impl Conn {
    /// Signals that wait for the connection.
    pub fn waiting_signals(&self) -> usize {
        self.signals.len()
    }

    /// Bytes that the node holds for the connection's outputs.
    pub fn queued_bytes(&self) -> usize {
        Lane::ALL.into_iter().map(|lane| self.session.queued_bytes(lane)).sum()
    }
}

type Accept = Box<dyn Fn(&v1::Hello) -> Result<Accepted, Refusal>>;

pub struct Node {
    pub config: Arc<Config>,
    pub rooms: BTreeMap<String, Room>,
    pub conns: BTreeMap<u64, Conn>,
    pub retention: Retention,
    /// Judges Hello; by default everybody comes in as the user that the token names.
    pub accept: Accept,
    /// Refuses each Subscribe with this.
    pub refuse_subscribe: Option<Refusal>,
    /// Publishes wait for their answer until this is true again.
    pub answers_publishes: bool,
    waiting: Vec<(u64, Request)>,
    /// Texts that were stored, by room and lane, in the order of their seqs; with those that a rollback lost.
    pub stored: BTreeMap<(String, DurableLane), Vec<String>>,
    /// Transient events that were passed on.
    pub passed_on: BTreeMap<(String, DurableLane), u64>,
    epoch: u64,
    next_handle: u64,
    next_conn: u64,
}

/// What a node says of itself unless a scenario wants it otherwise.
pub fn config() -> Config {
    Config {
        node: "sim".into(),
        capabilities: vec![
            v1::Capability::History,
            v1::Capability::Signals,
            v1::Capability::Fragments,
            v1::Capability::Credit,
            v1::Capability::Focus,
        ],
        limits: v1::Limits {
            record_bytes: 256 * 1024,
            message_bytes: 64 * 1024,
            rooms: 100,
            publishes_in_flight: 256,
            signals_per_second: 10,
            history_page: 200,
        },
        heartbeat: v1::Heartbeat { ping_after_ms: 25_000, pong_within_ms: 10_000, idle_close_ms: 60_000 },
        reconnect: v1::ReconnectWindow { min_ms: 100, max_ms: 5_000 },
        hello_within_ms: 10_000,
        no_progress_ms: 30_000,
        lane_bytes: 16 * 1024,
        bulk_bytes_per_second: 0,
    }
}

impl Node {
    pub fn new() -> Self {
        Self {
            config: Arc::new(config()),
            rooms: BTreeMap::new(),
            conns: BTreeMap::new(),
            retention: KEEP,
            accept: Box::new(|hello| Ok(Accepted { user: hello.token.clone(), ..Accepted::default() })),
            refuse_subscribe: None,
            answers_publishes: true,
            waiting: Vec::new(),
            stored: BTreeMap::new(),
            passed_on: BTreeMap::new(),
            epoch: 1000,
            next_handle: 0,
            next_conn: 0,
        }
    }

    /// Changes what the node says of itself, for connections that open from now on.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(Arc::make_mut(&mut self.config));
    }

    pub fn connect(&mut self, now: Now, is_pipe: bool) -> u64 {
        self.next_conn += 1;
        let mut session = Session::new(self.config.clone(), now);
        session.set_pipe(is_pipe);
        let conn = Conn {
            session,
            user: String::new(),
            instance: String::new(),
            subscriptions: Vec::new(),
            transients: PerLane::default(),
            signals: SignalQueue::default(),
        };
        self.conns.insert(self.next_conn, conn);
        self.next_conn
    }

    pub fn closed(&mut self, conn: u64) {
        if let Some(mut conn) = self.conns.remove(&conn) {
            conn.session.transport_closed();
        }
        self.waiting.retain(|(of, _)| *of != conn);
    }

    /// All is lost but the name: another life begins, in a later epoch, with handles of its own.
    pub fn restart(&mut self) {
        self.rooms.clear();
        self.conns.clear();
        self.waiting.clear();
        self.stored.clear();
        self.epoch += 1000;
        self.next_handle = 0;
    }

    pub fn room(&mut self, name: &str) -> &mut Room {
        let (epoch, retention) = (self.epoch, self.retention);
        let next_handle = &mut self.next_handle;
        self.rooms.entry(name.to_owned()).or_insert_with(|| {
            *next_handle += 1;
            let log = RoomLog::new(epoch, retention);
            Room { log, handle: *next_handle, transients: PerLane::default(), signals: Vec::new() }
        })
    }

    pub fn head(&mut self, room: &str) -> Position {
        self.room(room).log.head().position
    }

    /// Publishes in the name of a backend.
    pub fn publish(&mut self, now: Now, room: &str, lane: DurableLane, text: &str, ttl_ms: u64) {
        let envelope = super::app::envelope(text);
        self.append(now, room, lane, envelope, ttl_ms, (v1::Sender::default(), Origin::Unmarked));
    }

    fn append(
        &mut self,
        now: Now,
        room: &str,
        lane: DurableLane,
        envelope: bytes::Bytes,
        ttl_ms: u64,
        (from, origin): (v1::Sender, Origin),
    ) -> Outcome {
        let expires_at_ms = if ttl_ms == 0 { 0 } else { now.wall_ms + ttl_ms };
        let tail = codec::event_tail(from, now.wall_ms, expires_at_ms, envelope.clone());
        let append = Append { lane, origin, time_ms: now.wall_ms, expires_at_ms, event_type: "test".into(), tail };
        let outcome = self.room(room).log.append(now.wall_ms, append);
        if let Outcome::Stored(_) = outcome {
            self.stored.entry((room.to_owned(), lane)).or_default().push(text_of(&envelope));
            let handle = self.room(room).handle;
            for conn in self.conns.values_mut() {
                conn.session.mark_ready(handle, lane);
            }
        }
        outcome
    }

    /// Passes a transient event on.
    pub fn transient(&mut self, now: Now, room: &str, lane: DurableLane, text: &str, ttl_ms: u64) {
        self.pass_on(now, room, lane, super::app::envelope(text), ttl_ms);
    }

    fn pass_on(&mut self, now: Now, room: &str, lane: DurableLane, envelope: bytes::Bytes, ttl_ms: u64) {
        *self.passed_on.entry((room.to_owned(), lane)).or_default() += 1;
        let expires_at_ms = if ttl_ms == 0 { 0 } else { now.wall_ms + ttl_ms };
        let tail = codec::event_tail(v1::Sender::default(), now.wall_ms, expires_at_ms, envelope);
        let room = self.room(room);
        room.transients[lane] += 1;
        let (handle, count) = (room.handle, room.transients[lane]);
        let under = Under { handle, epoch: room.log.epoch() };
        let record = codec::event_record(EventFront { handle, lane: lane.into(), seq: 0, order: 0, epoch: 0 }, &tail);
        for conn in self.conns.values_mut() {
            if conn.subscriptions.iter().any(|known| known.handle == handle) {
                conn.transients[lane].push(under, count, record.clone(), expires_at_ms);
            }
        }
    }

    /// The log loses what came after `snapshot`, and a new epoch begins. `seen` says what nodes saw of the old one.
    pub fn roll_back(&mut self, now: Now, name: &str, snapshot: RoomLog, seen: &[Position]) {
        self.epoch += 1;
        let candidate = self.epoch;
        self.next_handle += 1;
        let handle = self.next_handle;
        let room = self.room(name);
        let former = std::mem::replace(&mut room.handle, handle);
        room.log = snapshot;
        room.log.open_epoch(candidate, seen);
        let heads = room.log.head().position;
        for lane in DurableLane::ALL {
            if let Some(stored) = self.stored.get_mut(&(name.to_owned(), lane)) {
                stored.truncate(heads.seq(lane) as usize);
            }
        }
        let subscribed: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.subscriptions.iter().any(|known| known.handle == former))
            .map(|(id, _)| *id)
            .collect();
        for id in subscribed {
            let Some(position) = self.conns.get(&id).and_then(|conn| conn.session.position(former)) else { continue };
            let opened = self.opened(now, name, Start::Position(position), None);
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            for known in conn.subscriptions.iter_mut().filter(|known| known.handle == former) {
                known.handle = handle;
            }
            conn.session.subscribed(0, opened, v1::SubscribedCause::Epoch);
        }
    }

    fn opened(&mut self, now: Now, name: &str, start: Start, mark: Option<v1::TransientMark>) -> Opened {
        let source = self.epoch;
        let room = self.room(name);
        room.log.trim(now.wall_ms);
        let log = room.log.open(now.wall_ms, start);
        let counts = room.transients;
        let transients = v1::TransientMark { source, urgent: counts.0[0], normal: counts.0[1], bulk: counts.0[2] };
        let missed = mark.map(|mark| {
            let known = [mark.urgent, mark.normal, mark.bulk];
            let missed = counts.0.iter().zip(known).try_fold(0, |sum, (now, then)| Some(sum + now.checked_sub(then)?));
            match missed {
                Some(0) if mark.source == source => (v1::MissedKnowledge::None, 0),
                Some(count) if mark.source == source => (v1::MissedKnowledge::Count, count),
                _ => (v1::MissedKnowledge::Unknown, 0),
            }
        });
        Opened {
            room: name.into(),
            handle: room.handle,
            position: log.position,
            head: log.head,
            head_order: log.head_order,
            recovered: log.recovered,
            rolled_back: log.rolled_back.into_iter().map(rolled_back).collect(),
            missed_transients: missed
                .map(|(knowledge, count)| v1::MissedTransients { knowledge: knowledge.into(), count }),
            transients: Some(transients),
            degraded: false,
        }
    }

    /// Drains the requests, reads and queues of a connection. Returns whether there was anything.
    pub fn work(&mut self, now: Now, id: u64) -> bool {
        let mut busy = false;
        while let Some(request) = self.conns.get_mut(&id).and_then(|conn| conn.session.poll_request()) {
            busy = true;
            self.handle(now, id, request);
        }
        while let Some(read) = self.conns.get_mut(&id).and_then(|conn| conn.session.next_read()) {
            busy = true;
            self.read(now, id, &read);
        }
        let Some(Conn { session, transients, signals, .. }) = self.conns.get_mut(&id) else { return busy };
        for lane in DurableLane::ALL {
            while session.has_room(lane.into())
                && let Some(Popped { handle, record, expiry, .. }) = transients[lane].pop(lane, &[])
            {
                session.send(lane.into(), handle, record, expiry);
            }
        }
        while session.has_room(Lane::Signal)
            && let Some(Popped { handle, record, expiry, .. }) = signals.pop(now.wall_ms, &[])
        {
            session.send(Lane::Signal, handle, record, expiry);
        }
        busy
    }

    /// Answers the publishes that were kept waiting.
    pub fn answer_publishes(&mut self, now: Now) {
        self.answers_publishes = true;
        for (id, request) in std::mem::take(&mut self.waiting) {
            self.handle(now, id, request);
        }
    }

    fn read(&mut self, now: Now, id: u64, read: &Read) {
        let room = self.room(&read.room.clone());
        room.log.trim(now.wall_ms);
        if room.handle != read.handle {
            return;
        }
        let lane = Lane::from(read.lane);
        let found = room.log.read(read.lane, read.after, 64, read.bytes);
        let more = found.records.last().map_or(found.first - 1, |record| record.seq) < found.head;
        let events = found.records.iter().map(|record| {
            let front = EventFront { handle: read.handle, lane, seq: record.seq, order: record.order, epoch: 0 };
            Stored {
                seq: record.seq,
                expires_at_ms: record.expires_at_ms,
                event_type: record.event_type.clone(),
                record: codec::event_record(front, &record.tail),
            }
        });
        let batch = Batch { first: found.first, events: events.collect() };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.session.deliver(now, read, batch, more, |_| true);
        }
    }

    /// The log is away for this node, or is back.
    pub fn tell_degraded(&mut self, degraded: bool) {
        self.conns.values_mut().for_each(|conn| conn.session.tell_degraded(degraded));
    }

    fn handle(&mut self, now: Now, id: u64, request: Request) {
        match request {
            Request::Authenticate(hello) => self.authenticate(now, id, &hello),
            Request::RefreshToken { id: request, token } => self.refresh(now, id, request, token),
            Request::Subscribe { asked, subscribe } => self.subscribe(now, id, asked, subscribe),
            Request::Unsubscribed { handle } => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.subscriptions.retain(|known| known.handle != handle);
                    conn.signals.forget(handle);
                    for lane in DurableLane::ALL {
                        conn.transients[lane].forget(handle);
                    }
                }
            }
            Request::Publish { .. } if !self.answers_publishes => self.waiting.push((id, request)),
            Request::Publish { id: request, publish, .. } => {
                let room = publish.room.clone();
                let result = self.take_publish(now, id, publish);
                let Some(conn) = self.conns.get_mut(&id) else { return };
                match result {
                    Ok(published) => conn.session.published(request, &room, published),
                    Err(refusal) => conn.session.refuse_publish(request, refusal.in_room(room)),
                }
            }
            Request::Signal { id: request, signal, envelope } => {
                self.signal(now, id, signal, &envelope);
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.session.done(request);
                }
            }
            Request::History { id: request, history } => {
                let page = self.history(now, &history);
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.session.history_page(request, page);
                }
            }
        }
    }

    fn authenticate(&mut self, now: Now, id: u64, hello: &v1::Hello) {
        let judged = (self.accept)(hello);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match judged {
            Ok(accepted) => {
                conn.user = accepted.user.clone();
                conn.instance = hello.instance.clone();
                conn.session.accept(now, Accepted { connection_id: format!("c{id}"), ..accepted });
            }
            Err(refusal) => conn.session.close(refusal),
        }
    }

    /// A newer token is judged as one in Hello would be, and must be the same user's.
    fn refresh(&mut self, now: Now, id: u64, request: u32, token: String) {
        let judged = (self.accept)(&v1::Hello { token, ..Default::default() });
        let Some(conn) = self.conns.get_mut(&id) else { return };
        match judged {
            Ok(accepted) if accepted.user != conn.user => {
                conn.session.refuse_refresh(request, Refusal::new(Code::UserMismatch, "another user"));
            }
            Ok(accepted) => {
                conn.session.refreshed(now, request, accepted.token_expires_at_ms, accepted.signals_per_second)
            }
            Err(refusal) => conn.session.refuse_refresh(request, refusal),
        }
    }

    fn subscribe(&mut self, now: Now, id: u64, asked: Asked, subscribe: v1::Subscribe) {
        if let Some(refusal) = self.refuse_subscribe.clone() {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            return conn.session.refuse_subscribe(asked, refusal.in_room(subscribe.room));
        }
        let start = match subscribe.start.and_then(|start| start.at) {
            None | Some(v1::start::At::Live(_) | v1::start::At::Marker(_)) => Start::Live,
            Some(v1::start::At::Beginning(_)) => Start::Beginning,
            Some(v1::start::At::Position(position)) => {
                Start::Position(Position::try_from(&position).expect("the session checked it"))
            }
            Some(v1::start::At::Count(count)) => Start::Count(count.into()),
            Some(v1::start::At::DurationMs(ms)) => Start::Duration(ms),
        };
        let opened = self.opened(now, &subscribe.room, start, subscribe.transients);
        let handle = opened.handle;
        let counts = self.room(&subscribe.room).transients;
        let live: Vec<LiveSignal> = match subscribe.signals {
            true => self.room(&subscribe.room).live(now, handle),
            false => Vec::new(),
        };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.subscriptions.retain(|known| known.room != subscribe.room);
        conn.subscriptions.push(Subscription { room: subscribe.room, handle, signals: subscribe.signals });
        for lane in DurableLane::ALL {
            conn.transients[lane].begin(handle, counts[lane], true);
        }
        conn.session.subscribed(asked.id(), opened, v1::SubscribedCause::Unspecified);
        for signal in live {
            conn.signals.push(handle, signal);
        }
    }

    fn take_publish(&mut self, now: Now, id: u64, publish: v1::Publish) -> Result<v1::Published, Refusal> {
        let Some(conn) = self.conns.get(&id) else { return Err(Refusal::new(Code::Internal, "gone")) };
        let (user, instance) = (conn.user.clone(), conn.instance.clone());
        let lane = DurableLane::from_wire(publish.lane).unwrap_or(DurableLane::Normal);
        let wire = v1::Lane::from(lane).into();
        if publish.delivery == v1::Delivery::Transient as i32 {
            self.pass_on(now, &publish.room, lane, publish.envelope, publish.ttl_ms.into());
            return Ok(v1::Published { lane: wire, ..Default::default() });
        }
        check_numbers(&publish)?;
        let publisher = Publisher { user: user.as_str().into(), instance: instance.as_str().into() };
        let origin = Origin::Numbered { publisher, number: publish.number, after: publish.after };
        let from = v1::Sender { user, service: String::new(), instance };
        let ttl_ms = publish.ttl_ms.into();
        match self.append(now, &publish.room, lane, publish.envelope, ttl_ms, (from, origin)) {
            Outcome::Stored(Numbers { epoch, seq, order, .. }) => {
                Ok(v1::Published { epoch, lane: wire, seq, order, duplicate: false })
            }
            Outcome::Duplicate { first } => {
                let (epoch, seq, order) = first.map_or((0, 0, 0), |first| (first.epoch, first.seq, first.order));
                Ok(v1::Published { epoch, lane: wire, seq, order, duplicate: true })
            }
            Outcome::OutOfOrder => Err(Refusal::new(Code::OutOfOrder, "out of order").in_room(publish.room)),
            other => panic!("no answer to a numbered publish: {other:?}"),
        }
    }

    fn signal(&mut self, now: Now, id: u64, signal: v1::Signal, envelope: &v1::Envelope) {
        let Some(conn) = self.conns.get(&id) else { return };
        let from = v1::Sender { user: conn.user.clone(), service: String::new(), instance: conn.instance.clone() };
        let key = SignalKey {
            sender: format!("{}/{}", from.user, from.instance).into(),
            kind: envelope.r#type.as_str().into(),
            key: envelope.key.as_str().into(),
        };
        let ttl_ms = if signal.ttl_ms == 0 { 10_000 } else { u64::from(signal.ttl_ms) };
        let name = signal.room.clone();
        let signal = v1::Signal { expires_at_ms: now.wall_ms + ttl_ms, from: Some(from), ..signal };
        let room = self.room(&name);
        room.signals.retain(|(_, known)| known.expires_at_ms > now.wall_ms);
        match room.signals.iter_mut().find(|(of, _)| *of == key) {
            Some((_, known)) if (known.start, known.counter) >= (signal.start, signal.counter) => return,
            Some((_, known)) => *known = signal.clone(),
            None => room.signals.push((key.clone(), signal.clone())),
        }
        let handle = room.handle;
        let live = live_signal(&key, &signal, handle);
        for conn in self.conns.values_mut() {
            if conn.subscriptions.iter().any(|known| known.handle == handle && known.signals) {
                conn.signals.push(handle, live.clone());
            }
        }
    }

    fn history(&mut self, now: Now, history: &v1::History) -> v1::HistoryPage {
        let lanes =
            PerLane::from_fn(|lane| history.lanes.is_empty() || history.lanes.contains(&(v1::Lane::from(lane) as i32)));
        let direction = match history.direction {
            direction if direction == v1::HistoryDirection::Forward as i32 => Direction::Forward,
            _ => Direction::Backward,
        };
        let cursor = history.cursor.map(|cursor| Cursor { epoch: cursor.epoch, order: cursor.order });
        let events_max = if history.limit == 0 { 200 } else { history.limit.min(200) as usize };
        let query = HistoryQuery { direction, cursor, lanes, events_max, bytes_max: 200 * 1024 };
        let page = self.room(&history.room).log.history(now.wall_ms, &query);
        let event = |event: &lanecast_protocol::log::PageEvent| {
            let record = &event.record;
            EventFront { handle: 0, lane: record.lane.into(), seq: record.seq, order: record.order, epoch: event.epoch }
                .decode(&record.tail)
                .expect("the node wrote the tail")
        };
        v1::HistoryPage {
            room: history.room.clone(),
            events: page.events.iter().map(event).collect(),
            gaps: Vec::new(),
            next: page.next.map(Into::into),
            head: Some(page.head.into()),
            head_order: page.head_order,
        }
    }
}

impl Room {
    fn live(&self, now: Now, handle: u64) -> Vec<LiveSignal> {
        let alive = self.signals.iter().filter(|(_, signal)| signal.expires_at_ms > now.wall_ms && !signal.clear);
        alive.map(|(key, signal)| live_signal(key, signal, handle)).collect()
    }
}

fn live_signal(key: &SignalKey, signal: &v1::Signal, handle: u64) -> LiveSignal {
    LiveSignal {
        key: key.clone(),
        age: (signal.start, signal.counter),
        expires_at_ms: signal.expires_at_ms,
        record: codec::signal_record(handle, &codec::signal_tail(signal)),
    }
}

fn rolled_back(lost: RolledBack) -> v1::Gap {
    v1::Gap {
        lane: v1::Lane::from(lost.lane).into(),
        epoch: lost.epoch,
        from: lost.from,
        to: lost.to.unwrap_or(0),
        cause: v1::GapCause::RolledBack.into(),
        ..Default::default()
    }
}
