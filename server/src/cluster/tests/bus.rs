//! Nodes in one process whose engines share leases and messages, and lose some on demand.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::log::{Append, Head, HistoryQuery, Outcome, Page, Read, Retention, Start};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::cluster;
use crate::config::Config;
use crate::engine::{
    Engine, EngineError, EngineSink, EngineStats, Glance, LEASE_MS, Lease, MemoryEngine, MemoryOptions, Opened,
    REVOCATIONS_MAX, REVOCATIONS_PAGE, Revocation, RevocationCursor, RevocationPage, RevocationTable, Signal,
    Signalled, Transient,
};
use crate::node::Node;

const AWAY: EngineError = EngineError::Unavailable { retry_after_ms: 500 };

/// What the nodes share.
#[derive(Default)]
pub(super) struct Bus {
    leases: Mutex<BTreeMap<String, (Lease, u64)>>,
    sinks: Mutex<BTreeMap<String, Arc<dyn EngineSink>>>,
    /// Nodes that hear nothing.
    deaf: Mutex<HashSet<String>>,
    /// How many of the next messages pass, and how many after them are lost.
    lose: Mutex<(usize, usize)>,
    away: AtomicBool,
    /// The life of the revocations, and what there is of them.
    revocations: Mutex<(u32, RevocationTable)>,
}

impl Bus {
    /// The store comes back without a single revocation.
    pub(super) fn lose_revocations(&self) {
        let (life, table) = &mut *self.revocations.lock();
        *life += 1;
        *table = RevocationTable::default();
    }

    /// A node on this bus that takes part in the cluster.
    pub(super) async fn node(self: &Arc<Self>, clock: &Clock) -> Arc<Node> {
        let node = Arc::new(Node::without_engine(Config::default(), clock.clone()));
        let sink = Arc::clone(&node.hub) as Arc<dyn EngineSink>;
        let memory = MemoryEngine::new(MemoryOptions::default(), clock.clone(), Arc::clone(&sink));
        node.hub.connect(Arc::new(OnBus { memory, bus: Arc::clone(self), clock: clock.clone() }));
        self.sinks.lock().insert(node.id.to_string(), sink);
        drop(tokio::spawn(cluster::run(Arc::clone(&node))));
        // Its first announcement.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        node
    }

    pub(super) fn make_deaf(&self, node: &Node) {
        self.deaf.lock().insert(node.id.to_string());
    }

    pub(super) fn forget(&self, node: &Node) {
        self.leases.lock().remove(&*node.id);
    }

    /// So many messages pass, and then so many are lost.
    pub(super) fn lose_after(&self, pass: usize, lose: usize) {
        *self.lose.lock() = (pass, lose);
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(super) fn leases(&self) -> Vec<Lease> {
        self.leases.lock().values().map(|(lease, _)| lease.clone()).collect()
    }

    /// Brings a message to nodes as if another node had sent it.
    pub(super) fn tell(&self, to: Option<&str>, message: &Bytes) {
        let lost = match &mut *self.lose.lock() {
            (pass @ 1.., _) => {
                *pass -= 1;
                false
            }
            (0, lose @ 1..) => {
                *lose -= 1;
                true
            }
            _ => false,
        };
        let sinks = self.sinks.lock();
        let heard = sinks.iter().filter(|(id, _)| to.is_none_or(|to| to == *id) && !self.deaf.lock().contains(*id));
        heard.filter(|_| !lost).for_each(|(_, sink)| sink.told(message));
    }

    fn check(&self) -> Result<(), EngineError> {
        if self.away.load(Ordering::SeqCst) { Err(AWAY) } else { Ok(()) }
    }
}

struct OnBus {
    memory: MemoryEngine,
    bus: Arc<Bus>,
    clock: Clock,
}

#[async_trait]
impl Engine for OnBus {
    async fn append(&self, room: &str, retention: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>> {
        self.memory.append(room, retention, items).await
    }

    async fn append_replicated(
        &self,
        room: &str,
        retention: Retention,
        items: Vec<Append>,
    ) -> Vec<Result<Outcome, EngineError>> {
        self.memory.append_replicated(room, retention, items).await
    }

    fn replicates(&self) -> bool {
        self.memory.replicates()
    }

    async fn read(
        &self,
        room: &str,
        lane: DurableLane,
        after: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Read, EngineError> {
        self.memory.read(room, lane, after, records_max, bytes_max).await
    }

    async fn history(&self, room: &str, query: HistoryQuery) -> Result<Page, EngineError> {
        self.memory.history(room, query).await
    }

    async fn head(&self, room: &str) -> Result<Head, EngineError> {
        self.memory.head(room).await
    }

    async fn open(
        &self,
        room: &str,
        start: Start,
        transients: Option<v1::TransientMark>,
    ) -> Result<Opened, EngineError> {
        self.memory.open(room, start, transients).await
    }

    async fn publish_transient(&self, room: &str, event: Transient) -> Result<(), EngineError> {
        self.memory.publish_transient(room, event).await
    }

    async fn signal(&self, room: &str, signal: Signal) -> Result<Signalled, EngineError> {
        self.memory.signal(room, signal).await
    }

    async fn live_signals(&self, room: &str) -> Result<Vec<Signal>, EngineError> {
        self.memory.live_signals(room).await
    }

    async fn subscribe(&self, room: &str) -> Result<(), EngineError> {
        self.memory.subscribe(room).await
    }

    async fn unsubscribe(&self, room: &str) -> Result<(), EngineError> {
        self.memory.unsubscribe(room).await
    }

    fn glance(&self, room: &str) -> Option<Glance> {
        self.memory.glance(room)
    }

    async fn announce(&self, lease: Lease) -> Result<(), EngineError> {
        self.bus.check()?;
        self.bus.leases.lock().insert(lease.node.clone(), (lease, self.clock.now_ms() + LEASE_MS));
        Ok(())
    }

    async fn retire(&self, node: &str) -> Result<(), EngineError> {
        self.bus.check()?;
        self.bus.leases.lock().remove(node);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<Lease>, EngineError> {
        self.bus.check()?;
        let now_ms = self.clock.now_ms();
        let leases = self.bus.leases.lock();
        Ok(leases.values().filter(|(_, until_ms)| *until_ms > now_ms).map(|(lease, _)| lease.clone()).collect())
    }

    async fn tell(&self, node: Option<&str>, message: Bytes) -> Result<(), EngineError> {
        self.bus.check()?;
        self.bus.tell(node, &message);
        Ok(())
    }

    async fn revoke(&self, change: Revocation) -> Result<Revocation, EngineError> {
        self.bus.check()?;
        let changed = self.bus.revocations.lock().1.change(self.clock.now_ms(), change, REVOCATIONS_MAX);
        changed.map_err(|_| AWAY)
    }

    async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError> {
        self.bus.check()?;
        let (life, table) = &*self.bus.revocations.lock();
        let life: Arc<str> = life.to_string().into();
        let anew = after.is_some_and(|after| after.life != life);
        let from = after.filter(|_| !anew).map_or(0, |after| after.serial);
        let (changes, serial) = table.after(from, REVOCATIONS_PAGE);
        let more = serial < table.serial();
        Ok(RevocationPage { changes, cursor: RevocationCursor { life, serial }, more, anew })
    }

    async fn restore(&self, known: Vec<Revocation>) -> Result<(), EngineError> {
        self.bus.check()?;
        let (_, table) = &mut *self.bus.revocations.lock();
        for change in known {
            table.merge(change);
        }
        Ok(())
    }

    fn sweep(&self) {
        self.memory.sweep();
    }

    fn stats(&self) -> EngineStats {
        self.memory.stats()
    }
}
