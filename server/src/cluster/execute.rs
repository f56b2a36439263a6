//! What a command does on one node.

use std::sync::Arc;

use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::v1;
use prost::Message as _;

use super::message::{Answer, Command, Deed, PAGE_BYTES_MAX};
use super::revocations;
use crate::node::Node;
use crate::session::{self, Entry};

/// Connections in a page at most.
const PAGE_MAX: u32 = 500;
/// Connections in a page whose asker does not say.
const PAGE_DEFAULT: u32 = 100;

/// Carries a command out; `None` for one that this version does not know.
pub(super) fn execute(node: &Node, command: &Command) -> Option<Answer> {
    let count = |connections: usize| Answer { connections: connections as u32, ..Answer::default() };
    Some(match command.deed.as_ref()? {
        Deed::Disconnect(asked) => count(disconnect(node, asked)),
        Deed::EndSubscription(asked) => count(end_subscription(node, asked)),
        Deed::List(asked) => list(node, asked),
        Deed::Revoke(revocation) => count(revocations::learn(node, vec![revocations::from_wire(revocation)?])),
        Deed::Drain(_) => {
            let (_, staying) = node.registry.staying(0);
            node.shutdown.begin();
            count(staying)
        }
    })
}

/// How many connections a page has that was asked for with this limit.
pub(crate) fn page_len(limit: u32) -> usize {
    let limit = if limit == 0 { PAGE_DEFAULT } else { limit.min(PAGE_MAX) };
    limit as usize
}

fn meant(node: &Node, user: &str, device: &str, connection: &str) -> Vec<Arc<Entry>> {
    if user.is_empty() {
        return node.registry.find(connection).into_iter().collect();
    }
    node.registry.of_user(user, Some(device).filter(|device| !device.is_empty()))
}

fn disconnect(node: &Node, asked: &v1::DisconnectRequest) -> usize {
    let close = || {
        let (code, why) = if asked.reconnect {
            (Code::GoingAway, "the application asks the client to connect anew")
        } else {
            (Code::Disconnected, "disconnected by the application")
        };
        session::Command::Close(Refusal::new(code, why))
    };
    let meant = meant(node, &asked.user, &asked.device, &asked.connection);
    meant.into_iter().filter(|entry| entry.command(close())).count()
}

fn end_subscription(node: &Node, asked: &v1::EndSubscriptionRequest) -> usize {
    let Some(room) = node.hub.find(&asked.room) else { return 0 };
    let subscribed = meant(node, &asked.user, &asked.device, &asked.connection).into_iter();
    let subscribed = subscribed.filter(|entry| room.has(&entry.mailbox));
    subscribed.filter(|entry| entry.command(session::Command::Unsubscribe(Arc::clone(room.name())))).count()
}

/// The connections after the cursor, by id: as many as the page may have, or as fit into a message.
fn list(node: &Node, asked: &v1::ListConnectionsRequest) -> Answer {
    if !asked.node.is_empty() && *asked.node != *node.id {
        return Answer::default();
    }
    let length = page_len(asked.limit);
    let mut bytes = 0;
    let (mut listed, mut more) = (Vec::new(), false);
    for entry in found(node, asked, length + 1) {
        // Whoever left meanwhile, or was not welcomed yet, is not there.
        let Some(owner) = entry.owner() else { continue };
        let info = v1::ConnectionInfo {
            id: entry.id.to_string(),
            node: node.id.to_string(),
            user: owner.user.to_string(),
            device: owner.device.into(),
            instance: owner.instance.into(),
            peer: entry.peer.to_string(),
            since_ms: entry.since_ms,
            queued_bytes: entry.queued_bytes(),
        };
        bytes += info.encoded_len();
        if listed.len() == length || (bytes > PAGE_BYTES_MAX && !listed.is_empty()) {
            more = true;
            break;
        }
        listed.push(info);
    }
    Answer { connections: listed.len() as u32, listed, more }
}

/// The first `max` connections after the cursor that fit. A user's connections and a room's subscribers are walked
/// over; all connections are not.
fn found(node: &Node, asked: &v1::ListConnectionsRequest, max: usize) -> Vec<Arc<Entry>> {
    let device = Some(asked.device.as_str()).filter(|device| !device.is_empty());
    let mut found: Vec<Arc<Entry>> = match (asked.user.as_str(), asked.room.as_str()) {
        ("", "") => return node.registry.after(&asked.cursor, max),
        ("", room) => {
            let ids = node.hub.find(room).map(|room| room.subscribers()).unwrap_or_default();
            let mut ids: Vec<_> = ids.into_iter().filter(|id| **id > *asked.cursor).collect();
            ids.sort_unstable();
            return ids.iter().filter_map(|id| node.registry.find(id)).take(max).collect();
        }
        (user, "") => node.registry.of_user(user, device),
        (user, room) => match node.hub.find(room) {
            None => Vec::new(),
            Some(room) => {
                let of_user = node.registry.of_user(user, device).into_iter();
                of_user.filter(|entry| room.has(&entry.mailbox)).collect()
            }
        },
    };
    found.retain(|entry| *entry.id > *asked.cursor);
    found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    found.truncate(max);
    found
}
