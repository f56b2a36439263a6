//! Revocations over HTTP, on one node.

use serde_json::json;

use super::operate::{LIMITED, limited};
use super::{ANN, EVENTS, KEY, open, start, start_with};

#[tokio::test]
async fn a_revoked_user_is_cut_off_and_comes_back_when_it_is_lifted() {
    // LC-AUTH-003, LC-API-057, LC-API-058, LC-API-059
    let node = start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    let done = node.ask("POST /v1/revocations", &[KEY], r#"{"user":"ann"}"#).await.json();
    assert_eq!((&done["connections"], &done["nodes"], &done["complete"]), (&json!(1), &json!(1), &json!(true)));
    assert_eq!(done["revocation"]["user"], "ann");
    assert_eq!(stream.expect("error").await.data["name"], "TOKEN_REVOKED");
    assert!(stream.next().await.is_none());
    let refused = node.ask(&format!("GET {EVENTS}"), &[ANN], "").await;
    assert_eq!(refused.refusal(), (401, "TOKEN_REVOKED".to_owned()));
    let bob = node.ask(&format!("GET {EVENTS}"), &[("authorization", "Bearer dev:bob")], "").await;
    assert_eq!(bob.status, 200);
    let list = node.ask("GET /v1/revocations", &[KEY], "").await.json();
    assert_eq!((list["revocations"].as_array().unwrap().len(), list.get("next")), (1, None));
    assert_eq!(node.node.metrics.revocations.get(), 1);
    let lifted = node.ask("POST /v1/revocations/lift", &[KEY], r#"{"user":"ann"}"#).await.json();
    assert_eq!(lifted["revocation"]["lifted"], true);
    assert_eq!(node.ask(&format!("GET {EVENTS}"), &[ANN], "").await.status, 200);
    let again = node.ask("POST /v1/revocations/lift", &[KEY], r#"{"user":"ann"}"#).await;
    assert_eq!(again.refusal(), (404, "NOT_FOUND".to_owned()));
    assert_eq!(node.ask("GET /v1/revocations", &[KEY], "").await.json().get("revocations"), None);
}

#[tokio::test]
async fn revocations_are_listed_in_pages() {
    // LC-API-058
    let node = start().await;
    let asked = [
        json!({"user": "bob"}),
        json!({"user": "ann"}),
        json!({"user": "ann", "device": "phone"}),
        json!({"tokenId": "t1"}),
    ];
    for body in asked {
        assert_eq!(node.ask("POST /v1/revocations", &[KEY], &body.to_string()).await.status, 200);
    }
    let (mut cursor, mut found) = (String::new(), Vec::new());
    loop {
        let page = node.ask(&format!("GET /v1/revocations?limit=1&cursor={cursor}"), &[KEY], "").await.json();
        let one = &page["revocations"][0];
        found.push(["user", "device", "tokenId"].map(|name| one[name].as_str().unwrap_or("").to_owned()).join("/"));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(found, ["ann//", "bob//", "ann/phone/", "//t1"]);
}

#[tokio::test]
async fn revoking_takes_a_key_with_control_over_connections() {
    // LC-API-055, LC-API-057
    let node = start_with(limited).await;
    let user = r#"{"user":"ann"}"#;
    let past = r#"{"user":"ann","untilMs":"5"}"#;
    let far = r#"{"user":"eve","untilMs":"9007199254740991"}"#;
    for (request, who, body, status) in [
        ("POST /v1/revocations", LIMITED, user, 403),
        ("POST /v1/revocations", ANN, user, 403),
        ("POST /v1/revocations/lift", LIMITED, user, 403),
        ("GET /v1/revocations", LIMITED, "", 403),
        ("GET /v1/revocations", ANN, "", 403),
        ("POST /v1/revocations", KEY, "{}", 400),
        ("POST /v1/revocations", KEY, r#"{"device":"phone"}"#, 400),
        ("POST /v1/revocations", KEY, r#"{"user":"ann","tokenId":"t"}"#, 400),
        ("POST /v1/revocations", KEY, r#"{"user":"*"}"#, 400),
        ("POST /v1/revocations", KEY, past, 400),
        ("POST /v1/revocations", KEY, "nonsense", 400),
        ("POST /v1/revocations/lift", KEY, r#"{"user":"nobody"}"#, 404),
        ("GET /v1/revocations?cursor=nonsense", KEY, "", 400),
        ("GET /v1/revocations?limit=x", KEY, "", 400),
        ("GET /v1/revocations", KEY, "", 200),
        ("POST /v1/revocations", KEY, far, 200),
    ] {
        let answer = node.ask(request, &[who], body).await;
        assert_eq!(answer.status, status, "{request} {who:?} {body}: {}", answer.body);
    }
    let kept = node.ask("GET /v1/revocations", &[KEY], "").await.json();
    let until_ms: u64 = kept["revocations"][0]["untilMs"].as_str().unwrap().parse().unwrap();
    assert!(until_ms < 9_007_199_254_740_991, "no token lives longer than the node allows");
}
