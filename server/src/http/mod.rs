//! HTTP: the listener, the page, probes, metrics and the well-known document. WebSocket and the API add their routes.

pub mod encoding;
pub mod error;
pub mod forwarded;
mod health;
pub mod listener;
pub mod origin;
mod page;
mod proxy_header;
mod secure;
pub mod socket;
mod well_known;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lanecast_protocol::codes::Code;

use crate::node::Node;
use crate::telemetry::labels::{Route, StatusClass};
use error::Refused;

/// The routes of the node: those of this module and `others`, all counted.
pub fn router(node: Arc<Node>, others: Router<Arc<Node>>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{*path}", get(page::asset))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/.well-known/lanecast", get(well_known::document))
        .merge(others)
        .method_not_allowed_fallback(|| async {
            Refused::new(Code::Unimplemented, "There is nothing at this path for this method.")
        })
        .fallback(|| async { Refused::new(Code::NotFound, "There is nothing at this path.") })
        .layer(middleware::from_fn_with_state(node.clone(), check_host))
        .layer(middleware::from_fn(encoding::encode_refusals))
        .layer(middleware::from_fn_with_state(node.clone(), count))
        .with_state(node)
}

async fn check_host(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if node.config.dev && !origin::is_addressed_to(request.headers(), node.config.lan) {
        return Refused::new(Code::Origin, "In development the node answers to names of this machine only.")
            .into_response();
    }
    next.run(request).await
}

async fn count(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let route = Route::of(request.extensions().get::<MatchedPath>().map(MatchedPath::as_str));
    let response = next.run(request).await;
    node.metrics.http_requests.of((route, StatusClass::of(response.status().as_u16()))).inc();
    response
}

#[cfg(test)]
mod tests;
