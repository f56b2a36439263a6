//! The embedded engine: rooms in the memory of the one node, and the executable definition of [`Engine`].
//!
//! A restart loses everything, which clients see as a new epoch. There is no background work: what is too old is
//! dropped when its room is touched, and [`Engine::sweep`] does it for rooms that nobody touches.
//!
//! Bounds: rooms, bytes and signals per room, see [`MemoryOptions`]; beyond them requests are refused. A room that was
//! never published to may be forgotten as soon as nobody is subscribed, since it would come back as it was; one that
//! was published to, only when it has been idle for [`ROOM_IDLE_MS`] and has nothing left to remember.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::log::{
    Append, Head, HistoryQuery, Numbers, Outcome, Page, Read, Record, Retention, RoomLog, Start, epoch_candidate,
};
use lanecast_protocol::position::{DurableLane, PerLane};
use lanecast_protocol::v1;
use parking_lot::{Mutex, RwLock};

use super::signals::{SignalTable, TableFull};
use super::{
    Engine, EngineError, EngineSink, EngineStats, Glance, LEASE_MS, Lease, Opened, REVOCATIONS_MAX, REVOCATIONS_PAGE,
    Revocation, RevocationCursor, RevocationPage, RevocationTable, Signal, Signalled, Transient, missed_since,
};
use crate::clock::Clock;

/// How long a room that was published to is remembered after the last that happened in it.
pub const ROOM_IDLE_MS: u64 = 24 * 60 * 60 * 1000;
/// Locks over the table of rooms.
const SHARDS: usize = 64;
/// What a room costs beyond what is in it.
const ROOM_OVERHEAD_BYTES: usize = 1024;
/// When to try again after a bound was reached: about when the next sweep was.
const FULL_RETRY_MS: u32 = 5_000;
/// The retention of a room before its first append.
const NO_RETENTION: Retention = Retention { events_max: 1, age_ms_max: u64::MAX };

/// Bounds of the memory engine.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Rooms held at once.
    pub rooms_max: usize,
    /// Bytes of all rooms together.
    pub bytes_max: usize,
    /// (sender, type, key) of signals held per room.
    pub room_signals_max: usize,
    /// Users, devices and tokens that may be revoked at once.
    pub revocations_max: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            rooms_max: 100_000,
            bytes_max: 1024 * 1024 * 1024,
            room_signals_max: 4096,
            revocations_max: REVOCATIONS_MAX,
        }
    }
}

struct Room {
    name: Arc<str>,
    log: RoomLog,
    signals: SignalTable,
    /// Names the stretch in which this room counted its transients without a break.
    transient_source: u64,
    transient_counts: PerLane<u64>,
    subscribed: bool,
    touched_ms: u64,
    /// What of the engine's `bytes` is this room's.
    accounted: usize,
    /// What of the engine's `watermarks_evicted` is this room's.
    evicted: u64,
}

impl Room {
    fn new(name: Arc<str>, epoch: u64) -> Self {
        Self {
            name,
            log: RoomLog::new(epoch, NO_RETENTION),
            signals: SignalTable::default(),
            // Below 2^53 and never 0, like every number that travels.
            transient_source: (rand::random::<u64>() >> 11) | 1,
            transient_counts: PerLane::default(),
            subscribed: false,
            touched_ms: 0,
            accounted: 0,
            evicted: 0,
        }
    }

    fn transient_mark(&self) -> v1::TransientMark {
        let PerLane([urgent, normal, bulk]) = self.transient_counts;
        v1::TransientMark { source: self.transient_source, urgent, normal, bulk }
    }

    fn was_published_to(&self) -> bool {
        self.log.head().order > 0
    }

    fn may_be_forgotten(&self, now_ms: u64) -> bool {
        let idle = !self.was_published_to() || self.touched_ms.saturating_add(ROOM_IDLE_MS) <= now_ms;
        idle && !self.subscribed && self.log.is_idle() && self.signals.is_empty()
    }

    fn cost(&self) -> usize {
        self.log.cost() + self.signals.cost() + self.name.len() + ROOM_OVERHEAD_BYTES
    }
}

type Shard = HashMap<Arc<str>, Arc<Mutex<Room>>>;

/// The embedded engine. See the [module](self).
pub struct MemoryEngine {
    options: MemoryOptions,
    clock: Clock,
    sink: Arc<dyn EngineSink>,
    hasher: RandomState,
    /// Lock order: shard, then room. Whoever needs a room clones it out of its shard and lets the shard go, so that
    /// work in one room delays no other.
    shards: [RwLock<Shard>; SHARDS],
    /// The epoch of rooms that are made from now on. It rises when a room that was published to is forgotten.
    epoch: AtomicU64,
    rooms: AtomicUsize,
    bytes: AtomicUsize,
    refused: AtomicU64,
    watermarks_evicted: AtomicU64,
    /// The lease of the one node, and when it runs out, ms.
    lease: Mutex<Option<(Lease, u64)>>,
    revocations: Mutex<RevocationTable>,
}

impl MemoryEngine {
    /// An engine without rooms, in an epoch that no earlier one had.
    pub fn new(options: MemoryOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Self {
        // 0 is no epoch.
        let epoch = epoch_candidate(clock.now_ms(), rand::random()).max(1);
        // The store is the process itself.
        sink.reachable(true);
        sink.following(true);
        Self {
            options,
            clock,
            sink,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| RwLock::default()),
            epoch: AtomicU64::new(epoch),
            rooms: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            watermarks_evicted: AtomicU64::new(0),
            lease: Mutex::default(),
            revocations: Mutex::default(),
        }
    }

    fn shard(&self, name: &str) -> &RwLock<Shard> {
        let shards = SHARDS as u64;
        &self.shards[(self.hasher.hash_one(name) % shards) as usize]
    }

    fn find(&self, name: &str) -> Option<Arc<Mutex<Room>>> {
        self.shard(name).read().get(name).cloned()
    }

    fn find_or_make(&self, name: &str) -> Result<Arc<Mutex<Room>>, EngineError> {
        if let Some(room) = self.find(name) {
            return Ok(room);
        }
        let mut shard = self.shard(name).write();
        if let Some(room) = shard.get(name) {
            return Ok(room.clone());
        }
        if self.rooms.fetch_add(1, Ordering::Relaxed) >= self.options.rooms_max {
            self.rooms.fetch_sub(1, Ordering::Relaxed);
            return Err(self.full("rooms"));
        }
        let name: Arc<str> = name.into();
        let room = Arc::new(Mutex::new(Room::new(name.clone(), self.epoch.load(Ordering::Relaxed))));
        shard.insert(name, room.clone());
        Ok(room)
    }

    /// Does something in a room that is made if need be.
    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Room, u64) -> T) -> Result<T, EngineError> {
        let room = self.find_or_make(name)?;
        let mut room = room.lock();
        // The time is read under the lock, so that it does not run back within a room.
        let now_ms = self.clock.now_ms();
        room.touched_ms = now_ms;
        room.log.trim(now_ms);
        let result = act(&mut room, now_ms);
        self.account(&mut room);
        Ok(result)
    }

    /// Reads a room, or an empty one in its place: reading makes none.
    fn view<T>(&self, name: &str, read: impl FnOnce(&Room, u64) -> T) -> T {
        let Some(room) = self.find(name) else {
            let blank = Room::new(name.into(), self.epoch.load(Ordering::Relaxed));
            return read(&blank, self.clock.now_ms());
        };
        let mut room = room.lock();
        let now_ms = self.clock.now_ms();
        room.log.trim(now_ms);
        let result = read(&room, now_ms);
        self.account(&mut room);
        result
    }

    fn account(&self, room: &mut Room) {
        let cost = room.cost();
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        self.bytes.fetch_sub(room.accounted, Ordering::Relaxed);
        room.accounted = cost;
        let evicted = room.log.watermarks_evicted();
        self.watermarks_evicted.fetch_add(evicted - room.evicted, Ordering::Relaxed);
        room.evicted = evicted;
    }

    fn full(&self, what: &'static str) -> EngineError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        EngineError::Full { what, retry_after_ms: FULL_RETRY_MS }
    }

    fn append_one(&self, room: &mut Room, now_ms: u64, item: Append) -> Result<Outcome, EngineError> {
        let bytes = self.bytes.load(Ordering::Relaxed) + room.cost() - room.accounted;
        if bytes + item.tail.len() > self.options.bytes_max {
            return Err(self.full("bytes"));
        }
        let told = room.subscribed.then(|| item.clone());
        let outcome = room.log.append(now_ms, item);
        if let (Outcome::Stored(Numbers { epoch, lane, seq, order }), Some(item)) = (outcome, told) {
            let Append { time_ms, expires_at_ms, event_type, tail, .. } = item;
            self.sink.appended(
                &room.name,
                epoch,
                &Record { lane, seq, order, time_ms, expires_at_ms, event_type, tail },
            );
        }
        Ok(outcome)
    }

    fn sweep_room(&self, room: &Arc<Mutex<Room>>, now_ms: u64) -> bool {
        // The caller holds the shard, so nobody can take hold of the room meanwhile.
        let unused = Arc::strong_count(room) == 1;
        let mut room = room.lock();
        room.log.trim(now_ms);
        room.signals.sweep(now_ms);
        self.account(&mut room);
        let forget = unused && room.may_be_forgotten(now_ms);
        if forget {
            self.bytes.fetch_sub(room.accounted, Ordering::Relaxed);
            self.rooms.fetch_sub(1, Ordering::Relaxed);
            if room.was_published_to() {
                // Its numbers would begin anew, so no room that is made from now on may be in its epoch.
                let candidate = epoch_candidate(now_ms, rand::random());
                let used = self.epoch.load(Ordering::Relaxed).max(room.log.epoch());
                self.epoch.fetch_max(candidate.max(used + 1), Ordering::Relaxed);
            }
        }
        !forget
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    async fn append(&self, room: &str, retention: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>> {
        let count = items.len();
        let outcomes = self.with(room, |room, now_ms| {
            room.log.set_retention(retention);
            items.into_iter().map(|item| self.append_one(room, now_ms, item)).collect()
        });
        outcomes.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn append_replicated(&self, _: &str, _: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>> {
        // Nobody could confirm: a node on this engine does not offer it (LC-PUB-031).
        vec![Err(EngineError::Unavailable { retry_after_ms: FULL_RETRY_MS }); items.len()]
    }

    fn replicates(&self) -> bool {
        false
    }

    async fn read(
        &self,
        room: &str,
        lane: DurableLane,
        after: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Read, EngineError> {
        Ok(self.view(room, |room, _| room.log.read(lane, after, records_max, bytes_max)))
    }

    async fn history(&self, room: &str, query: HistoryQuery) -> Result<Page, EngineError> {
        Ok(self.view(room, |room, now_ms| room.log.history(now_ms, &query)))
    }

    async fn head(&self, room: &str) -> Result<Head, EngineError> {
        Ok(self.view(room, |room, _| room.log.head()))
    }

    async fn open(
        &self,
        room: &str,
        start: Start,
        transients: Option<v1::TransientMark>,
    ) -> Result<Opened, EngineError> {
        self.with(room, |room, now_ms| Opened {
            log: room.log.open(now_ms, start),
            transients: room.transient_mark(),
            missed_transients: missed_since(room.transient_mark(), transients),
        })
    }

    async fn publish_transient(&self, room: &str, event: Transient) -> Result<(), EngineError> {
        // Nobody can have a mark of a room that is not there, so there is nothing to count.
        let Some(room) = self.find(room) else { return Ok(()) };
        let mut room = room.lock();
        room.transient_counts[event.lane] += 1;
        if room.subscribed {
            self.sink.transient(&room.name, &event, &room.transient_mark());
        }
        Ok(())
    }

    async fn signal(&self, room: &str, signal: Signal) -> Result<Signalled, EngineError> {
        self.with(room, |room, now_ms| {
            let signalled = room.signals.put(now_ms, &signal, self.options.room_signals_max);
            let signalled = signalled.map_err(|TableFull| self.full("signals"))?;
            if signalled == Signalled::Newest && room.subscribed {
                self.sink.signal(&room.name, &signal);
            }
            Ok(signalled)
        })?
    }

    async fn live_signals(&self, room: &str) -> Result<Vec<Signal>, EngineError> {
        Ok(self.view(room, |room, now_ms| room.signals.live(now_ms)))
    }

    async fn subscribe(&self, room: &str) -> Result<(), EngineError> {
        self.with(room, |room, _| room.subscribed = true)
    }

    async fn unsubscribe(&self, room: &str) -> Result<(), EngineError> {
        if let Some(room) = self.find(room) {
            let mut room = room.lock();
            room.subscribed = false;
            room.touched_ms = self.clock.now_ms();
        }
        Ok(())
    }

    fn glance(&self, room: &str) -> Option<Glance> {
        let room = self.find(room)?;
        let room = room.lock();
        let head = room.log.head();
        room.subscribed.then(|| Glance { head: head.position, order: head.order, transients: room.transient_mark() })
    }

    async fn announce(&self, lease: Lease) -> Result<(), EngineError> {
        *self.lease.lock() = Some((lease, self.clock.now_ms() + LEASE_MS));
        Ok(())
    }

    async fn retire(&self, node: &str) -> Result<(), EngineError> {
        self.lease.lock().take_if(|(lease, _)| lease.node == node);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<Lease>, EngineError> {
        let now_ms = self.clock.now_ms();
        let lease = self.lease.lock();
        Ok(lease.iter().filter(|(_, until_ms)| *until_ms > now_ms).map(|(lease, _)| lease.clone()).collect())
    }

    async fn tell(&self, node: Option<&str>, message: Bytes) -> Result<(), EngineError> {
        let known = self.lease.lock().as_ref().is_some_and(|(lease, _)| node.is_none_or(|node| lease.node == node));
        if known {
            self.sink.told(&message);
        }
        Ok(())
    }

    async fn revoke(&self, change: Revocation) -> Result<Revocation, EngineError> {
        let changed = self.revocations.lock().change(self.clock.now_ms(), change, self.options.revocations_max);
        changed.map_err(|_| self.full("revocations"))
    }

    async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError> {
        // The store is the process itself, so its data have one life.
        let serial = after.map_or(0, |after| after.serial);
        let table = self.revocations.lock();
        let (changes, serial) = table.after(serial, REVOCATIONS_PAGE);
        let (cursor, more) = (RevocationCursor { life: Arc::from(""), serial }, serial < table.serial());
        Ok(RevocationPage { changes, cursor, more, anew: false })
    }

    async fn restore(&self, known: Vec<Revocation>) -> Result<(), EngineError> {
        let mut table = self.revocations.lock();
        for change in known {
            table.merge(change);
        }
        Ok(())
    }

    fn sweep(&self) {
        let now_ms = self.clock.now_ms();
        self.revocations.lock().sweep(now_ms);
        for shard in &self.shards {
            shard.write().retain(|_, room| self.sweep_room(room, now_ms));
        }
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            rooms: self.rooms.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            watermarks_evicted: self.watermarks_evicted.load(Ordering::Relaxed),
        }
    }
}
