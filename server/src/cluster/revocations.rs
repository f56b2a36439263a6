//! Revocations on all nodes: told at once, and read again and again, so that a message that was lost costs seconds.
//!
//! ```text
//! POST /v1/revocations ─▶ engine.revoke ─▶ kept
//!                           └─▶ ask(all) ─▶ each node: learn ─▶ its connections close
//! every two seconds: engine.revocations ─▶ learn
//! ```
//!
//! While the store is away what a node knows goes on to hold, and nothing can be revoked. A store that comes back with less
//! is handed what the nodes know.

use std::sync::Arc;
use std::time::Duration;

use lanecast_protocol::v1;

use crate::engine::{EngineError, Revocation, RevocationCursor, Subject};
use crate::node::Node;
use crate::session::{Command, Entry, revoked};

/// How often a node looks for what it was not told of. A tenth of the time within which a revocation holds everywhere
/// (LC-AUTH-003), with room for a store that is slow.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Up to where this node has read.
#[derive(Debug, Default)]
pub(super) struct Reader(Option<RevocationCursor>);

impl Reader {
    /// Reads what changed. Cancel safe: what was read is learnt, and what was not is read next.
    pub(super) async fn read(&mut self, node: &Node) -> Result<(), EngineError> {
        let engine = node.hub.engine();
        loop {
            let page = engine.revocations(self.0.as_ref()).await?;
            if page.anew {
                // Before its own reading, so that a node which knows more gets here first as often as one that knows less.
                match engine.restore(node.auth.revocations.all()).await {
                    Err(EngineError::Full { .. }) => {
                        tracing::warn!("the store has no room for the revocations that it lost; nodes hold to them");
                    }
                    restored => restored?,
                }
            }
            learn(node, page.changes);
            self.0 = Some(page.cursor);
            if !page.more {
                return Ok(());
            }
        }
    }
}

/// Reads for as long as the node lives.
pub(super) async fn follow(node: &Arc<Node>) {
    loop {
        if let Err(error) = node.cluster.revoked.lock().await.read(node).await {
            tracing::debug!(%error, "the revocations were not read");
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}

/// Holds to changes that this node did not know: closes the connections whose token they revoke. Says how many.
pub(crate) fn learn(node: &Node, changes: Vec<Revocation>) -> usize {
    let learnt = node.auth.revocations.learn(changes);
    node.metrics.revocations.set(node.auth.revocations.len() as i64);
    let revoked_now = || learnt.iter().filter(|change| !change.lifted);
    let by_id = revoked_now().any(|change| matches!(change.subject, Subject::Token(_)));
    let mut meant: Vec<Arc<Entry>> = if by_id {
        // One walk for all that were learnt: no table leads from a token's id to its connections.
        node.registry.welcomed()
    } else {
        let of = |change: &Revocation| match &change.subject {
            Subject::User(user) => node.registry.of_user(user, None),
            Subject::Device(user, device) => node.registry.of_user(user, Some(device)),
            Subject::Token(_) => Vec::new(),
        };
        revoked_now().flat_map(of).collect()
    };
    meant.retain(|entry| {
        let owner = entry.owner();
        owner.is_some_and(|owner| node.auth.is_revoked(&owner.user, &owner.device, &entry.mark()))
    });
    meant.into_iter().filter(|entry| entry.command(Command::Close(revoked()))).count()
}

/// A revocation as nodes and the API say it.
pub(crate) fn to_wire(revocation: &Revocation) -> v1::Revocation {
    let (user, device, token_id) = match &revocation.subject {
        Subject::User(user) => (user.to_string(), String::new(), String::new()),
        Subject::Device(user, device) => (user.to_string(), device.to_string(), String::new()),
        Subject::Token(id) => (String::new(), String::new(), id.to_string()),
    };
    let Revocation { issued_through_ms, until_ms, changed_ms, lifted, .. } = *revocation;
    v1::Revocation { user, device, token_id, issued_through_ms, until_ms, changed_ms, lifted }
}

/// What is meant; `None`: nothing, or too much.
pub(crate) fn subject(user: &str, device: &str, token_id: &str) -> Option<Subject> {
    match (user, device, token_id) {
        ("", "", "") => None,
        ("", "", id) => Some(Subject::Token(id.into())),
        (user, "", "") if !user.is_empty() => Some(Subject::User(user.into())),
        (user, device, "") if !user.is_empty() => Some(Subject::Device(user.into(), device.into())),
        _ => None,
    }
}

pub(super) fn from_wire(wire: &v1::Revocation) -> Option<Revocation> {
    let v1::Revocation { issued_through_ms, until_ms, changed_ms, lifted, .. } = *wire;
    let subject = subject(&wire.user, &wire.device, &wire.token_id)?;
    Some(Revocation { subject, issued_through_ms, until_ms, changed_ms, lifted })
}
