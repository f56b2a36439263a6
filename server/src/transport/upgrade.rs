//! `GET /v1/connect`: from an HTTP request to a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Json, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use lanecast_protocol::codes::Code;
use serde::Deserialize;

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
/// Slowest rate that the page may set, bytes per second: below it the heartbeat would not get through.
const RATE_MIN: u64 = 100;

/// The routes of WebSocket, and in development the one that makes a bad network.
pub fn routes(dev: bool) -> Router<Arc<Node>> {
    let routes = Router::new().route("/v1/connect", get(connect));
    if dev { routes.route("/v1/dev/connections/{id}/rate", post(set_rate)) } else { routes }
}

async fn connect(
    State(node): State<Arc<Node>>,
    client: Client,
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
            Ok(upgrade) => open(node, upgrade, encoding, client.address, slot),
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
    encoding: Encoding,
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
                let transport = WebSocketTransport::new(socket, encoding, record_bytes, node.one_write_each);
                Box::new(Connection::new(node, transport, (labels::Transport::WebSocket, label), peer)).run().await;
                drop((slot, held));
            })
        })
}

#[derive(Deserialize)]
struct Rate {
    bytes_per_second: Option<u64>,
}

/// Limits what a connection gets, for the page's bad network. Only in development, where everybody on this machine is
/// trusted.
async fn set_rate(
    State(node): State<Arc<Node>>,
    client: Client,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(rate): Json<Rate>,
) -> Response {
    if !origin::is_allowed(&headers, &node.config) {
        return Refused::new(Code::Origin, "Pages of this origin may not do this.").into_response();
    }
    if !client.address.ip().to_canonical().is_loopback() {
        return Refused::new(Code::Forbidden, "Only this machine may do this.").into_response();
    }
    match node.registry.find(&id) {
        None => Refused::new(Code::NotFound, "There is no connection with this id.").into_response(),
        Some(entry) => {
            entry.set_rate(rate.bytes_per_second.map(|rate| rate.max(RATE_MIN)));
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
