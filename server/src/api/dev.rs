//! What the page may do in development with a connection of this machine: make its network bad, and see its lanes.
//!
//! Refuses: other machines and pages of other origins. There is no credential, since in development everybody on this
//! machine may be anyone.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Json, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use lanecast_protocol::codes::Code;
use serde::{Deserialize, Serialize};

use crate::http::error::Refused;
use crate::http::forwarded::Client;
use crate::http::origin;
use crate::node::Node;
use crate::session::Entry;
use crate::telemetry::Figures;

/// Slowest rate that the page may set, bytes per second: below it the heartbeat would not get through.
const RATE_MIN: u64 = 100;

/// The routes for development.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/dev/connections/{id}/rate", post(set_rate))
        .route("/v1/dev/connections/{id}/lanes", get(lanes))
}

/// Somebody on this machine.
struct Local;

impl FromRequestParts<Arc<Node>> for Local {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Refused> {
        let client = Client::from_request_parts(parts, node).await?;
        if !origin::is_allowed(&parts.headers, &node.config) {
            return Err(Refused::new(Code::Origin, "Pages of this origin may not do this."));
        }
        if !client.address.ip().to_canonical().is_loopback() {
            return Err(Refused::new(Code::Forbidden, "Only this machine may do this."));
        }
        Ok(Self)
    }
}

fn find(node: &Node, id: &str) -> Result<Arc<Entry>, Refused> {
    node.registry.find(id).ok_or_else(|| Refused::new(Code::NotFound, "There is no connection with this id."))
}

#[derive(Deserialize)]
struct Rate {
    bytes_per_second: Option<u64>,
    #[serde(rename = "oneQueue", default)]
    one_queue: bool,
}

/// Limits what a connection gets, for the page's bad network, and says whether its lanes leave as one queue.
async fn set_rate(
    State(node): State<Arc<Node>>,
    _: Local,
    Path(id): Path<String>,
    Json(rate): Json<Rate>,
) -> Result<StatusCode, Refused> {
    let entry = find(&node, &id)?;
    entry.set_rate(rate.bytes_per_second.map(|rate| rate.max(RATE_MIN)));
    entry.set_one_queue(rate.one_queue);
    Ok(StatusCode::NO_CONTENT)
}

/// What a connection's lanes did, and how its network is made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lanes {
    bytes_per_second: Option<u64>,
    one_queue: bool,
    lanes: Figures,
}

async fn lanes(State(node): State<Arc<Node>>, _: Local, Path(id): Path<String>) -> Result<Json<Lanes>, Refused> {
    let entry = find(&node, &id)?;
    let lanes = entry.mailbox.board().map(|board| board.look()).unwrap_or_default();
    Ok(Json(Lanes { bytes_per_second: entry.rate(), one_queue: entry.has_one_queue(), lanes }))
}
