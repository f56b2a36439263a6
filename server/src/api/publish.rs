//! `POST /v1/rooms/{room}/events`: a service publishes an event.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use lanecast_protocol::codes::Code;
use lanecast_protocol::json::message_from_json;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::log::{Origin, Outcome};
use lanecast_protocol::session::server::check_envelope;
use lanecast_protocol::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{Caller, answer};
use crate::http::error::Refused;
use crate::node::Node;
use crate::publish::{self, Intent, Prepared, engine_refusal};
use crate::telemetry::labels::PublishResult;

/// The header with an idempotency key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 128;
/// How much longer a record may be in JSON: base64 adds a third, and escapes can double text.
const JSON_GROWTH: usize = 2;

pub(super) async fn publish(
    State(node): State<Arc<Node>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Refused> {
    let published = publish_event(&node, caller, request).await;
    if published.is_err() {
        node.metrics.publishes.of(PublishResult::Refused).inc();
    }
    published.map(|response| answer("PublishEventResponse", &response))
}

async fn publish_event(node: &Node, caller: Caller, request: Request) -> Result<v1::PublishEventResponse, Refused> {
    if !caller.identity.is_service() {
        return Err(Refused::new(Code::Forbidden, "Publishing over HTTP takes an API key."));
    }
    let key = idempotency_key(request.headers())?;
    let event = read_event(node, request.into_body()).await?;
    // What must be the same in a retry: the meaning of the body, not its spelling.
    let digest: [u8; 32] = Sha256::digest(event.encode_to_vec()).into();
    let envelope = event.envelope.map(|envelope| envelope.encode_to_vec()).unwrap_or_default().into();
    let decoded = check_envelope(&envelope, &node.limits())?;
    let intent = Intent {
        identity: &caller.identity,
        instance: "",
        room: &caller.room,
        lane: event.lane,
        delivery: event.delivery,
        ttl_ms: event.ttl_ms,
        envelope,
        decoded: &decoded,
    };
    let prepared = publish::prepare(node, intent)?;
    if key.is_some() && matches!(prepared, Prepared::Transient(_)) {
        // Nothing of a transient event is kept, so a retry could not be told from a second event.
        return Err(Refused::new(Code::Invalid, "An idempotency key is for durable events."));
    }
    let origin = match key {
        Some(key) => Origin::Keyed { api_key: caller.identity.service.clone(), key, body: digest },
        None => Origin::Unmarked,
    };
    match prepared.into_append(origin) {
        Ok((retention, append)) => {
            let outcome = publish::store(node, &caller.room, retention, append).await;
            stored(outcome.map_err(engine_refusal)?)
        }
        Err(transient) => {
            let lane = v1::Lane::from(transient.lane).into();
            publish::pass_on(node, &caller.room, transient).await.map_err(engine_refusal)?;
            Ok(v1::PublishEventResponse { lane, ..Default::default() })
        }
    }
}

/// LC-API-007.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Refused> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (first, second) = (given.next(), given.next());
    let Some(first) = first else { return Ok(None) };
    match first.to_str() {
        Ok(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) && second.is_none() => Ok(Some(key.into())),
        _ => Err(Refused::new(Code::Invalid, "An Idempotency-Key is one text of 1 to 128 visible ASCII characters.")),
    }
}

/// The event in the body, its fields checked as far as the protocol goes (LC-API-010).
async fn read_event(node: &Node, body: Body) -> Result<v1::PublishEventRequest, Refused> {
    let record_bytes = node.config.limits.record_bytes as usize;
    let deadline = Duration::from_millis(node.config.listen.body_timeout_ms);
    let bytes = tokio::time::timeout(deadline, axum::body::to_bytes(body, record_bytes.saturating_mul(JSON_GROWTH)))
        .await
        .map_err(|_| Refused::new(Code::IdleTimeout, "The body did not come in time."))?
        .map_err(|_| Refused::new(Code::TooLarge, format!("An event has at most {record_bytes} bytes.")))?;
    let event: v1::PublishEventRequest = message_from_json("PublishEventRequest", &bytes)
        .map_err(|_| Refused::new(Code::Invalid, "The body is not the JSON of a PublishEventRequest."))?;
    if event.encoded_len() > record_bytes {
        return Err(Refused::new(Code::TooLarge, format!("An event has at most {record_bytes} bytes.")));
    }
    if matches!(Lane::from_wire(event.lane), Some(Lane::Control | Lane::Signal)) {
        return Err(Refused::new(Code::Invalid, "Events travel on urgent, normal or bulk."));
    }
    // Room and key come from the path and the header; what the body says of them is not asked.
    Ok(v1::PublishEventRequest { room: String::new(), idempotency_key: String::new(), ..event })
}

/// What the outcome of an append means to a service.
fn stored(outcome: Outcome) -> Result<v1::PublishEventResponse, Refused> {
    let (numbers, replayed) = match outcome {
        Outcome::Stored(numbers) => (numbers, false),
        Outcome::Replayed(numbers) => (numbers, true),
        Outcome::KeyConflict => {
            return Err(Refused::new(Code::IdempotencyConflict, "The key was used with another body."));
        }
        Outcome::KeysFull { retry_after_ms } => {
            let retry_after_ms = u32::try_from(retry_after_ms).unwrap_or(u32::MAX);
            return Err(Refused::new(Code::RateLimited, "Too many idempotency keys.").retry_after(retry_after_ms));
        }
        Outcome::Duplicate { .. } | Outcome::OutOfOrder => {
            // Only numbered publishes can be so judged, and this was none.
            tracing::error!(?outcome, "the engine judged an unnumbered publish by its number");
            return Err(Refused::new(Code::Internal, "The engine gave an answer that it may not give."));
        }
    };
    let lane = v1::Lane::from(numbers.lane).into();
    Ok(v1::PublishEventResponse { epoch: numbers.epoch, lane, seq: numbers.seq, order: numbers.order, replayed })
}
