//! `/.well-known/lanecast`: what a client may know before it connects.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::node::Node;

/// The document. Its `limits` are the canonical JSON of `Limits`.
pub(super) async fn document(State(node): State<Arc<Node>>) -> impl IntoResponse {
    // Pages of every origin may read it (LC-API-030): it says nothing that a handshake would not.
    ([(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(describe(&node)))
}

fn describe(node: &Node) -> Value {
    let limits = node.limits();
    let capabilities: Vec<&str> = node.session.capabilities.iter().map(|capability| capability.as_str_name()).collect();
    json!({
        "versions": [1],
        "websocket": "/v1/connect",
        "subprotocols": ["lanecast.v1", "lanecast.v1+json"],
        "capabilities": capabilities,
        "limits": {
            "recordBytes": limits.record_bytes,
            "messageBytes": limits.message_bytes,
            "rooms": limits.rooms,
            "publishesInFlight": limits.publishes_in_flight,
            "signalsPerSecond": limits.signals_per_second,
            "historyPage": limits.history_page,
        },
        "development": node.config.dev,
        "node": &*node.id,
    })
}
