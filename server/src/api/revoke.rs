//! Revoking tokens: by user, by device, and one by one.
//!
//! Promises: what was answered is kept and holds after a restart of the node, as far as the engine's store does; nothing is
//! forgotten before its end (LC-API-057). Refuses: to revoke while the store cannot be reached, since nobody could say
//! that it holds.

use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use axum::response::Response;
use lanecast_protocol::codes::Code;
use lanecast_protocol::position::NUMBER_LIMIT;
use lanecast_protocol::room::check_user;
use lanecast_protocol::v1;

use super::Asker;
use super::operate::{read, require_control};
use super::query::Query;
use crate::auth::rights::CONNECTIONS;
use crate::auth::token::{is_device, is_token_id};
use crate::cluster::message::Deed;
use crate::cluster::{self, page_len, revocations};
use crate::engine::{Revocation, Subject};
use crate::http::encoding::Encoding;
use crate::http::error::Refused;
use crate::node::Node;
use crate::publish::engine_refusal;

/// `POST /v1/revocations` (LC-API-057).
pub(super) async fn revoke(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    require_control(&asker, &[CONNECTIONS])?;
    let asked: v1::RevokeRequest = read(&node, "RevokeRequest", request).await?;
    let subject = subject(&asked.user, &asked.device, &asked.token_id)?;
    let now_ms = node.clock.now_ms();
    let longest_ms =
        now_ms.saturating_add(node.config.tokens.lifetime_max_ms).saturating_add(node.config.tokens.leeway_ms);
    let until_ms = if asked.until_ms == 0 { longest_ms } else { asked.until_ms };
    if until_ms <= now_ms || asked.issued_through_ms >= NUMBER_LIMIT {
        return Err(invalid("until_ms lies in the past, or issued_through_ms is out of bounds."));
    }
    // No token lives longer, so nothing is forgotten early.
    let until_ms = until_ms.min(longest_ms);
    let issued_through_ms = if asked.issued_through_ms == 0 { now_ms } else { asked.issued_through_ms };
    let change = Revocation { subject, issued_through_ms, until_ms, changed_ms: 0, lifted: false };
    carry_out(&node, &asker, encoding, change).await
}

/// `POST /v1/revocations/lift` (LC-API-059).
pub(super) async fn lift(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    require_control(&asker, &[CONNECTIONS])?;
    let asked: v1::LiftRevocationRequest = read(&node, "LiftRevocationRequest", request).await?;
    let subject = subject(&asked.user, &asked.device, &asked.token_id)?;
    if !node.auth.revocations.holds(&subject, node.clock.now_ms()) {
        return Err(Refused::new(Code::NotFound, "There is no such revocation."));
    }
    // How long it lasts is known to the store.
    let change =
        Revocation { subject, issued_through_ms: 0, until_ms: node.clock.now_ms(), changed_ms: 0, lifted: true };
    carry_out(&node, &asker, encoding, change).await
}

/// Keeps a change, and tells all nodes.
async fn carry_out(
    node: &Arc<Node>,
    asker: &Asker,
    encoding: Encoding,
    change: Revocation,
) -> Result<Response, Refused> {
    // So that the connections of this node are counted as closed by this.
    let _held = node.cluster.hold_reader().await;
    let kept = node.hub.engine().revoke(change).await.map_err(engine_refusal)?;
    let wire = revocations::to_wire(&kept);
    let v1::Revocation { user, device, token_id, lifted, .. } = &wire;
    tracing::info!(user, device, token_id, lifted, by = &*asker.identity.service, "told to revoke");
    let gathered = cluster::ask(node, None, Deed::Revoke(wire.clone()).into()).await;
    // It is kept, so it holds, whatever became of telling.
    let gathered = gathered.unwrap_or_default();
    let response = v1::RevokeResponse {
        revocation: Some(wire),
        connections: gathered.connections(),
        nodes: u32::try_from(gathered.answers.len()).unwrap_or(u32::MAX),
        complete: gathered.complete,
        missing: gathered.missing,
    };
    Ok(encoding.answer("RevokeResponse", &response))
}

/// `GET /v1/revocations` (LC-API-058).
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    require_control(&asker, &[CONNECTIONS])?;
    let query = Query::parse(query.as_deref())?;
    let limit = page_len(query.number("limit")?.unwrap_or(0));
    let cursor = query.text("cursor")?;
    let after = if cursor.is_empty() { None } else { Some(read_cursor(&cursor)?) };
    let (found, more) = node.auth.revocations.page(after.as_ref(), limit, node.clock.now_ms());
    let next = found.last().filter(|_| more).map(|last| last.subject.to_text()).unwrap_or_default();
    let response = v1::ListRevocationsResponse { revocations: found.iter().map(revocations::to_wire).collect(), next };
    Ok(encoding.answer("ListRevocationsResponse", &response))
}

fn read_cursor(cursor: &str) -> Result<Subject, Refused> {
    Subject::from_text(cursor).ok_or_else(|| invalid("The cursor is `next` of the page before."))
}

/// A user, with a device or without, or a token.
fn subject(user: &str, device: &str, token_id: &str) -> Result<Subject, Refused> {
    let subject = revocations::subject(user, device, token_id)
        .ok_or_else(|| invalid("Name either a user, or a user and a device, or a token."))?;
    match &subject {
        Subject::Token(id) if !is_token_id(id) => Err(invalid("token_id: 1 to 128 bytes, no control characters.")),
        Subject::Device(_, device) if !is_device(device) => {
            Err(invalid("device: 1 to 128 bytes, no control characters."))
        }
        Subject::User(user) | Subject::Device(user, _) => {
            check_user(user).map_err(|why| invalid(format!("user: {why}")))?;
            Ok(subject)
        }
        Subject::Token(_) => Ok(subject),
    }
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::new(Code::Invalid, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_names_one_thing() {
        for good in [("ann", "", ""), ("ann", "phone", ""), ("", "", "t1")] {
            assert!(subject(good.0, good.1, good.2).is_ok(), "{good:?}");
        }
        let long = "x".repeat(300);
        for bad in [
            ("", "", ""),
            ("", "phone", ""),
            ("ann", "", "t1"),
            ("ann", "phone", "t1"),
            ("*", "", ""),
            (&long, "", ""),
            ("ann", &long, ""),
            ("", "", &long),
        ] {
            assert_eq!(subject(bad.0, bad.1, bad.2).unwrap_err().code, Code::Invalid, "{bad:?}");
        }
    }
}
