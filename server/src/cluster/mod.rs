//! What nodes say to each other: leases that tell who is there, and commands that reach the connections of all.
//!
//! ```text
//! HTTP API ─▶ ask() ─▶ this node ─────────────▶ registry
//!               │  └─▶ engine.tell ─▶ other nodes' inboxes ─▶ their registries
//!               ◀───────── answers, at most one second ◀───────┘
//! ```
//!
//! Promises: an answer names every node that is known and did not answer in time (L10). A command that comes twice is
//! carried out once and answered twice with the same count, since messages may be lost and are repeated.
//! Refuses: reliable messages. Whoever asks repeats; what must not be lost is in a room's log.
//!
//! Invariant: a node does what it is asked by its own caller without the engine, so that commands reach its own
//! connections while the store is away.

mod answered;
mod ask;
mod execute;
mod inbox;
pub mod message;
mod pace;
pub(crate) mod revocations;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::Notify;

pub use self::ask::{ANSWER_WITHIN, Gathered, ask, nodes};
pub(crate) use self::execute::page_len;
pub use self::inbox::Inbox;
use self::message::{Body, FORMAT, NodeMessage};
use crate::engine::{LEASE_MS, Lease};
use crate::node::Node;
use crate::telemetry::labels;

/// Shortest and longest time between two announcements, ms: two may be lost before the lease of 30 s runs out.
const ANNOUNCE_MS: std::ops::RangeInclusive<u64> = LEASE_MS / 4..=LEASE_MS / 3;
/// After a failed announcement the next one comes this much later.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(1);
/// The engine has this long to end a lease.
const RETIRE_WITHIN: Duration = Duration::from_secs(1);
/// The engine has this long to begin the first lease.
const JOIN_WITHIN: Duration = Duration::from_secs(3);

/// This node among the others.
#[derive(Debug, Default)]
pub struct Cluster {
    address: OnceLock<String>,
    pending: ask::Pending,
    answered: answered::Answered,
    renew: Notify,
    /// Up to where revocations were read.
    revoked: tokio::sync::Mutex<revocations::Reader>,
}

impl Cluster {
    /// While it is held this node reads no revocations, and so learns of a new one from whoever makes it.
    pub(crate) async fn hold_reader(&self) -> impl Sized + '_ {
        self.revoked.lock().await
    }

    /// Says where the node listens. The first call counts; an advertised address of the configuration wins.
    pub fn listens_at(&self, address: SocketAddr) {
        let _ = self.address.set(address.to_string());
    }
}

/// What the node says of itself now.
pub fn lease(node: &Node) -> Lease {
    let listen = &node.config.listen;
    let address = listen.advertised.clone().or_else(|| node.cluster.address.get().cloned());
    Lease {
        node: node.id.to_string(),
        address: address.unwrap_or_else(|| listen.address.to_string()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: node.clock.now_ms().saturating_sub(node.clock.elapsed().as_millis() as u64),
        connections: node.registry.len() as u64,
        rooms: node.hub.rooms() as u64,
        draining: node.shutdown.is_draining(),
    }
}

/// Announces the node for the first time. Call it before connections are taken: a command to all must not miss one that
/// is on a node of which nobody knows.
pub async fn join(node: &Node) {
    let joined = tokio::time::timeout(JOIN_WITHIN, node.hub.engine().announce(lease(node))).await;
    if !matches!(joined, Ok(Ok(()))) {
        tracing::warn!("the other nodes cannot be told of this one yet; commands to all will miss its connections");
    }
    let read = tokio::time::timeout(JOIN_WITHIN, node.cluster.revoked.lock().await.read(node)).await;
    if !matches!(read, Ok(Ok(()))) {
        tracing::warn!("the revocations cannot be read yet: until they are, tokens that were revoked are taken");
    }
}

/// The node's part in the cluster for as long as it lives: renews its lease, does what other nodes ask, follows the
/// revocations, and once it drains sends its connections away. Cancel safe: what was not done is not done.
pub async fn run(node: Arc<Node>) {
    tokio::join!(announce(&node), listen(&node), pace::send_away(&node), revocations::follow(&node));
}

/// Ends the lease, so that nobody waits for this node. Call it after [`run`] was dropped, which would renew it.
pub async fn retire(node: &Node) {
    let retired = tokio::time::timeout(RETIRE_WITHIN, node.hub.engine().retire(&node.id)).await;
    if !matches!(retired, Ok(Ok(()))) {
        tracing::info!("the lease was not ended; it runs out by itself");
    }
}

async fn announce(node: &Arc<Node>) {
    loop {
        let pause = match node.hub.engine().announce(lease(node)).await {
            Ok(()) => Duration::from_millis(rand::random_range(ANNOUNCE_MS)),
            Err(error) => {
                tracing::debug!(%error, "the lease was not renewed");
                ANNOUNCE_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.cluster.renew.notified() => {}
        }
    }
}

async fn listen(node: &Arc<Node>) {
    loop {
        let bytes = node.hub.inbox().next().await;
        let kind = match NodeMessage::decode(bytes) {
            Ok(NodeMessage { format: FORMAT, from, request, body: Some(body) }) => {
                // What this node told to all comes back to it; it did its own part when it was asked.
                if *from == *node.id { continue } else { take(node, from, request, body).await }
            }
            _ => labels::NodeMessage::Unknown,
        };
        node.metrics.node_messages.of(kind).inc();
    }
}

async fn take(node: &Arc<Node>, from: String, request: u64, body: Body) -> labels::NodeMessage {
    match body {
        Body::Answer(answer) => {
            node.cluster.pending.answer(request, from, answer);
            labels::NodeMessage::Answer
        }
        Body::Command(command) => {
            let known = node.cluster.answered.find(&from, request);
            let Some(answer) = known.or_else(|| execute::execute(node, &command)) else {
                return labels::NodeMessage::Unknown;
            };
            if command.must_not_repeat() {
                node.cluster.answered.keep(&from, request, &answer);
            }
            let message = message::encode(&node.id, request, Body::Answer(answer));
            if let Err(error) = node.hub.engine().tell(Some(&from), message).await {
                tracing::debug!(%from, %error, "an answer was not sent");
            }
            labels::NodeMessage::Command
        }
    }
}
