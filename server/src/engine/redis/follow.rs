//! The rooms that this node follows: how far each was told to the sink, and how holes are seen.
//!
//! The log is the truth, Pub/Sub is the wake-up. A message whose seq is the next one is told; one beyond it means a hole,
//! which is read from the log first; one below it was told already. Nothing is queued: while a hole is being read,
//! further messages only say that there is more to read.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use lanecast_protocol::log::Read;
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::ROOM_SIGNALS_MAX;
use super::record::{self, Message};
use super::state::{Audited, State};
use crate::engine::signals::SignalTable;
use crate::engine::{EngineSink, Glance, Signal, Signalled};

const SHARDS: usize = 64;
/// Messages kept while a room's beginning is being read; of more the log and the counts tell later.
const PENDING_MAX: usize = 64;

/// A room that the node follows.
pub(super) struct Room {
    pub(super) name: Arc<str>,
    pub(super) told: Mutex<Told>,
    /// The room went live, or will not.
    pub(super) changed: Notify,
}

/// How far a room was told. The sink is called under its lock, so that what it hears of a room is in order.
#[derive(Default)]
pub(super) struct Told {
    /// Its beginning is known, and what comes after is told.
    pub(super) live: bool,
    /// Its beginning is being read.
    pub(super) joining: bool,
    pub(super) epoch: u64,
    /// The first seqs of the epoch.
    first: PerLane<u64>,
    pub(super) head: PerLane<u64>,
    order: u64,
    transients: PerLane<u64>,
    /// The live signals as this node knows them, and the serial of the newest: whoever enters the room gets them from
    /// here, so that none comes twice.
    signals: SignalTable,
    serial: u64,
    /// The newest seqs that this node was acknowledged as stored.
    stored: PerLane<u64>,
    /// The log of a lane is being read for what was missed, or only announced. The other lanes are told meanwhile.
    pub(super) reading: PerLane<bool>,
    /// There is more to read than the one that reads knows.
    pub(super) again: PerLane<bool>,
    /// What the store has is being read anew.
    pub(super) opening: bool,
    /// There is reason to read it once more.
    pub(super) open_again: bool,
    /// Messages did not come: others may be missing too.
    pub(super) holes: bool,
    pending: VecDeque<Message>,
    /// The audit that found nothing missing: it came on this connection of the subscriber.
    verified: u64,
    /// Transients that reached this node's own clients only, while the store was away.
    owed: PerLane<u64>,
    /// The store is being told of them.
    settling: PerLane<bool>,
    /// Counts that stand for them: the last such range, its epoch, first and last. The epoch may be one that this node
    /// has not heard of yet.
    own: PerLane<(u64, u64, u64)>,
}

/// What is to be done about a room, outside its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// Read what is missing in these lanes.
    Read(PerLane<bool>),
    /// See what the store has: another epoch, or more than can be said from here.
    Open,
    /// Read the live signals anew.
    Signals,
}

impl Need {
    fn read(lane: DurableLane) -> Self {
        Self::Read(PerLane::from_fn(|other| other == lane))
    }

    /// Reading what lies between two heads, if there is something.
    fn between(told: PerLane<u64>, head: PerLane<u64>) -> Self {
        let lanes = PerLane::from_fn(|lane| head[lane] > told[lane]);
        if lanes == PerLane::default() { Self::Nothing } else { Self::Read(lanes) }
    }

    /// Both; opening a room reads all of its lanes, and signals have an audit of their own.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Read(one), Self::Read(other)) => Self::Read(PerLane::from_fn(|lane| one[lane] || other[lane])),
            (Self::Open, _) | (_, Self::Nothing) => self,
            (Self::Nothing, _) | (_, Self::Open) => other,
            (Self::Read(_), Self::Signals) => self,
            (Self::Signals, _) => other,
        }
    }
}

impl Told {
    /// What the node saw, for scripts to compare with what the store has.
    pub(super) fn seen(&self) -> Seen {
        match self.live {
            true => {
                let heads = PerLane::from_fn(|lane| self.head[lane].max(self.stored[lane]));
                Seen { epoch: self.epoch, first: self.first, heads }
            }
            false => Seen::default(),
        }
    }

    /// As if the room had been followed.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, seen: Seen) {
        (self.live, self.epoch, self.first, self.head) = (true, seen.epoch, seen.first, seen.heads);
    }

    pub(super) fn mark(&self) -> v1::TransientMark {
        mark(self.epoch, self.transients)
    }

    /// The beginning of a room: everything after it will be told.
    pub(super) fn begin(&mut self, sink: &dyn EngineSink, room: &Arc<str>, state: &State, live: Live) -> Need {
        *self = Self {
            live: true,
            epoch: state.epoch,
            first: state.epoch_first(),
            head: state.heads,
            order: state.order,
            transients: state.transients,
            pending: std::mem::take(&mut self.pending),
            ..Self::default()
        };
        let (mut need, now_ms) = (Need::Nothing, live.now_ms);
        // Nobody is there yet who could be told.
        self.take_live(None, room, live);
        for message in std::mem::take(&mut self.pending) {
            need = need.and(self.hear(sink, room, now_ms, message));
        }
        need
    }

    /// What the store has, read anew. A new epoch is told; whoever has a place in the room opens it again.
    pub(super) fn update(&mut self, sink: &dyn EngineSink, room: &Arc<str>, state: &State) -> Need {
        if !self.live || state.epoch <= self.epoch {
            return Need::Nothing;
        }
        let ended = state.transients_of(self.epoch);
        for lane in DurableLane::ALL {
            match ended.map(|ended| ended[lane].checked_sub(self.transients[lane])) {
                Some(Some(0)) => {}
                Some(Some(missed)) => sink.transients_missed(room, lane, Some(missed)),
                // More was told than the store remembers, or it remembers nothing: what else was lost nobody knows.
                Some(None) => sink.transients_missed(room, lane, None),
                None if self.transients[lane] > 0 => sink.transients_missed(room, lane, None),
                None => {}
            }
        }
        self.epoch = state.epoch;
        self.first = state.epoch_first();
        // What the new epoch has already is told as what comes.
        self.head = PerLane::from_fn(|lane| self.first[lane] - 1);
        self.order = state.epoch_first_order() - 1;
        self.transients = PerLane::default();
        self.stored = PerLane::default();
        self.verified = 0;
        sink.epoch_changed(room, state.epoch);
        Need::between(self.head, state.heads)
    }

    /// What of the store's state was not told.
    pub(super) fn behind(&self, state: &State) -> Need {
        if !self.live || state.epoch != self.epoch {
            return Need::Nothing;
        }
        Need::between(self.head, state.heads)
    }

    /// Whether something is being read that was not told.
    pub(super) fn is_reading(&self) -> bool {
        self.opening || DurableLane::ALL.into_iter().any(|lane| self.reading[lane])
    }

    /// Takes in a message.
    pub(super) fn hear(&mut self, sink: &dyn EngineSink, room: &Arc<str>, now_ms: u64, message: Message) -> Need {
        if !self.live {
            if self.pending.len() == PENDING_MAX {
                self.pending.pop_front();
            }
            self.pending.push_back(message);
            return Need::Nothing;
        }
        match message {
            Message::Signal { serial, record } => {
                if let Some(signal) = record::decode_signal(record) {
                    self.take_live(Some(sink), room, Live { now_ms, serial, signals: vec![signal] });
                }
                Need::Nothing
            }
            Message::Transient { epoch, lane, count, mut record } => {
                if epoch != self.epoch {
                    return if epoch > self.epoch { Need::Open } else { Need::Nothing };
                }
                if count <= self.transients[lane] {
                    return Need::Nothing;
                }
                self.miss_up_to(sink, room, lane, count - 1);
                self.transients[lane] = count;
                match record::take(&mut record) {
                    Some(event) => sink.transient(room, &event.transient(lane), &self.mark()),
                    // Of a later version: it was there, and cannot be delivered.
                    None => sink.transients_missed(room, lane, Some(1)),
                }
                Need::Nothing
            }
            Message::Events { epoch, lane, seq, order, count, records } => {
                if epoch != self.epoch {
                    return if epoch > self.epoch { Need::Open } else { Need::Nothing };
                }
                let last = seq + count.saturating_sub(1);
                if last <= self.head[lane] {
                    return Need::Nothing;
                }
                if self.reading[lane] {
                    return Need::read(lane);
                }
                if seq > self.head[lane] + 1 {
                    self.holes = true;
                    return Need::read(lane);
                }
                self.tell_group(sink, room, (lane, seq, order, count), records)
            }
        }
    }

    /// Takes in signals: the newest of each key are kept, and told.
    pub(super) fn take_live(&mut self, sink: Option<&dyn EngineSink>, room: &Arc<str>, live: Live) {
        self.serial = self.serial.max(live.serial);
        for signal in &live.signals {
            // A table that is full here was full in the store; signals may be lost.
            let newest = self.signals.put(live.now_ms, signal, ROOM_SIGNALS_MAX);
            if let (Ok(Signalled::Newest), Some(sink)) = (newest, sink) {
                sink.signal(room, signal);
            }
        }
    }

    /// The live signals, in the order in which they came.
    pub(super) fn live_signals(&self, now_ms: u64) -> Option<Vec<Signal>> {
        self.live.then(|| self.signals.live(now_ms))
    }

    pub(super) fn sweep(&mut self, now_ms: u64) {
        self.signals.sweep(now_ms);
    }

    fn tell_group(
        &mut self,
        sink: &dyn EngineSink,
        room: &Arc<str>,
        (lane, seq, order, count): (DurableLane, u64, u64, u64),
        mut records: bytes::Bytes,
    ) -> Need {
        for at in 0..count {
            // Only announced, or of a later version.
            let Some(event) = record::take(&mut records) else { return Need::read(lane) };
            if seq + at > self.head[lane] {
                self.head[lane] = seq + at;
                self.order = self.order.max(order + at);
                sink.appended(room, self.epoch, &event.record(lane, seq + at, order + at));
            }
        }
        Need::Nothing
    }

    /// Tells what was read from the log. Returns whether there is more.
    pub(super) fn tell_read(&mut self, sink: &dyn EngineSink, room: &Arc<str>, lane: DurableLane, read: Read) -> bool {
        if read.epoch != self.epoch {
            return false;
        }
        let before = self.head[lane];
        if read.first > self.head[lane] + 1 {
            // What is missing is not in the log any more: readers get the gap from their own places.
            self.head[lane] = read.first - 1;
            sink.jumped(room, lane);
        }
        for record in read.records {
            if record.seq > self.head[lane] {
                self.head[lane] = record.seq;
                self.order = self.order.max(record.order);
                sink.appended(room, self.epoch, &record);
            }
        }
        self.head[lane] > before && self.head[lane] < read.head
    }

    /// Leaves out events that are too many to be told one by one: readers get them from the log.
    pub(super) fn jump(&mut self, sink: &dyn EngineSink, room: &Arc<str>, lane: DurableLane, to: u64) {
        if to > self.head[lane] {
            self.head[lane] = to;
            sink.jumped(room, lane);
        }
    }

    /// This node was acknowledged something as stored.
    pub(super) fn acknowledged(&mut self, epoch: u64, lane: DurableLane, seq: u64) {
        if epoch == self.epoch {
            self.stored[lane] = self.stored[lane].max(seq);
        }
    }

    /// Compares what the store had with what was told. To be called when everything that was published before the audit
    /// has arrived on the connection `generation`.
    pub(super) fn audit(&mut self, sink: &dyn EngineSink, room: &Arc<str>, found: &Audited, generation: u64) -> Need {
        if !self.live {
            return Need::Nothing;
        }
        if found.epoch != self.epoch {
            return if found.epoch > self.epoch { Need::Open } else { Need::Nothing };
        }
        for lane in DurableLane::ALL {
            // What is being settled shows up now or later; the next audit knows.
            if !self.settling[lane] {
                self.miss_up_to(sink, room, lane, found.transients[lane]);
            }
        }
        let need = Need::between(self.head, found.heads);
        if need != Need::Nothing {
            return need;
        }
        if DurableLane::ALL.into_iter().any(|lane| found.heads[lane] < self.stored[lane].min(self.head[lane])) {
            // It went back under our eyes: opening it will show what that means.
            return Need::Open;
        }
        self.verified = generation;
        if found.serial > self.serial { Need::Signals } else { Need::Nothing }
    }

    /// A transient event that reaches this node's own clients only, since the store is away; false: not even them.
    pub(super) fn tell_locally(
        &mut self,
        sink: &dyn EngineSink,
        room: &Arc<str>,
        event: &crate::engine::Transient,
    ) -> bool {
        if !self.live {
            return false;
        }
        self.owed[event.lane] += 1;
        let mut mark = self.mark();
        let count = match event.lane {
            DurableLane::Urgent => &mut mark.urgent,
            DurableLane::Normal => &mut mark.normal,
            DurableLane::Bulk => &mut mark.bulk,
        };
        *count += self.owed[event.lane];
        sink.transient(room, event, &mark);
        true
    }

    /// Transients up to this count have not come and will not, but for those that were told here alone.
    fn miss_up_to(&mut self, sink: &dyn EngineSink, room: &Arc<str>, lane: DurableLane, to: u64) {
        let from = self.transients[lane] + 1;
        if to < from {
            return;
        }
        self.transients[lane] = to;
        let own = match self.own[lane] {
            (epoch, first, last) if epoch == self.epoch => (last.min(to) + 1).saturating_sub(first.max(from)),
            _ => 0,
        };
        match to + 1 - from - own {
            // Whether they are this node's own is not known before the store has answered.
            _ if self.settling[lane] => sink.transients_missed(room, lane, None),
            0 => {}
            missed => sink.transients_missed(room, lane, Some(missed)),
        }
    }

    /// What the store must be told of a lane, if it is not being told already.
    pub(super) fn begin_settling(&mut self, lane: DurableLane) -> Option<u64> {
        let count = self.owed[lane];
        (count > 0 && !std::mem::replace(&mut self.settling[lane], true)).then_some(count)
    }

    /// What was told here alone now counts in the store too: `count` of them, up to the number `last`. `None`: it may or
    /// may not, so the store is told again; clients rather hear of too many than of too few.
    pub(super) fn settle(&mut self, lane: DurableLane, count: u64, answer: Option<(u64, u64)>) {
        self.settling[lane] = false;
        let Some((epoch, last)) = answer else { return };
        self.owed[lane] = self.owed[lane].saturating_sub(count);
        let before = last.saturating_sub(count);
        self.own[lane] = (epoch, before + 1, last);
        if epoch == self.epoch && self.transients[lane] == before {
            self.transients[lane] = last;
        }
    }

    /// What can be said without asking the store.
    pub(super) fn glance(&self, generation: u64) -> Option<Glance> {
        let caught_up = DurableLane::ALL.into_iter().all(|lane| self.stored[lane] <= self.head[lane]);
        let known = self.live && !self.is_reading() && caught_up && generation != 0 && self.verified == generation;
        let head = Position::new(self.epoch, self.head);
        known.then(|| Glance { head, order: self.order, transients: self.mark() })
    }

    /// A connection's first audit is done for a room that was opened on it.
    pub(super) fn verify(&mut self, generation: u64) {
        self.verified = generation;
    }
}

/// Signals that were read or came.
pub(super) struct Live {
    pub(super) now_ms: u64,
    /// The serial of the newest.
    pub(super) serial: u64,
    pub(super) signals: Vec<Signal>,
}

/// What a node saw of a room's newest epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// 0: nothing.
    pub(super) epoch: u64,
    pub(super) first: PerLane<u64>,
    pub(super) heads: PerLane<u64>,
}

/// Transients are counted anew in each epoch, so the epoch names the count.
pub(super) fn mark(epoch: u64, counts: PerLane<u64>) -> v1::TransientMark {
    let PerLane([urgent, normal, bulk]) = counts;
    v1::TransientMark { source: epoch, urgent, normal, bulk }
}

type Shard = RwLock<HashMap<Arc<str>, Arc<Room>>>;

/// All rooms that the node follows.
pub(super) struct Rooms {
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), hasher: RandomState::new() }
    }
}

impl Rooms {
    fn shard(&self, name: &str) -> &Shard {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.shard(name).read().get(name).cloned()
    }

    /// The room, and whether it is new.
    pub(super) fn enter(&self, name: &str) -> (Arc<Room>, bool) {
        let mut shard = self.shard(name).write();
        if let Some(room) = shard.get(name) {
            return (Arc::clone(room), false);
        }
        let name: Arc<str> = name.into();
        let room = Room { name: Arc::clone(&name), told: Mutex::default(), changed: Notify::new() };
        let room = Arc::new(room);
        shard.insert(name, Arc::clone(&room));
        (room, true)
    }

    pub(super) fn remove(&self, name: &str) -> Option<Arc<Room>> {
        self.shard(name).write().remove(name)
    }

    pub(super) fn all(&self) -> Vec<Arc<Room>> {
        self.shards.iter().flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Transient;
    use crate::engine::contract::recorder::{Recorder, Told as Heard};
    use DurableLane::{Bulk, Normal, Urgent};
    use bytes::Bytes;
    use lanecast_protocol::log::{Append, Origin};

    struct Bench {
        told: Told,
        sink: Recorder,
        room: Arc<str>,
    }

    impl Bench {
        fn new() -> Self {
            let mut told = Told::default();
            told.pretend(Seen { epoch: 9, first: PerLane([1; 3]), heads: PerLane::default() });
            Self { told, sink: Recorder::default(), room: "r".into() }
        }

        fn transient(&mut self, count: u64) {
            let event = Transient { lane: Normal, expires_at_ms: 0, event_type: "t".into(), tail: Bytes::new() };
            let record = record::transient(&event).into();
            let message = Message::Transient { epoch: 9, lane: Normal, count, record };
            assert_eq!(self.told.hear(&self.sink, &self.room, 0, message), Need::Nothing);
        }

        fn audit(&mut self, transients: u64) -> Need {
            let transients = PerLane([0, transients, 0]);
            let found = Audited { epoch: self.told.epoch, heads: self.told.head, transients, serial: 0 };
            self.told.audit(&self.sink, &self.room, &found, 1)
        }

        fn locally(&mut self, count: u64) {
            let event = Transient { lane: Normal, expires_at_ms: 0, event_type: "t".into(), tail: Bytes::new() };
            for _ in 0..count {
                assert!(self.told.tell_locally(&self.sink, &self.room, &event));
            }
            self.sink.take();
        }

        fn missed(&self) -> Vec<Option<u64>> {
            let missed = |told| if let Heard::Missed { count, .. } = told { Some(count) } else { None };
            self.sink.take().into_iter().filter_map(missed).collect()
        }
    }

    fn events(epoch: u64, lane: DurableLane, seq: u64, count: u64, inline: u64) -> Message {
        let append = Append {
            lane,
            origin: Origin::Unmarked,
            time_ms: 0,
            expires_at_ms: 0,
            event_type: "t".into(),
            tail: Bytes::new(),
        };
        let records = record::event(&append).repeat(inline as usize).into();
        Message::Events { epoch, lane, seq, order: seq, count, records }
    }

    #[test]
    fn what_is_only_announced_is_read_and_other_lanes_go_on() {
        let mut bench = Bench::new();
        let (sink, room) = (&bench.sink, &bench.room);
        let mut hear = |message| bench.told.hear(sink, room, 0, message);
        assert_eq!(hear(events(9, Bulk, 1, 4, 2)), Need::read(Bulk), "3 and 4 are only in the log");
        bench.told.reading[Bulk] = true;
        let mut hear = |message| bench.told.hear(sink, room, 0, message);
        assert_eq!(hear(events(9, Bulk, 5, 1, 1)), Need::read(Bulk), "behind what is being read");
        assert_eq!(hear(events(9, Urgent, 1, 1, 1)), Need::Nothing);
        assert_eq!(hear(events(10, Urgent, 1, 1, 1)), Need::Open);
        let lanes = sink.take().into_iter().filter_map(|told| match told {
            Heard::Appended { record, .. } => Some((record.lane, record.seq)),
            _ => None,
        });
        assert_eq!(lanes.collect::<Vec<_>>(), [(Bulk, 1), (Bulk, 2), (Urgent, 1)]);
        assert!(!bench.told.holes && bench.told.glance(1).is_none());
        bench.told.reading[Bulk] = false;
        assert_eq!(bench.told.hear(&bench.sink, &bench.room, 0, events(9, Bulk, 9, 1, 1)), Need::read(Bulk));
        assert!(bench.told.holes);
    }

    #[test]
    fn a_hole_in_the_count_is_missed_once() {
        let mut bench = Bench::new();
        bench.transient(1);
        bench.transient(4);
        bench.transient(3);
        bench.transient(4);
        assert_eq!(bench.missed(), [Some(2)]);
        assert_eq!(bench.audit(4), Need::Nothing);
        bench.audit(6);
        assert_eq!(bench.missed(), [Some(2)]);
    }

    #[test]
    fn what_was_told_here_alone_is_not_missed() {
        let mut bench = Bench::new();
        bench.locally(3);
        assert_eq!(bench.told.begin_settling(Normal), Some(3));
        assert_eq!(bench.told.begin_settling(Normal), None, "the store is asked once");
        bench.told.settle(Normal, 3, Some((9, 3)));
        bench.transient(4);
        bench.audit(4);
        assert_eq!(bench.missed(), []);
    }

    #[test]
    fn others_before_and_after_it_are_told_and_counted() {
        let mut bench = Bench::new();
        bench.locally(3);
        bench.told.begin_settling(Normal);
        // Another node published 1 and 2 before, of which 1 is lost and 2 still on its way.
        bench.told.settle(Normal, 3, Some((9, 5)));
        bench.transient(2);
        bench.transient(7);
        assert_eq!(bench.missed(), [Some(1), Some(1)], "1 and 6");
    }

    #[test]
    fn what_comes_before_the_answer_makes_the_number_unknown() {
        let mut bench = Bench::new();
        bench.locally(3);
        bench.told.begin_settling(Normal);
        bench.transient(4);
        assert_eq!(bench.missed(), [None]);
        bench.told.settle(Normal, 3, Some((9, 3)));
        bench.transient(5);
        assert_eq!(bench.missed(), [], "nothing is dropped in silence afterwards");
    }

    #[test]
    fn an_answer_of_an_epoch_that_is_not_known_yet_counts_there() {
        let mut bench = Bench::new();
        bench.locally(3);
        bench.told.begin_settling(Normal);
        bench.told.settle(Normal, 3, Some((10, 3)));
        bench.told.epoch = 10;
        bench.audit(3);
        assert_eq!(bench.missed(), [None; 0]);
    }

    #[test]
    fn an_answer_that_did_not_come_is_asked_for_again() {
        let mut bench = Bench::new();
        bench.locally(2);
        bench.told.begin_settling(Normal);
        bench.told.settle(Normal, 2, None);
        assert_eq!(bench.told.begin_settling(Normal), Some(2));
    }
}
