//! Where rooms live behind a node.
//!
//! The [`Engine`] trait is the only seam between a node and its rooms. Its clauses (E1 …) are sentences that the
//! contract suite checks one by one on every engine; the memory engine is their executable definition. Whoever calls
//! an engine relies on the clauses and on nothing else.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod faulty;
mod memory;
#[cfg(test)]
pub(crate) mod probe;
pub(crate) mod redis;
mod revocation;
mod signals;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{self, Append, Head, HistoryQuery, Outcome, Page, Read, Record, Retention, Start};
use lanecast_protocol::lossy::SignalKey;
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::v1;

pub use self::memory::{MemoryEngine, MemoryOptions, ROOM_IDLE_MS};
pub use self::redis::{RedisEngine, RedisOptions};
pub use self::revocation::{
    REVOCATIONS_MAX, REVOCATIONS_PAGE, Revocation, RevocationCursor, RevocationPage, RevocationTable, RevocationsFull,
    Subject,
};

/// An event that is passed on and not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transient {
    /// Its lane.
    pub lane: DurableLane,
    /// When it stops being worth anything, ms since the Unix epoch; 0: never.
    pub expires_at_ms: u64,
    /// The application's type.
    pub event_type: Arc<str>,
    /// The encoded fields of `Event` from `from` on.
    pub tail: Bytes,
}

/// A signal as an engine passes it on and keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What it replaces.
    pub key: SignalKey,
    /// How often the sender's outbox was opened.
    pub start: u64,
    /// Counted by the sender per start.
    pub counter: u64,
    /// When it dies, ms since the Unix epoch.
    pub expires_at_ms: u64,
    /// The value is gone.
    pub clear: bool,
    /// The encoded fields of `Signal` but handle, room and ttl.
    pub tail: Bytes,
}

impl Signal {
    /// What says which of two signals of a key is newer.
    pub fn age(&self) -> (u64, u64) {
        (self.start, self.counter)
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// It is the newest and was passed on.
    Newest,
    /// A newer one of its key is known, or it expired; it was dropped.
    Stale,
}

/// Everything that `Subscribed` says, of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// Position, head, and what was lost.
    pub log: log::Opened,
    /// The transients of the room up to that moment.
    pub transients: v1::TransientMark,
    /// How many transients were published between the asked mark and that moment.
    pub missed_transients: v1::MissedTransients,
}

/// Why an engine did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot be reached. Whether an append was stored is unknown; to repeat it under its number or key is
    /// safe.
    #[error("the engine cannot be reached")]
    Unavailable {
        /// When to try again, ms.
        retry_after_ms: u32,
    },
    /// A bound of the engine is reached; nothing was changed.
    #[error("the engine has no room for more {what}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// When to try again, ms.
        retry_after_ms: u32,
    },
}

impl EngineError {
    /// The code with which a request is refused.
    pub const fn code(self) -> Code {
        match self {
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Full { .. } => Code::RateLimited,
        }
    }

    /// When to try again, ms.
    pub const fn retry_after_ms(self) -> u32 {
        match self {
            Self::Unavailable { retry_after_ms } | Self::Full { retry_after_ms, .. } => retry_after_ms,
        }
    }
}

/// What an engine knows of a followed room without asking a store (E23).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Glance {
    /// The epoch and the newest seq of each lane that was told.
    pub head: Position,
    /// The newest order; 0: none.
    pub order: u64,
    /// The transients up to that moment.
    pub transients: v1::TransientMark,
}

/// What a node says of itself to the others; it holds for [`LEASE_MS`] and is renewed well before.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// The node's id.
    pub node: String,
    /// Where its HTTP API listens, as other machines may reach it.
    pub address: String,
    /// Its version.
    pub version: String,
    /// When it started, ms since the Unix epoch.
    pub started_ms: u64,
    /// Connections now.
    pub connections: u64,
    /// Rooms with a local subscriber.
    pub rooms: u64,
    /// Whether it is sending its connections away.
    pub draining: bool,
}

/// How long a lease holds, ms.
pub const LEASE_MS: u64 = 30_000;
/// Bytes of a message between nodes at most.
pub const NODE_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Gauges and counters of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Rooms held.
    pub rooms: usize,
    /// Bytes held, by the engine's own estimate.
    pub bytes: usize,
    /// Requests refused because a bound was reached.
    pub refused: u64,
    /// Watermarks forgotten early (LC-PUB-024).
    pub watermarks_evicted: u64,
}

/// How many transients lie between a mark that was asked about and the present one (E32).
pub(crate) fn missed_since(present: v1::TransientMark, asked: Option<v1::TransientMark>) -> v1::MissedTransients {
    let answer = |knowledge: v1::MissedKnowledge, count| v1::MissedTransients { knowledge: knowledge.into(), count };
    let Some(asked) = asked else { return answer(v1::MissedKnowledge::Unspecified, 0) };
    if asked.source != present.source {
        return answer(v1::MissedKnowledge::Unknown, 0);
    }
    let lanes = [(present.urgent, asked.urgent), (present.normal, asked.normal), (present.bulk, asked.bulk)];
    match lanes.into_iter().try_fold(0, |sum, (now, then)| Some(sum + now.checked_sub(then)?)) {
        // A mark from the future is none of ours.
        None => answer(v1::MissedKnowledge::Unknown, 0),
        Some(0) => answer(v1::MissedKnowledge::None, 0),
        Some(count) => answer(v1::MissedKnowledge::Count, count),
    }
}

/// Where an engine tells its node what happens in the rooms that the node subscribed to.
///
/// Calls for one room come one after the other, in the order of what they tell of; calls for different rooms may come
/// at once. They come while the engine holds the room: an implementation returns quickly and does not call the engine.
pub trait EngineSink: Send + Sync {
    /// An event was stored (E20).
    fn appended(&self, room: &Arc<str>, epoch: u64, record: &Record);

    /// A transient event was published; `mark` counts it (E30).
    fn transient(&self, room: &Arc<str>, event: &Transient, mark: &v1::TransientMark);

    /// A signal came that is the newest of its key (E40).
    fn signal(&self, room: &Arc<str>, signal: &Signal);

    /// The log has a new epoch: whoever has a place in it must be opened anew (E22).
    fn epoch_changed(&self, room: &Arc<str>, epoch: u64);

    /// A lane's head moved over events that were not told one by one: too many were missed, or they are gone (E24).
    fn jumped(&self, room: &Arc<str>, lane: DurableLane);

    /// Transients of a lane were published and did not reach this node; `None`: nobody knows how many (E33).
    fn transients_missed(&self, room: &Arc<str>, lane: DurableLane, count: Option<u64>);

    /// The store behind the engine was reached, was lost or is back (E60).
    fn reachable(&self, reachable: bool);

    /// Whether what happens in the store reaches this node (E61).
    fn following(&self, following: bool);

    /// Another node, or this one, has something to say to this node (E71).
    fn told(&self, message: &Bytes);
}

/// Rooms: their logs, transients and signals.
///
/// Futures may take long and may fail with [`EngineError::Unavailable`] at any time. Dropping one leaves open whether
/// its operation was done.
///
/// # The log
/// - **E1** The outcomes of [`append`](Engine::append) are one for each item, in their order; items are judged one by
///   one in that order, each after those before it took effect.
/// - **E2** Stored events are numbered by lane and, across lanes, by order, each contiguous from 1, in the order in
///   which they were judged; different rooms count by themselves.
/// - **E3** What was answered as stored is there: each later read, page, head and opening has it, byte for byte, until
///   it is trimmed.
/// - **E4** A number at or below the watermark of its (user, instance, lane) is a duplicate with the numbers of the first
///   one, if they are known, and stores nothing.
/// - **E5** A number above the watermark whose `after` is above the watermark too is out of order and stores nothing.
/// - **E6** An idempotency key used before with the same body gives the first numbers, with another body a conflict, and
///   neither stores anything; another API key has keys of its own.
/// - **E7** Of each lane as many events are kept as the retention given with the newest append says, none older than its
///   age; the rest is trimmed, oldest first, and the heads stay.
/// - **E8** [`read`](Engine::read) gives the events of a lane after a seq, without a hole, at least one if there is one,
///   and no more than the bounds; `first` says from where on the log has them, so that what was trimmed is seen.
/// - **E9** [`history`](Engine::history) merges the lanes asked for by order, in either direction, and says in gaps what is
///   trimmed or expired.
/// - **E10** A room that was never published to has an epoch, no seqs, and is there for everybody who names it.
/// - **E11** [`head`](Engine::head) says the newest seqs and order, and the oldest position that is served without a gap.
///
/// # Opening
/// - **E12** Live opens at the head; beginning at the oldest event; a count and a duration as far back as they say, or as
///   the log still has.
/// - **E13** A position of the present epoch opens at itself, and is recovered exactly if nothing after it was trimmed.
/// - **E14** A position in an epoch that the log does not know opens at the oldest event, not recovered, with one
///   rolled-back range without upper end for each lane.
/// - **E15** A position beyond the head opens at the head, not recovered, with the range that it claimed rolled back; the
///   log is not changed by it.
/// - **E16** An engine that forgot a room, or starts without what it had, opens the room in a greater epoch.
///
/// # Notifications
/// - **E20** Each event that is stored while the room is subscribed is told to the sink once, in the order of their
///   storing, with the epoch and the record; what was not stored is not told.
/// - **E21** Nothing is told of a room before [`subscribe`](Engine::subscribe) or after
///   [`unsubscribe`](Engine::unsubscribe); subscribing twice is subscribing once.
/// - **E22** A new epoch of a subscribed room is told before any of its events.
/// - **E23** [`glance`](Engine::glance) answers only for a subscribed room of which everything up to its head was told and
///   whose notifications are known to arrive; what this node was acknowledged as stored is at or below that head.
/// - **E24** Instead of one by one, events may be told as a jump of their lane's head, where a connection to the store was
///   broken and too much was missed.
///
/// # Transients
/// - **E30** A transient event of a subscribed room is told to the sink once, with a mark that counts it by lane; it
///   changes neither seqs nor order and is in no read.
/// - **E31** Opening gives the mark of that moment: a transient told with a higher count came after it.
/// - **E32** A mark asked for at opening is answered with none or the exact count of what came since, if its source is
///   still followed, with unknown if not, and with unspecified if none was asked for.
///
/// - **E33** Transients of a subscribed room that were published and not told are reported as missed, with their number
///   or as unknown, before the next one is told.
///
/// # Signals
/// - **E40** Of a (sender, type, key) the signal with the greatest (start, counter) wins: one that is not greater than the
///   newest is stale and is neither told nor kept.
/// - **E41** [`live_signals`](Engine::live_signals) gives the newest signal of every (sender, type, key) that has not expired
///   and is not a clear, oldest first.
/// - **E42** A clear is told, ends the value, and an older signal that comes after it stays stale.
/// - **E43** An expired signal is neither told nor kept, and does not make room for an older one.
/// - **E44** A room whose table of signals is full refuses further keys and tells nothing of them, while known keys go on.
///
/// # Bounds of an engine that holds the rooms itself
/// - **E50** Beyond the bound on rooms a new room is refused as full; rooms that exist go on.
/// - **E51** Beyond the bound on bytes an append is refused as full, and nothing of it is stored.
/// - **E52** [`sweep`](Engine::sweep) forgets a room only if nobody is subscribed to it and it has no event, watermark, key or
///   live signal.
///
/// # A store that is away
/// - **E60** That the store was reached first, its loss, and its return are told to the sink once each; while it is away
///   transients and signals still reach the sink of the node that they came to, and everything else is refused as
///   unavailable, a transient in a room that this node does not follow included, since nobody would learn of its loss.
/// - **E61** That what happens in the store reaches this node is told to the sink once it does, and once each when it stops
///   and does again; a fault of this node's own connection is such a stop, also while the store answers.
///
/// # Nodes
/// - **E70** [`nodes`](Engine::nodes) gives the newest lease of each node that announced itself and whose lease has not run
///   out or been ended, this one included.
/// - **E71** A message told to a node, or to all, reaches the sink of each once, this one included, if it is connected then.
///
/// # Revocations
/// - **E80** [`revoke`](Engine::revoke) keeps what it is given and answers with it as it holds: newer than every earlier change
///   of the subject, and reaching as far and lasting as long as what was revoked of it before, unless that was lifted.
/// - **E81** [`revocations`](Engine::revocations) gives the newest state of every subject that changed after a cursor once,
///   oldest change first, in pages, and those that were lifted too; without a cursor all that it has.
/// - **E82** Beyond the bound a further subject is refused as full, and none is forgotten before its end; known ones go on.
/// - **E83** What is handed in by [`restore`](Engine::restore) is taken where it is newer than what is kept, and changes
///   nothing else.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Judges and stores events (E1 to E7).
    async fn append(&self, room: &str, retention: Retention, items: Vec<Append>) -> Vec<Result<Outcome, EngineError>>;

    /// As [`append`](Self::append), and every outcome is given only after what it says was also confirmed by a replica;
    /// if that takes too long the answer is [`EngineError::Unavailable`], and it is open whether it was stored.
    async fn append_replicated(
        &self,
        room: &str,
        retention: Retention,
        items: Vec<Append>,
    ) -> Vec<Result<Outcome, EngineError>>;

    /// Whether there are replicas that could confirm.
    fn replicates(&self) -> bool;

    /// Reads one lane (E8).
    async fn read(
        &self,
        room: &str,
        lane: DurableLane,
        after: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Read, EngineError>;

    /// Reads a page (E9).
    async fn history(&self, room: &str, query: HistoryQuery) -> Result<Page, EngineError>;

    /// Reads the head (E11).
    async fn head(&self, room: &str) -> Result<Head, EngineError>;

    /// Says where a subscription begins (E12 to E16), and what is known of transients (E31, E32).
    async fn open(
        &self,
        room: &str,
        start: Start,
        transients: Option<v1::TransientMark>,
    ) -> Result<Opened, EngineError>;

    /// Passes a transient event on (E30).
    async fn publish_transient(&self, room: &str, event: Transient) -> Result<(), EngineError>;

    /// Passes a signal on and keeps it while it is the newest (E40 to E44).
    async fn signal(&self, room: &str, signal: Signal) -> Result<Signalled, EngineError>;

    /// The signals that somebody who enters the room must see (E41).
    async fn live_signals(&self, room: &str) -> Result<Vec<Signal>, EngineError>;

    /// Begins to tell the sink what happens in a room (E20 to E22).
    async fn subscribe(&self, room: &str) -> Result<(), EngineError>;

    /// Ends what [`subscribe`](Self::subscribe) began.
    async fn unsubscribe(&self, room: &str) -> Result<(), EngineError>;

    /// What is known of a subscribed room without asking anybody (E23).
    fn glance(&self, room: &str) -> Option<Glance>;

    /// Announces this node, or renews its lease (E70).
    async fn announce(&self, lease: Lease) -> Result<(), EngineError>;

    /// Ends the lease of this node.
    async fn retire(&self, node: &str) -> Result<(), EngineError>;

    /// The nodes with a lease (E70), by id.
    async fn nodes(&self) -> Result<Vec<Lease>, EngineError>;

    /// Says something to a node, or to all (E71). At most [`NODE_MESSAGE_BYTES_MAX`] bytes. It may be lost, so whoever
    /// needs to know asks for an answer.
    async fn tell(&self, node: Option<&str>, message: Bytes) -> Result<(), EngineError>;

    /// Revokes, or lifts a revocation (E80).
    async fn revoke(&self, change: Revocation) -> Result<Revocation, EngineError>;

    /// What changed after a cursor (E81).
    async fn revocations(&self, after: Option<&RevocationCursor>) -> Result<RevocationPage, EngineError>;

    /// Hands in what this node knows, for a store that lost some (E83).
    async fn restore(&self, known: Vec<Revocation>) -> Result<(), EngineError>;

    /// Forgets what is too old. To be called every few seconds; nothing is served longer than it may be without it.
    fn sweep(&self);

    /// Gauges and counters.
    fn stats(&self) -> EngineStats;
}
