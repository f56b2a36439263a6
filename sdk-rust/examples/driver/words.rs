//! What the client says, in the words of the driver's protocol.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lanecast::{
    Body, Cause, ClientState, Error, Event, Gap, Lane, Missing, Page, PublishError, Published, RoomState, SignalChange,
};
use serde_json::{Value, json};

pub(crate) fn word(what: &Value, field: &str) -> String {
    what[field].as_str().unwrap_or("").to_owned()
}

/// A number that was given: 0 is none.
pub(crate) fn number(what: &Value, field: &str) -> Option<u64> {
    what[field].as_u64().filter(|number| *number > 0)
}

pub(crate) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Does something with an option that was given.
pub(crate) fn with<B, T>(builder: B, given: Option<T>, set: impl FnOnce(B, T) -> B) -> B {
    match given {
        Some(given) => set(builder, given),
        None => builder,
    }
}

pub(crate) fn body(value: &Value) -> Result<Body, base64::DecodeError> {
    Ok(match (value["text"].as_str(), value["data"].as_str()) {
        (Some(text), _) => text.into(),
        (_, Some(data)) => BASE64.decode(data)?.into(),
        _ => Body::default(),
    })
}

fn written(body: &Body) -> Value {
    match body {
        Body::Text(text) => json!({ "text": text }),
        Body::Bytes(data) => json!({"data": BASE64.encode(data)}),
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

pub(crate) fn failure<K: Debug>(error: &Error<K>) -> Value {
    let code_name = error.known_code().map_or("", |code| code.row().name);
    json!({"kind": format!("{:?}", error.kind), "code": error.code.unwrap_or(0), "codeName": code_name,
        "retryable": error.retryable, "detail": error.detail})
}

/// How a publish ended.
pub(crate) fn settled(result: Result<Published, PublishError>) -> (&'static str, Value) {
    match result {
        Err(error) => ("failed", failure(&error)),
        Ok(Published { lane, epoch, seq, order, duplicate }) => {
            let stored =
                json!({"lane": lane.name(), "epoch": epoch, "seq": seq, "order": order, "duplicate": duplicate});
            ("stored", stored)
        }
    }
}

pub(crate) fn state(state: &ClientState) -> Value {
    let (name, cause) = match state {
        ClientState::Idle => ("idle", None),
        ClientState::Connecting => ("connecting", None),
        ClientState::Connected => ("connected", None),
        ClientState::Suspended(cause) => ("suspended", Some(cause)),
        ClientState::Closed(cause) => ("closed", Some(cause)),
        _ => ("unknown", None),
    };
    let code_name = cause.and_then(Cause::known_code).map_or("", |code| code.row().name);
    let code = cause.and_then(|cause| cause.code).unwrap_or(0);
    json!({"name": name, "code": code, "codeName": code_name, "detail": cause.map_or("", |cause| &cause.detail)})
}

pub(crate) fn room_state(room: &str, state: &RoomState) -> Value {
    let (name, recovered, code) = match state {
        RoomState::Subscribing => ("subscribing", false, None),
        RoomState::CatchingUp { recovered } => ("catching_up", *recovered, None),
        RoomState::Live { recovered } => ("live", *recovered, None),
        RoomState::Degraded => ("degraded", false, None),
        RoomState::Ended(cause) => ("ended", false, cause.as_ref().and_then(|cause| cause.code)),
        _ => ("unknown", false, None),
    };
    json!({"room": room, "name": name, "recovered": recovered, "code": code.unwrap_or(0)})
}

pub(crate) fn event(event: &Event) -> Value {
    json!({"room": event.room, "lane": event.lane.name(), "epoch": event.epoch, "seq": event.seq, "order": event.order,
        "type": event.r#type, "key": event.key, "contentType": event.content_type, "headers": event.headers,
        "body": written(&event.body), "user": event.from.user, "service": event.from.service,
        "instance": event.from.instance, "timeMs": unix_ms(event.time),
        "expiresAtMs": event.expires_at.map_or(0, unix_ms)})
}

pub(crate) fn gap(gap: &Gap) -> Value {
    let (epoch, from, to, count) = match gap.missing {
        Missing::Seqs { epoch, from, to, .. } => (epoch, from, to.unwrap_or(0), 0),
        Missing::Transients { count, .. } => (0, 0, 0, count.unwrap_or(0)),
    };
    json!({"room": gap.room, "lane": gap.lane().map_or("", Lane::name), "cause": gap.cause.to_string().replace(' ', "_"),
        "epoch": epoch, "from": from, "to": to, "count": count, "refillable": gap.refillable})
}

pub(crate) fn signal(room: &str, change: SignalChange) -> Value {
    match change {
        SignalChange::Live(signal) => json!({"room": room, "user": signal.from.user, "instance": signal.from.instance,
            "type": signal.r#type, "key": signal.key, "body": written(&signal.body),
            "expiresAtMs": unix_ms(signal.expires_at)}),
        SignalChange::Gone { from, r#type, key, expired } => json!({"room": room, "user": from.user,
            "instance": from.instance, "type": r#type, "key": key, "gone": true, "expired": expired}),
    }
}

pub(crate) fn page(page: &Page) -> Value {
    let (events, gaps): (Vec<_>, Vec<_>) =
        (page.events.iter().map(event).collect(), page.gaps.iter().map(gap).collect());
    let head = page.head.map(|head| head.to_string()).unwrap_or_default();
    let mut told = json!({"events": events, "gaps": gaps, "head": head});
    if let Some(next) = page.next {
        told["next"] = json!({"text": next.to_string()});
    }
    told
}
