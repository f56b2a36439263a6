//! Records, unknown things, numbers, ids.

use serde_json::json;

use super::case;
use crate::client::{Lane, short};
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, Trial, WEBSOCKET};
use crate::peer::{event, gap, position};
use crate::schema;
use crate::verdict::{Outcome, check};

/// Closes with it when bytes are no packet.
const PROTOCOL: u16 = 4001;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-FRM-001"] "records-together", "Several records in one unit are handled in order, an empty unit says nothing.",
            ALL, [], records_together),
        case!(["LC-FRM-003", "LC-SDK-013"] "unknown-things", "Unknown fields, frames, capabilities and causes break nothing.",
            ALL, [], unknown_things),
        case!(["LC-FRM-016"] "ids", "Requests have ids of their own, and answers to unknown ids change nothing.", ALL, [], ids),
        case!(["LC-FRM-020"] "number-too-large", "A seq of 2^53 closes the connection with PROTOCOL.", ALL, [],
            number_too_large),
        case!(["LC-WS-010"] "messages-within-limit", "No WebSocket message is longer than limits.record_bytes.", WEBSOCKET, [],
            messages_within_limit),
        case!(["LC-WS-010"] "close-code-read", "The close code of a WebSocket is a code of the table.", WEBSOCKET, [],
            close_code_read),
        case!(["LC-SEC-002"] "no-token-in-url", "The request that opens a connection does not hold the token.",
            ALL, [], no_token_in_url),
        case!(["LC-TYPE-002"] "reserved-type", "An event of an unknown reserved type is handed on and counts.", ALL, [],
            reserved_type),
    ]
}

async fn records_together(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.ask_subscribe(json!({})).await?;
    let subscribe = conn.frame("subscribe").await?;
    let events = [event(1, "normal", 1), event(1, "normal", 2), event(1, "normal", 3)];
    if conn.has_streams() {
        conn.subscribed(subscribe.id, "r", 1, "7-0-0-0", json!({})).await?;
        conn.send_together(&events).await?;
    } else {
        let place = json!({"room": "r", "handle": 1, "position": position("7-0-0-0"), "head": position("7-0-3-0")});
        let mut all = vec![json!({"id": subscribe.id, "subscribed": place})];
        all.extend(events);
        conn.send_together(&all).await?;
        conn.send_bytes(Lane::Control, Vec::new()).await;
    }
    conn.send(&event(1, "normal", 4)).await?;
    t.items(&["1", "2", "3", "4"]).await
}

async fn unknown_things(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(json!({"capabilities": ["CAPABILITY_HISTORY", 99]})).await?;
    t.subscribe(&mut conn, json!({}), "7-0-0-0").await?;
    // Field 1000 of a frame that is known, and a frame that is not.
    let mut known = schema::encode("Frame", &event(1, "normal", 1))?;
    known.extend([0xc0, 0x3e, 1]);
    conn.send_bytes(Lane::Normal, schema::record(&known)).await;
    let strange = schema::record(&[0x9a, 0x3f, 2, b'h', b'i']);
    conn.send_bytes(Lane::Normal, strange).await;
    let mut odd = gap(1, "normal", 7, 2, 2, "trimmed");
    odd["gap"]["cause"] = json!(99);
    conn.send(&odd).await?;
    conn.send(&event(1, "normal", 3)).await?;
    t.items(&["1", "2-2 unknown", "3"]).await
}

async fn ids(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    for number in 0..5 {
        t.publish(json!({"body": {"text": number.to_string()}})).await?;
    }
    let mut publishes = Vec::new();
    for _ in 0..5 {
        publishes.push(conn.frame("publish").await?);
    }
    conn.send(&json!({"id": 40_001, "published": {"epoch": 7, "lane": "LANE_NORMAL", "seq": 9, "order": 9}})).await?;
    conn.send(&json!({"id": 40_002, "done": {}})).await?;
    conn.send(&json!({"id": 40_003, "error": {"code": 4302}})).await?;
    for (index, publish) in publishes.iter().enumerate() {
        check(publish.id != 0, || "a publish has id 0".to_owned())?;
        conn.published(publish, index as u64 + 1).await?;
    }
    for _ in 0..5 {
        let stored = t.report("stored").await?;
        check(stored["seq"].as_u64() < Some(6), || format!("a foreign answer was taken: {}", short(&stored)))?;
    }
    conn.listen(QUIET).await?;
    check(conn.ended.is_none(), || "the connection ended".to_owned())
}

async fn number_too_large(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "normal", 1)).await?;
    t.items(&["1"]).await?;
    let mut large = event(1, "normal", 2);
    large["event"]["order"] = json!(1u64 << 53);
    conn.send(&large).await?;
    conn.closed_with(PROTOCOL).await?;
    t.no_item().await
}

async fn messages_within_limit(t: &mut Trial) -> Outcome {
    const LIMIT: usize = 8192;
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(json!({"limits": {"recordBytes": LIMIT}})).await?;
    for size in [3_000, 3_000, 3_000, 20_000] {
        t.publish(json!({"body": {"text": "x".repeat(size)}})).await?;
    }
    conn.listen(QUIET * 2).await?;
    let longest = conn.unit_bytes_max;
    check(longest <= LIMIT, || format!("a message of {longest} bytes, where {LIMIT} are allowed"))?;
    check(longest > 3_000, || "nothing was published".to_owned())
}

async fn close_code_read(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    conn.close(4009).await;
    let state = t.state("closed").await?;
    check(state["code"] == 4009, || format!("closed with {} instead of 4009", state["code"]))
}

async fn no_token_in_url(t: &mut Trial) -> Outcome {
    let conn = t.live().await?;
    check(conn.hello["token"] == "token-1", || "Hello holds another token".to_owned())?;
    check(!conn.head.contains("token-1"), || format!("the token stands in the request: {}", conn.head))
}

async fn reserved_type(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    let mut reserved = event(1, "normal", 1);
    reserved["event"]["envelope"] = json!({"type": "$of.tomorrow", "text": "?"});
    conn.send(&reserved).await?;
    conn.send(&event(1, "normal", 2)).await?;
    let item = t.item().await?;
    check(item["event"]["type"] == "$of.tomorrow", || format!("not handed on: {}", short(&item)))?;
    t.items(&["2"]).await
}
