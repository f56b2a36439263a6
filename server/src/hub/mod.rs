//! Rooms and their local subscribers: what reaches the node is encoded once and shared by all of them.
//!
//! ```text
//! engine ──(sink: appended, transient, signal, epoch)──▶ room ──(marks, records)──▶ mailboxes ──▶ sessions
//!           ◀──────────────── open, read ─────────────── room ◀──── read(after seq) ──────────────┘
//! ```
//!
//! Invariant: a room's lock is never held across an await, and never while the engine is called; the engine may call
//! the sink while it holds its own lock of the room. So the order is engine, then hub, then mailbox.
//!
//! Invariant: the hub queues no durable event for anybody. It marks a lane ready, and whoever subscribed reads from
//! its own place when it has room.

mod cache;
mod mailbox;
mod open;
mod pages;
mod read;
mod room;
mod shared;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use lanecast_protocol::codec::{self, EventFront};
use lanecast_protocol::lane::Lane;
use lanecast_protocol::log;
use lanecast_protocol::lossy::Pushed;
use lanecast_protocol::place::{Batch, Stored};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::cache::Kept;
pub use self::mailbox::{Mailbox, Mark};
use self::pages::Budget;
pub use self::room::Room;
use crate::auth::rights::TypeFilter;
use crate::clock::Clock;
use crate::cluster::Inbox;
use crate::engine::{Engine, EngineSink, Opened, Signal, Transient};
use crate::health::Health;
use crate::policy::Policies;
use crate::telemetry::Metrics;
use crate::telemetry::labels::{DropReason, NodeMessage, Source};
use crate::trace::Traces;

const SHARDS: usize = 64;
/// Rooms without a subscriber stay this long, so that a client that comes back finds its transient count and the
/// cache as it left them.
const LINGER_MS: u64 = 30_000;
/// Lingering rooms at most; beyond it the oldest leave at once.
const LINGERING_MAX: usize = 10_000;
/// Events of one read of the log.
pub const READ_EVENTS_MAX: usize = 200;

/// A subscription as the hub opened it.
#[derive(Debug)]
pub struct Subscription {
    /// The room; keep it to read and to leave.
    pub room: Arc<Room>,
    /// The handle of (room, epoch).
    pub handle: u64,
    /// Where it begins, and what is known of transients.
    pub opened: Opened,
}

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub struct Interest {
    /// Where to begin.
    pub start: log::Start,
    /// The transient mark that it had.
    pub transients: Option<v1::TransientMark>,
    /// Whether it wants signals.
    pub signals: bool,
    /// The types that its right covers.
    pub types: TypeFilter,
    /// Whether [`Hub::enliven`] follows: signals that come before it wait for the live ones.
    pub live: bool,
}

/// Something was read for a place.
#[derive(Debug, Default)]
pub struct ReadOut {
    /// The events.
    pub batch: Batch,
    /// Whether the log has more.
    pub more: bool,
    /// If it came from the room's cache: since when the oldest event was there, node's clock, ms.
    pub cached_since_ms: Option<u64>,
    /// Where it was found.
    pub source: Source,
    /// Where the next page begins, once it is time to read it ahead: little is left of the one that this came from, or it is
    /// not the first that is taken from it.
    pub ahead: Option<u64>,
}

/// A part of the rooms, by name.
type Shard = Mutex<HashMap<Arc<str>, Arc<Room>>>;

/// All rooms that have, or had a moment ago, a subscriber on this node.
pub struct Hub {
    shards: Box<[Shard]>,
    hasher: RandomState,
    handles: AtomicU64,
    lingering: Mutex<VecDeque<(u64, Arc<Room>)>>,
    /// Rooms with pages of their logs.
    paged: Mutex<Vec<Weak<Room>>>,
    page_budget: Arc<Budget>,
    engine: OnceLock<Arc<dyn Engine>>,
    inbox: Inbox,
    /// Whether the store can be reached, as the engine says.
    store: watch::Sender<bool>,
    /// Whether clients are told that it is not.
    degraded: AtomicBool,
    clock: Clock,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    policies: Policies,
    traces: Arc<Traces>,
}

impl Hub {
    /// An empty hub. Connect the engine before the first subscriber.
    pub fn new(
        clock: Clock,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        policies: Policies,
        traces: Arc<Traces>,
    ) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            handles: AtomicU64::new(0),
            lingering: Mutex::default(),
            paged: Mutex::default(),
            page_budget: Arc::default(),
            store: watch::Sender::new(true),
            degraded: AtomicBool::new(false),
            engine: OnceLock::new(),
            inbox: Inbox::default(),
            clock,
            metrics,
            health,
            policies,
            traces,
        }
    }

    /// Connects the engine whose sink this hub is. The first call counts.
    pub fn connect(&self, engine: Arc<dyn Engine>) {
        let _ = self.engine.set(engine);
    }

    /// The engine.
    ///
    /// # Panics
    /// If none was connected, which start-up does before anything else can run.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        self.engine.get().expect("start-up connects the engine")
    }

    /// What other nodes said to this one.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    fn shard(&self, name: &str) -> &Shard {
        let at = self.hasher.hash_one(name) as usize % self.shards.len();
        &self.shards[at]
    }

    fn kept(&self, name: &str) -> Kept {
        let policy = self.policies.of(name);
        let events_max = usize::try_from(policy.retention_events).unwrap_or(usize::MAX);
        Kept { events_max, age_ms_max: policy.retention_ms }
    }

    /// The room, if it has a subscriber on this node or had one a moment ago.
    pub fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.shard(name).lock().get(name).cloned()
    }

    /// Counts what a signal did to those that waited before it.
    fn count_pushed(&self, pushed: Pushed) {
        if let Some(reason) = DropReason::of(pushed) {
            self.metrics.drops.of((Lane::Signal, reason)).inc();
        }
    }

    fn next_handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn enter(&self, name: &str, mailbox: &Arc<Mailbox>) -> Arc<Room> {
        let mut shard = self.shard(name).lock();
        let room =
            shard.entry(name.into()).or_insert_with_key(|name| Arc::new(Room::new(Arc::clone(name), self.kept(name))));
        let room = Arc::clone(room);
        // Inside the shard's lock, so that the sweep cannot take the room away in between.
        room.enter(mailbox);
        room
    }

    /// Ends a subscription.
    pub fn leave(&self, room: &Arc<Room>, mailbox: &Arc<Mailbox>) {
        let (handle, empty) = room.leave(mailbox);
        mailbox.forget(handle);
        if empty {
            self.lingering.lock().push_back((self.clock.now_ms() + LINGER_MS, Arc::clone(room)));
        }
    }

    /// Drops rooms that had no subscriber for a while. Call it every few seconds.
    pub async fn sweep(&self) {
        self.sweep_pages();
        let now_ms = self.clock.now_ms();
        loop {
            let due = {
                let mut lingering = self.lingering.lock();
                match lingering.front() {
                    Some((until, _)) if *until <= now_ms || lingering.len() > LINGERING_MAX => lingering.pop_front(),
                    _ => None,
                }
            };
            let Some((_, room)) = due else { return };
            self.forget(&room).await;
        }
    }

    /// Rooms with a subscriber, or that had one a moment ago.
    pub fn rooms(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("rooms", &self.rooms()).finish_non_exhaustive()
    }
}

impl EngineSink for Hub {
    fn appended(&self, room: &Arc<str>, epoch: u64, record: &log::Record) {
        self.traces.fanned_out(room, epoch, record);
        if let Some(room) = self.find(room)
            && room.appended(epoch, record)
        {
            Self::mark_rest(room);
        }
    }

    fn transient(&self, room: &Arc<str>, event: &Transient, mark: &v1::TransientMark) {
        let count = match event.lane {
            DurableLane::Urgent => mark.urgent,
            DurableLane::Normal => mark.normal,
            DurableLane::Bulk => mark.bulk,
        };
        if let Some(room) = self.find(room) {
            let dropped = room.transient(event, count);
            self.metrics.drops.of((event.lane.into(), DropReason::QueueFull)).inc_by(dropped);
        }
    }

    fn signal(&self, room: &Arc<str>, signal: &Signal) {
        if let Some(room) = self.find(room) {
            room.signal(signal, |pushed| self.count_pushed(pushed));
        }
    }

    fn epoch_changed(&self, room: &Arc<str>, epoch: u64) {
        if let Some(room) = self.find(room) {
            room.epoch_changed(epoch, self.next_handle());
        }
    }

    fn transients_missed(&self, room: &Arc<str>, lane: DurableLane, count: Option<u64>) {
        if let Some(room) = self.find(room) {
            room.transients_missed(lane, count);
        }
    }

    fn jumped(&self, room: &Arc<str>, lane: DurableLane) {
        if let Some(room) = self.find(room)
            && room.jumped(lane)
        {
            Self::mark_rest(room);
        }
    }

    fn reachable(&self, reachable: bool) {
        tracing::info!(reachable, "the engine's store");
        self.health.set_reachable(reachable);
        self.store.send_replace(reachable);
    }

    fn following(&self, following: bool) {
        self.health.set_following(following);
    }

    fn told(&self, message: &Bytes) {
        if !self.inbox.push(message) {
            self.metrics.node_messages.of(NodeMessage::Dropped).inc();
        }
    }
}

/// A log record as a subscriber gets it.
fn stored(handle: u64, record: &log::Record) -> Stored {
    let front = EventFront { handle, lane: record.lane.into(), seq: record.seq, order: record.order, epoch: 0 };
    Stored {
        seq: record.seq,
        expires_at_ms: record.expires_at_ms,
        event_type: Arc::clone(&record.event_type),
        record: codec::event_record(front, &record.tail),
    }
}
