//! An engine for tests of what stands before it: the memory engine, counted, slowed, cut off and put into new epochs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::log::{Append, Head, HistoryQuery, Outcome, Page, Read, Record, Retention, Start};
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::v1;
use parking_lot::Mutex;

use super::{
    Engine, EngineError, EngineSink, EngineStats, Glance, Lease, MemoryEngine, MemoryOptions, Opened, Revocation,
    RevocationCursor, RevocationPage, Signal, Signalled, Transient,
};
use crate::clock::Clock;

/// How long a hung call takes before it fails.
pub(crate) const HANG: Duration = Duration::from_secs(2);
const AWAY: EngineError = EngineError::Unavailable { retry_after_ms: 100 };

/// What a test turns and reads.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    /// Calls of the engine.
    pub(crate) opens: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) follows: AtomicU64,
    /// Whether a glance answers.
    pub(crate) blind: AtomicBool,
    /// Reads and openings that fail at once.
    pub(crate) failures: AtomicU64,
    /// How long every call takes, ms of tokio's time.
    pub(crate) delay_ms: AtomicU64,
    hung: Mutex<HashSet<String>>,
    away: AtomicBool,
    /// By how much epochs are greater than the memory engine's.
    shift: AtomicU64,
}

impl Dials {
    /// Calls about a room hang from now on.
    pub(crate) fn hang(&self, room: &str) {
        self.hung.lock().insert(room.to_owned());
    }

    /// They do not any more.
    pub(crate) fn let_go(&self, room: &str) {
        self.hung.lock().remove(room);
    }

    fn shifted(&self, position: Position) -> Position {
        Position::new(position.epoch + self.shift.load(Ordering::Relaxed), position.seqs())
    }

    async fn call(&self, room: &str) -> Result<(), EngineError> {
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
        if self.hung.lock().contains(room) {
            tokio::time::sleep(HANG).await;
            return Err(AWAY);
        }
        let fails =
            self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if fails || self.away.load(Ordering::Relaxed) { Err(AWAY) } else { Ok(()) }
    }
}

struct Sink {
    dials: Arc<Dials>,
    outer: Arc<dyn EngineSink>,
}

impl EngineSink for Sink {
    fn appended(&self, room: &Arc<str>, epoch: u64, record: &Record) {
        self.outer.appended(room, epoch + self.dials.shift.load(Ordering::Relaxed), record);
    }

    fn transient(&self, room: &Arc<str>, event: &Transient, mark: &v1::TransientMark) {
        self.outer.transient(room, event, mark);
    }

    fn signal(&self, room: &Arc<str>, signal: &Signal) {
        self.outer.signal(room, signal);
    }

    fn epoch_changed(&self, room: &Arc<str>, epoch: u64) {
        self.outer.epoch_changed(room, epoch);
    }

    fn jumped(&self, room: &Arc<str>, lane: DurableLane) {
        self.outer.jumped(room, lane);
    }

    fn transients_missed(&self, room: &Arc<str>, lane: DurableLane, count: Option<u64>) {
        self.outer.transients_missed(room, lane, count);
    }

    fn reachable(&self, reachable: bool) {
        self.outer.reachable(reachable);
    }

    fn following(&self, following: bool) {
        self.outer.following(following);
    }

    fn told(&self, message: &Bytes) {
        self.outer.told(message);
    }
}

/// The engine.
pub(crate) struct Probe {
    pub(crate) dials: Arc<Dials>,
    sink: Arc<dyn EngineSink>,
    /// The engine as it would be without the test.
    pub(crate) inner: MemoryEngine,
}

impl Probe {
    pub(crate) fn new(clock: Clock, sink: Arc<dyn EngineSink>) -> Self {
        let dials = Arc::new(Dials::default());
        let outer = Arc::new(Sink { dials: Arc::clone(&dials), outer: Arc::clone(&sink) });
        Self { dials, sink, inner: MemoryEngine::new(MemoryOptions::default(), clock, outer) }
    }

    /// The store goes away, or comes back.
    pub(crate) fn set_away(&self, away: bool) {
        self.dials.away.store(away, Ordering::Relaxed);
        self.sink.reachable(!away);
    }

    /// Every log begins a new epoch without losing anything; `room` hears of it.
    pub(crate) async fn renew(&self, room: &str) {
        self.dials.shift.fetch_add(1, Ordering::Relaxed);
        let epoch = self.inner.head(room).await.unwrap().position.epoch;
        self.sink.epoch_changed(&room.into(), epoch + self.dials.shift.load(Ordering::Relaxed));
    }
}

#[async_trait]
impl Engine for Probe {
    async fn append(&self, room: &str, retention: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>> {
        match self.dials.call(room).await {
            Ok(()) => self.inner.append(room, retention, items).await,
            Err(error) => vec![Err(error); items.len()],
        }
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
        false
    }

    async fn read(
        &self,
        room: &str,
        lane: DurableLane,
        after: u64,
        records: usize,
        bytes: usize,
    ) -> Result<Read, EngineError> {
        self.dials.reads.fetch_add(1, Ordering::Relaxed);
        self.dials.call(room).await?;
        let read = self.inner.read(room, lane, after, records, bytes).await?;
        Ok(Read { epoch: read.epoch + self.dials.shift.load(Ordering::Relaxed), ..read })
    }

    async fn history(&self, room: &str, query: HistoryQuery) -> Result<Page, EngineError> {
        self.dials.call(room).await?;
        self.inner.history(room, query).await
    }

    async fn head(&self, room: &str) -> Result<Head, EngineError> {
        self.dials.call(room).await?;
        let head = self.inner.head(room).await?;
        Ok(Head { position: self.dials.shifted(head.position), ..head })
    }

    async fn open(
        &self,
        room: &str,
        start: Start,
        transients: Option<v1::TransientMark>,
    ) -> Result<Opened, EngineError> {
        self.dials.opens.fetch_add(1, Ordering::Relaxed);
        self.dials.call(room).await?;
        let epoch = self.inner.head(room).await?.position.epoch;
        let known = epoch..=epoch + self.dials.shift.load(Ordering::Relaxed);
        let start = match start {
            Start::Position(asked) if known.contains(&asked.epoch) => {
                Start::Position(Position::new(epoch, asked.seqs()))
            }
            start => start,
        };
        let mut opened = self.inner.open(room, start, transients).await?;
        opened.log.position = self.dials.shifted(opened.log.position);
        opened.log.head = self.dials.shifted(opened.log.head);
        Ok(opened)
    }

    async fn publish_transient(&self, room: &str, event: Transient) -> Result<(), EngineError> {
        self.inner.publish_transient(room, event).await
    }

    async fn signal(&self, room: &str, signal: Signal) -> Result<Signalled, EngineError> {
        self.dials.call(room).await?;
        self.inner.signal(room, signal).await
    }

    async fn live_signals(&self, room: &str) -> Result<Vec<Signal>, EngineError> {
        self.dials.call(room).await?;
        self.inner.live_signals(room).await
    }

    async fn subscribe(&self, room: &str) -> Result<(), EngineError> {
        self.dials.follows.fetch_add(1, Ordering::Relaxed);
        self.dials.call(room).await?;
        self.inner.subscribe(room).await
    }

    async fn unsubscribe(&self, room: &str) -> Result<(), EngineError> {
        self.dials.call(room).await?;
        self.inner.unsubscribe(room).await
    }

    fn glance(&self, room: &str) -> Option<Glance> {
        if self.dials.blind.load(Ordering::Relaxed) || self.dials.away.load(Ordering::Relaxed) {
            return None;
        }
        let glance = self.inner.glance(room)?;
        Some(Glance { head: self.dials.shifted(glance.head), ..glance })
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
        self.dials.call("").await?;
        self.inner.revoke(change).await
    }

    async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError> {
        self.dials.call("").await?;
        self.inner.revocations(after).await
    }

    async fn restore(&self, known: Vec<Revocation>) -> Result<(), EngineError> {
        self.inner.restore(known).await
    }

    fn sweep(&self) {
        self.inner.sweep();
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
}
