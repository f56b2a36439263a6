//! Frames in pieces: taken and sent, given up, and what does not fit.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::flow::read_until;
use crate::case::{Case, Ctx, Join, Need};
use crate::client::Encoding;
use crate::schema;
use crate::verdict::{Outcome, Stop, check};

/// Bytes of a piece that the cases send.
const PIECE: usize = 1_000;
/// Longest record of another lane than control that a node sends to a client that takes fragments.
const WHOLE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a large event.
const LARGE: usize = 60_000;
/// Large events that no socket buffers swallow.
const MANY: usize = 120;
/// What the kernel buffers for a client that does not read.
const SMALL_BUFFER: u32 = 32 * 1024;
/// Time in which a server fills what the transport takes.
const FILL: Duration = Duration::from_millis(800);
/// After so long without a piece a transfer is forgotten.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Fragments];
    vec![
        Case::code(
            "LC-FRM-030/taken-in-pieces",
            "Publishes that come in pieces, with others between them, are stored like whole ones.",
            &["LC-LANE-002"],
            needs,
            |ctx| Box::pin(taken_in_pieces(ctx)),
        ),
        Case::code(
            "LC-FRM-030/what-does-not-fit",
            "Pieces of no transfer, of another lane, too many of them, and pieces in pieces close with PROTOCOL.",
            &[],
            needs,
            |ctx| Box::pin(what_does_not_fit(ctx)),
        ),
        Case::code(
            "LC-FRM-030/only-for-who-takes-them",
            "A client that does not name the capability gets no Fragment.",
            &[],
            needs,
            |ctx| Box::pin(only_for_who_takes_them(ctx)),
        ),
        Case::code(
            "LC-FRM-031/too-large",
            "A transfer above the limit of a record is refused with TOO_LARGE at its first piece.",
            &[],
            needs,
            |ctx| Box::pin(too_large(ctx)),
        ),
        Case::code(
            "LC-FRM-031/too-many",
            "Four transfers of a lane may be unfinished, a fifth closes with PROTOCOL.",
            &[],
            needs,
            |ctx| Box::pin(too_many(ctx)),
        ),
        Case::code(
            "LC-FRM-031/aborted",
            "A transfer that is given up has no effect, and makes room for another.",
            &["LC-FRM-030"],
            needs,
            |ctx| Box::pin(aborted(ctx)),
        ),
        Case::code(
            "LC-FRM-031/silent",
            "A transfer without a piece for 30 s is forgotten, and its rest comes too late.",
            &[],
            needs,
            |ctx| Box::pin(silent(ctx)),
        )
        .only(Encoding::Binary)
        .within_s(90),
        Case::code(
            "LC-FRM-032/large-events-in-pieces",
            "A large event comes in pieces to a client that takes them, and urgent ones pass between.",
            &["LC-FRM-030", "LC-LANE-005"],
            needs,
            |ctx| Box::pin(large_events_in_pieces(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-FRM-032/left-in-the-middle",
            "What is under way of a room that is left is given up, and nothing of it follows.",
            &["LC-FRM-031", "LC-SUB-007"],
            needs,
            |ctx| Box::pin(left_in_the_middle(ctx)),
        )
        .within_s(90),
    ]
}

fn fragment(transfer: u64, lane: &str, total: usize, data: &[u8]) -> Value {
    json!({"fragment": {"transfer": transfer, "lane": lane, "total": total, "data": STANDARD.encode(data)}})
}

/// The pieces of a frame.
fn pieces(transfer: u64, lane: &str, frame: &Value) -> Outcome<Vec<Value>> {
    let bytes = schema::encode("Frame", frame)?;
    let parts = bytes.chunks(PIECE).enumerate();
    Ok(parts.map(|(at, data)| fragment(transfer, lane, if at == 0 { bytes.len() } else { 0 }, data)).collect())
}

/// A publish on lane bulk that nobody waits for: what pieces hold no ledger sees.
fn publish(room: &str, bytes: usize) -> Value {
    let envelope = json!({"type": "t", "text": "x".repeat(bytes)});
    json!({"publish": {"room": room, "lane": "LANE_BULK", "number": 1, "envelope": envelope}})
}

async fn join_taking(ctx: &mut Ctx, name: &str, receive_buffer: Option<u32>) -> Outcome {
    let hello = json!({"capabilities": ["CAPABILITY_FRAGMENTS"]});
    ctx.join(Join { hello: Some(hello), receive_buffer, ..Join::named(name) }).await.map(drop)
}

async fn taken_in_pieces(ctx: &mut Ctx) -> Outcome {
    let (room, other) = (ctx.room(), format!("{}.other", ctx.room()));
    ctx.join_as("a").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    let beside = ctx.subscribe("a", json!({"room": other})).await?["handle"].clone();
    let first = pieces(1, "LANE_BULK", &publish(&room, 30_000))?;
    let second = pieces(2, "LANE_BULK", &publish(&other, 10_000))?;
    for (at, piece) in first.iter().enumerate() {
        let conn = ctx.conn("a")?;
        conn.send(std::slice::from_ref(piece)).await?;
        if let Some(piece) = second.get(at) {
            conn.send(std::slice::from_ref(piece)).await?;
        }
        if at == 5 {
            ctx.publish("a", &room, "LANE_URGENT", &["between".to_owned()]).await?;
            ctx.events("a", &handle, "LANE_URGENT", 1, 1).await?;
        }
    }
    for (handle, bytes) in [(handle, 30_000), (beside, 10_000)] {
        let came = ctx.expect("a", &json!({"event": {"handle": handle, "lane": "LANE_BULK", "seq": 1}})).await?;
        let length = came.value["event"]["envelope"]["text"].as_str().map_or(0, str::len);
        check(length == bytes, || format!("of {bytes} characters {length} came back"))?;
    }
    Ok(())
}

async fn what_does_not_fit(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let whole = schema::encode("Frame", &publish(&room, 10))?;
    let nested = schema::encode("Frame", &fragment(9, "LANE_BULK", 5, b"ab"))?;
    let begun = || fragment(1, "LANE_BULK", 100, b"abc");
    let wrongs = [
        ("of no transfer", vec![fragment(1, "LANE_BULK", 0, b"abc")]),
        ("of no number", vec![fragment(0, "LANE_BULK", 100, b"abc")]),
        ("of another lane", vec![begun(), fragment(1, "LANE_NORMAL", 0, b"abc")]),
        ("beyond the total", vec![begun(), fragment(1, "LANE_BULK", 0, &[7; 98])]),
        ("of a frame of another lane", vec![fragment(1, "LANE_NORMAL", whole.len(), &whole)]),
        ("in a piece", vec![fragment(1, "LANE_BULK", nested.len(), &nested)]),
        ("of what is no frame", vec![fragment(1, "LANE_BULK", 3, &[255; 3])]),
    ];
    for (at, (what, frames)) in wrongs.into_iter().enumerate() {
        let name = format!("c{at}");
        ctx.join_as(&name).await?;
        for frame in frames {
            ctx.conn(&name)?.send(&[frame]).await?;
        }
        ctx.fatal(&name, 4001).await.map_err(|stop| match stop {
            Stop::Fail(text, rule) => Stop::Fail(format!("a piece {what}: {text}"), rule),
            other => other,
        })?;
    }
    Ok(())
}

async fn only_for_who_takes_them(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    ctx.publish("a", &room, "LANE_NORMAL", &["x".repeat(LARGE)]).await?;
    ctx.expect("a", &json!({"event": {"handle": handle, "seq": 1}})).await?;
    ctx.none("a", &json!({"fragment": {}})).await
}

async fn too_large(ctx: &mut Ctx) -> Outcome {
    let welcome = json!({"limits": {"recordBytes": "$=max"}});
    ctx.join(Join { welcome: Some(welcome), ..Join::named("a") }).await?;
    let max = ctx.vars.find("max").and_then(Value::as_u64).unwrap_or(0) as usize;
    ctx.conn("a")?.send(&[fragment(1, "LANE_NORMAL", max + 1, b"abc")]).await?;
    ctx.fatal("a", 4003).await?;
    ctx.join_as("b").await?;
    let absurd = json!({"fragment": {"transfer": 1, "lane": "LANE_NORMAL", "total": 1_u64 << 62, "data": "AAAA"}});
    ctx.conn("b")?.send(&[absurd]).await?;
    ctx.fatal("b", 4003).await.map(drop)
}

async fn too_many(ctx: &mut Ctx) -> Outcome {
    ctx.join_as("a").await?;
    for transfer in 1..=4 {
        ctx.conn("a")?.send(&[fragment(transfer, "LANE_NORMAL", 100, b"abc")]).await?;
    }
    let within = ctx.patience();
    ctx.conn("a")?.barrier(within).await?;
    for transfer in 5..=8 {
        ctx.conn("a")?.send(&[fragment(transfer, "LANE_BULK", 100, b"abc")]).await?;
    }
    ctx.conn("a")?.barrier(within).await?;
    ctx.conn("a")?.send(&[fragment(9, "LANE_NORMAL", 100, b"abc")]).await?;
    ctx.fatal("a", 4001).await.map(drop)
}

async fn aborted(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    for transfer in 1..=9 {
        let pieces = pieces(transfer, "LANE_BULK", &publish(&room, 5_000))?;
        let conn = ctx.conn("a")?;
        for piece in &pieces[..pieces.len() - 1] {
            conn.send(std::slice::from_ref(piece)).await?;
        }
        conn.send(&[json!({"fragmentAbort": {"transfer": transfer, "lane": "LANE_BULK"}})]).await?;
    }
    for piece in pieces(10, "LANE_BULK", &publish(&room, 6_000))? {
        ctx.conn("a")?.send(&[piece]).await?;
    }
    let came = ctx.expect("a", &json!({"event": {"handle": handle, "lane": "LANE_BULK", "seq": 1}})).await?;
    let length = came.value["event"]["envelope"]["text"].as_str().map_or(0, str::len);
    check(length == 6_000, || format!("an event of {length} characters was stored"))?;
    ctx.conn("a")?.send(&[fragment(9, "LANE_BULK", 0, b"abc")]).await?;
    ctx.fatal("a", 4001).await.map(drop)
}

async fn silent(ctx: &mut Ctx) -> Outcome {
    let within = ctx.patience();
    ctx.join_as("a").await?;
    for transfer in 1..=4 {
        ctx.conn("a")?.send(&[fragment(transfer, "LANE_NORMAL", 100, b"abc")]).await?;
    }
    let until = Instant::now() + SILENCE + Duration::from_secs(2);
    while Instant::now() < until {
        ctx.conn("a")?.barrier(within).await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    for transfer in 5..=8 {
        ctx.conn("a")?.send(&[fragment(transfer, "LANE_NORMAL", 100, b"abc")]).await?;
    }
    ctx.conn("a")?.barrier(within).await?;
    ctx.conn("a")?.send(&[fragment(2, "LANE_NORMAL", 0, b"abc")]).await?;
    ctx.fatal("a", 4201).await.map(drop)
}

async fn large_events_in_pieces(ctx: &mut Ctx) -> Outcome {
    let (room, calls) = (ctx.room(), format!("{}.calls", ctx.room()));
    ctx.join_as("p").await?;
    ctx.publish("p", &room, "LANE_BULK", &vec!["x".repeat(LARGE); MANY]).await?;
    join_taking(ctx, "a", Some(SMALL_BUFFER)).await?;
    let urgent = ctx.subscribe("a", json!({"room": calls})).await?["handle"].clone();
    let bulk = ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?["handle"].clone();
    tokio::time::sleep(FILL).await;
    ctx.publish("p", &calls, "LANE_URGENT", &["ring".to_owned()]).await?;
    let last = json!(MANY);
    let frames = read_until(ctx, "a", |frames| {
        frames.iter().any(|frame| frame["event"]["handle"] == bulk && frame["event"]["seq"] == last)
    })
    .await?;
    let pieces: Vec<usize> = frames.iter().filter(|frame| frame["fragment"].is_object()).map(data_bytes).collect();
    let longest = pieces.iter().max().ok_or_else(|| Stop::fail("no large event came in pieces"))?;
    check(*longest <= WHOLE_BYTES_MAX, || format!("a piece has {longest} bytes"))?;
    let whole = frames.iter().filter(|frame| frame["event"]["handle"] == bulk).count();
    let cut = pieces.iter().sum::<usize>() / LARGE;
    check(cut >= whole, || format!("of {whole} large events {cut} came in pieces"))?;
    let rang = frames.iter().any(|frame| frame["event"]["handle"] == urgent);
    check(rang, || "the urgent event came after the whole replay".into())
}

fn data_bytes(frame: &Value) -> usize {
    STANDARD.decode(frame["fragment"]["data"].as_str().unwrap_or("")).map_or(0, |data| data.len())
}

/// Follows transfers: by number, the bytes that are missing.
fn follow(under_way: &mut BTreeMap<u64, u64>, frame: &Value) {
    let fragment = &frame["fragment"];
    if let Some(transfer) = fragment["transfer"].as_u64() {
        let total = fragment["total"].as_u64().unwrap_or(0);
        let missing = under_way.entry(transfer).or_insert(total);
        *missing = missing.saturating_sub(data_bytes(frame) as u64);
        if *missing == 0 {
            under_way.remove(&transfer);
        }
    }
    if let Some(transfer) = frame["fragmentAbort"]["transfer"].as_u64() {
        under_way.remove(&transfer);
    }
}

async fn left_in_the_middle(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("p").await?;
    ctx.publish("p", &room, "LANE_BULK", &vec!["x".repeat(LARGE); MANY]).await?;
    join_taking(ctx, "a", Some(SMALL_BUFFER)).await?;
    ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?;
    tokio::time::sleep(FILL).await;
    ctx.conn("a")?.send(&[json!({"id": 5, "unsubscribe": {"room": room}})]).await?;
    ctx.conn("a")?.send(&[json!({"id": 6, "ping": {}})]).await?;
    let mut frames = read_until(ctx, "a", |frames| frames.iter().any(|frame| frame["id"] == 6)).await?;
    // On control the answers overtake an abort.
    tokio::time::sleep(FILL).await;
    let within = ctx.patience();
    let conn = ctx.conn("a")?;
    conn.barrier(within).await?;
    frames.extend(conn.take_pending().into_iter().map(|received| received.value));
    let mut under_way = BTreeMap::new();
    frames.iter().for_each(|frame| follow(&mut under_way, frame));
    check(under_way.is_empty(), || format!("transfers that neither go on nor end: {under_way:?}"))?;
    let left = frames.iter().position(|frame| frame["id"] == 5 && frame["unsubscribed"].is_object());
    let left = left.ok_or_else(|| Stop::fail("Unsubscribed did not come"))?;
    let later = frames[left..].iter().filter(|frame| frame["event"].is_object()).count();
    check(later == 0, || format!("{later} events of the room came after Unsubscribed"))
}
