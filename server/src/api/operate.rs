//! What operators and backends do with connections and nodes: list them, disconnect, unsubscribe, drain.
//!
//! Promises: an answer says which nodes did not answer (L10). Refuses: users; only an API key with the right `control`
//! may do this, in the room for its subscriptions, else in the reserved names `$connections` and `$nodes`, which no
//! wildcard reaches.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use lanecast_protocol::codes::Code;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::room::check_user;
use lanecast_protocol::v1;

use super::query::Query;
use super::{Asker, read_body, room_name};
use crate::auth::rights::{CONNECTIONS, NODES, Verb};
use crate::cluster::message::Deed;
use crate::cluster::{self, Gathered, page_len};
use crate::http::encoding::Encoding;
use crate::http::error::Refused;
use crate::node::Node;
use crate::publish::forbidden;

/// Bytes of a command's body.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the id of a connection or node.
const ID_BYTES_MAX: usize = 64;
/// Bytes of a device.
const DEVICE_BYTES_MAX: usize = 255;

/// `POST /v1/disconnect` (LC-API-051).
pub(super) async fn disconnect(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    require_control(&asker, &[CONNECTIONS])?;
    let asked: v1::DisconnectRequest = read(&node, "DisconnectRequest", request).await?;
    check_meant(&asked.user, &asked.device, &asked.connection)?;
    // Who was sent away by whom is asked sooner or later.
    let v1::DisconnectRequest { user, device, connection, reconnect } = &asked;
    tracing::info!(user, device, connection, reconnect, by = &*asker.identity.service, "told to disconnect");
    let gathered = cluster::ask(&node, None, Deed::Disconnect(asked).into()).await?;
    Ok(encoding.answer("CommandResponse", &response(gathered)))
}

/// `POST /v1/unsubscribe` (LC-API-052).
pub(super) async fn unsubscribe(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    let asked: v1::EndSubscriptionRequest = read(&node, "EndSubscriptionRequest", request).await?;
    let room = room_name(&asked.room)?;
    require_control(&asker, &[&room, CONNECTIONS])?;
    check_meant(&asked.user, &asked.device, &asked.connection)?;
    let v1::EndSubscriptionRequest { user, device, connection, .. } = &asked;
    tracing::info!(user, device, connection, room = %room, by = &*asker.identity.service, "told to unsubscribe");
    let gathered = cluster::ask(&node, None, Deed::EndSubscription(asked).into()).await?;
    Ok(encoding.answer("CommandResponse", &response(gathered)))
}

/// `GET /v1/connections` (LC-API-053).
pub(super) async fn connections(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let query = Query::parse(query.as_deref())?;
    let asked = v1::ListConnectionsRequest {
        user: query.text("user")?,
        device: query.text("device")?,
        room: query.text("room")?,
        node: query.text("node")?,
        limit: query.number("limit")?.unwrap_or(0),
        cursor: query.text("cursor")?,
    };
    if asked.room.is_empty() {
        require_control(&asker, &[CONNECTIONS])?;
    } else {
        let room = room_name(&asked.room)?;
        require_control(&asker, &[&room, CONNECTIONS])?;
    }
    if !asked.user.is_empty() {
        check_meant(&asked.user, &asked.device, "")?;
    } else if !asked.device.is_empty() {
        return Err(Refused::new(Code::Invalid, "A device is one of a user: name the user too."));
    }
    if asked.cursor.len() > ID_BYTES_MAX {
        return Err(Refused::new(Code::Invalid, "The cursor is `next` of the page before."));
    }
    let limit = page_len(asked.limit);
    let to = Some(asked.node.clone()).filter(|node| !node.is_empty());
    let gathered = cluster::ask(&node, to.as_deref(), Deed::List(asked).into()).await?;
    Ok(encoding.answer("ListConnectionsResponse", &page(gathered, limit)))
}

/// `GET /v1/nodes` (LC-API-050).
pub(super) async fn nodes(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
) -> Result<Response, Refused> {
    require_control(&asker, &[NODES])?;
    let (leases, complete) = cluster::nodes(&node).await;
    let now_ms = node.clock.now_ms();
    let nodes = leases.into_iter().map(|lease| v1::NodeInfo {
        id: lease.node,
        address: lease.address,
        version: lease.version,
        // The clocks of two machines differ a little.
        age_ms: now_ms.saturating_sub(lease.started_ms),
        connections: lease.connections,
        rooms: lease.rooms,
        draining: lease.draining,
    });
    let response = v1::ListNodesResponse { nodes: nodes.collect(), complete };
    Ok(encoding.answer("ListNodesResponse", &response))
}

/// `GET /v1/traces`: where the time of an event went on this node.
pub(super) async fn traces(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let query = Query::parse(query.as_deref())?;
    let room = room_name(&query.text("room")?)?;
    require_control(&asker, &[&room, CONNECTIONS])?;
    if !node.traces.is_on() {
        return Err(Refused::new(Code::Unimplemented, "This node traces nothing: telemetry.traces is off."));
    }
    let seq = query.number("seq")?.ok_or_else(|| Refused::new(Code::Invalid, "Name the seq of the event."))?;
    let lane: Option<DurableLane> = match query.text("lane")?.as_str() {
        "" => None,
        name => Some(
            DurableLane::from_name(name)
                .ok_or_else(|| Refused::new(Code::Invalid, "A lane is urgent, normal or bulk."))?,
        ),
    };
    let lanes = lane.map_or(DurableLane::ALL.to_vec(), |lane| vec![lane]);
    let mut traces = node.traces.find(&room, seq, &lanes);
    if traces.is_empty() {
        return Err(Refused::new(Code::NotFound, "This node remembers no such event."));
    }
    for delivery in traces.iter_mut().flat_map(|trace| &mut trace.deliveries) {
        let owner = node.registry.find(&delivery.connection).and_then(|entry| entry.owner());
        delivery.user = owner.map(|owner| owner.user.to_string()).unwrap_or_default();
    }
    Ok(encoding.answer("ListTracesResponse", &v1::ListTracesResponse { traces }))
}

/// `POST /v1/nodes/{node}/drain` (LC-API-054).
pub(super) async fn drain(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    drained: Result<Path<String>, PathRejection>,
) -> Result<Response, Refused> {
    require_control(&asker, &[NODES])?;
    let Path(drained) = drained.map_err(|_| Refused::new(Code::NotFound, "There is no node with this id."))?;
    let deed = Deed::Drain(v1::DrainNodeRequest { node: drained.clone() });
    let gathered = cluster::ask(&node, Some(&drained), deed.into()).await?;
    tracing::info!(node = %drained, by = &*asker.identity.service, "told to drain");
    Ok(encoding.answer("CommandResponse", &response(gathered)))
}

/// One of the names must be covered.
pub(super) fn require_control(asker: &Asker, names: &[&str]) -> Result<(), Refused> {
    if !asker.identity.is_service() {
        return Err(Refused::new(Code::Forbidden, "Commands take an API key."));
    }
    if names.iter().any(|name| asker.identity.allows(Verb::Control, name)) {
        return Ok(());
    }
    Err(forbidden().into())
}

pub(super) async fn read<M: prost::Message + Default>(node: &Node, name: &str, request: Request) -> Result<M, Refused> {
    let form = Encoding::of_body(request.headers());
    let bytes = read_body(node, request.into_body(), BODY_BYTES_MAX).await?;
    form.decode(name, bytes)
}

/// A user, with a device or without, or a connection.
fn check_meant(user: &str, device: &str, connection: &str) -> Result<(), Refused> {
    let invalid = |why: &str| Err(Refused::new(Code::Invalid, why.to_owned()));
    match (user.is_empty(), connection.is_empty()) {
        (true, true) | (false, false) => return invalid("Name either a user or a connection."),
        (true, false) if !device.is_empty() => {
            return invalid("A device is one of a user: name the user instead of the connection.");
        }
        (true, false) if connection.len() > ID_BYTES_MAX => return invalid("That is no id of a connection."),
        (true, false) => return Ok(()),
        (false, true) => {}
    }
    if device.len() > DEVICE_BYTES_MAX {
        return invalid("A device has at most 255 bytes.");
    }
    check_user(user).map_err(|why| Refused::new(Code::Invalid, format!("user: {why}")))
}

fn response(gathered: Gathered) -> v1::CommandResponse {
    v1::CommandResponse {
        connections: gathered.connections(),
        nodes: u32::try_from(gathered.answers.len()).unwrap_or(u32::MAX),
        complete: gathered.complete,
        missing: gathered.missing,
    }
}

/// Merges the pages of the nodes, each of them by id. Where a node has more than it said, the page ends before what it
/// did not say.
fn page(gathered: Gathered, limit: usize) -> v1::ListConnectionsResponse {
    let said = gathered.answers.iter().filter(|(_, answer)| answer.more);
    let end = said.filter_map(|(_, answer)| answer.listed.last()).map(|last| last.id.clone()).min();
    let mut connections: Vec<_> = gathered.answers.into_iter().flat_map(|(_, answer)| answer.listed).collect();
    connections.sort_by(|a, b| a.id.cmp(&b.id));
    let whole = connections.len();
    if let Some(end) = &end {
        connections.retain(|connection| connection.id <= *end);
    }
    connections.truncate(limit);
    let more = end.is_some() || connections.len() < whole;
    let next = connections.last().filter(|_| more).map(|last| last.id.clone()).unwrap_or_default();
    v1::ListConnectionsResponse { connections, next, complete: gathered.complete, missing: gathered.missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::message::Answer;

    fn answer(node: &str, ids: &[&str], more: bool) -> (String, Answer) {
        let listed = ids.iter().map(|id| v1::ConnectionInfo { id: (*id).to_owned(), ..Default::default() });
        (node.to_owned(), Answer { connections: 0, listed: listed.collect(), more })
    }

    fn ids(page: &v1::ListConnectionsResponse) -> Vec<&str> {
        page.connections.iter().map(|connection| connection.id.as_str()).collect()
    }

    #[test]
    fn a_page_ends_before_what_a_node_did_not_say() {
        let gathered = |answers: Vec<(String, Answer)>| Gathered { answers, complete: true, ..Gathered::default() };
        let merged = page(gathered(vec![answer("1", &["a", "c"], true), answer("2", &["b", "d", "e"], false)]), 10);
        assert_eq!((ids(&merged), merged.next.as_str()), (vec!["a", "b", "c"], "c"));
        let full = page(gathered(vec![answer("1", &["a", "c"], false), answer("2", &["b"], false)]), 2);
        assert_eq!((ids(&full), full.next.as_str()), (vec!["a", "b"], "b"));
        let last = page(gathered(vec![answer("1", &["a", "c"], false), answer("2", &[], false)]), 2);
        assert_eq!((ids(&last), last.next.as_str()), (vec!["a", "c"], ""));
    }

    proptest::proptest! {
        #[test]
        fn page_after_page_lists_each_connection_once(
            ids in proptest::collection::btree_set(0..1_000_u32, 0..60),
            limit in 1..9_usize,
            // A node may stop before the limit, since its message is full.
            fits in proptest::collection::vec(1..9_usize, 3),
        ) {
            let ids: Vec<String> = ids.into_iter().map(|id| format!("{id:04}")).collect();
            let node = |at: usize, cursor: &str| {
                let mine: Vec<&str> = ids.iter().skip(at).step_by(3).map(String::as_str).filter(|id| *id > cursor).collect();
                let length = limit.min(fits[at]).min(mine.len());
                answer("n", &mine[..length], length < mine.len())
            };
            let (mut cursor, mut listed) = (String::new(), Vec::new());
            loop {
                let answers = (0..3).map(|at| node(at, &cursor)).collect();
                let page = page(Gathered { answers, ..Gathered::default() }, limit);
                proptest::prop_assert!(page.connections.len() <= limit);
                listed.extend(page.connections.into_iter().map(|connection| connection.id));
                if page.next.is_empty() {
                    break;
                }
                proptest::prop_assert!(page.next > cursor, "each page goes on");
                cursor = page.next;
            }
            proptest::prop_assert_eq!(listed, ids);
        }
    }

    #[test]
    fn a_command_names_a_user_or_a_connection() {
        for good in [("ann", "", ""), ("ann", "phone", ""), ("", "", "0a")] {
            assert!(check_meant(good.0, good.1, good.2).is_ok(), "{good:?}");
        }
        let long = "x".repeat(300);
        for bad in
            [("", "", ""), ("ann", "", "0a"), ("", "phone", "0a"), ("*", "", ""), ("ann", &long, ""), ("", "", &long)]
        {
            assert_eq!(check_meant(bad.0, bad.1, bad.2).unwrap_err().code, Code::Invalid, "{bad:?}");
        }
    }
}
