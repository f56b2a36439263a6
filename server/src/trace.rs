//! Where the time of an event went on this node: `lanecast why`.
//!
//! ```text
//! asked ──publisher──▶ received ──engine──▶ fanned out ──node queue──▶ popped ──wire──▶ acknowledged, or written
//! └ in the SDK, as it says ┘      └ once for all subscribers ┘         └ for each connection ┘
//! ```
//!
//! Promises: a node that traces keeps the newest events only, and says when it left connections out. One that does not
//! pays a look at a flag. Refuses: content; a trace names rooms, seqs and users, so it is for whoever controls the room.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lanecast_protocol::codec;
use lanecast_protocol::log::{Numbers, Record};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use parking_lot::Mutex;

use crate::clock::Clock;

/// Events that are remembered; the oldest are forgotten.
pub const EVENTS_MAX: usize = 4_096;
/// Connections of an event whose times are remembered; of further ones only how many there were.
const DELIVERIES_MAX: usize = 64;
/// Events that a connection took and whose end on the wire it waits for; of further ones the oldest stay without.
const WAITING_MAX: usize = 256;

type Key = (Arc<str>, DurableLane, u64);

/// The times of an event, since the clock was made.
#[derive(Debug)]
struct Event {
    epoch: u64,
    /// The node's clock when it was received, ms since the Unix epoch.
    received_at_ms: u64,
    /// When this node received it from its publisher; `None`: another node did.
    received: Option<Duration>,
    /// When the application asked for it, this node's clock, ms; 0: nobody said.
    asked_at_ms: u64,
    /// When the engine had told of it, or had answered.
    fanned_out: Option<Duration>,
    deliveries: Vec<Delivery>,
    untraced: u32,
}

#[derive(Debug)]
struct Delivery {
    connection: Arc<str>,
    popped: Duration,
    written: Option<Duration>,
    acknowledged: Option<Duration>,
}

#[derive(Debug, Default)]
struct Ring {
    events: HashMap<Key, Event>,
    oldest: VecDeque<Key>,
}

impl Ring {
    fn event(&mut self, room: &Arc<str>, lane: DurableLane, seq: u64, make: impl FnOnce() -> Event) -> &mut Event {
        let key = (Arc::clone(room), lane, seq);
        if !self.events.contains_key(&key) {
            if self.oldest.len() == EVENTS_MAX
                && let Some(oldest) = self.oldest.pop_front()
            {
                self.events.remove(&oldest);
            }
            self.oldest.push_back(key.clone());
        }
        self.events.entry(key).or_insert_with(make)
    }
}

/// The newest events of a node and where their time went.
#[derive(Debug)]
pub struct Traces {
    clock: Clock,
    /// `None`: nothing is traced.
    ring: Option<Mutex<Ring>>,
}

impl Traces {
    /// An empty one; `on`: whether anything is traced.
    pub fn new(clock: Clock, on: bool) -> Self {
        Self { clock, ring: on.then(Mutex::default) }
    }

    /// Whether anything is traced.
    pub fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// The engine tells of an event of that time, node's clock of whoever received it.
    pub fn fanned_out(&self, room: &Arc<str>, epoch: u64, record: &Record) {
        let Some(ring) = &self.ring else { return };
        let (lane, seq, received_at_ms) = (record.lane, record.seq, record.time_ms);
        let now = self.clock.elapsed();
        let mut ring = ring.lock();
        let event = ring.event(room, lane, seq, || Event::new(epoch, received_at_ms));
        if event.epoch != epoch {
            // The seq of a former epoch, taken back and given anew.
            *event = Event::new(epoch, received_at_ms);
        }
        event.fanned_out = Some(now);
    }

    /// This node had received an event at that time, and the engine has stored it.
    pub fn stored(&self, room: &str, numbers: Numbers, received: Duration) {
        let Some(ring) = &self.ring else { return };
        let Numbers { epoch, lane, seq, .. } = numbers;
        let now = self.clock.elapsed();
        let received_at_ms = self.clock.now_ms().saturating_sub(now.saturating_sub(received).as_millis() as u64);
        let mut ring = ring.lock();
        let event = ring.event(&room.into(), lane, seq, || Event::new(epoch, received_at_ms));
        event.received = Some(received);
        // It was told to the subscribers of this node before, if there are some.
        event.fanned_out.get_or_insert(now);
    }

    /// What the publisher says of a stored event.
    pub fn asked(&self, room: &str, numbers: Numbers, asked_at_ms: u64) {
        let Some(ring) = &self.ring else { return };
        if let Some(event) = ring.lock().events.get_mut(&(room.into(), numbers.lane, numbers.seq)) {
            event.asked_at_ms = asked_at_ms;
        }
    }

    fn popped(&self, key: &Key, connection: &Arc<str>, now: Duration) {
        let Some(ring) = &self.ring else { return };
        let mut ring = ring.lock();
        // What is read from the log later than the ring goes back is not followed.
        let Some(event) = ring.events.get_mut(key) else { return };
        if event.deliveries.len() == DELIVERIES_MAX {
            event.untraced += 1;
            return;
        }
        let connection = Arc::clone(connection);
        event.deliveries.push(Delivery { connection, popped: now, written: None, acknowledged: None });
    }

    /// A connection without queues of its own took an event.
    pub fn handed_over(&self, room: &Arc<str>, lane: DurableLane, seq: u64, connection: &Arc<str>) {
        if self.is_on() {
            let (key, now) = ((Arc::clone(room), lane, seq), self.clock.elapsed());
            self.popped(&key, connection, now);
            self.stamp(&key, connection, |delivery| delivery.written = Some(now));
        }
    }

    fn stamp(&self, key: &Key, connection: &Arc<str>, stamp: impl FnOnce(&mut Delivery)) {
        let Some(ring) = &self.ring else { return };
        let mut ring = ring.lock();
        let deliveries = ring.events.get_mut(key).map(|event| &mut event.deliveries);
        let mut deliveries = deliveries.into_iter().flatten().rev();
        if let Some(delivery) = deliveries.find(|delivery| Arc::ptr_eq(&delivery.connection, connection)) {
            stamp(delivery);
        }
    }

    /// What is known of a seq of a room: one trace for each of these lanes in which it is remembered.
    pub fn find(&self, room: &str, seq: u64, lanes: &[DurableLane]) -> Vec<v1::EventTrace> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let (ring, room): (_, Arc<str>) = (ring.lock(), room.into());
        let found = lanes.iter().filter_map(|lane| Some((*lane, ring.events.get(&(Arc::clone(&room), *lane, seq))?)));
        found.map(|(lane, event)| event.shown(&self.clock, &room, lane, seq)).collect()
    }
}

/// Adds to what is waited for, in the place of the oldest if there is too much.
fn push<T>(waiting: &mut VecDeque<T>, one: T) {
    if waiting.len() == WAITING_MAX {
        waiting.pop_front();
    }
    waiting.push_back(one);
}

fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

impl Event {
    fn new(epoch: u64, received_at_ms: u64) -> Self {
        let deliveries = Vec::new();
        Self { epoch, received_at_ms, received: None, asked_at_ms: 0, fanned_out: None, deliveries, untraced: 0 }
    }

    fn shown(&self, clock: &Clock, room: &str, lane: DurableLane, seq: u64) -> v1::EventTrace {
        // Of an event that another node received, two clocks are compared.
        let here = self.received.is_some();
        let elsewhere_ms = self.fanned_out.map(|at| {
            let age_ms = (clock.elapsed() - at).as_millis() as u64;
            clock.now_ms().saturating_sub(age_ms).saturating_sub(self.received_at_ms) as f64
        });
        let engine_ms = match (self.received, self.fanned_out) {
            (Some(received), Some(told)) => Some(ms(told.saturating_sub(received))),
            _ => elsewhere_ms,
        };
        let asked = Some(self.asked_at_ms).filter(|asked| *asked > 0);
        let publisher_ms = asked.map(|asked| self.received_at_ms.saturating_sub(asked) as f64);
        let deliveries = self.deliveries.iter().map(|delivery| delivery.shown(self.fanned_out));
        v1::EventTrace {
            room: room.to_owned(),
            lane: v1::Lane::from(lane).into(),
            epoch: self.epoch,
            seq,
            received_at_ms: self.received_at_ms,
            received_elsewhere: !here,
            publisher_ms,
            engine_ms,
            deliveries: deliveries.collect(),
            untraced: self.untraced,
        }
    }
}

impl Delivery {
    fn shown(&self, fanned_out: Option<Duration>) -> v1::DeliveryTrace {
        let end = self.acknowledged.or(self.written);
        v1::DeliveryTrace {
            connection: self.connection.to_string(),
            user: String::new(),
            queue_ms: fanned_out.map(|at| ms(self.popped.saturating_sub(at))),
            wire_ms: end.map(|end| ms(end.saturating_sub(self.popped))),
            acknowledged: self.acknowledged.is_some(),
        }
    }
}

/// What a connection has on its way, for the traces. Kept only where something is traced.
#[derive(Debug, Default)]
pub struct Follower {
    /// Taken by the transport and not known to be written.
    unwritten: VecDeque<Key>,
    /// Of which a first piece went, by lane and number of the transfer, with the bytes that are missing.
    pieces: VecDeque<(i32, u64, Key, u64)>,
    /// Written, or not, and not known to be acknowledged, with the handle under which they went.
    unacknowledged: VecDeque<(u64, Key)>,
}

/// What a record that leaves is to the traces.
enum Leaving {
    Event {
        handle: u64,
        lane: i32,
        seq: u64,
    },
    /// The first piece of an event, and the bytes that follow.
    First {
        handle: u64,
        lane: i32,
        seq: u64,
        transfer: u64,
        left: u64,
    },
    Piece {
        lane: i32,
        transfer: u64,
        bytes: u64,
    },
}

impl Leaving {
    fn of(record: &Bytes) -> Option<Self> {
        let frame = codec::records(record.clone(), usize::MAX).next()?.and_then(codec::decode).ok()?;
        match frame.body? {
            Body::Event(event) if event.seq > 0 => {
                Some(Self::Event { handle: event.handle, lane: event.lane, seq: event.seq })
            }
            Body::Fragment(piece) if piece.total > 0 => {
                let v1::Event { handle, lane, seq, .. } = codec::event_front(&piece.data)?;
                let left = piece.total.saturating_sub(piece.data.len() as u64);
                Some(Self::First { handle, lane, seq, transfer: piece.transfer, left })
            }
            Body::Fragment(piece) => {
                Some(Self::Piece { lane: piece.lane, transfer: piece.transfer, bytes: piece.data.len() as u64 })
            }
            _ => None,
        }
    }
}

impl Follower {
    /// The transport took a record. `room_of` says the room of a handle.
    pub fn popped(
        &mut self,
        traces: &Traces,
        connection: &Arc<str>,
        record: &Bytes,
        room_of: impl Fn(u64) -> Option<Arc<str>>,
    ) {
        let Some(leaving) = Leaving::of(record) else { return };
        let key = |handle, lane, seq| Some((room_of(handle)?, DurableLane::from_wire(lane)?, seq));
        let now = traces.clock.elapsed();
        match leaving {
            Leaving::Event { handle, lane, seq } => {
                let Some(key) = key(handle, lane, seq) else { return };
                traces.popped(&key, connection, now);
                self.leave(handle, key);
            }
            Leaving::First { handle, lane, seq, transfer, left } => {
                let Some(key) = key(handle, lane, seq) else { return };
                traces.popped(&key, connection, now);
                if left == 0 {
                    self.leave(handle, key);
                } else {
                    push(&mut self.pieces, (lane, transfer, key, left));
                }
            }
            Leaving::Piece { lane, transfer, bytes } => {
                let same = |(of, number, ..): &(i32, u64, Key, u64)| (*of, *number) == (lane, transfer);
                let Some(at) = self.pieces.iter().position(same) else { return };
                let left = &mut self.pieces[at].3;
                *left = left.saturating_sub(bytes);
                if *left == 0 {
                    let Some((.., key, _)) = self.pieces.remove(at) else { return };
                    push(&mut self.unwritten, key);
                }
            }
        }
    }

    fn leave(&mut self, handle: u64, key: Key) {
        if key.1 == DurableLane::Urgent {
            push(&mut self.unacknowledged, (handle, key.clone()));
        }
        push(&mut self.unwritten, key);
    }

    /// Everything that the transport took was written.
    pub fn written(&mut self, traces: &Traces, connection: &Arc<str>) {
        let now = traces.clock.elapsed();
        for key in self.unwritten.drain(..) {
            traces.stamp(&key, connection, |delivery| delivery.written = Some(now));
        }
    }

    /// The peer acknowledged an urgent event that went on a stream of its own.
    pub fn acknowledged(&mut self, traces: &Traces, connection: &Arc<str>, handle: u64, seq: u64) {
        let now = traces.clock.elapsed();
        let is = |(of, key): &(u64, Key)| (*of, key.1, key.2) == (handle, DurableLane::Urgent, seq);
        if let Some(at) = self.unacknowledged.iter().position(is)
            && let Some((_, key)) = self.unacknowledged.remove(at)
        {
            traces.stamp(&key, connection, |delivery| delivery.acknowledged = Some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::{Bulk, Urgent};
    use lanecast_protocol::codec::EventFront;
    use lanecast_protocol::lane::Lane;
    use v1::DeliveryTrace;

    const START_MS: u64 = 1_800_000_000_000;

    struct Bench {
        clock: Clock,
        traces: Traces,
        follower: Follower,
        room: Arc<str>,
        connection: Arc<str>,
    }

    impl Bench {
        fn new() -> Self {
            let clock = Clock::manual(START_MS);
            let traces = Traces::new(clock.clone(), true);
            Self { clock, traces, follower: Follower::default(), room: "r".into(), connection: "c".into() }
        }

        fn pass(&self, ms: u64) {
            self.clock.advance(Duration::from_millis(ms));
        }

        fn tell(&self, epoch: u64, lane: DurableLane, seq: u64) {
            let (time_ms, event_type, tail) = (self.clock.now_ms(), "t".into(), Bytes::new());
            let record = Record { lane, seq, order: seq, time_ms, expires_at_ms: 0, event_type, tail };
            self.traces.fanned_out(&self.room, epoch, &record);
        }

        fn pop(&mut self, record: &Bytes) {
            let room = Arc::clone(&self.room);
            let room_of = |handle| (handle == 7).then(|| Arc::clone(&room));
            self.follower.popped(&self.traces, &self.connection, record, room_of);
        }

        fn trace(&self, lane: DurableLane, seq: u64) -> Option<v1::EventTrace> {
            self.traces.find("r", seq, &[lane]).pop()
        }
    }

    fn record(lane: Lane, seq: u64, bytes: usize) -> Bytes {
        let envelope = Bytes::from(vec![0; bytes]);
        let tail = codec::event_tail(v1::Sender { user: "u".into(), ..Default::default() }, 1, 0, envelope);
        codec::event_record(EventFront { handle: 7, lane, seq, order: 1, epoch: 0 }, &tail)
    }

    #[test]
    fn each_part_of_the_way_is_told_apart() {
        let mut bench = Bench::new();
        let received = bench.clock.elapsed();
        bench.pass(3);
        bench.tell(9, Urgent, 1);
        let numbers = Numbers { epoch: 9, lane: Urgent, seq: 1, order: 1 };
        bench.pass(1);
        bench.traces.stored("r", numbers, received);
        bench.traces.asked("r", numbers, START_MS - 20);
        bench.pass(40);
        bench.pop(&record(Lane::Urgent, 1, 10));
        let DeliveryTrace { queue_ms, wire_ms, .. } = &bench.trace(Urgent, 1).unwrap().deliveries[0];
        assert_eq!((*queue_ms, *wire_ms), (Some(41.0), None), "on its way");
        bench.pass(5);
        bench.follower.written(&bench.traces, &bench.connection);
        bench.pass(30);
        bench.follower.acknowledged(&bench.traces, &bench.connection, 7, 1);
        let trace = bench.trace(Urgent, 1).unwrap();
        // It was told to the subscribers before the engine answered.
        assert_eq!((trace.publisher_ms, trace.engine_ms), (Some(23.0), Some(3.0)));
        let [delivery] = &trace.deliveries[..] else { panic!("{trace:?}") };
        assert_eq!((delivery.wire_ms, delivery.acknowledged), (Some(35.0), true));
        assert!(bench.trace(Bulk, 1).is_none());
    }

    #[test]
    fn an_event_in_pieces_is_written_with_the_last_one() {
        let mut bench = Bench::new();
        bench.tell(9, Bulk, 4);
        let whole = codec::records(record(Lane::Bulk, 4, 900), usize::MAX).next().unwrap().unwrap();
        for (at, piece) in whole.chunks(400).enumerate() {
            let total = if at == 0 { whole.len() as u64 } else { 0 };
            let data = Bytes::copy_from_slice(piece);
            let piece = v1::Fragment { transfer: 1, lane: v1::Lane::Bulk.into(), total, data };
            bench.pop(&codec::encode_body(0, Body::Fragment(piece)));
            bench.pass(10);
            bench.follower.written(&bench.traces, &bench.connection);
        }
        let [delivery] = &bench.trace(Bulk, 4).unwrap().deliveries[..] else { panic!("one") };
        assert_eq!((delivery.queue_ms, delivery.wire_ms), (Some(0.0), Some(30.0)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut bench = Bench::new();
        (1..=EVENTS_MAX as u64 + 1).for_each(|seq| bench.tell(9, Bulk, seq));
        assert!(bench.trace(Bulk, 1).is_none() && bench.trace(Bulk, 2).is_some());
        for connection in 0..DELIVERIES_MAX + 3 {
            bench.connection = connection.to_string().into();
            bench.pop(&record(Lane::Bulk, 9, 1));
        }
        let trace = bench.trace(Bulk, 9).unwrap();
        assert_eq!((trace.deliveries.len(), trace.untraced), (DELIVERIES_MAX, 3));
        assert!(bench.follower.unwritten.len() <= WAITING_MAX);
        bench.tell(10, Bulk, 9);
        assert!(bench.trace(Bulk, 9).unwrap().deliveries.is_empty(), "another event of the same seq");
    }

    #[test]
    fn a_node_that_traces_nothing_remembers_nothing() {
        let traces = Traces::new(Clock::manual(0), false);
        traces.stored("r", Numbers { epoch: 1, lane: Bulk, seq: 1, order: 1 }, Duration::ZERO);
        assert!(!traces.is_on() && traces.find("r", 1, &DurableLane::ALL).is_empty());
    }
}
