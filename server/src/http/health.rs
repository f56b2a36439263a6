//! Probes and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::OnEngineDown;
use crate::health::Readiness;
use crate::node::Node;

/// `/healthz`: the process lives. It asks nothing, so that a slow engine never gets the node restarted.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `/readyz`: whether a balancer should send connections here. When the engine's store is away for everyone it stays 200
/// and says so, since emptying the balancer would only make it worse; `readiness.on_engine_down` may say otherwise.
pub(super) async fn ready(State(node): State<Arc<Node>>) -> Response {
    let (ready, word) = match node.health.readiness() {
        _ if node.shutdown.is_draining() => (false, "draining"),
        Readiness::Starting => (false, "starting"),
        Readiness::Subscriber => (false, "subscriber"),
        Readiness::Degraded => (node.config.readiness.on_engine_down == OnEngineDown::Ready, "degraded"),
        Readiness::Ready => (true, "ready"),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = axum::Json(serde_json::json!({ "status": word, "node": &*node.id }));
    (status, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// `/metrics`, in the OpenMetrics text format.
pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], node.metrics.encode()).into_response()
}
