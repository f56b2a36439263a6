//! Publishes that are acknowledged only when replicas have them.
//!
//! `WAIT` speaks of the writes of its own connection, and blocks everything behind it: so these publishes go on a
//! connection of their own, one group at a time.

use std::sync::Arc;

use lanecast_protocol::log::{Append, Outcome, Retention, Start};
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Mutex, Semaphore};

use super::link::{UNAVAILABLE, Up, open};
use super::state::is_stale;
use super::{Inner, OPENINGS_MAX, RedisOptions};
use crate::engine::EngineError;

/// How long replicas have to confirm, ms: less than an answer may take.
const CONFIRM_MS: u64 = 1_000;
/// Publishes that wait for the connection; beyond it they are refused.
const WAITING_MAX: usize = 1_024;

/// The connection, and which one of the link it was made beside.
pub(super) struct Replicator {
    options: Arc<RedisOptions>,
    connection: Mutex<Option<(u64, MultiplexedConnection)>>,
    places: Semaphore,
}

impl Replicator {
    pub(super) fn new(options: Arc<RedisOptions>) -> Self {
        Self { options, connection: Mutex::new(None), places: Semaphore::new(WAITING_MAX) }
    }
}

impl Inner {
    pub(super) async fn append_replicated(
        self: &Arc<Self>,
        room: &str,
        retention: Retention,
        items: Vec<Append>,
    ) -> Vec<Result<Outcome, EngineError>> {
        let Ok(_place) = self.replicator.places.try_acquire() else {
            let full = EngineError::Full { what: "publishes that wait for replicas", retry_after_ms: 1_000 };
            return vec![Err(full); items.len()];
        };
        let mut outcomes = Vec::with_capacity(items.len());
        for run in items.chunk_by(|one, other| one.lane == other.lane) {
            let value = self.replicate(room, run).await;
            let Some(first) = run.first() else { continue };
            let stored = value.is_ok();
            outcomes.extend(self.outcomes(room, first.lane, run, value).await);
            let name: Arc<str> = room.into();
            if stored && self.upkeep.is_due(self.clock.now_ms(), &name, first.lane, retention, run.len()) {
                self.tidy(&name, first.lane, retention).await;
            }
        }
        outcomes
    }

    async fn replicate(self: &Arc<Self>, room: &str, run: &[Append]) -> Result<Value, EngineError> {
        let Some(first) = run.first() else { return Err(UNAVAILABLE) };
        for _ in 0..OPENINGS_MAX {
            let up = self.up()?;
            let cmd = self.append_command(&up, room, first.lane, run);
            let value = self.confirmed(&up, cmd).await?;
            if !is_stale(&value) {
                return Ok(value);
            }
            self.state(room, Start::Live).await?;
        }
        Err(UNAVAILABLE)
    }

    /// Sends a command and waits until what it wrote, or had written before, is on the replicas.
    async fn confirmed(&self, up: &Up, cmd: redis::Cmd) -> Result<Value, EngineError> {
        let mut slot = self.replicator.connection.lock().await;
        let mut connection = match slot.take() {
            // Made beside the present link, so the replication id that it goes by holds for this one too.
            Some((generation, connection)) if generation == up.generation => connection,
            _ => open(&self.replicator.options).await.map_err(|_| UNAVAILABLE)?,
        };
        let mut pipeline = redis::pipe();
        pipeline.add_command(cmd);
        // A duplicate writes nothing, and WAIT speaks of writes only: replication is in order, so this one stands for it.
        pipeline.cmd("SET").arg(self.keys.trial("replicated")).arg(1).arg("EX").arg(60).ignore();
        pipeline.cmd("WAIT").arg(self.replicator.options.replicas).arg(CONFIRM_MS);
        let answer: Result<Vec<Value>, _> = pipeline.query_async(&mut connection).await;
        let mut answer = answer.map_err(|error| {
            tracing::warn!("a replicated publish: {error}");
            UNAVAILABLE
        })?;
        *slot = Some((up.generation, connection));
        let confirmed =
            matches!(answer.pop(), Some(Value::Int(count)) if count >= i64::from(self.replicator.options.replicas));
        match answer.pop() {
            Some(value) if confirmed || is_stale(&value) => Ok(value),
            _ => Err(UNAVAILABLE),
        }
    }
}
