//! `POST /v1/rooms/{room}/events`: a service publishes an event. What a batch and a broadcast have in common with it is
//! here too.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::log::{Append, Origin, Outcome, Retention};
use lanecast_protocol::session::server::check_envelope;
use lanecast_protocol::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{Caller, read_body};
use crate::auth::Identity;
use crate::engine::{EngineError, Transient};
use crate::http::encoding::Encoding;
use crate::http::error::Refused;
use crate::node::Node;
use crate::publish::{self, Intent, engine_refusal};
use crate::telemetry::labels::PublishResult;

/// The header with an idempotency key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 128;
/// How much longer a record may be in JSON: base64 adds a third, and escapes can double text.
pub(super) const JSON_GROWTH: usize = 2;
/// Rooms that are published to at once for one request.
const ROOMS_AT_ONCE: usize = 32;

pub(super) async fn publish(
    State(node): State<Arc<Node>>,
    caller: Caller,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    let published = publish_event(&node, caller, request).await;
    published.map(|response| encoding.answer("PublishEventResponse", &response))
}

async fn publish_event(node: &Node, caller: Caller, request: Request) -> Result<v1::PublishEventResponse, Refused> {
    let read = async {
        require_service(&caller.identity)?;
        let key = idempotency_key(request.headers())?;
        let form = Encoding::of_body(request.headers());
        let bytes = read_body(node, request.into_body(), record_bytes(node).saturating_mul(JSON_GROWTH)).await?;
        // Room and key come from the path and the header; what the body says of them is not asked.
        let event = Event::new(node, form.decode("PublishEventRequest", bytes)?)?;
        Ok(Item { room: caller.room.as_str().into(), key, event: Ok(Arc::new(event)) })
    };
    match read.await {
        Ok(item) => publish_all(node, &caller.identity, vec![item]).await.pop().unwrap_or_else(|| Err(no_answer())),
        Err(refused) => {
            node.metrics.publishes.of(PublishResult::Refused).inc();
            Err(refused)
        }
    }
}

/// Publishing over HTTP is for services.
pub(super) fn require_service(identity: &Identity) -> Result<(), Refused> {
    if identity.is_service() {
        return Ok(());
    }
    Err(Refused::new(Code::Forbidden, "Publishing over HTTP takes an API key."))
}

/// LC-API-007.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Refused> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (first, second) = (given.next(), given.next());
    let Some(first) = first else { return Ok(None) };
    match first.to_str() {
        Ok(key) if !key.is_empty() && second.is_none() => check_key(key).map(Some),
        _ => Err(bad_key()),
    }
}

/// An idempotency key that is not empty.
pub(super) fn check_key(key: &str) -> Result<Arc<str>, Refused> {
    if key.len() <= KEY_BYTES_MAX && key.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Ok(key.into());
    }
    Err(bad_key())
}

fn bad_key() -> Refused {
    Refused::new(Code::Invalid, "An Idempotency-Key is one text of 1 to 128 visible ASCII characters.")
}

pub(super) fn record_bytes(node: &Node) -> usize {
    node.config.limits.record_bytes as usize
}

/// An event as a service sent it, checked as far as the protocol goes.
pub(super) struct Event {
    lane: i32,
    delivery: i32,
    ttl_ms: u32,
    envelope: Bytes,
    decoded: v1::Envelope,
    /// What must be the same in a retry: the meaning of the event, not its spelling.
    digest: [u8; 32],
}

impl Event {
    /// Checks what is the same in every room (LC-API-010).
    pub(super) fn new(node: &Node, event: v1::PublishEventRequest) -> Result<Self, Refused> {
        let bytes_max = record_bytes(node);
        if event.encoded_len() > bytes_max {
            return Err(Refused::new(Code::TooLarge, format!("An event has at most {bytes_max} bytes.")));
        }
        let v1::PublishEventRequest { lane, delivery, ttl_ms, envelope, .. } = event;
        if matches!(Lane::from_wire(lane), Some(Lane::Control | Lane::Signal)) {
            return Err(Refused::new(Code::Invalid, "Events travel on urgent, normal or bulk."));
        }
        let decoded = check_envelope(&envelope, &node.limits())?;
        let canonical = v1::PublishEventRequest {
            lane,
            delivery,
            ttl_ms,
            envelope: decoded.encode_to_vec().into(),
            ..Default::default()
        };
        let digest = Sha256::digest(canonical.encode_to_vec()).into();
        Ok(Self { lane, delivery, ttl_ms, envelope, decoded, digest })
    }
}

/// An event for a room.
pub(super) struct Item {
    pub(super) room: Arc<str>,
    pub(super) key: Option<Arc<str>>,
    /// The event, or why it is refused already.
    pub(super) event: Result<Arc<Event>, Refused>,
}

/// What became of an item.
pub(super) type Published = Result<v1::PublishEventResponse, Refused>;

/// What the engine is asked for one room.
#[derive(Default)]
struct Group {
    retention: Option<Retention>,
    durable: Vec<(usize, Append)>,
    transient: Vec<(usize, Transient)>,
}

/// Publishes items, each as if it came alone; answers in their order. The durable events of a room are stored in one
/// call of the engine, in their order; rooms are served side by side.
pub(super) async fn publish_all(node: &Node, identity: &Identity, items: Vec<Item>) -> Vec<Published> {
    let mut answers: Vec<Published> = items.iter().map(|_| Err(no_answer())).collect();
    let mut groups: BTreeMap<Arc<str>, Group> = BTreeMap::new();
    for (at, item) in items.into_iter().enumerate() {
        match prepare(node, identity, &item) {
            Ok(Ready::Durable(retention, append)) => {
                let group = groups.entry(item.room).or_default();
                group.retention = Some(retention);
                group.durable.push((at, append));
            }
            Ok(Ready::Transient(event)) => groups.entry(item.room).or_default().transient.push((at, event)),
            Err(refused) => {
                node.metrics.publishes.of(PublishResult::Refused).inc();
                answers[at] = Err(refused);
            }
        }
    }
    let stored = stream::iter(groups).map(|(room, group)| publish_group(node, room, group));
    let mut stored = stored.buffer_unordered(ROOMS_AT_ONCE);
    while let Some(published) = stored.next().await {
        for (at, answer) in published {
            answers[at] = answer;
        }
    }
    answers
}

/// An event that may be published.
enum Ready {
    Durable(Retention, Append),
    Transient(Transient),
}

fn prepare(node: &Node, identity: &Identity, item: &Item) -> Result<Ready, Refused> {
    let event = item.event.as_ref().map_err(Clone::clone)?;
    let intent = Intent {
        identity,
        instance: "",
        room: &item.room,
        lane: event.lane,
        delivery: event.delivery,
        ttl_ms: event.ttl_ms,
        envelope: event.envelope.clone(),
        decoded: &event.decoded,
    };
    let origin = match &item.key {
        Some(key) => Origin::Keyed { api_key: identity.service.clone(), key: Arc::clone(key), body: event.digest },
        None => Origin::Unmarked,
    };
    let ready = match publish::prepare(node, intent)?.into_append(origin) {
        Ok((retention, append)) => Ready::Durable(retention, append),
        // Nothing of a transient event is kept, so a retry could not be told from a second event.
        Err(_) if item.key.is_some() => {
            return Err(Refused::new(Code::Invalid, "An idempotency key is for durable events."));
        }
        Err(transient) => Ready::Transient(transient),
    };
    publish::count(node, identity, &item.room)?;
    Ok(ready)
}

async fn publish_group(node: &Node, room: Arc<str>, group: Group) -> Vec<(usize, Published)> {
    let mut published = Vec::with_capacity(group.durable.len() + group.transient.len());
    if let Some(retention) = group.retention {
        let (places, appends): (Vec<usize>, Vec<Append>) = group.durable.into_iter().unzip();
        let outcomes = publish::store_all(node, &room, retention, publish::Level::Stored, appends).await;
        published.extend(places.into_iter().zip(outcomes.into_iter().map(stored)));
    }
    for (at, event) in group.transient {
        let lane = v1::Lane::from(event.lane).into();
        let passed = publish::pass_on(node, &room, event).await;
        let answer = passed.map(|()| v1::PublishEventResponse { lane, ..Default::default() });
        published.push((at, answer.map_err(|error| engine_refusal(error).into())));
    }
    published
}

fn no_answer() -> Refused {
    Refused::new(Code::Internal, "The engine gave no answer.")
}

/// What the outcome of an append means to a service.
fn stored(outcome: Result<Outcome, EngineError>) -> Published {
    let (numbers, replayed) = match outcome.map_err(engine_refusal)? {
        Outcome::Stored(numbers) => (numbers, false),
        Outcome::Replayed(numbers) => (numbers, true),
        Outcome::KeyConflict => {
            return Err(Refused::new(Code::IdempotencyConflict, "The key was used with another body."));
        }
        Outcome::KeysFull { retry_after_ms } => {
            let retry_after_ms = u32::try_from(retry_after_ms).unwrap_or(u32::MAX);
            return Err(Refused::new(Code::RateLimited, "Too many idempotency keys.").retry_after(retry_after_ms));
        }
        outcome @ (Outcome::Duplicate { .. } | Outcome::OutOfOrder) => {
            // Only numbered publishes can be so judged, and this was none.
            tracing::error!(?outcome, "the engine judged an unnumbered publish by its number");
            return Err(Refused::new(Code::Internal, "The engine gave an answer that it may not give."));
        }
    };
    let lane = v1::Lane::from(numbers.lane).into();
    Ok(v1::PublishEventResponse { epoch: numbers.epoch, lane, seq: numbers.seq, order: numbers.order, replayed })
}
