//! `GET /v1/rooms/{room}/position`: the head of a room.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lanecast_protocol::v1;

use super::Caller;
use crate::auth::rights::Verb;
use crate::http::encoding::Encoding;
use crate::http::error::Refused;
use crate::node::Node;
use crate::publish::{engine_refusal, forbidden};
use crate::telemetry::labels::EngineCall;

/// LC-API-009.
pub(super) async fn position(
    State(node): State<Arc<Node>>,
    caller: Caller,
    encoding: Encoding,
) -> Result<Response, Refused> {
    if !caller.identity.allows(Verb::History, &caller.room) {
        return Err(forbidden().into());
    }
    node.rates.request(&node.metrics, &caller.identity)?;
    let head = node.hub.engine().head(&caller.room).await.map_err(|error| {
        node.metrics.engine_failed(EngineCall::Head, &caller.room, &error);
        engine_refusal(error)
    })?;
    let response = v1::ReadPositionResponse {
        text: head.position.to_string(),
        position: Some(head.position.into()),
        order: head.order,
        oldest: Some(head.oldest.into()),
    };
    Ok(encoding.answer("ReadPositionResponse", &response))
}
