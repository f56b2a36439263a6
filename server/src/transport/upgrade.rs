//! `GET /v1/connect`: from an HTTP request to a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lanecast_pacing::Pace;
use lanecast_protocol::codes::Code;

use super::websocket::{Encoding, WebSocketTransport};
use crate::admission::AddressSlot;
use crate::http::error::Refused;
use crate::http::forwarded::Client;
use crate::http::origin;
use crate::node::Node;
use crate::session::Connection;
use crate::telemetry::labels;

/// Read buffer of a WebSocket, bytes: kept for the life of the connection, so it is what an idle one costs.
const READ_BUFFER_BYTES: usize = 1024;
/// The route of WebSocket.
pub fn routes() -> Router<Arc<Node>> {
    Router::new().route("/v1/connect", get(connect))
}

async fn connect(
    State(node): State<Arc<Node>>,
    client: Client,
    Extension(pace): Extension<Pace>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let checked = check(&node, &headers).and_then(|encoding| Ok((encoding, client.slot(&node.admission)?)));
    match checked {
        Err(refused) => {
            node.metrics.handshake_refused(refused.code, &refused.detail, client.address);
            refused.into_response()
        }
        Ok((encoding, slot)) => match upgrade {
            Err(rejection) => rejection.into_response(),
            Ok(upgrade) => open(node, upgrade, (encoding, pace), client.address, slot),
        },
    }
}

fn check(node: &Node, headers: &HeaderMap) -> Result<Encoding, Refused> {
    if !origin::is_allowed(headers, &node.config) {
        return Err(Refused::new(Code::Origin, "Pages of this origin may not connect."));
    }
    if node.shutdown.is_draining() {
        return Err(Refused::new(Code::GoingAway, "The node shuts down.").retry_after(node.config.drain.spread_ms));
    }
    chosen(headers)
        .ok_or_else(|| Refused::new(Code::Protocol, "Offer the WebSocket subprotocol lanecast.v1 or lanecast.v1+json."))
}

/// The first offered subprotocol that the node serves (LC-WS-002).
fn chosen(headers: &HeaderMap) -> Option<Encoding> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut names = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.find_map(|name| Encoding::ALL.into_iter().find(|encoding| encoding.subprotocol() == name.trim()))
}

fn open(
    node: Arc<Node>,
    upgrade: WebSocketUpgrade,
    (encoding, pace): (Encoding, Pace),
    peer: SocketAddr,
    slot: Option<AddressSlot>,
) -> Response {
    let record_bytes = node.config.limits.record_bytes as usize;
    let label = match encoding {
        Encoding::Binary => labels::Encoding::Binary,
        Encoding::Json => labels::Encoding::Json,
    };
    // The drain waits for the connection through this, whatever task it runs in.
    let held = node.shutdown.hold();
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(record_bytes)
        .max_frame_size(record_bytes)
        .protocols([encoding.subprotocol()])
        .on_upgrade(move |socket| {
            // Boxed: the upgrade's own future, which waits for the handshake, stays small.
            Box::pin(async move {
                let transport = WebSocketTransport::new(socket, pace, encoding, record_bytes, node.one_write_each);
                Box::new(Connection::new(node, transport, (labels::Transport::WebSocket, label), peer)).run().await;
                drop((slot, held));
            })
        })
}
