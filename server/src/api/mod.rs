//! The HTTP API: what a backend or a shell does with a room without a connection of its own.
//!
//! Promises: the rules and codes of the wire hold here too (LC-API-001, LC-API-008); credentials stand in the header
//! `Authorization` only. Refuses: cookies, credentials in URLs, and publishing by users, whose publishes are numbered
//! per instance and belong on a connection.

mod batch;
mod dev;
mod operate;
mod position;
mod publish;
mod query;
mod read;
mod revoke;
mod sse;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::header;
use axum::http::request::Parts;
use axum::routing::{get, post};
use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::room::RoomName;

use crate::auth::Identity;
use crate::http::error::Refused;
use crate::http::forwarded::Client;
use crate::node::Node;

/// The routes of the API; `dev`: with those for development.
pub fn routes(dev: bool) -> Router<Arc<Node>> {
    let routes = Router::new()
        .route("/v1/rooms/{room}/events", get(read::events).post(publish::publish))
        .route("/v1/rooms/{room}/position", get(position::position))
        .route("/v1/batch", post(batch::batch))
        .route("/v1/broadcast", post(batch::broadcast))
        .route("/v1/disconnect", post(operate::disconnect))
        .route("/v1/unsubscribe", post(operate::unsubscribe))
        .route("/v1/revocations", get(revoke::list).post(revoke::revoke))
        .route("/v1/revocations/lift", post(revoke::lift))
        .route("/v1/connections", get(operate::connections))
        .route("/v1/traces", get(operate::traces))
        .route("/v1/nodes", get(operate::nodes))
        .route("/v1/nodes/{node}/drain", post(operate::drain));
    if dev { routes.merge(dev::routes()) } else { routes }
}

/// Who asks.
pub(crate) struct Asker {
    pub(crate) identity: Identity,
    pub(crate) client: Client,
}

impl FromRequestParts<Arc<Node>> for Asker {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Refused> {
        let client = Client::from_request_parts(parts, node).await?;
        let peer = client.address;
        // Two headers are two claims; neither counts.
        let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (given.next(), given.next()) {
            (Some(one), None) => one.to_str().ok(),
            _ => None,
        };
        // LC-API-004
        let identity = node.auth.bearer(authorization, peer.ip()).await.map_err(|error| {
            tracing::debug!(%peer, %error, "request refused");
            Refused::new(error.code(), format!("Credential: {error}."))
        })?;
        Ok(Self { identity, client })
    }
}

/// Who asks, and about which room.
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) client: Client,
    pub(crate) room: RoomName,
}

impl FromRequestParts<Arc<Node>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Refused> {
        let Asker { identity, client } = Asker::from_request_parts(parts, node).await?;
        let room: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, node).await;
        let Path(room) = room.map_err(|error| Refused::new(Code::RoomName, error.body_text()))?;
        Ok(Self { identity, client, room: room_name(&room)? })
    }
}

fn room_name(text: &str) -> Result<RoomName, Refused> {
    RoomName::new(text).map_err(|error| Refused::new(Code::RoomName, error.to_string()))
}

/// The body of a request, at most so many bytes, if it comes in time.
async fn read_body(node: &Node, body: Body, bytes_max: usize) -> Result<Bytes, Refused> {
    let deadline = Duration::from_millis(node.config.listen.body_timeout_ms);
    tokio::time::timeout(deadline, axum::body::to_bytes(body, bytes_max))
        .await
        .map_err(|_| Refused::new(Code::IdleTimeout, "The body did not come in time."))?
        .map_err(|_| Refused::new(Code::TooLarge, format!("The body has at most {bytes_max} bytes.")))
}

#[cfg(test)]
mod tests;
