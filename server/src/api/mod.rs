//! The HTTP API: what a backend or a shell does with a room without a connection of its own.
//!
//! Promises: the rules and codes of the wire hold here too (LC-API-001, LC-API-008); credentials stand in the header
//! `Authorization` only. Refuses: cookies, credentials in URLs, and publishing by users, whose publishes are numbered
//! per instance and belong on a connection.

mod position;
mod publish;
mod query;
mod read;
mod sse;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lanecast_protocol::codes::Code;
use lanecast_protocol::json::message_to_json;
use lanecast_protocol::room::RoomName;
use prost::Message;

use crate::auth::Identity;
use crate::http::error::Refused;
use crate::node::Node;

/// The routes of the API.
pub fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/rooms/{room}/events", get(read::events).post(publish::publish))
        .route("/v1/rooms/{room}/position", get(position::position))
}

/// Who asks, and about which room: the part that is the same for every route.
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) room: RoomName,
}

impl FromRequestParts<Arc<Node>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Refused> {
        let internal = |_| Refused::new(Code::Internal, "The listener did not say who is there.");
        let ConnectInfo(peer) = ConnectInfo::<SocketAddr>::from_request_parts(parts, node).await.map_err(internal)?;
        // Two headers are two claims; neither counts.
        let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (given.next(), given.next()) {
            (Some(one), None) => one.to_str().ok(),
            _ => None,
        };
        // LC-API-004
        let identity = node.auth.bearer(authorization, peer.ip()).map_err(|error| {
            tracing::debug!(%peer, %error, "request refused");
            Refused::new(error.code(), format!("Credential: {error}."))
        })?;
        let room: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, node).await;
        let bad_name = |why: String| Refused::new(Code::RoomName, why);
        let Path(room) = room.map_err(|error| bad_name(error.body_text()))?;
        let room = RoomName::new(&room).map_err(|error| bad_name(error.to_string()))?;
        Ok(Self { identity, room })
    }
}

/// An answer: the canonical JSON of a message whose name in the schema is `name`.
fn answer(name: &str, message: &impl Message) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, message_to_json(name, message)).into_response()
}

#[cfg(test)]
mod tests;
