//! Batches, broadcasts and protobuf bodies.

use lanecast_protocol::position::DurableLane;
use lanecast_protocol::room::Pattern;
use lanecast_protocol::v1;
use prost::Message as _;
use serde_json::json;

use super::{ANN, KEY, short_log, start, start_with};
use crate::config::{Config, PolicyOptions};
use crate::http::encoding::PROTOBUF;
use crate::policy::Policies;
use crate::testing::Running;

async fn post(node: &Running, path: &str, body: serde_json::Value) -> crate::testing::Answer {
    node.ask(&format!("POST {path}"), &[KEY], &body.to_string()).await
}

/// The names of the refusals in an answer, or the seqs.
fn outcomes(answer: &crate::testing::Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    let results = json["results"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("none").to_owned();
    results
        .iter()
        .map(|result| match result.get("error") {
            Some(error) => text(&error["name"]),
            None => text(&result["published"]["seq"]),
        })
        .collect()
}

fn event(room: &str, text: &str) -> serde_json::Value {
    json!({"room": room, "envelope": {"type": "msg", "text": text}})
}

#[tokio::test]
async fn one_bad_event_of_a_batch_does_not_spoil_the_others() {
    // LC-API-040, LC-API-041
    let node = start_with(short_log).await;
    let mut urgent = event("a", "u");
    urgent["lane"] = json!("LANE_URGENT");
    let mut control = event("a", "c");
    control["lane"] = json!("LANE_CONTROL");
    let mut transient = event("a", "t");
    transient["delivery"] = json!("DELIVERY_TRANSIENT");
    let mut keyed = transient.clone();
    keyed["idempotencyKey"] = json!("k");
    let mut long_key = event("a", "k");
    long_key["idempotencyKey"] = json!("k".repeat(129));
    let events = [
        event("a", "1"),
        event("a..b", "x"),
        event("b", "1"),
        event("user:ann", "x"),
        urgent,
        event("a", &"x".repeat(1_001)),
        event("a", "2"),
        control,
        transient,
        keyed,
        long_key,
        json!({"room": "a"}),
        event("b", "2"),
    ];
    let answer = post(&node, "/v1/batch", json!({ "events": events })).await;
    let expected = [
        "1",
        "ROOM_NAME",
        "1",
        "FORBIDDEN",
        "1",
        "MESSAGE_TOO_LARGE",
        "2",
        "INVALID",
        "none",
        "INVALID",
        "INVALID",
        "INVALID",
        "2",
    ];
    assert_eq!(outcomes(&answer), expected);
    assert_eq!(answer.json()["results"][3]["room"], "user:ann");
    let page = node.ask("GET /v1/rooms/b/events?direction=forward", &[ANN], "").await.json();
    assert_eq!(page["events"][1]["envelope"]["text"], "2");
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_own_key() {
    // LC-API-041
    let node = start().await;
    let keyed = |room: &str, text: &str, key: &str| {
        let mut event = event(room, text);
        event["idempotencyKey"] = json!(key);
        event
    };
    let body = json!({"events": [keyed("a", "1", "k1"), keyed("a", "2", "k2"), keyed("a", "1", "k1")]});
    let first = post(&node, "/v1/batch", body.clone()).await;
    assert_eq!(outcomes(&first), ["1", "2", "1"]);
    assert_eq!(first.json()["results"][2]["published"]["replayed"], true);
    assert_eq!(outcomes(&post(&node, "/v1/batch", body).await), ["1", "2", "1"]);
    let mixed = json!({"events": [keyed("a", "other", "k1"), keyed("b", "1", "k1"), keyed("a", "3", "k3")]});
    assert_eq!(outcomes(&post(&node, "/v1/batch", mixed).await), ["IDEMPOTENCY_CONFLICT", "1", "3"]);
    // A single publish knows the key, too.
    let body = event("", "2").to_string();
    let single = node.ask("POST /v1/rooms/a/events", &[KEY, ("idempotency-key", "k2")], &body).await;
    assert_eq!(single.json()["replayed"], true);
}

#[tokio::test]
async fn batches_and_broadcasts_are_bounded_and_for_services() {
    // LC-API-040, LC-API-042
    let node = start().await;
    let many: Vec<_> = (0..257).map(|n| event("a", &n.to_string())).collect();
    let rooms: Vec<_> = (0..1_001).map(|n| format!("r{n}")).collect();
    let envelope = json!({"type": "msg", "text": "x"});
    for (path, body) in [
        ("/v1/batch", json!({"events": []})),
        ("/v1/batch", json!({ "events": many })),
        ("/v1/batch", json!({"events": "a"})),
        ("/v1/broadcast", json!({"rooms": [], "envelope": envelope})),
        ("/v1/broadcast", json!({"rooms": rooms, "envelope": envelope})),
        ("/v1/broadcast", json!({"rooms": ["a", "b", "a"], "envelope": envelope})),
        ("/v1/broadcast", json!({"rooms": ["a"]})),
    ] {
        assert_eq!(post(&node, path, body).await.refusal(), (400, "INVALID".to_owned()), "{path}");
    }
    for path in ["/v1/batch", "/v1/broadcast"] {
        let answer = node.ask(&format!("POST {path}"), &[ANN], "{}").await;
        assert_eq!(answer.refusal(), (403, "FORBIDDEN".to_owned()), "{path}");
    }
    let large: Vec<_> = (0..30).map(|_| event("a", &"x".repeat(60_000))).collect();
    assert_eq!(post(&node, "/v1/batch", json!({ "events": large })).await.refusal(), (413, "TOO_LARGE".to_owned()));
    let position = node.ask("GET /v1/rooms/a/position", &[ANN], "").await.json();
    assert_eq!(position.get("order"), None, "nothing was stored");
}

#[tokio::test]
async fn a_broadcast_reaches_each_room_once() {
    // LC-API-042
    let node = start().await;
    let body = json!({"rooms": ["a", "user:ann", "b", "c..d"], "envelope": {"type": "msg", "text": "all"}}).to_string();
    let keyed = [KEY, ("idempotency-key", "b1")];
    let first = node.ask("POST /v1/broadcast", &keyed, &body).await;
    assert_eq!(outcomes(&first), ["1", "FORBIDDEN", "1", "ROOM_NAME"]);
    let again = node.ask("POST /v1/broadcast", &keyed, &body).await;
    assert_eq!(outcomes(&again), ["1", "FORBIDDEN", "1", "ROOM_NAME"]);
    assert_eq!(again.json()["results"][2]["published"]["replayed"], true);
    let page = node.ask("GET /v1/rooms/b/events", &[ANN], "").await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn bodies_are_protobuf_where_that_is_said() {
    // LC-API-011
    let node = start().await;
    // A field that this version does not know is kept.
    let envelope = v1::Envelope { r#type: "msg".into(), ..Default::default() };
    let mut bytes = envelope.encode_to_vec();
    bytes.extend([0xfa, 0x7f, 0x03, b'n', b'e', b'w']);
    let request = v1::PublishEventRequest { envelope: bytes.clone().into(), ..Default::default() };
    let protobuf = [KEY, ("content-type", PROTOBUF)];
    let (head, body) = node.ask_bytes("POST /v1/rooms/chat/events", &protobuf, &request.encode_to_vec()).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/x-protobuf"), "{head}");
    let published = v1::PublishEventResponse::decode(body.as_slice()).unwrap();
    assert_eq!((published.seq, published.lane()), (1, v1::Lane::Normal));
    let accept = [ANN, ("accept", PROTOBUF)];
    let (_, body) = node.ask_bytes("GET /v1/rooms/chat/events", &accept, b"").await;
    let page = v1::HistoryPage::decode(body.as_slice()).unwrap();
    assert_eq!(page.events[0].envelope, bytes);

    // Refusals come in the same form, also where there is nothing.
    for (request, body) in [
        ("POST /v1/rooms/chat/events", b"\xff".as_slice()),
        ("POST /v1/rooms/a..b/events", b""),
        ("POST /v1/nowhere", b""),
    ] {
        let (head, body) = node.ask_bytes(request, &protobuf, body).await;
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let error = v1::ApiError::decode(body.as_slice()).unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!([4300, 4303, 4310].contains(&error.code) && !error.name.is_empty(), "{error:?}");
    }
    // Protobuf in, JSON out.
    let mixed = [KEY, ("content-type", PROTOBUF), ("accept", "application/json")];
    let (_, body) = node.ask_bytes("POST /v1/rooms/chat/events", &mixed, &request.encode_to_vec()).await;
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["seq"], "2");
}

#[tokio::test]
async fn each_event_of_a_batch_and_each_room_of_a_broadcast_costs_a_token() {
    // LC-FLOW-001, LC-API-041
    let node = start_with(|config| {
        config.rates.api_key_events_per_second = 1;
        config.rates.api_key_events_burst = 4;
        config.rates.user_requests_per_minute = 1;
        config.rates.user_requests_burst = 1;
    });
    let node = node.await;
    let batch = json!({"events": [event("a", "1"), event("a..b", "x"), event("a", "2"), event("b", "1")]});
    assert_eq!(outcomes(&post(&node, "/v1/batch", batch).await), ["1", "ROOM_NAME", "2", "1"]);
    let broadcast = json!({"rooms": ["c", "d", "e"], "envelope": {"type": "msg", "text": "x"}});
    let answer = post(&node, "/v1/broadcast", broadcast).await;
    assert_eq!(outcomes(&answer), ["1", "RATE_LIMITED", "RATE_LIMITED"]);
    let wait = |at: usize| answer.json()["results"][at]["error"]["retryAfterMs"].as_u64().unwrap();
    assert!((900..=1_000).contains(&wait(1)) && (1_900..=2_000).contains(&wait(2)), "{}", answer.body);
    let alone = post(&node, "/v1/rooms/f/events", json!({"envelope": {"type": "msg", "text": "x"}})).await;
    assert_eq!(alone.refusal(), (429, "RATE_LIMITED".to_owned()));
    assert!(alone.head.contains("retry-after: 3\r\n"), "{}", alone.head);
    assert_eq!(node.ask("GET /v1/rooms/a/events", &[ANN], "").await.status, 200);
    for path in ["/v1/rooms/a/events", "/v1/rooms/a/position"] {
        assert_eq!(node.ask(&format!("GET {path}"), &[ANN], "").await.refusal().1, "RATE_LIMITED", "{path}");
        assert_eq!(node.ask(&format!("GET {path}"), &[KEY], "").await.status, 200, "a service has no such rate");
    }
}

#[tokio::test]
async fn a_policy_says_which_lanes_a_room_has() {
    // LC-PUB-004
    let lanes = |config: &mut Config| {
        let policy = PolicyOptions {
            lanes: vec![DurableLane::Bulk],
            default_lane: DurableLane::Bulk,
            ..PolicyOptions::default()
        };
        config.policies = Policies::new(vec![(Pattern::new("files.**").unwrap(), policy)]);
    };
    let node = start_with(lanes).await;
    let of = |room: &str, lane: &str| {
        let mut event = event(room, "x");
        event["lane"] = json!(lane);
        event
    };
    let none = "LANE_UNSPECIFIED";
    let events =
        [of("files.a", none), of("files.a", "LANE_URGENT"), of("files.a", "LANE_BULK"), of("b", "LANE_URGENT")];
    assert_eq!(
        outcomes(&post(&node, "/v1/batch", json!({"events": events})).await),
        ["1", "LANE_NOT_ALLOWED", "2", "1"]
    );
}
