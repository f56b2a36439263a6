//! The API over real sockets.

use std::time::Duration;

use bytes::Bytes;
use lanecast_protocol::lossy::SignalKey;
use lanecast_protocol::room::Pattern;
use lanecast_protocol::v1;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::auth::keys::{Algorithm, Key};
use crate::auth::token::{Claims, mint};
use crate::clock::Clock;
use crate::config::{Config, PolicyOptions, Secret};
use crate::engine::Signal;
use crate::policy::Policies;
use crate::testing::{Answer, Running, Stream, read_to_end};

mod batch;
mod operate;
mod revoke;

const KEY: (&str, &str) = ("authorization", "Bearer dev-key");
const ANN: (&str, &str) = ("authorization", "Bearer dev:ann");
const EVENTS: &str = "/v1/rooms/chat/events";

async fn start() -> Running {
    start_with(|_| {}).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    Running::start(change, Clock::system(), routes(true)).await
}

/// Keeps two events per room.
fn short_log(config: &mut Config) {
    let policy = PolicyOptions { retention_events: 2, message_bytes: 1_000, ..PolicyOptions::default() };
    config.policies = Policies::new(vec![(Pattern::new("**").unwrap(), policy)]);
}

async fn publish(node: &Running, body: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = [KEY].iter().chain(headers).copied().collect();
    node.ask(&format!("POST {EVENTS}"), &headers, body).await
}

async fn text(node: &Running, lane: &str, text: &str) -> Value {
    let body = json!({"lane": lane, "envelope": {"type": "msg", "text": text}});
    let answer = publish(node, &body.to_string(), &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

async fn open(node: &Running, query: &str, headers: &[(&str, &str)]) -> (Stream, crate::testing::Item) {
    let headers: Vec<_> = [ANN].iter().chain(headers).copied().collect();
    let mut stream = node.stream(&format!("{EVENTS}?{query}"), &headers).await;
    let subscribed = stream.expect("subscribed").await;
    (stream, subscribed)
}

#[tokio::test]
async fn in_development_a_page_of_this_machine_sees_the_lanes_of_a_connection() {
    let node = start().await;
    let (_stream, _) = open(&node, "from=beginning", &[]).await;
    let [entry] = &node.node.registry.welcomed()[..] else { panic!("one connection") };
    let lanes = |id: &str| format!("GET /v1/dev/connections/{id}/lanes");
    let rate = format!("POST /v1/dev/connections/{}/rate", entry.id);
    let json = ("content-type", "application/json");
    assert_eq!(node.ask(&rate, &[json], r#"{"bytes_per_second": 7000, "oneQueue": true}"#).await.status, 204);
    let shown = node.ask(&lanes(&entry.id), &[], "").await.json();
    assert_eq!(shown["oneQueue"], json!(true));
    assert_eq!((&shown["bytesPerSecond"], &shown["lanes"]["urgent"]["sentFrames"]), (&json!(7000), &json!(0)));
    assert_eq!(node.ask(&lanes("none"), &[], "").await.status, 404);
    let other = node.ask(&lanes(&entry.id), &[("origin", "https://evil.example")], "").await;
    assert_eq!(other.refusal(), (403, "ORIGIN".to_owned()));
    let plain = Running::start(|config| config.dev = false, Clock::system(), routes(false)).await;
    assert_eq!(plain.ask(&lanes(&entry.id), &[], "").await.status, 404, "in development only");
}

#[tokio::test]
async fn what_a_service_publishes_is_in_history_and_position() {
    // LC-API-001, LC-API-008, LC-API-009
    let node = start().await;
    let first = text(&node, "LANE_NORMAL", "one").await;
    assert_eq!((&first["lane"], &first["seq"], &first["order"]), (&json!("LANE_NORMAL"), &json!("1"), &json!("1")));
    let second = text(&node, "LANE_URGENT", "two").await;
    assert_eq!((&second["lane"], &second["seq"], &second["order"]), (&json!("LANE_URGENT"), &json!("1"), &json!("2")));

    let page = node.ask(&format!("GET {EVENTS}?direction=forward&limit=1"), &[ANN], "").await.json();
    assert_eq!(page["events"][0]["envelope"]["text"], "one");
    assert_eq!(page["events"][0]["from"], json!({"service": "dev"}));
    assert_eq!(page["events"][0]["epoch"], first["epoch"]);
    let next = format!("{}-{}", page["next"]["epoch"].as_str().unwrap(), page["next"]["order"].as_str().unwrap());
    let page = node.ask(&format!("GET {EVENTS}?direction=forward&cursor={next}"), &[ANN], "").await.json();
    assert_eq!(page["events"][0]["envelope"]["text"], "two");
    let page = node.ask(&format!("GET {EVENTS}?lanes=bulk,urgent"), &[ANN], "").await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);

    let position = node.ask("GET /v1/rooms/chat/position", &[ANN], "").await.json();
    let epoch = first["epoch"].as_str().unwrap();
    assert_eq!(position["text"], format!("{epoch}-1-1-0"));
    assert_eq!(position["order"], "2");
    assert_eq!(position["oldest"], json!({"epoch": epoch}));
}

#[tokio::test]
async fn an_idempotency_key_stores_once() {
    // LC-API-005, LC-API-006, LC-API-007
    let node = start().await;
    let key = [("idempotency-key", "order-1")];
    let body = r#"{"envelope":{"type":"msg","text":"x","headers":{"a":"1","b":"2"}}}"#;
    let first = publish(&node, body, &key).await.json();
    let spelled_otherwise =
        r#"{ "envelope": {"headers":{"b":"2","a":"1"}, "text":"x", "type":"msg"}, "room": "other" }"#;
    let again = publish(&node, spelled_otherwise, &key).await.json();
    assert_eq!((&again["seq"], &again["replayed"]), (&first["seq"], &json!(true)));
    let other = publish(&node, r#"{"envelope":{"type":"msg","text":"y"}}"#, &key).await;
    assert_eq!(other.refusal(), (409, "IDEMPOTENCY_CONFLICT".to_owned()));
    let elsewhere = node.ask("POST /v1/rooms/other/events", &[KEY, key[0]], body).await.json();
    assert_eq!((&elsewhere["seq"], elsewhere.get("replayed")), (&json!("1"), None));

    let long = "k".repeat(129);
    for key in ["", &long] {
        let answer = publish(&node, body, &[("idempotency-key", key)]).await;
        assert_eq!(answer.refusal(), (400, "INVALID".to_owned()), "{key}");
    }
    let transient = r#"{"delivery":"DELIVERY_TRANSIENT","envelope":{"type":"msg","text":"x"}}"#;
    assert_eq!(publish(&node, transient, &key).await.refusal(), (400, "INVALID".to_owned()));
    let position = node.ask("GET /v1/rooms/chat/position", &[ANN], "").await.json();
    assert_eq!(position["order"], "1");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_its_code() {
    // LC-API-002, LC-API-003, LC-API-004, LC-API-010
    let node = start_with(short_log).await;
    let event = r#"{"envelope":{"type":"msg","text":"x"}}"#;
    let post = |room: &str| format!("POST /v1/rooms/{room}/events");
    let long_text = format!(r#"{{"envelope":{{"type":"msg","text":"{}"}}}}"#, "x".repeat(1_001));
    let table = [
        (post("chat"), vec![], event, 401, "BAD_TOKEN"),
        (post("chat"), vec![("authorization", "Bearer nonsense")], event, 401, "BAD_TOKEN"),
        (post("chat"), vec![("authorization", "Basic dev-key")], event, 401, "BAD_TOKEN"),
        (post("chat"), vec![KEY, KEY], event, 401, "BAD_TOKEN"),
        (post("chat"), vec![ANN], event, 403, "FORBIDDEN"),
        (post("user:ann"), vec![KEY], event, 403, "FORBIDDEN"),
        (post("a..b"), vec![KEY], event, 400, "ROOM_NAME"),
        (post("%ff"), vec![KEY], event, 400, "ROOM_NAME"),
        (post("a%0ab"), vec![KEY], event, 400, "ROOM_NAME"),
        (post("chat"), vec![KEY], "", 400, "INVALID"),
        (post("chat"), vec![KEY], "{}", 400, "INVALID"),
        (post("chat"), vec![KEY], "[1]", 400, "INVALID"),
        (post("chat"), vec![KEY], r#"{"envelope":{"type":"$x","text":"x"}}"#, 400, "INVALID"),
        (post("chat"), vec![KEY], r#"{"lane":"LANE_CONTROL","envelope":{"type":"x","text":"x"}}"#, 400, "INVALID"),
        (post("chat"), vec![KEY], r#"{"lane":"LANE_SIGNAL","envelope":{"type":"x","text":"x"}}"#, 400, "INVALID"),
        (post("chat"), vec![KEY], &long_text, 413, "MESSAGE_TOO_LARGE"),
        ("GET /v1/rooms/chat/position".into(), vec![], "", 401, "BAD_TOKEN"),
        ("GET /v1/rooms/user:bob/position".into(), vec![ANN], "", 403, "FORBIDDEN"),
        ("GET /v1/rooms/user:bob/events".into(), vec![ANN], "", 403, "FORBIDDEN"),
        ("GET /v1/rooms/chat/events?cursor=x".into(), vec![ANN], "", 400, "INVALID"),
        ("GET /v1/rooms/chat/nothing".into(), vec![ANN], "", 404, "NOT_FOUND"),
        ("DELETE /v1/rooms/chat/events".into(), vec![ANN], "", 501, "UNIMPLEMENTED"),
    ];
    for (request, headers, body, status, name) in table {
        let answer = node.ask(&request, &headers, body).await;
        assert_eq!(answer.refusal(), (status, name.to_owned()), "{request} {headers:?} {body}");
    }
    let huge = node.ask(&post("chat"), &[KEY], &"x".repeat(600_000)).await;
    // The node closes while the client still sends; the answer may be lost to the reset.
    assert!(huge.status == 413 || huge.status == 0, "{}", huge.head);
}

#[tokio::test]
async fn unknown_names_are_ignored_and_room_names_are_decoded() {
    let node = start().await;
    let body = r#"{"envelope":{"type":"msg","text":"x","mood":1},"later":true}"#;
    let answer = node.ask("POST /v1/rooms/a%2Fb%20%C3%A9/events", &[KEY], body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let page = node.ask("GET /v1/rooms/a%2Fb%20%C3%A9/events", &[ANN], "").await.json();
    assert_eq!(page["room"], "a/b é");
}

#[tokio::test]
async fn a_body_that_dawdles_is_closed() {
    let node = start_with(|config| config.listen.body_timeout_ms = 100).await;
    let mut stream = node.connect().await;
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer dev-key\r\ncontent-length: 9\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("IDLE_TIMEOUT"), "{answer}");
}

#[tokio::test]
async fn a_stream_goes_on_exactly_where_its_last_id_was() {
    // LC-API-020, LC-API-021
    let node = start().await;
    let epoch = text(&node, "LANE_NORMAL", "before").await["epoch"].as_str().unwrap().to_owned();
    let (mut stream, subscribed) = open(&node, "", &[]).await;
    assert_eq!(subscribed.id.as_deref(), Some(&*format!("{epoch}-0-1-0")));
    for (lane, word) in [("LANE_NORMAL", "a"), ("LANE_URGENT", "b"), ("LANE_BULK", "c"), ("LANE_NORMAL", "d")] {
        text(&node, lane, word).await;
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let item = stream.expect("event").await;
        assert_eq!(item.data["epoch"], epoch);
        assert_eq!(item.data.get("handle"), None);
        seen.push((item.id.unwrap(), item.data["envelope"]["text"].as_str().unwrap().to_owned()));
    }
    // From every id, exactly what the stream gave after it.
    for (at, (id, _)) in seen.iter().enumerate() {
        let (mut resumed, subscribed) = open(&node, "from=live", &[("last-event-id", id)]).await;
        assert_eq!((subscribed.id.as_ref(), &subscribed.data["recovered"]), (Some(id), &json!(true)));
        let mut rest: Vec<&str> = seen[at + 1..].iter().map(|(_, word)| word.as_str()).collect();
        let mut got = Vec::new();
        for _ in 0..rest.len() {
            got.push(resumed.expect("event").await.data["envelope"]["text"].as_str().unwrap().to_owned());
        }
        got.sort();
        rest.sort_unstable();
        assert_eq!(got, rest, "after {id}");
    }
}

#[tokio::test]
async fn starts_and_refusals_of_streams() {
    // LC-API-020, LC-API-023
    let node = start().await;
    for word in ["a", "b", "c"] {
        text(&node, "LANE_NORMAL", word).await;
    }
    let (mut stream, _) = open(&node, "from=beginning", &[]).await;
    assert_eq!(stream.expect("event").await.data["envelope"]["text"], "a");
    let (mut stream, _) = open(&node, "count=1", &[]).await;
    assert_eq!(stream.expect("event").await.data["envelope"]["text"], "c");
    let (mut stream, _) = open(&node, "since_ms=60000", &[]).await;
    assert_eq!(stream.expect("event").await.data["envelope"]["text"], "a");

    let sse = ("accept", "text/event-stream");
    for (query, id, status, name) in [
        ("", "1-2-3", 400, "INVALID"),
        ("", "", 400, "INVALID"),
        ("position=1-2", "1-0-0-0", 400, "INVALID"),
        ("from=live&count=1", "1-0-0-0", 400, "INVALID"),
        ("signals=yes", "1-0-0-0", 400, "INVALID"),
    ] {
        let answer = node.ask(&format!("GET {EVENTS}?{query}"), &[ANN, sse, ("last-event-id", id)], "").await;
        assert_eq!(answer.refusal(), (status, name.to_owned()), "{query} {id:?}");
    }
    let other = node.ask("GET /v1/rooms/user:bob/events", &[ANN, sse], "").await;
    assert_eq!(other.refusal(), (403, "FORBIDDEN".to_owned()));
}

#[tokio::test]
async fn what_was_trimmed_or_rolled_back_is_said() {
    // LC-API-021, LC-API-024
    let node = start_with(short_log).await;
    let epoch = text(&node, "LANE_NORMAL", "1").await["epoch"].as_str().unwrap().to_owned();
    for word in ["2", "3", "4", "5"] {
        text(&node, "LANE_NORMAL", word).await;
    }
    let (mut stream, subscribed) = open(&node, &format!("position={epoch}-0-1-0"), &[]).await;
    assert_eq!(subscribed.data.get("recovered"), None);
    let gap = stream.expect("gap").await;
    assert_eq!(
        gap.data,
        json!({"lane": "LANE_NORMAL", "epoch": epoch, "from": "2", "to": "3", "cause": "GAP_CAUSE_TRIMMED"})
    );
    assert_eq!(gap.id, Some(format!("{epoch}-0-3-0")));
    let event = stream.expect("event").await;
    assert_eq!((event.data["envelope"]["text"].as_str(), event.id), (Some("4"), Some(format!("{epoch}-0-4-0"))));

    let (mut stream, subscribed) = open(&node, "position=17-0-1-0", &[]).await;
    let rolled_back = subscribed.data["rolledBack"].as_array().unwrap();
    assert!(rolled_back.iter().any(|gap| gap["epoch"] == "17" && gap["lane"] == "LANE_NORMAL" && gap["from"] == "2"));
    for range in rolled_back {
        let gap = stream.expect("gap").await;
        assert_eq!((&gap.data, &gap.id), (range, &subscribed.id));
    }
    assert!(subscribed.id.unwrap().starts_with(&epoch));
}

#[tokio::test]
async fn transients_and_signals_have_no_id() {
    // LC-API-022
    let node = start().await;
    let signal = |counter: u64, text: &str| {
        let envelope = v1::Envelope {
            r#type: "typing".into(),
            key: "k".into(),
            body: Some(v1::envelope::Body::Text(text.into())),
            ..Default::default()
        };
        let expires_at_ms = node.node.clock.now_ms() + 60_000;
        let envelope: Bytes = envelope.encode_to_vec().into();
        let frame = v1::Signal { counter, expires_at_ms, envelope, ..Default::default() };
        let tail = lanecast_protocol::codec::signal_tail(&frame);
        let key = SignalKey { sender: "s".into(), kind: "typing".into(), key: "k".into() };
        Signal { key, start: 0, counter, expires_at_ms, clear: false, tail }
    };
    node.node.hub.engine().signal("chat", signal(1, "live")).await.unwrap();
    let (mut with, _) = open(&node, "signals=true", &[]).await;
    let (mut without, _) = open(&node, "", &[]).await;
    let item = with.expect("signal").await;
    assert_eq!((item.data["envelope"]["text"].as_str(), item.id), (Some("live"), None));
    node.node.hub.engine().signal("chat", signal(2, "new")).await.unwrap();
    assert_eq!(with.expect("signal").await.data["envelope"]["text"], "new");

    let body = r#"{"delivery":"DELIVERY_TRANSIENT","envelope":{"type":"msg","text":"t"}}"#;
    let answer = publish(&node, body, &[]).await.json();
    assert_eq!(answer, json!({"lane": "LANE_NORMAL"}));
    for stream in [&mut with, &mut without] {
        let item = stream.expect("event").await;
        assert_eq!((item.data["envelope"]["text"].as_str(), item.id), (Some("t"), None));
        assert_eq!(item.data.get("seq"), None);
    }
}

#[tokio::test]
async fn a_new_epoch_is_a_new_subscription() {
    // LC-API-024
    let (node, engine) = Running::probed(Clock::system(), routes(true)).await;
    let epoch: u64 = text(&node, "LANE_NORMAL", "1").await["epoch"].as_str().unwrap().parse().unwrap();
    let (mut stream, _) = open(&node, "from=beginning", &[]).await;
    stream.expect("event").await;
    engine.renew("chat").await;
    let subscribed = stream.expect("subscribed").await;
    assert_eq!(subscribed.data["cause"], "SUBSCRIBED_CAUSE_EPOCH");
    assert_eq!(subscribed.id, Some(format!("{}-0-1-0", epoch + 1)));
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_with_the_node() {
    // LC-API-025
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let now_ms = 1_800_000_000_900;
    let secret = Secret::new(SECRET.as_bytes());
    let change = |config: &mut Config| {
        config.token_keys = vec![Key::from_secret(None, secret.clone()).unwrap()];
        config.tokens.leeway_ms = 0;
    };
    let node = Running::start(change, Clock::manual(now_ms), routes(true)).await;
    let claims: Claims = serde_json::from_value(json!({"sub": "ann", "exp": 1_800_000_001})).unwrap();
    let key = jsonwebtoken::EncodingKey::from_secret(secret.expose());
    let token = format!("Bearer {}", mint(&claims, Algorithm::Hs256, None, &key).unwrap());
    let mut expiring = node.stream("/v1/rooms/user:ann/events", &[("authorization", &token)]).await;
    let (mut lasting, _) = open(&node, "", &[]).await;
    expiring.expect("subscribed").await;
    assert_eq!(expiring.expect("error").await.data["name"], "TOKEN_EXPIRED");
    assert!(expiring.next().await.is_none());

    node.node.shutdown.begin();
    assert_eq!(lasting.expect("error").await.data["name"], "GOING_AWAY");
    assert!(lasting.next().await.is_none());
    let refused = node.ask(&format!("GET {EVENTS}"), &[ANN, ("accept", "text/event-stream")], "").await;
    assert_eq!(refused.refusal(), (503, "GOING_AWAY".to_owned()));
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    assert_eq!(node.node.shutdown.drain(Duration::from_secs(60)).await, 0);
}

#[tokio::test]
async fn whoever_goes_leaves_the_room() {
    use crate::telemetry::labels::{Encoding, Transport};
    let node = start().await;
    let (stream, _) = open(&node, "", &[]).await;
    let streams = node.node.metrics.connections.of((Transport::Sse, Encoding::Json));
    assert_eq!(streams.get(), 1);
    drop(stream);
    while streams.get() != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_take_the_places_of_users_and_of_forwarded_addresses() {
    // LC-SEC-011
    let secret = Secret::new(b"0123456789abcdef0123456789abcdef");
    let node = start_with(|config| {
        config.limits.connections_per_user = 2;
        config.limits.connections_per_address = 3;
        config.listen.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.token_keys = vec![Key::from_secret(None, secret.clone()).unwrap()];
    });
    let node = node.await;
    let bearer = |user: &str| {
        let exp = Clock::system().now_ms() / 1_000 + 600;
        let claims: Claims = serde_json::from_value(json!({"sub": user, "exp": exp})).unwrap();
        let key = jsonwebtoken::EncodingKey::from_secret(secret.expose());
        format!("Bearer {}", mint(&claims, Algorithm::Hs256, None, &key).unwrap())
    };
    let ask = async |user: &str, from: &str| {
        let bearer = bearer(user);
        let headers = [("authorization", &*bearer), ("x-forwarded-for", from), ("accept", "text/event-stream")];
        node.ask(&format!("GET /v1/rooms/user:{user}/events"), &headers, "").await
    };
    let open = async |user: &str, from: &str| {
        let headers = [("authorization", &*bearer(user)), ("x-forwarded-for", from)];
        node.stream(&format!("/v1/rooms/user:{user}/events"), &headers).await
    };
    let too_many = (503, "TOO_MANY_CONNECTIONS".to_owned());
    let (_first, second) = (open("ann", "198.51.100.1").await, open("ann", "198.51.100.1").await);
    let refused = ask("ann", "198.51.100.2").await;
    assert_eq!(refused.refusal(), too_many, "of the user");
    assert!(refused.head.contains("retry-after: 5\r\n"), "{}", refused.head);
    let _third = open("ben", "127.0.0.1, 198.51.100.1").await;
    assert_eq!(ask("cid", "198.51.100.1").await.refusal(), too_many, "of the address");
    drop(second);
    while node.node.registry.len() > 2 {
        tokio::task::yield_now().await;
    }
    let _fourth = open("ann", "198.51.100.1").await;
    let far = [ANN, ("x-forwarded-for", "198.51.100.9")];
    assert_eq!(node.ask(&format!("GET {EVENTS}"), &far, "").await.refusal().0, 401, "not from this machine");
}
