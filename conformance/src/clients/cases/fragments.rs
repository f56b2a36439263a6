//! Frames in pieces.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::case;
use crate::clients::trial::{PATIENCE, QUIET};
use crate::clients::{ALL, Case, Trial};
use crate::peer::{Conn, event};
use crate::schema;
use crate::verdict::{Outcome, Stop, check};

const PROTOCOL: u16 = 4001;
const TOO_LARGE: u16 = 4003;
const IDLE_TIMEOUT: u16 = 4201;
/// A receiver forgets a transfer after so long without a piece, and some more for busy machines.
const FORGOTTEN: Duration = Duration::from_millis(31_500);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-FRM-030"] "pieces-join", "A frame in pieces is handed over whole, and others pass between.", ALL, [], pieces_join),
        case!(["LC-FRM-030"] "piece-without-transfer", "A piece that fits no transfer closes with PROTOCOL.", ALL, [],
            piece_without_transfer),
        case!(["LC-FRM-030"] "beyond-total", "Bytes beyond total close with PROTOCOL.", ALL, [], beyond_total),
        case!(["LC-FRM-030"] "other-lane", "A frame of another lane than its pieces closes with PROTOCOL.", ALL, [], other_lane),
        case!(["LC-FRM-030"] "fragment-in-fragments", "A fragment in fragments closes with PROTOCOL.", ALL, [],
            fragment_in_fragments),
        case!(["LC-FRM-030", "LC-HS-020"] "not-named", "Nothing is sent in pieces to a node that does not name FRAGMENTS.", ALL, [],
            not_named),
        case!(["LC-FRM-030"] "sent-pieces-add-up", "What a client sends in pieces adds up to a frame.", ALL, [], sent_pieces),
        case!(["LC-FRM-031"] "total-too-large", "A total above limits.record_bytes closes with TOO_LARGE.", ALL, [], total_too_large),
        case!(["LC-FRM-031"] "fifth-transfer", "A fifth unfinished transfer of a lane closes with PROTOCOL.", ALL, [],
            fifth_transfer),
        case!(["LC-FRM-031"] "abort-forgets", "FragmentAbort makes room for another transfer.", ALL, [], abort_forgets),
        case!(["LC-FRM-031"] "late-piece", "A piece after 30 s without one closes with IDLE_TIMEOUT.", ALL, [], late_piece).slow(60),
    ]
}

/// A client that takes fragments, subscribed to `r`.
async fn taker(t: &mut Trial) -> Outcome<Conn> {
    let conn = t.live_room().await?;
    let named =
        conn.hello["capabilities"].as_array().is_some_and(|names| names.contains(&json!("CAPABILITY_FRAGMENTS")));
    if named { Ok(conn) } else { Err(Stop::Unsupported("the client does not name FRAGMENTS".to_owned())) }
}

fn piece(transfer: u64, lane: &str, total: usize, data: &[u8]) -> Value {
    json!({"fragment": {"transfer": transfer, "lane": format!("LANE_{}", lane.to_uppercase()), "total": total,
        "data": BASE64.encode(data)}})
}

/// An event of lane normal with much to say.
fn long(seq: u64) -> Outcome<Vec<u8>> {
    let mut long = event(1, "normal", seq);
    long["event"]["envelope"]["text"] = json!("x".repeat(6_000));
    Ok(schema::encode("Frame", &long)?)
}

async fn pieces_join(t: &mut Trial) -> Outcome {
    let mut conn = taker(t).await?;
    let bytes = long(1)?;
    let (first, rest) = bytes.split_at(2_000);
    conn.send(&piece(1, "normal", bytes.len(), first)).await?;
    conn.send(&event(1, "urgent", 1)).await?;
    t.items(&["urgent 1"]).await?;
    t.no_item().await?;
    let (second, third) = rest.split_at(2_000);
    conn.send(&piece(1, "normal", 0, second)).await?;
    conn.send(&piece(1, "normal", 0, third)).await?;
    conn.send(&event(1, "normal", 2)).await?;
    let item = t.item().await?;
    let length = item["event"]["body"]["text"].as_str().map_or(0, str::len);
    check(item["event"]["seq"] == 1 && length == 6_000, || {
        format!("seq {} with {length} bytes", item["event"]["seq"])
    })?;
    t.items(&["2"]).await
}

/// Sends frames of a node that breaks the rules; the client has to close with the code.
async fn broken(t: &mut Trial, frames: &[Value], code: u16) -> Outcome {
    let mut conn = taker(t).await?;
    for frame in frames {
        conn.send(frame).await?;
    }
    conn.closed_with(code).await?;
    t.no_item().await
}

async fn piece_without_transfer(t: &mut Trial) -> Outcome {
    broken(t, &[piece(5, "normal", 0, b"abc")], PROTOCOL).await
}

async fn beyond_total(t: &mut Trial) -> Outcome {
    broken(t, &[piece(1, "normal", 10, &[0; 6]), piece(1, "normal", 0, &[0; 6])], PROTOCOL).await
}

async fn other_lane(t: &mut Trial) -> Outcome {
    let bytes = long(1)?;
    let (first, second) = bytes.split_at(3_000);
    broken(t, &[piece(1, "bulk", bytes.len(), first), piece(1, "bulk", 0, second)], PROTOCOL).await
}

async fn fragment_in_fragments(t: &mut Trial) -> Outcome {
    let inner = schema::encode("Frame", &piece(2, "normal", 5, b"abcde"))?;
    broken(t, &[piece(1, "normal", inner.len(), &inner)], PROTOCOL).await
}

async fn not_named(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(json!({"capabilities": []})).await?;
    t.publish(json!({"body": {"text": "x".repeat(60_000)}})).await?;
    conn.frame("publish").await?;
    conn.none("fragment", QUIET).await
}

async fn sent_pieces(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let command = t.publish(json!({"body": {"text": "x".repeat(60_000)}})).await?;
    let (publish, id) = publish_in_pieces(&mut conn).await?;
    check(publish["envelope"]["text"].as_str().map(str::len) == Some(60_000), || "another payload".to_owned())?;
    conn.send(&json!({"id": id, "published": {"epoch": 7, "lane": "LANE_NORMAL", "seq": 1, "order": 1}})).await?;
    t.ends(command, "stored").await?;
    Ok(())
}

/// The publish that comes next, whole or in pieces, and its id.
async fn publish_in_pieces(conn: &mut Conn) -> Outcome<(Value, Value)> {
    let mut transfers: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
    while let Some((name, frame)) = conn.any(PATIENCE).await? {
        match name.as_str() {
            "publish" => return Ok((frame.body, json!(frame.id))),
            "fragment" => {}
            _ => continue,
        }
        let number = frame.body["transfer"].as_u64().unwrap_or(0);
        let total = frame.body["total"].as_u64().unwrap_or(0);
        let known = transfers.contains_key(&number);
        check(known == (total == 0), || format!("total {total} in a piece of transfer {number}, begun: {known}"))?;
        let (total, bytes) = transfers.entry(number).or_insert((total, Vec::new()));
        bytes.extend(BASE64.decode(frame.body["data"].as_str().unwrap_or("")).map_err(Stop::harness)?);
        check(bytes.len() as u64 <= *total, || format!("{} bytes of {total}", bytes.len()))?;
        if bytes.len() as u64 == *total {
            let mut frame = schema::decode("Frame", bytes)?;
            return Ok((frame["publish"].take(), frame["id"].clone()));
        }
    }
    Err(Stop::fail("no publish came, neither whole nor in pieces"))
}

async fn total_too_large(t: &mut Trial) -> Outcome {
    broken(t, &[piece(1, "normal", 300_000, &[0; 100])], TOO_LARGE).await
}

async fn fifth_transfer(t: &mut Trial) -> Outcome {
    let frames: Vec<Value> = (1..=5).map(|number| piece(number, "normal", 100, &[0; 10])).collect();
    broken(t, &frames, PROTOCOL).await
}

async fn abort_forgets(t: &mut Trial) -> Outcome {
    let mut conn = taker(t).await?;
    for number in 1..=4 {
        conn.send(&piece(number, "normal", 100, &[0; 10])).await?;
    }
    conn.send(&json!({"fragmentAbort": {"transfer": 2, "lane": "LANE_NORMAL"}})).await?;
    let bytes = long(1)?;
    conn.send(&piece(5, "normal", bytes.len(), &bytes)).await?;
    t.items(&["1"]).await
}

async fn late_piece(t: &mut Trial) -> Outcome {
    let mut conn = taker(t).await?;
    let bytes = long(1)?;
    conn.send(&piece(1, "normal", bytes.len(), &bytes[..100])).await?;
    conn.listen(FORGOTTEN).await?;
    check(conn.ended.is_none(), || "the connection ended before".to_owned())?;
    conn.send(&piece(1, "normal", 0, &bytes[100..])).await?;
    conn.closed_with(IDLE_TIMEOUT).await
}
