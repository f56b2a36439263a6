//! `/.well-known/lanecast`: what a client may know before it connects.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::node::Node;

/// The document. Its `limits` are the canonical JSON of `Limits`.
pub(super) async fn document(
    State(node): State<Arc<Node>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> impl IntoResponse {
    // Pages of every origin may read it (LC-API-030): it says nothing that a handshake would not.
    ([(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(describe(&node, peer.ip().to_canonical())))
}

/// What holds for who asks: this machine alone may use development tokens, and reaches what listens on loopback.
fn describe(node: &Node, peer: IpAddr) -> Value {
    let limits = node.limits();
    let capabilities: Vec<&str> = node.session.capabilities.iter().map(|capability| capability.as_str_name()).collect();
    let mut document = json!({
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
        "development": node.config.dev && peer.is_loopback(),
        "node": &*node.id,
    });
    let reached = |address: &&SocketAddr| peer.is_loopback() || !address.ip().is_loopback();
    if let Some(address) = node.quic_address.get().filter(reached) {
        document["quic"] = json!({ "port": address.port() });
        document["webtransport"] = json!({ "port": address.port(), "path": "/v1/connect" });
        let hashes = node.tls.as_ref().map(|tls| tls.hashes()).unwrap_or_default();
        if !hashes.is_empty() {
            let hashes: Vec<String> = hashes.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect();
            document["webtransport"]["certificateHashes"] = json!(hashes);
        }
    }
    document
}
