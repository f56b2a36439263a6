//! `POST /v1/batch` and `POST /v1/broadcast`: several publishes in one request, each judged by itself.
//!
//! Bounded: so many events and rooms as named below, and as many bytes as a few records.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use prost::Message as _;

use super::publish::{
    Event, Item, JSON_GROWTH, Published, check_key, idempotency_key, publish_all, record_bytes, require_service,
};
use super::{Asker, read_body, room_name};
use crate::http::encoding::Encoding;
use crate::http::error::Refused;
use crate::node::Node;

/// Events in a batch (LC-API-040).
const EVENTS_MAX: usize = 256;
/// Bytes of a batch, encoded, if no single record may be longer.
const BATCH_BYTES: usize = 1024 * 1024;
/// Rooms of a broadcast (LC-API-042).
const ROOMS_MAX: usize = 1_000;
/// Bytes that the names of these rooms need at most.
const ROOMS_BYTES: usize = ROOMS_MAX * 260;

/// LC-API-040, LC-API-041.
pub(super) async fn batch(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    require_service(&asker.identity)?;
    let form = Encoding::of_body(request.headers());
    let bytes_max = BATCH_BYTES.max(record_bytes(&node));
    let bytes = read_body(&node, request.into_body(), bytes_max.saturating_mul(JSON_GROWTH)).await?;
    let batch: v1::PublishBatchRequest = form.decode("PublishBatchRequest", bytes)?;
    if !(1..=EVENTS_MAX).contains(&batch.events.len()) {
        return Err(Refused::new(Code::Invalid, format!("A batch has 1 to {EVENTS_MAX} events.")));
    }
    if batch.encoded_len() > bytes_max {
        return Err(Refused::new(Code::TooLarge, format!("A batch has at most {bytes_max} bytes.")));
    }
    let rooms: Vec<String> = batch.events.iter().map(|event| event.room.clone()).collect();
    let items = batch.events.into_iter().map(|event| item(&node, event)).collect();
    let answers = publish_all(&node, &asker.identity, items).await;
    let response = v1::PublishBatchResponse { results: results(rooms, answers) };
    Ok(encoding.answer("PublishBatchResponse", &response))
}

fn item(node: &Node, event: v1::PublishEventRequest) -> Item {
    let room: Arc<str> = event.room.as_str().into();
    let checked = || {
        room_name(&event.room)?;
        let key = if event.idempotency_key.is_empty() { None } else { Some(check_key(&event.idempotency_key)?) };
        Ok((key, Event::new(node, event)?))
    };
    match checked() {
        Ok((key, event)) => Item { room, key, event: Ok(Arc::new(event)) },
        Err(refused) => Item { room, key: None, event: Err(refused) },
    }
}

/// LC-API-042.
pub(super) async fn broadcast(
    State(node): State<Arc<Node>>,
    asker: Asker,
    encoding: Encoding,
    request: Request,
) -> Result<Response, Refused> {
    require_service(&asker.identity)?;
    let key = idempotency_key(request.headers())?;
    let form = Encoding::of_body(request.headers());
    let bytes_max = record_bytes(&node).saturating_add(ROOMS_BYTES);
    let bytes = read_body(&node, request.into_body(), bytes_max.saturating_mul(JSON_GROWTH)).await?;
    let v1::BroadcastRequest { rooms, lane, delivery, ttl_ms, envelope, .. } =
        form.decode("BroadcastRequest", bytes)?;
    let distinct: HashSet<&str> = rooms.iter().map(String::as_str).collect();
    if !(1..=ROOMS_MAX).contains(&rooms.len()) || distinct.len() != rooms.len() {
        return Err(Refused::new(Code::Invalid, format!("A broadcast names 1 to {ROOMS_MAX} rooms, each once.")));
    }
    let event = v1::PublishEventRequest { lane, delivery, ttl_ms, envelope, ..Default::default() };
    let event = Arc::new(Event::new(&node, event)?);
    let items = rooms.iter().map(|room| Item {
        room: room.as_str().into(),
        key: key.clone(),
        event: room_name(room).map(|_| Arc::clone(&event)),
    });
    let answers = publish_all(&node, &asker.identity, items.collect()).await;
    let response = v1::BroadcastResponse { results: results(rooms, answers) };
    Ok(encoding.answer("BroadcastResponse", &response))
}

fn results(rooms: Vec<String>, answers: Vec<Published>) -> Vec<v1::PublishResult> {
    use v1::publish_result::Result as Of;
    let result = |(room, answer): (String, Published)| {
        let result = match answer {
            Ok(published) => Of::Published(published),
            Err(refused) => Of::Error(refused.to_message()),
        };
        v1::PublishResult { room, result: Some(result) }
    };
    rooms.into_iter().zip(answers).map(result).collect()
}
