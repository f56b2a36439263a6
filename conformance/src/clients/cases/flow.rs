//! Lanes, credit, rates.

use std::time::Duration;

use serde_json::{Value, json};

use super::case;
use crate::client::{Place, short};
use crate::clients::trial::{PATIENCE, QUIET};
use crate::clients::{ALL, Case, Trial};
use crate::peer::{Conn, event};
use crate::verdict::{Outcome, check};

const PROTOCOL: u16 = 4001;
/// What may be under way before the first Credit, bytes.
const BEFORE_CREDIT: usize = 64 * 1024;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-LANE-002"] "frames-on-their-lanes", "What a client publishes and signals travels on its lane.", ALL, ["signals"],
            frames_on_their_lanes),
        case!(["LC-LANE-009"] "urgent-leaves-first", "An urgent publish leaves before bulk that waits.", ALL, [], urgent_leaves_first),
        case!(["LC-LANE-010"] "order-of-seqs", "Events of a lane are handed over in the order of their seqs.", ALL, [], order_of_seqs),
        case!(["LC-FLOW-008"] "waits-as-told", "A refused request is repeated after retry_after_ms, not before.", ALL, [], waits_as_told),
        case!(["LC-FLOW-008"] "signals-conflated", "Signals of a key are conflated and keep to the rate.", ALL, ["signals"],
            signals_conflated),
        case!(["LC-FLOW-010"] "gives-credit", "The receiver of much sends Credit.", ALL, [], gives_credit),
        case!(["LC-FLOW-010"] "keeps-to-credit", "Before the first Credit 64 KiB are under way at most.", ALL, [], keeps_to_credit),
        case!(["LC-FLOW-010"] "credit-goes-back", "A consumed below an earlier one closes with PROTOCOL.", ALL, [], credit_goes_back),
        case!(["LC-FLOW-010"] "credit-beyond", "A consumed above what was sent closes with PROTOCOL.", ALL, [], credit_beyond),
    ]
}

async fn frames_on_their_lanes(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    for lane in ["urgent", "normal", "bulk"] {
        t.publish(json!({"lane": lane})).await?;
        let publish = conn.frame("publish").await?;
        let wanted = format!("LANE_{}", lane.to_uppercase());
        // Where frames have places, every one of them was compared with its lane when it came.
        check(publish.body["lane"] == wanted.as_str(), || format!("published on {}", publish.body["lane"]))?;
        conn.published(&publish, 1).await?;
    }
    t.done(json!({"signal": {"room": "r", "type": "cursor", "key": "k", "body": {"text": "1"}}})).await?;
    let signal = conn.frame("signal").await?;
    check(!conn.has_streams() || signal.place == Place::Datagram, || format!("a signal on {:?}", signal.place))
}

async fn urgent_leaves_first(t: &mut Trial) -> Outcome {
    const BULK: usize = 40;
    let mut conn = t.live().await?;
    conn.set_reading(false);
    for _ in 0..BULK {
        t.publish(json!({"lane": "bulk", "body": {"text": "x".repeat(40_000)}})).await?;
    }
    t.publish(json!({"lane": "urgent"})).await?;
    conn.listen(QUIET).await?;
    conn.set_reading(true);
    let mut before = 0;
    while let Some((name, frame)) = conn.any(PATIENCE).await? {
        match (name.as_str(), frame.body["lane"].as_str()) {
            ("publish" | "fragment", Some("LANE_BULK")) => before += frame.bytes,
            ("publish", Some("LANE_URGENT")) => {
                return check(before < 10 * 40_000, || {
                    format!("{before} bytes of bulk left before the urgent publish")
                });
            }
            _ => {}
        }
    }
    Err(crate::verdict::Stop::fail("no urgent publish came"))
}

async fn order_of_seqs(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    for seq in 1..=30 {
        conn.send(&event(1, "bulk", seq)).await?;
        conn.send(&event(1, "normal", seq)).await?;
    }
    let (mut bulk, mut normal) = (0, 0);
    for _ in 0..60 {
        let item = t.item().await?["event"].take();
        let last = if item["lane"] == "bulk" { &mut bulk } else { &mut normal };
        check(item["seq"] == *last + 1, || format!("{} after {last}", short(&item)))?;
        *last += 1;
    }
    Ok(())
}

async fn waits_as_told(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let command = t.publish(json!({})).await?;
    let publish = conn.frame("publish").await?;
    conn.error(publish.id, 4400, 700).await?;
    let again = conn.frame("publish").await?;
    let waited = again.at - publish.at;
    check(waited > Duration::from_millis(680), || format!("repeated after {} ms instead of 700", waited.as_millis()))?;
    conn.published(&again, 1).await?;
    t.ends(command, "stored").await?;
    Ok(())
}

async fn signals_conflated(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(json!({"limits": {"signalsPerSecond": 2}})).await?;
    for number in 1..=30 {
        t.done(json!({"signal": {"room": "r", "type": "cursor", "key": "k", "body": {"text": number.to_string()}}}))
            .await?;
    }
    conn.listen(Duration::from_millis(1_500)).await?;
    let (mut count, mut last) = (0, Value::Null);
    while let Some(signal) = conn.find("signal", Duration::ZERO).await? {
        count += 1;
        last = signal.body["envelope"]["text"].clone();
    }
    // A burst of a second's worth, what 1.5 s allow beside, and one for the edges.
    check(count <= 6, || format!("{count} signals in 1.5 s, where 2 a second are allowed"))?;
    check(last == "30", || format!("the last signal sent is {last}"))
}

/// A client that gives and takes credit, subscribed to `r`.
async fn crediting(t: &mut Trial) -> Outcome<Conn> {
    let conn = t.live_room().await?;
    let named = conn.hello["capabilities"].as_array().is_some_and(|names| names.contains(&json!("CAPABILITY_CREDIT")));
    let why = "the client does not name CREDIT".to_owned();
    if named { Ok(conn) } else { Err(crate::verdict::Stop::Unsupported(why)) }
}

async fn gives_credit(t: &mut Trial) -> Outcome {
    let mut conn = crediting(t).await?;
    let mut sent = 0;
    for seq in 1..=60 {
        let mut long = event(1, "normal", seq);
        long["event"]["envelope"]["text"] = json!("x".repeat(1_000));
        sent += crate::schema::frame_record(&long)?.len() as u64;
        conn.send(&long).await?;
    }
    let mut consumed = 0;
    // The receiver may leave 4 KiB uncounted.
    while consumed + 4_096 < sent {
        let credit = conn.frame("credit").await?.body;
        if credit["lane"] == "LANE_NORMAL" {
            let now = credit["consumed"].as_u64().unwrap_or(0);
            check(now >= consumed && now <= sent, || format!("consumed {now} after {consumed} of {sent}"))?;
            check(credit["window"].as_u64() > Some(0), || "no window".to_owned())?;
            consumed = now;
        }
    }
    Ok(())
}

async fn keeps_to_credit(t: &mut Trial) -> Outcome {
    let mut conn = crediting(t).await?;
    for _ in 0..10 {
        t.publish(json!({"lane": "bulk", "body": {"text": "x".repeat(15_000)}})).await?;
    }
    conn.listen(QUIET * 2).await?;
    let mut bytes = 0;
    let mut count = 0;
    while let Some((_, frame)) = conn.any(Duration::ZERO).await? {
        bytes += frame.bytes;
        count += 1;
    }
    check(bytes <= BEFORE_CREDIT, || format!("{bytes} bytes are under way before the first Credit"))?;
    check(count > 0, || "nothing was sent".to_owned())?;
    conn.send(&json!({"credit": {"lane": "LANE_BULK", "consumed": bytes, "window": 1 << 20}})).await?;
    let more = conn.any(PATIENCE).await?;
    check(more.is_some(), || "nothing more is sent after Credit".to_owned())
}

async fn credit_goes_back(t: &mut Trial) -> Outcome {
    let mut conn = crediting(t).await?;
    t.publish(json!({"lane": "bulk", "body": {"text": "x".repeat(15_000)}})).await?;
    conn.any(PATIENCE).await?;
    conn.send(&json!({"credit": {"lane": "LANE_BULK", "consumed": 2_000, "window": 1 << 20}})).await?;
    conn.send(&json!({"credit": {"lane": "LANE_BULK", "consumed": 1_000, "window": 1 << 20}})).await?;
    conn.closed_with(PROTOCOL).await
}

async fn credit_beyond(t: &mut Trial) -> Outcome {
    let mut conn = crediting(t).await?;
    conn.send(&json!({"credit": {"lane": "LANE_BULK", "consumed": 50_000_000, "window": 1 << 20}})).await?;
    conn.closed_with(PROTOCOL).await
}
