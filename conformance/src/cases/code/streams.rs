//! Transports with streams: what overtakes what, which stream carries it, what flow control and early data can do.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::case::{Case, Ctx, Join, Need};
use crate::client::{Conn, DATAGRAM_BYTES_MAX, Incoming, Lane, Place, Received, Transport};
use crate::schema::v1::StreamKind;
use crate::verdict::{Outcome, Stop, check};

/// Bytes that a stream may be ahead of a client that does not read it.
const SMALL_WINDOW: u32 = 32 * 1024;
/// Bytes of an event that such a stream does not take.
const LARGE: usize = 48_000;
/// How far an urgent event may be above one that is not acknowledged, and streams of one event at a time (LC-QUIC-004).
const URGENT_WINDOW: u64 = 64;
const MESSAGE_STREAMS_MAX: usize = 32;
/// Time in which a server sends what it may send.
const FILL: Duration = Duration::from_millis(500);
/// The time in which Hello must have come, and what a busy machine may add.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
const TOLERANCE: Duration = Duration::from_secs(4);
/// How long a server waits for a client to close after an Error (LC-QUIC-006).
const LINGER: Duration = Duration::from_secs(1);

/// Where there are streams.
const STREAMS: [Transport; 2] = [Transport::Webtransport, Transport::Quic];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-HS-013/frames-that-overtake-hello",
            "Frames on streams that arrive before Hello are carried out after it, however early they came.",
            &["LC-HS-010"],
            &[],
            |ctx| Box::pin(overtake_hello(ctx)),
        )
        .over(&STREAMS),
        Case::code(
            "LC-HS-006/nothing-at-all",
            "A connection on which no stream is opened ends after 10 s with HANDSHAKE_TIMEOUT.",
            &[],
            &[],
            |ctx| Box::pin(nothing_at_all(ctx)),
        )
        .over(&[Transport::Quic]),
        Case::code(
            "LC-QUIC-004/own-streams",
            "Urgent events come one per stream, which then ends; normal and bulk ones on one stream each.",
            &["LC-QUIC-001", "LC-QUIC-003"],
            &[],
            |ctx| Box::pin(own_streams(ctx)),
        ),
        Case::code(
            "LC-QUIC-004/window",
            "While an urgent event is not taken, none comes that is more than 64 above it; then all come.",
            &["LC-SUB-010"],
            &[],
            |ctx| Box::pin(window(ctx)),
        ),
        Case::code(
            "LC-QUIC-004/one-stream-for-the-rest",
            "With 32 message streams open, further urgent events come on one ordered stream.",
            &["LC-SUB-010"],
            &[],
            |ctx| Box::pin(fall_back(ctx)),
        )
        .within_s(60),
        Case::code(
            "LC-QUIC-006/time-to-close",
            "After an Error a client has up to a second to close by itself.",
            &["LC-LIFE-011"],
            &[],
            |ctx| Box::pin(time_to_close(ctx)),
        ),
        Case::code(
            "LC-QUIC-007/epochs-in-order",
            "No urgent event of a new epoch comes before those of the old one are taken.",
            &["LC-RES-010"],
            &[Need::NewLog],
            |ctx| Box::pin(epochs_in_order(ctx)),
        ),
        Case::code(
            "LC-QUIC-009/small-and-large",
            "A signal of up to 1,000 bytes comes as a datagram, a larger one on a stream, and both are taken so.",
            &["LC-SIG-001"],
            &[Need::Signals],
            |ctx| Box::pin(small_and_large(ctx)),
        ),
        Case::code(
            "LC-QUIC-009/superseded",
            "The stream of a signal that a newer one supersedes is reset.",
            &["LC-SIG-009"],
            &[Need::Signals],
            |ctx| Box::pin(superseded(ctx)),
        ),
        Case::code("LC-QUIC-011/early-data", "Nothing is carried out that comes as early data.", &[], &[], |ctx| {
            Box::pin(early_data(ctx))
        })
        .over(&[Transport::Quic]),
        Case::code(
            "LC-LANE-005/lanes-that-are-not-read",
            "A client that reads neither normal nor bulk gets Pong and urgent events at once.",
            &["LC-LANE-002", "LC-FLOW-003"],
            &[],
            |ctx| Box::pin(unread_lanes(ctx)),
        )
        .over(&STREAMS),
    ]
}

async fn join_small(ctx: &mut Ctx, name: &str) -> Outcome {
    ctx.join(Join { receive_buffer: Some(SMALL_WINDOW), ..Join::named(name) }).await.map(drop)
}

fn large_texts(count: usize) -> Vec<String> {
    (0..count).map(|_| "x".repeat(LARGE)).collect()
}

fn small_texts(count: u64) -> Vec<String> {
    (0..count).map(|i| format!("e{i}")).collect()
}

/// The kind of the stream on which a frame came.
fn kind_of(received: &Received) -> Option<StreamKind> {
    match received.place {
        Place::Stream { kind, .. } => StreamKind::try_from(kind).ok(),
        Place::Message | Place::Datagram => None,
    }
}

fn number_of(received: &Received) -> u64 {
    match received.place {
        Place::Stream { number, .. } => number,
        Place::Message | Place::Datagram => 0,
    }
}

async fn overtake_hello(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let hello = ctx.hello(&Join::named("a")).await?;
    ctx.open_named("a").await?;
    let conn = ctx.conn("a")?;
    for (id, lane) in [(2, "LANE_NORMAL"), (3, "LANE_URGENT"), (4, "LANE_BULK")] {
        let publish = json!({"room": room, "lane": lane, "number": 1, "envelope": {"type": "t"}});
        conn.send(&[json!({"id": id, "publish": publish})]).await?;
    }
    conn.settle(FILL).await?;
    conn.send(&[json!({"id": 1, "hello": hello})]).await?;
    ctx.next("a", &json!({"id": 1, "welcome": {}})).await?;
    for id in 2..=4 {
        ctx.expect("a", &json!({"id": id, "published": {"seq": 1}})).await?;
    }
    Ok(())
}

async fn nothing_at_all(ctx: &mut Ctx) -> Outcome {
    let endpoint = ctx.target.stream_endpoint(ctx.transport)?;
    let dialer = ctx.target.dialer()?;
    let connection = dialer.connect(&endpoint.host, endpoint.port, false, None).await.map_err(Stop::Harness)?;
    let closed = tokio::time::timeout(HELLO_WITHIN + TOLERANCE, connection.closed()).await;
    let closed = closed.map_err(|_| Stop::fail("the connection still lives"))?;
    let code = match &closed {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        _ => 0,
    };
    check(code == 4200, || format!("{closed} instead of a close with 4200"))
}

async fn own_streams(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    for lane in ["LANE_URGENT", "LANE_NORMAL", "LANE_BULK"] {
        ctx.publish("a", &room, lane, &small_texts(10)).await?;
        let mut streams = Vec::new();
        for seq in 1..=10 {
            let pattern = json!({"event": {"handle": handle, "lane": lane, "seq": seq}});
            let received = ctx.expect("a", &pattern).await?;
            let expected = if lane == "LANE_URGENT" { StreamKind::Message } else { StreamKind::Lane };
            let kind = kind_of(&received);
            // A server may use streams of kind transfer for lane bulk.
            let fits = kind == Some(expected) || lane == "LANE_BULK" && kind == Some(StreamKind::Transfer);
            check(fits, || format!("seq {seq} of {lane} came on a stream of kind {kind:?}"))?;
            streams.push(number_of(&received));
        }
        streams.sort_unstable();
        streams.dedup();
        let count = if lane == "LANE_URGENT" { 10 } else { 1 };
        check(streams.len() == count, || format!("ten events of {lane} came on the streams {streams:?}"))?;
    }
    let within = ctx.patience();
    let conn = ctx.conn("a")?;
    conn.barrier(within).await?;
    conn.settle(FILL).await?;
    let open = conn.streams()?.open_streams(Lane::Urgent);
    check(open.is_empty(), || format!("message streams do not end: {open:?}"))
}

/// A subscribed connection "a" that takes little and reads nothing of these lanes; returns the handle.
async fn join_paused(ctx: &mut Ctx, room: &str, lanes: &[Lane]) -> Outcome<Value> {
    join_small(ctx, "a").await?;
    let handle = ctx.subscribe("a", json!({"room": room, "signals": true})).await?["handle"].clone();
    ctx.conn("a")?.streams()?.pause(lanes);
    Ok(handle)
}

/// Publishes large urgent events, during which "a" is not idle.
async fn publish_large(ctx: &mut Ctx, room: &str, count: usize) -> Outcome {
    for _ in 0..count / 8 {
        ctx.publish("p", room, "LANE_URGENT", &large_texts(8)).await?;
        ctx.conn("a")?.send(&[json!({"ping": {}})]).await?;
    }
    Ok(())
}

/// Reads on with nothing paused until all these urgent events came, in whatever order.
async fn resume(ctx: &mut Ctx, handle: &Value, seqs: u64) -> Outcome {
    ctx.conn("a")?.streams()?.pause(&[]);
    for seq in 1..=seqs {
        if seq % 10 == 0 {
            ctx.conn("a")?.send(&[json!({"ping": {}})]).await?;
        }
        ctx.expect("a", &json!({"event": {"handle": handle, "lane": "LANE_URGENT", "seq": seq}})).await?;
    }
    Ok(())
}

async fn window(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("p").await?;
    let handle = join_paused(ctx, &room, &[Lane::Urgent]).await?;
    ctx.publish("p", &room, "LANE_URGENT", &large_texts(1)).await?;
    // The stream of the first is not taken to its end; those of the others end in the transport unread.
    ctx.publish("p", &room, "LANE_URGENT", &small_texts(URGENT_WINDOW * 2)).await?;
    let conn = ctx.conn("a")?;
    // A busy server takes its time to begin as many as it may; then it must begin no more.
    let soon = Instant::now() + FILL * 6;
    while (conn.streams()?.open_streams(Lane::Urgent).len() as u64) < 1 + URGENT_WINDOW && Instant::now() < soon {
        conn.settle(FILL / 4).await?;
    }
    conn.settle(FILL * 2).await?;
    let open = conn.streams()?.open_streams(Lane::Urgent);
    check(!open.is_empty(), || "no urgent event came at all".into())?;
    // The first, and 64 above it.
    check(open.len() as u64 <= 1 + URGENT_WINDOW, || {
        format!("{} urgent streams were begun while the first is not acknowledged", open.len())
    })?;
    resume(ctx, &handle, 1 + URGENT_WINDOW * 2).await
}

async fn fall_back(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("p").await?;
    let handle = join_paused(ctx, &room, &[Lane::Urgent]).await?;
    let count = MESSAGE_STREAMS_MAX + 8;
    publish_large(ctx, &room, count).await?;
    let conn = ctx.conn("a")?;
    conn.settle(FILL * 2).await?;
    let open = conn.streams()?.open_streams(Lane::Urgent);
    let of_kind = |kind: StreamKind| open.iter().filter(|(_, open)| *open == kind as i32).count();
    let (messages, lanes) = (of_kind(StreamKind::Message), of_kind(StreamKind::Lane));
    check(messages <= MESSAGE_STREAMS_MAX, || format!("{messages} message streams are open"))?;
    check(lanes <= 1, || format!("{lanes} ordered streams of lane urgent are open"))?;
    resume(ctx, &handle, count as u64).await
}

async fn time_to_close(ctx: &mut Ctx) -> Outcome {
    let within = ctx.patience();
    ctx.open_named("a").await?;
    let conn = ctx.conn("a")?;
    conn.send(&[json!({"id": 5, "ping": {}})]).await?;
    conn.wait_for(within, "Error", |received| received.value["error"]["closing"] == true).await?;
    let said = Instant::now();
    conn.wait_closed(within).await?;
    let took = said.elapsed();
    check(took <= LINGER + TOLERANCE, || format!("closed {} ms after the Error", took.as_millis()))?;
    // A client that closes by itself is done at once.
    ctx.open_named("b").await?;
    let conn = ctx.conn("b")?;
    conn.send(&[json!({"id": 5, "ping": {}})]).await?;
    conn.wait_for(within, "Error", |received| received.value["error"]["closing"] == true).await?;
    conn.close(4004).await;
    conn.wait_closed(within).await.map(drop)
}

async fn epochs_in_order(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("p").await?;
    let handle = join_paused(ctx, &room, &[Lane::Urgent]).await?;
    ctx.publish("p", &room, "LANE_URGENT", &large_texts(2)).await?;
    ctx.conn("a")?.settle(FILL).await?;
    let before = ctx.conn("a")?.streams()?.open_streams(Lane::Urgent).len();
    check(before > 0, || "no urgent event came at all".into())?;
    let target = ctx.target.clone();
    target.control.new_log(&room).await?;
    let pattern =
        json!({"id": 0, "subscribed": {"room": room, "cause": "SUBSCRIBED_CAUSE_EPOCH", "handle": "$=fresh"}});
    ctx.expect("a", &pattern).await?;
    // Another instance: the numbers of the first one went with the log, or did not.
    ctx.join_as("q").await?;
    let seq = ctx.publish("q", &room, "LANE_URGENT", &small_texts(1)).await?[0]["seq"].clone();
    ctx.conn("a")?.settle(FILL).await?;
    let after = ctx.conn("a")?.streams()?.open_streams(Lane::Urgent).len();
    check(after <= before.max(2), || format!("{} streams of the new epoch overtook the old one", after - before))?;
    ctx.conn("a")?.streams()?.pause(&[]);
    let fresh = ctx.vars.find("fresh").cloned().unwrap_or(Value::Null);
    let new = json!({"event": {"handle": fresh, "lane": "LANE_URGENT", "seq": seq}});
    let new = ctx.expect("a", &new).await?;
    let old = ctx.expect("a", &json!({"event": {"handle": handle, "lane": "LANE_URGENT", "seq": 1}})).await?;
    check(old.at <= new.at, || "an event of the old epoch came after one of the new".into())
}

async fn small_and_large(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    ctx.join_as("b").await?;
    ctx.subscribe("b", json!({"room": room, "signals": true})).await?;
    for (counter, text, datagram) in [(1, 10, true), (2, DATAGRAM_BYTES_MAX + 100, false), (3, 10, true)] {
        let envelope = json!({"type": "t", "key": format!("k{counter}"), "text": "x".repeat(text)});
        let signal = json!({"signal": {"room": room, "counter": counter, "ttlMs": 60_000, "envelope": envelope}});
        ctx.ask("a", signal, &json!({"done": {}})).await?;
        let received = ctx.expect("b", &json!({"signal": {"counter": counter}})).await?;
        let fits = match received.place {
            Place::Datagram => datagram,
            _ => !datagram && kind_of(&received) == Some(StreamKind::Signal),
        };
        check(fits, || format!("a signal of {} bytes came at {:?}", received.bytes.len(), received.place))?;
    }
    Ok(())
}

async fn superseded(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("p").await?;
    join_paused(ctx, &room, &[Lane::Signal]).await?;
    for counter in 1..=3 {
        let envelope = json!({"type": "t", "key": "k", "text": "x".repeat(LARGE)});
        let signal = json!({"signal": {"room": room, "counter": counter, "ttlMs": 60_000, "envelope": envelope}});
        ctx.ask("p", signal, &json!({"done": {}})).await?;
        ctx.conn("a")?.settle(FILL).await?;
    }
    ctx.conn("a")?.streams()?.pause(&[]);
    ctx.expect("a", &json!({"signal": {"counter": 3}})).await?;
    ctx.none("a", &json!({"signal": {}})).await
}

async fn early_data(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let endpoint = ctx.target.stream_endpoint(ctx.transport)?;
    let hello = ctx.hello(&Join::named("a")).await?;
    // One that gets a ticket.
    let within = ctx.patience();
    let target = ctx.target.clone();
    let dialer = target.dialer()?;
    let early = dialer.early(&endpoint.host, endpoint.port).await.map_err(Stop::Harness)?;
    let Some(connection) = early else { return Ok(()) };
    let mut conn = Conn::early(connection, ctx.opening("a"), &ctx.log).await?;
    let publish = json!({"room": room, "number": 1, "envelope": {"type": "t"}});
    conn.send(&[json!({"id": 1, "hello": hello}), json!({"id": 2, "publish": publish})]).await?;
    let deadline = Instant::now() + within;
    while let Incoming::Frames = conn.read_unjudged(deadline).await {
        let published = conn.pending().iter().any(|received| received.value["published"].is_object());
        check(!published, || "a publish that came as early data was stored".into())?;
    }
    ctx.join_as("b").await?;
    ctx.ask("b", json!({"subscribe": {"room": room}}), &json!({"subscribed": {"headOrder": 0}})).await.map(drop)
}

async fn unread_lanes(ctx: &mut Ctx) -> Outcome {
    let (room, within) = (ctx.room(), ctx.patience());
    ctx.join_as("p").await?;
    let handle = join_paused(ctx, &room, &[Lane::Normal, Lane::Bulk]).await?;
    for lane in ["LANE_NORMAL", "LANE_BULK"] {
        ctx.publish("p", &room, lane, &large_texts(20)).await?;
    }
    ctx.conn("a")?.settle(FILL).await?;
    for seq in 1..=5 {
        ctx.publish("p", &room, "LANE_URGENT", &[format!("ring {seq}")]).await?;
        ctx.events("a", &handle, "LANE_URGENT", seq, seq).await?;
        ctx.conn("a")?.barrier(within).await?;
    }
    ctx.conn("a")?.streams()?.pause(&[]);
    ctx.events("a", &handle, "LANE_NORMAL", 1, 20).await?;
    ctx.events("a", &handle, "LANE_BULK", 1, 20).await.map(drop)
}
