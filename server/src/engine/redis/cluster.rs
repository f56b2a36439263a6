//! The nodes: their leases, and what they tell one another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;

use super::Inner;
use super::link::{CallError, UNAVAILABLE};
use super::state::text;
use crate::engine::{EngineError, LEASE_MS, Lease, NODE_MESSAGE_BYTES_MAX};

/// How long the first announcement waits for the node's own channels.
const LISTENING_WITHIN: Duration = Duration::from_secs(2);
/// Leases that ran out and are removed with one announcement.
const REMOVED_AT_ONCE: usize = 100;
/// Nodes that are listed.
const NODES_MAX: usize = 10_000;

/// What the node is called, once it announced itself.
#[derive(Default)]
pub(super) struct Cluster {
    node: Mutex<Option<String>>,
    /// The nodes that had a lease when this one was renewed last.
    peers: Mutex<Vec<String>>,
    /// A channel of the node went on.
    pub(super) changed: Notify,
}

impl Cluster {
    /// What this node is called; `None`: it did not announce itself.
    pub(super) fn name(&self) -> Option<String> {
        self.node.lock().clone()
    }

    /// The nodes that are likely to be there.
    pub(super) fn peers(&self) -> Vec<String> {
        self.peers.lock().clone()
    }
}

impl Inner {
    pub(super) async fn announce(self: &Arc<Self>, lease: Lease) -> Result<(), EngineError> {
        self.listen(&lease.node).await?;
        let up = self.link.up().ok_or(UNAVAILABLE)?;
        let [leases, texts] = self.keys.leases();
        let now_ms = self.clock.now_ms();
        let Ok(json) = serde_json::to_string(&lease) else { return Err(UNAVAILABLE) };
        let mut pipeline = redis::pipe();
        // The text first: a name without one would be a node that says nothing.
        pipeline.cmd("HSET").arg(&texts).arg(&lease.node).arg(json).ignore();
        pipeline.cmd("ZADD").arg(&leases).arg(now_ms + LEASE_MS).arg(&lease.node).ignore();
        let living = format!("({now_ms}");
        pipeline.cmd("ZRANGEBYSCORE").arg(&leases).arg(living).arg("+inf").arg("LIMIT").arg(0).arg(NODES_MAX);
        pipeline.cmd("ZRANGEBYSCORE").arg(&leases).arg("-inf").arg(now_ms).arg("LIMIT").arg(0).arg(REMOVED_AT_ONCE);
        let mut answer = self.link.call_all(&up, &pipeline).await.map_err(CallError::into_engine)?;
        if let [Value::Array(living), _] = &answer[..] {
            *self.cluster.peers.lock() = living.iter().filter_map(text).map(str::to_owned).collect();
        }
        match answer.pop() {
            Some(Value::Array(dead)) if !dead.is_empty() => {
                let dead: Vec<&str> = dead.iter().filter_map(text).collect();
                self.remove(&dead).await
            }
            _ => Ok(()),
        }
    }

    /// Subscribes to what is told to all nodes and to this one.
    async fn listen(&self, node: &str) -> Result<(), EngineError> {
        let channels = [self.keys.all_nodes(), self.keys.node(node)];
        let former = self.cluster.node.lock().replace(node.to_owned());
        if former.as_deref() != Some(node) {
            channels.iter().for_each(|channel| self.events.want(channel));
        }
        let listening = tokio::time::timeout(LISTENING_WITHIN, async {
            loop {
                let mut changed = std::pin::pin!(self.cluster.changed.notified());
                changed.as_mut().enable();
                if channels.iter().all(|channel| self.events.is_on(channel)) {
                    return;
                }
                changed.await;
            }
        });
        listening.await.map_err(|_| UNAVAILABLE)
    }

    pub(super) async fn retire(&self, node: &str) -> Result<(), EngineError> {
        self.remove(&[node]).await
    }

    async fn remove(&self, nodes: &[&str]) -> Result<(), EngineError> {
        let up = self.link.up().ok_or(UNAVAILABLE)?;
        let [leases, texts] = self.keys.leases();
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(leases).arg(nodes).ignore();
        pipeline.cmd("HDEL").arg(texts).arg(nodes).ignore();
        self.link.call_all(&up, &pipeline).await.map(drop).map_err(CallError::into_engine)
    }

    pub(super) async fn nodes(&self) -> Result<Vec<Lease>, EngineError> {
        let up = self.link.up().ok_or(UNAVAILABLE)?;
        let [leases, texts] = self.keys.leases();
        let mut cmd = redis::cmd("ZRANGEBYSCORE");
        cmd.arg(leases).arg(format!("({}", self.clock.now_ms())).arg("+inf").arg("LIMIT").arg(0).arg(NODES_MAX);
        let Value::Array(names) = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)? else {
            return Err(UNAVAILABLE);
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(texts);
        names.iter().filter_map(text).for_each(|name| {
            cmd.arg(name);
        });
        let Value::Array(found) = self.link.call(&up, &cmd).await.map_err(CallError::into_engine)? else {
            return Err(UNAVAILABLE);
        };
        let mut nodes: Vec<Lease> =
            found.iter().filter_map(text).filter_map(|json| serde_json::from_str(json).ok()).collect();
        nodes.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(nodes)
    }

    pub(super) async fn tell(&self, node: Option<&str>, message: Bytes) -> Result<(), EngineError> {
        if message.len() > NODE_MESSAGE_BYTES_MAX {
            return Err(EngineError::Full { what: "bytes of a message between nodes", retry_after_ms: 0 });
        }
        let up = self.link.up().ok_or(UNAVAILABLE)?;
        let channel = node.map_or_else(|| self.keys.all_nodes(), |node| self.keys.node(node));
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(channel).arg(&*message);
        self.link.call(&up, &cmd).await.map(drop).map_err(CallError::into_engine)
    }
}
