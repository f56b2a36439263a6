//! Commands and lists of operators, on one node.

use serde_json::json;

use super::{ANN, KEY, open, start, start_with};
use crate::auth::api_key::{ApiKey, ApiKeyHash, hex_hash};
use crate::auth::rights::{RightSpec, Rights};
use crate::config::Config;

/// A key that controls one room only.
pub(super) fn limited(config: &mut Config) {
    let right = |allow: &str, rooms: &str| RightSpec {
        allow: vec![allow.into()],
        rooms: vec![rooms.into()],
        types: None,
        lane: None,
    };
    let rights = Rights::from_specs(vec![right("control", "chat"), right("publish", "**")]).unwrap();
    let mut key = ApiKey::new("limited", rights).unwrap();
    let hash = hex_hash("limited-key-0123");
    key.add(ApiKeyHash { hash: Some(&hash), ..ApiKeyHash::default() }, &[]).unwrap();
    config.api_keys.push(key);
}

pub(super) const LIMITED: (&str, &str) = ("authorization", "Bearer limited-key-0123");

#[tokio::test]
async fn a_stream_is_listed_and_disconnected() {
    // LC-API-051, LC-API-053
    let node = start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    let list = node.ask("GET /v1/connections?user=ann&room=chat", &[KEY], "").await.json();
    assert_eq!((&list["connections"][0]["user"], &list["complete"]), (&json!("ann"), &json!(true)));
    let other = node.ask("GET /v1/connections?user=bob", &[KEY], "").await.json();
    assert_eq!(other.get("connections"), None);
    let done = node.ask("POST /v1/disconnect", &[KEY], r#"{"user":"ann"}"#).await.json();
    assert_eq!(done, json!({"connections": 1, "nodes": 1, "complete": true}));
    assert_eq!(stream.expect("error").await.data["name"], "DISCONNECTED");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_its_subscription() {
    // LC-API-052
    let node = start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    let unsubscribe = |room: &str| json!({"user": "ann", "room": room}).to_string();
    let elsewhere = node.ask("POST /v1/unsubscribe", &[KEY], &unsubscribe("other")).await.json();
    assert_eq!(elsewhere.get("connections"), None);
    let done = node.ask("POST /v1/unsubscribe", &[KEY], &unsubscribe("chat")).await.json();
    assert_eq!(done["connections"], 1);
    assert_eq!(stream.expect("error").await.data["name"], "DISCONNECTED");
}

#[tokio::test]
async fn commands_take_a_key_with_control() {
    // LC-API-055
    let node = start_with(limited).await;
    let user = r#"{"user":"ann"}"#;
    let (chat, other) = (r#"{"user":"ann","room":"chat"}"#, r#"{"user":"ann","room":"other"}"#);
    for (request, who, body, status) in [
        ("GET /v1/nodes", KEY, "", 200),
        ("GET /v1/nodes", ANN, "", 403),
        ("GET /v1/nodes", LIMITED, "", 403),
        ("GET /v1/connections", LIMITED, "", 403),
        ("GET /v1/connections?room=chat", LIMITED, "", 200),
        ("GET /v1/connections?room=other", LIMITED, "", 403),
        ("GET /v1/connections?room=chat", ANN, "", 403),
        ("POST /v1/disconnect", LIMITED, user, 403),
        ("POST /v1/disconnect", ANN, user, 403),
        ("POST /v1/unsubscribe", LIMITED, chat, 200),
        ("POST /v1/unsubscribe", LIMITED, other, 403),
        ("POST /v1/unsubscribe", ANN, chat, 403),
        ("POST /v1/nodes/x/drain", LIMITED, "", 403),
        ("POST /v1/nodes/x/drain", KEY, "", 404),
        ("POST /v1/nodes/%ff/drain", KEY, "", 404),
        ("POST /v1/disconnect", KEY, "{}", 400),
        ("POST /v1/disconnect", KEY, r#"{"user":"ann","connection":"x"}"#, 400),
        ("POST /v1/disconnect", KEY, "nonsense", 400),
        ("GET /v1/connections?device=x", KEY, "", 400),
        ("GET /v1/connections?limit=x", KEY, "", 400),
        ("GET /v1/connections?node=n-none", KEY, "", 404),
    ] {
        let answer = node.ask(request, &[who], body).await;
        assert_eq!(answer.status, status, "{request} {who:?} {body}: {}", answer.body);
    }
    assert!(!node.node.shutdown.is_draining());
}

#[tokio::test]
async fn a_node_lists_itself_and_drains_when_told() {
    // LC-API-050, LC-API-054
    let node = start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    let list = node.ask("GET /v1/nodes", &[KEY], "").await.json();
    let this = &list["nodes"][0];
    assert_eq!((&this["id"], &this["address"]), (&json!(*node.node.id), &json!(node.address.to_string())));
    assert_eq!((&this["connections"], &list["complete"]), (&json!("1"), &json!(true)));
    let drained = node.ask(&format!("POST /v1/nodes/{}/drain", node.node.id), &[KEY], "").await.json();
    assert_eq!((&drained["connections"], &drained["complete"]), (&json!(1), &json!(true)));
    assert_eq!(stream.expect("error").await.data["name"], "GOING_AWAY");
    let list = node.ask("GET /v1/nodes", &[KEY], "").await.json();
    assert_eq!(list["nodes"][0]["draining"], true);
}
