//! Engines with planted bugs, by which the contract suite proves that it can fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::log::{
    Append, Head, HistoryQuery, Origin, Outcome, Page, Read, Record, Retention, RoomLog, Start,
};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;

use super::contract::{Bench, CLAUSES, MemorySubject, Started, Subject, settled};
use super::{
    Engine, EngineError, EngineSink, EngineStats, Glance, Lease, MemoryOptions, Opened, Revocation, RevocationCursor,
    RevocationPage, Signal, Signalled, Transient,
};
use crate::clock::Clock;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Every 20th event is acknowledged and not stored.
    LosesOne,
    /// What is left after trimming is counted from 1 again.
    Renumbers,
    /// The signal with the lowest counter wins.
    OldestSignalWins,
    /// Publish numbers are not looked at.
    IgnoresWatermarks,
    /// A read does not say that the log begins later.
    HidesTrimming,
    /// Whoever asks for a position is told that nothing is missing.
    FalseComfort,
    /// Each event is told twice.
    TellsTwice,
    /// Transients are told but not counted.
    ForgetsToCount,
    /// A glance is ahead of what was told.
    GlancesAhead,
    /// Says that it does not follow while it does.
    Wavers,
    /// Revoking once more for a shorter time ends the longer one.
    ShortensRevocations,
    /// Nobody learns that a revocation was lifted.
    ForgetsLifts,
}

const BUGS: [(Bug, &str); 12] = [
    (Bug::LosesOne, "e3_"),
    (Bug::Renumbers, "e7_"),
    (Bug::OldestSignalWins, "e40_"),
    (Bug::IgnoresWatermarks, "e4_"),
    (Bug::HidesTrimming, "e8_"),
    (Bug::FalseComfort, "e13_"),
    (Bug::TellsTwice, "e20_"),
    (Bug::ForgetsToCount, "e30_"),
    (Bug::GlancesAhead, "e23_"),
    (Bug::Wavers, "e61_"),
    (Bug::ShortensRevocations, "e80_"),
    (Bug::ForgetsLifts, "e81_"),
];

struct FaultySubject(Bug);

#[async_trait]
impl Subject for FaultySubject {
    async fn start(&self, options: MemoryOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Started {
        let sink = Arc::new(FaultySink { bug: self.0, inner: sink });
        let inner = MemorySubject.start(options, clock, sink).await.engine;
        let engine = Arc::new(Faulty { bug: self.0, inner, appended: AtomicU64::new(0) });
        Started { engine, settle: settled() }
    }
}

struct FaultySink {
    bug: Bug,
    inner: Arc<dyn EngineSink>,
}

impl EngineSink for FaultySink {
    fn appended(&self, room: &Arc<str>, epoch: u64, record: &Record) {
        self.inner.appended(room, epoch, record);
        if self.bug == Bug::TellsTwice {
            self.inner.appended(room, epoch, record);
        }
    }

    fn transient(&self, room: &Arc<str>, event: &Transient, mark: &v1::TransientMark) {
        let forgotten = v1::TransientMark { source: mark.source, ..Default::default() };
        self.inner.transient(room, event, if self.bug == Bug::ForgetsToCount { &forgotten } else { mark });
    }

    fn signal(&self, room: &Arc<str>, signal: &Signal) {
        self.inner.signal(room, signal);
    }

    fn epoch_changed(&self, room: &Arc<str>, epoch: u64) {
        self.inner.epoch_changed(room, epoch);
    }

    fn jumped(&self, room: &Arc<str>, lane: DurableLane) {
        self.inner.jumped(room, lane);
    }

    fn transients_missed(&self, room: &Arc<str>, lane: DurableLane, count: Option<u64>) {
        self.inner.transients_missed(room, lane, count);
    }

    fn reachable(&self, reachable: bool) {
        self.inner.reachable(reachable);
    }

    fn following(&self, following: bool) {
        self.inner.following(following);
        if self.bug == Bug::Wavers {
            self.inner.following(false);
        }
    }

    fn told(&self, message: &Bytes) {
        self.inner.told(message);
    }
}

struct Faulty {
    bug: Bug,
    inner: Arc<dyn Engine>,
    appended: AtomicU64,
}

impl Faulty {
    async fn append_one(&self, room: &str, retention: Retention, mut item: Append) -> Result<Outcome, EngineError> {
        if self.bug == Bug::IgnoresWatermarks && matches!(item.origin, Origin::Numbered { .. }) {
            item.origin = Origin::Unmarked;
        }
        if self.bug == Bug::LosesOne && self.appended.fetch_add(1, Ordering::Relaxed) % 20 == 19 {
            return Ok(RoomLog::new(1, retention).append(0, item));
        }
        self.inner.append(room, retention, vec![item]).await.remove(0)
    }
}

#[async_trait]
impl Engine for Faulty {
    async fn append(&self, room: &str, retention: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>> {
        let mut outcomes = Vec::new();
        for item in items {
            outcomes.push(self.append_one(room, retention, item).await);
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
        self.inner.replicates()
    }

    async fn read(
        &self,
        room: &str,
        lane: DurableLane,
        after: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Read, EngineError> {
        let mut read = self.inner.read(room, lane, after, records_max, bytes_max).await?;
        match self.bug {
            Bug::Renumbers => {
                let trimmed = read.first - 1;
                read.first = 1;
                read.records.iter_mut().for_each(|record| record.seq -= trimmed);
            }
            Bug::HidesTrimming => read.first = read.first.min(after + 1),
            _ => {}
        }
        Ok(read)
    }

    async fn history(&self, room: &str, query: HistoryQuery) -> Result<Page, EngineError> {
        self.inner.history(room, query).await
    }

    async fn head(&self, room: &str) -> Result<Head, EngineError> {
        self.inner.head(room).await
    }

    async fn open(
        &self,
        room: &str,
        start: Start,
        transients: Option<v1::TransientMark>,
    ) -> Result<Opened, EngineError> {
        let mut opened = self.inner.open(room, start, transients).await?;
        opened.log.recovered |= self.bug == Bug::FalseComfort && matches!(start, Start::Position(_));
        Ok(opened)
    }

    async fn publish_transient(&self, room: &str, event: Transient) -> Result<(), EngineError> {
        self.inner.publish_transient(room, event).await
    }

    async fn signal(&self, room: &str, mut signal: Signal) -> Result<Signalled, EngineError> {
        if self.bug == Bug::OldestSignalWins {
            signal.counter = u64::MAX - signal.counter;
        }
        self.inner.signal(room, signal).await
    }

    async fn live_signals(&self, room: &str) -> Result<Vec<Signal>, EngineError> {
        self.inner.live_signals(room).await
    }

    async fn subscribe(&self, room: &str) -> Result<(), EngineError> {
        self.inner.subscribe(room).await
    }

    async fn unsubscribe(&self, room: &str) -> Result<(), EngineError> {
        self.inner.unsubscribe(room).await
    }

    fn glance(&self, room: &str) -> Option<Glance> {
        let mut glance = self.inner.glance(room)?;
        glance.head.normal += u64::from(self.bug == Bug::GlancesAhead);
        Some(glance)
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
        let until_ms = change.until_ms;
        let mut kept = self.inner.revoke(change).await?;
        if self.bug == Bug::ShortensRevocations {
            kept.until_ms = until_ms;
        }
        Ok(kept)
    }

    async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError> {
        let mut page = self.inner.revocations(after).await?;
        page.changes.retain(|change| !(self.bug == Bug::ForgetsLifts && change.lifted));
        Ok(page)
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

#[tokio::test]
async fn the_suite_finds_every_planted_bug() {
    for (bug, clause) in BUGS {
        let subject: &'static FaultySubject = Box::leak(Box::new(FaultySubject(bug)));
        let mut failed = Vec::new();
        for (name, check) in CLAUSES {
            let bench = Bench::new(subject).await;
            if check(&bench).await.is_err() {
                failed.push(*name);
            }
        }
        assert!(failed.iter().any(|name| name.starts_with(clause)), "{bug:?} failed {failed:?}, not {clause}");
    }
}
