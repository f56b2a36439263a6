//! The engine on Redis: rooms that many nodes share.
//!
//! ```text
//!  append ─▶ group ─▶ append.lua ──(stored, PUBLISH)──▶ Redis ──▶ subscriber ─▶ follow ─▶ sink
//!  open, read, history ─▶ their scripts                   ▲                        │ holes
//!                                                         └──── audit, read.lua ◀──┘
//! ```
//!
//! - `link`: the connections for commands; each (re)connect reads the replication id, which every script compares.
//! - `flight`: which of them a command takes, and how much is under way there: bulk never delays urgent.
//! - `lua/`: one script each; all of a room's keys are in one slot. `open.lua` is the only place where an epoch begins.
//! - `group`: publishes of a room and lane that wait together are stored in one call.
//! - `subscriber`: a connection for events and one for signals; `follow`: how far each room was told.
//! - `witness`: after a restart of Redis nodes say what they saw, before anybody goes on.
//! - `audit`: every room's head is compared within ten seconds, which is also the probe of the subscriber.
//!
//! Bounds: what waits for a room and lane (`group`), what is under way to Redis (`flight`), messages while a room is opened (`follow`), reads of missed events at
//! once ([`READS_MAX`]), rooms (those with local subscribers). Beyond them publishes are refused, and holes read later.

mod append;
mod audit;
mod check;
mod cluster;
mod ears;
mod flight;
mod follow;
mod group;
mod keys;
mod link;
mod missed;
mod page;
mod record;
mod replicate;
mod revocations;
mod scripts;
mod state;
mod subscriber;
#[cfg(test)]
pub(crate) mod tests;
mod upkeep;
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::log::{Append, Head, HistoryQuery, Outcome, Page, Read, Retention, Start};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use redis::{Cmd, Value};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::audit::Probes;
use self::check::Problem;
use self::cluster::Cluster;
use self::ears::Ears;
use self::flight::{Flights, Path};
use self::follow::{Live, Rooms, Seen};
use self::group::Groups;
use self::keys::{Keys, Kind, letter};
use self::link::{CallError, Link, UNAVAILABLE, Up};
use self::replicate::Replicator;
use self::state::State;
use self::subscriber::Subscriber;
use self::upkeep::Upkeep;
use self::witness::Witnesses;
use super::{
    Engine, EngineError, EngineSink, EngineStats, Glance, Lease, Opened, REVOCATIONS_MAX, Revocation, RevocationCursor,
    RevocationPage, Signal, Signalled, Transient, missed_since,
};
use crate::clock::Clock;

/// Bytes of a group's records that are published; what is beyond is announced and read from the log.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// The same for lane bulk, which comes in masses: an urgent message waits behind it in Redis's buffer for a node.
const INLINE_BULK_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a record that is published; of larger ones, and what follows them in their group, the position only.
const INLINE_RECORD_BYTES_MAX: usize = 8 * 1024;
/// How long a node waits for the confirmation of a room's subscription.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(2);
/// Rooms that are opened or read at once on behalf of the node itself.
const READS_MAX: usize = 64;
/// Events of one such read.
const READ_EVENTS: u64 = 200;
/// Bytes of one such read, beyond the first event.
const READ_BYTES: usize = 64 * 1024;
/// Missed events of a lane that are told one by one; of more, the newest so many.
const TELL_MAX: u64 = 2_000;
/// How often a script is tried when the room must be opened anew first.
const OPENINGS_MAX: usize = 3;
/// (sender, type, key) of signals per room.
const ROOM_SIGNALS_MAX: usize = 4_096;
/// How long a dead signal is remembered, so that an older one does not take its place, ms.
const SIGNAL_REMEMBERED_MS: u64 = 30_000;
/// How long a room's signals are kept at most: longer than any of them lives, ms.
const SIGNALS_TTL_MS: u64 = 2 * 3_600_000;
/// Digits in front of a signal that is kept.
const SERIAL_DIGITS: usize = 16;
/// Most records of a lane that a page of history looks at.
const HISTORY_RECORDS_MAX: usize = 12_800;
/// An hour, ms.
const HOUR_MS: u64 = 3_600_000;

/// How an engine finds its Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// The address: `redis://user:password@host:port`.
    pub url: Arc<str>,
    /// Begins every key and channel.
    pub prefix: Arc<str>,
    /// Over how many hash tags rooms are spread.
    pub partitions: u32,
    /// Whether other stores may be in the same Redis.
    pub beside_others: bool,
    /// Events of a group commit; 1: none.
    pub group_events_max: usize,
    /// Replicas that confirm a publish with acknowledgement `replicated`; 0: it is not offered.
    pub replicas: u32,
    /// (sender, type, key) of signals per room.
    pub room_signals_max: usize,
    /// Users, devices and tokens that may be revoked at once.
    pub revocations_max: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            prefix: "lc".into(),
            partitions: 128,
            beside_others: false,
            group_events_max: 32,
            replicas: 0,
            room_signals_max: ROOM_SIGNALS_MAX,
            revocations_max: REVOCATIONS_MAX,
        }
    }
}

impl RedisOptions {
    /// The address without the password, for the log.
    fn shown_url(&self) -> String {
        match self.url.rsplit_once('@') {
            Some((before, host)) => {
                let scheme = before.split_once("://").map_or("redis", |(scheme, _)| scheme);
                format!("{scheme}://…@{host}")
            }
            None => self.url.to_string(),
        }
    }
}

/// The engine on Redis. See the [module](self). Its tasks end when it is dropped.
pub struct RedisEngine {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

/// What the engine's tasks share.
struct Inner {
    options: Arc<RedisOptions>,
    keys: Keys,
    clock: Clock,
    sink: Arc<dyn EngineSink>,
    link: Link,
    events: Subscriber,
    signals: Subscriber,
    rooms: Rooms,
    groups: Groups,
    flights: Flights,
    probes: Probes,
    cluster: Cluster,
    replicator: Replicator,
    witnesses: Witnesses,
    upkeep: Upkeep,
    reads: Semaphore,
    refused: AtomicU64,
    watermarks_evicted: AtomicU64,
    append_calls: AtomicU64,
    appended: AtomicU64,
}

impl RedisEngine {
    /// Connects. A Redis that is away, or will be usable later, is waited for in the background; one that will not be
    /// usable until somebody changes something is an error, in a sentence for an operator.
    ///
    /// # Errors
    /// What is wrong with the Redis, and what to do.
    pub async fn start(options: RedisOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Result<Self, String> {
        let options = Arc::new(options);
        let keys = Keys::new(&options.prefix, options.partitions);
        let inner = Arc::new(Inner {
            link: Link::new(Arc::clone(&options), keys.clone()),
            events: Subscriber::new(Kind::Events, Arc::clone(&options)),
            signals: Subscriber::new(Kind::Signals, Arc::clone(&options)),
            groups: Groups::new(options.group_events_max),
            replicator: Replicator::new(Arc::clone(&options)),
            rooms: Rooms::default(),
            flights: Flights::default(),
            witnesses: Witnesses::default(),
            upkeep: Upkeep::default(),
            probes: Probes::new(),
            cluster: Cluster::default(),
            reads: Semaphore::new(READS_MAX),
            refused: AtomicU64::new(0),
            watermarks_evicted: AtomicU64::new(0),
            append_calls: AtomicU64::new(0),
            appended: AtomicU64::new(0),
            options,
            keys,
            clock,
            sink,
        });
        inner.begin().await?;
        let stop = CancellationToken::new();
        for task in Task::ALL {
            let (inner, stop) = (Arc::clone(&inner), stop.clone());
            drop(tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = inner.run(task) => {}
                }
            }));
        }
        Ok(Self { inner, _stop: stop.drop_guard() })
    }
}

/// What runs for as long as the engine lives.
#[derive(Clone, Copy)]
enum Task {
    Link,
    Events,
    Signals,
    Audit,
}

impl Task {
    const ALL: [Self; 4] = [Self::Link, Self::Events, Self::Signals, Self::Audit];
}

impl Inner {
    /// The first connection. If there is none yet that may come the link's keeper says so, again and again.
    async fn begin(&self) -> Result<(), String> {
        for kind in Kind::ALL {
            self.subscriber(kind).want(&self.keys.probe(self.probes.id(), kind));
        }
        match self.link.connect().await {
            Err(Problem::Fatal(sentence)) => Err(format!("{}: {sentence}", self.options.shown_url())),
            Ok(up) => {
                self.witnesses.begin(&up);
                self.link.raise(up);
                Ok(())
            }
            Err(Problem::Passing(_)) => Ok(()),
        }
    }

    async fn run(self: &Arc<Self>, task: Task) {
        match task {
            Task::Link => self.keep_link().await,
            Task::Events => self.events.run(&Ears(Arc::clone(self))).await,
            Task::Signals => self.signals.run(&Ears(Arc::clone(self))).await,
            Task::Audit => self.audit_for_ever().await,
        }
    }

    async fn keep_link(&self) {
        loop {
            match self.link.up() {
                Some(up) => {
                    self.sink.reachable(true);
                    // What the store has may be another past.
                    self.probes.hurry();
                    self.link.watch(&up).await;
                    self.sink.reachable(false);
                }
                None => {
                    let up = self.link.reconnect().await;
                    self.testify(&up).await;
                    self.link.raise(up);
                }
            }
        }
    }

    fn subscriber(&self, kind: Kind) -> &Subscriber {
        match kind {
            Kind::Events => &self.events,
            Kind::Signals => &self.signals,
        }
    }

    fn up(&self) -> Result<Up, EngineError> {
        self.link.up().ok_or(UNAVAILABLE)
    }

    /// Calls a script on a room; if that must be opened anew first it is, and the script called again.
    async fn on_room(
        self: &Arc<Self>,
        path: Path,
        room: &str,
        make: impl Fn(&Up) -> Cmd,
    ) -> Result<Value, EngineError> {
        for _ in 0..OPENINGS_MAX {
            let up = self.up()?;
            let value = self.link.call_on(&up, path, &make(&up)).await.map_err(CallError::into_engine)?;
            if !state::is_stale(&value) {
                return Ok(value);
            }
            self.state(room, Start::Live).await?;
            // A room that was made anew knows no retention.
            let room: Arc<str> = room.into();
            DurableLane::ALL.into_iter().for_each(|lane| self.upkeep.forget(&room, lane));
        }
        Err(UNAVAILABLE)
    }

    /// What this node saw of a room: as its follower, or because it was acknowledged something as stored.
    fn seen(&self, room: &str) -> Seen {
        let followed = self.rooms.find(room).map(|room| room.told.lock().seen());
        followed.filter(|seen| seen.epoch > 0).unwrap_or_else(|| self.witnesses.seen(room))
    }

    /// What a room has; a new epoch begins if the store may have lost a part of it.
    async fn state(self: &Arc<Self>, room: &str, start: Start) -> Result<State, EngineError> {
        let up = self.up()?;
        let cmd = self.open_command(&up, room, start);
        let value = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)?;
        let state = State::parse(value).ok_or_else(|| unreadable(room))?;
        if let Some(followed) = self.rooms.find(room) {
            let need = followed.told.lock().update(&*self.sink, &followed.name, &state);
            self.serve(followed, need);
        }
        Ok(state)
    }

    fn open_command(&self, up: &Up, room: &str, start: Start) -> Cmd {
        let seen = self.seen(room);
        let [urgent, normal, bulk] = DurableLane::ALL.map(|lane| self.keys.log(room, lane));
        let mut cmd = up.script(scripts::OPEN, &[self.keys.meta(room), self.keys.forks(room), urgent, normal, bulk]);
        let now_ms = self.clock.now_ms();
        cmd.arg(&*up.replication_id).arg(now_ms).arg(rand::random_range(0..1024)).arg(seen.epoch);
        for lane in DurableLane::ALL {
            cmd.arg(seen.first[lane]);
        }
        for lane in DurableLane::ALL {
            cmd.arg(seen.heads[lane]);
        }
        match start {
            Start::Count(count) => cmd.arg("order").arg(count),
            Start::Duration(ms) => cmd.arg("time").arg(now_ms.saturating_sub(ms)),
            Start::Live | Start::Beginning | Start::Position(_) => cmd.arg("live").arg(0),
        };
        cmd
    }

    async fn read_lane(
        self: &Arc<Self>,
        room: &str,
        lane: DurableLane,
        after: u64,
        records_max: u64,
        bytes_max: usize,
    ) -> Result<Read, EngineError> {
        let _reading = self.flights.read(lane, bytes_max).await;
        let value = self
            .on_room(Path::of_read(lane), room, |up| {
                let mut cmd = up.script(scripts::READ, &[self.keys.meta(room), self.keys.log(room, lane)]);
                cmd.arg(&*up.replication_id).arg(self.clock.now_ms()).arg(letter(lane)).arg(after);
                cmd.arg(records_max.max(1)).arg(bytes_max.min(i64::MAX as usize));
                cmd
            })
            .await?;
        state::read(value, lane).ok_or_else(|| unreadable(room))
    }

    /// Counts transients in the store, and passes one on if there is a record.
    async fn count_transients(
        self: &Arc<Self>,
        room: &str,
        lane: DurableLane,
        record: &[u8],
        count: u64,
    ) -> Result<(u64, u64), EngineError> {
        let value = self
            .on_room(Path::of(lane), room, |up| {
                let mut cmd = up.script(scripts::TRANSIENT, &[self.keys.meta(room)]);
                cmd.arg(&*up.replication_id).arg(format!("t{}", letter(lane)));
                cmd.arg(self.keys.channel(Kind::Events, room)).arg(record).arg(count);
                cmd
            })
            .await?;
        let mut parts = state::Parts::of(value).ok_or_else(|| unreadable(room))?;
        parts.number().zip(parts.number()).ok_or_else(|| unreadable(room))
    }
}

/// Logs what cannot be read: it is of a later version, or was written by somebody else.
fn unreadable(room: &str) -> EngineError {
    tracing::error!(room, "what Redis has of this room cannot be read by this version of Lanecast");
    UNAVAILABLE
}

#[async_trait]
impl Engine for RedisEngine {
    async fn append(&self, room: &str, retention: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        let room: Arc<str> = room.into();
        // Each run of one lane is a group's part; the next run waits for it, so that all are judged in order.
        while let Some(first) = items.next() {
            let lane = first.lane;
            let mut run = vec![first];
            while let Some(next) = items.next_if(|next| next.lane == lane) {
                run.push(next);
            }
            let name = (Arc::clone(&room), lane);
            let (answers, lead) = self.inner.groups.push(&name, retention, run);
            if lead {
                let inner = Arc::clone(&self.inner);
                // A task of its own: the caller may be dropped, and others wait for the same group.
                drop(tokio::spawn(async move { inner.lead(name).await }));
            }
            for answer in answers {
                outcomes.push(answer.await.unwrap_or(Err(UNAVAILABLE)));
            }
        }
        outcomes
    }

    async fn append_replicated(
        &self,
        room: &str,
        retention: Retention,
        items: Vec<Append>,
    ) -> Vec<Result<Outcome, EngineError>> {
        self.inner.append_replicated(room, retention, items).await
    }

    fn replicates(&self) -> bool {
        self.inner.options.replicas > 0
    }

    async fn read(
        &self,
        room: &str,
        lane: DurableLane,
        after: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Read, EngineError> {
        self.inner.read_lane(room, lane, after, records_max as u64, bytes_max).await
    }

    async fn history(&self, room: &str, query: HistoryQuery) -> Result<Page, EngineError> {
        self.inner.history(room, query).await
    }

    async fn head(&self, room: &str) -> Result<Head, EngineError> {
        Ok(self.inner.state(room, Start::Live).await?.whole_head())
    }

    async fn open(
        &self,
        room: &str,
        start: Start,
        transients: Option<v1::TransientMark>,
    ) -> Result<Opened, EngineError> {
        let state = self.inner.state(room, start).await?;
        let mut mark = follow::mark(state.epoch, state.transients);
        if let Some(followed) = self.inner.rooms.find(room) {
            let told = followed.told.lock();
            if told.live && told.epoch == state.epoch {
                // What was published and is still on its way will be told, with a higher count (E31).
                mark = told.mark();
            }
        }
        let log = state.open(self.inner.clock.now_ms(), start);
        Ok(Opened { log, transients: mark, missed_transients: missed_since(mark, transients) })
    }

    async fn publish_transient(&self, room: &str, event: Transient) -> Result<(), EngineError> {
        if !self.inner.link.is_up() {
            // The clients of this node get it all the same. Where there are none it reaches nobody, and no other node
            // would ever learn of it: that is not acknowledged.
            let Some(followed) = self.inner.rooms.find(room) else { return Err(UNAVAILABLE) };
            let told = followed.told.lock().tell_locally(&*self.inner.sink, &followed.name, &event);
            return if told { Ok(()) } else { Err(UNAVAILABLE) };
        }
        let record = record::transient(&event);
        self.inner.count_transients(room, event.lane, &record, 1).await.map(drop)
    }

    async fn signal(&self, room: &str, signal: Signal) -> Result<Signalled, EngineError> {
        let inner = &self.inner;
        let now_ms = inner.clock.now_ms();
        if signal.expires_at_ms <= now_ms {
            return Ok(Signalled::Stale);
        }
        let Some(up) = inner.link.up() else {
            // The clients of this node get it all the same.
            if let Some(followed) = inner.rooms.find(room) {
                let live = Live { now_ms, serial: 0, signals: vec![signal] };
                followed.told.lock().take_live(Some(&*inner.sink), &followed.name, live);
            }
            return Ok(Signalled::Newest);
        };
        let mut cmd = up.script(scripts::SIGNAL, &[inner.keys.live(room)]);
        cmd.arg(record::signal_field(&signal.key)).arg(signal.start).arg(signal.counter).arg(now_ms);
        cmd.arg(inner.options.room_signals_max).arg(SIGNAL_REMEMBERED_MS);
        cmd.arg(inner.keys.channel(Kind::Signals, room)).arg(record::signal(&signal)).arg(SIGNALS_TTL_MS);
        let value = inner.link.call(&up, &cmd).await.map_err(CallError::into_engine)?;
        match state::text(&value) {
            Some("newest") => Ok(Signalled::Newest),
            Some("full") => {
                inner.refused.fetch_add(1, Ordering::Relaxed);
                Err(EngineError::Full { what: "signals", retry_after_ms: 5_000 })
            }
            _ => Ok(Signalled::Stale),
        }
    }

    async fn live_signals(&self, room: &str) -> Result<Vec<Signal>, EngineError> {
        let now_ms = self.inner.clock.now_ms();
        let followed = self.inner.rooms.find(room);
        if let Some(live) = followed.and_then(|followed| followed.told.lock().live_signals(now_ms)) {
            return Ok(live);
        }
        let mut signals = self.inner.live(room).await?.signals;
        signals.retain(|signal| !signal.clear && signal.expires_at_ms > now_ms);
        Ok(signals)
    }

    async fn subscribe(&self, room: &str) -> Result<(), EngineError> {
        self.inner.subscribe(room).await
    }

    async fn unsubscribe(&self, room: &str) -> Result<(), EngineError> {
        if self.inner.rooms.remove(room).is_some() {
            for kind in Kind::ALL {
                self.inner.subscriber(kind).release(&self.inner.keys.channel(kind, room));
            }
        }
        Ok(())
    }

    fn glance(&self, room: &str) -> Option<Glance> {
        self.inner.rooms.find(room)?.told.lock().glance(self.inner.events.generation())
    }

    async fn announce(&self, lease: Lease) -> Result<(), EngineError> {
        self.inner.announce(lease).await
    }

    async fn retire(&self, node: &str) -> Result<(), EngineError> {
        self.inner.retire(node).await
    }

    async fn nodes(&self) -> Result<Vec<Lease>, EngineError> {
        self.inner.nodes().await
    }

    async fn tell(&self, node: Option<&str>, message: Bytes) -> Result<(), EngineError> {
        self.inner.tell(node, message).await
    }

    async fn revoke(&self, change: Revocation) -> Result<Revocation, EngineError> {
        self.inner.revoke(change).await
    }

    async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError> {
        self.inner.revocations(after).await
    }

    async fn restore(&self, known: Vec<Revocation>) -> Result<(), EngineError> {
        self.inner.restore(known).await
    }

    /// Redis forgets by itself; what is swept is what this node knows of signals.
    fn sweep(&self) {
        let now_ms = self.inner.clock.now_ms();
        self.inner.rooms.all().iter().for_each(|room| room.told.lock().sweep(now_ms));
    }

    fn stats(&self) -> EngineStats {
        let inner = &self.inner;
        EngineStats {
            rooms: inner.rooms.len(),
            bytes: 0,
            refused: inner.refused.load(Ordering::Relaxed),
            watermarks_evicted: inner.watermarks_evicted.load(Ordering::Relaxed),
        }
    }
}
