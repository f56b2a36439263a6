//! Sizes and bytes: records of exactly the limit, frames in pieces, envelopes with unknown fields, hostile neighbours.

use serde_json::{Value, json};

use crate::case::{Case, Ctx, Join, Need};
use crate::client::raw::{RawSocket, client_frame, frame_head};
use crate::client::{Encoding, Lane, hex};
use crate::schema;
use crate::verdict::{Outcome, Stop, check};

/// Longer than any record that a server could accept without being asked to.
const DECLARED_BYTES: u64 = 1 << 30;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-FRM-004/largest-record",
            "A record of exactly the limit is accepted, one byte more is TOO_LARGE.",
            &["LC-JSON-001"],
            &[],
            |ctx| Box::pin(largest_record(ctx)),
        ),
        Case::code(
            "LC-WS-005/declared-length",
            "A frame that declares too many bytes is answered at once with TOO_LARGE, before the bytes come.",
            &["LC-FRM-004", "LC-LIFE-011"],
            &[],
            |ctx| Box::pin(declared_length(ctx)),
        ),
        Case::code(
            "LC-WS-007/pieces",
            "A message in three frames, with a ping between them, is taken, and the ping answered.",
            &[],
            &[],
            |ctx| Box::pin(pieces(ctx)),
        ),
        Case::code(
            "LC-WS-008/long-catch-up",
            "No record and no message of a long catch-up is longer than the limit.",
            &["LC-FRM-005", "LC-SUB-010"],
            &[],
            |ctx| Box::pin(long_catch_up(ctx)),
        ),
        Case::code(
            "LC-HIST-008/page-of-large-events",
            "A page that would not fit into a record ends earlier, and reading on yields the rest.",
            &["LC-FRM-005", "LC-HIST-005"],
            &[Need::History],
            |ctx| Box::pin(large_pages(ctx)),
        ),
        Case::code(
            "LC-PUB-010/unknown-fields",
            "An envelope with unknown fields, in an unusual order, is delivered byte for byte: live, later, in history.",
            &["LC-LANE-001"],
            &[Need::History],
            |ctx| Box::pin(envelope_bytes(ctx)),
        )
        .only(Encoding::Binary),
        Case::code(
            "LC-SIG-001/unknown-fields",
            "The envelope of a signal is delivered byte for byte.",
            &[],
            &[Need::Signals],
            |ctx| Box::pin(signal_bytes(ctx)),
        )
        .only(Encoding::Binary),
        Case::code(
            "LC-SEC-006/hostile-neighbours",
            "Mutated packets of others are not noticed by a client that keeps the rules.",
            &["LC-FRM-002"],
            &[],
            |ctx| Box::pin(hostile_neighbours(ctx)),
        )
        .only(Encoding::Binary)
        .within_s(60),
    ]
}

/// The largest record that Welcome allows.
async fn record_bytes(ctx: &mut Ctx, name: &str) -> Outcome<usize> {
    let join = Join { welcome: Some(json!({"limits": {"recordBytes": "$=record_bytes"}})), ..Join::named(name) };
    ctx.join(join).await?;
    let bytes = ctx.vars.find("record_bytes").and_then(Value::as_u64);
    bytes.map(|bytes| bytes as usize).ok_or_else(|| Stop::fail("Welcome has no limits.record_bytes"))
}

/// Sends a Ping of that many bytes: with an unknown field, or an unknown name.
async fn send_padded_ping(ctx: &mut Ctx, id: u32, bytes: usize) -> Outcome {
    if ctx.encoding == Encoding::Json {
        let text = |pad: usize| format!(r#"{{"frames":[{{"id":{id},"ping":{{"x":"{}"}}}}]}}"#, "x".repeat(pad));
        ctx.conn("a")?.send_text(text(bytes - text(0).len())).await;
        return Ok(());
    }
    let packet = |pad: usize| {
        let mut frame = vec![0x08, id as u8, 0x2a, 0x00, 0xa2, 0x06];
        schema::write_varint(&mut frame, pad as u64);
        frame.resize(frame.len() + pad, b'x');
        schema::record(&frame)
    };
    // Lengths are written in more bytes as they grow: go down until it fits.
    let fitting = (0..bytes).rev().map(packet).find(|packet| packet.len() == bytes);
    ctx.conn("a")?.send_bytes(Lane::Control, fitting.unwrap_or_default()).await;
    Ok(())
}

async fn largest_record(ctx: &mut Ctx) -> Outcome {
    let bytes = record_bytes(ctx, "a").await?;
    let within = ctx.patience();
    send_padded_ping(ctx, 99, bytes).await?;
    ctx.expect("a", &json!({"id": 99, "pong": {}})).await?;
    send_padded_ping(ctx, 98, bytes + 1).await?;
    ctx.fatal_within("a", 4003, within).await.map(drop)
}

/// Joins on a plain socket, for bytes that no WebSocket library sends.
async fn raw_join(ctx: &mut Ctx) -> Outcome<RawSocket> {
    let (endpoint, within) = (ctx.target.endpoint.clone(), ctx.patience());
    let mut socket = RawSocket::connect(&endpoint).await?;
    socket.upgrade(&endpoint, ctx.encoding.subprotocol(), within).await?;
    let hello = ctx.hello(&Join::named("raw")).await?;
    let packet = encode(ctx.encoding, &[json!({"id": 1, "hello": hello})])?;
    socket.write(&client_frame(0x80 | opcode(ctx.encoding), &packet)).await;
    let welcome = raw_frame(ctx, &mut socket).await?;
    check(welcome["welcome"].is_object(), || format!("{welcome} came instead of Welcome"))?;
    Ok(socket)
}

fn opcode(encoding: Encoding) -> u8 {
    if encoding == Encoding::Json { 1 } else { 2 }
}

fn encode(encoding: Encoding, frames: &[Value]) -> Outcome<Vec<u8>> {
    if encoding == Encoding::Json {
        return Ok(schema::packet_text(frames)?.into_bytes());
    }
    let mut packet = Vec::new();
    for frame in frames {
        packet.extend(schema::frame_record(frame)?);
    }
    Ok(packet)
}

/// The first frame of the next message on a plain socket.
async fn raw_frame(ctx: &Ctx, socket: &mut RawSocket) -> Outcome<Value> {
    let frame = socket.frame(ctx.patience()).await?.ok_or_else(|| Stop::fail("the connection ended"))?;
    let frames = if ctx.encoding == Encoding::Json {
        schema::parse_packet_text(&String::from_utf8_lossy(&frame.payload)).map_err(|error| Stop::fail(error.0))?
    } else {
        let records = schema::split_records(&frame.payload).map_err(|error| Stop::fail(error.0))?;
        records.first().map(|record| schema::decode("Frame", record)).transpose()?.into_iter().collect()
    };
    frames.into_iter().next().ok_or_else(|| Stop::fail("an empty message"))
}

async fn declared_length(ctx: &mut Ctx) -> Outcome {
    let mut socket = raw_join(ctx).await?;
    socket.write(&frame_head(0x80 | opcode(ctx.encoding), DECLARED_BYTES)).await;
    let error = raw_frame(ctx, &mut socket).await?;
    ctx.fits(&json!({"id": 0, "error": {"code": 4003, "closing": true}}), &error)?;
    let close =
        socket.frame(ctx.patience()).await?.ok_or_else(|| Stop::fail("the connection ended without a close"))?;
    let said = close.payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
    check(close.first & 0x0f == 8 && said == Some(4003), || format!("{close:?} came instead of a close with 4003"))
}

async fn pieces(ctx: &mut Ctx) -> Outcome {
    let mut socket = raw_join(ctx).await?;
    let packet = encode(ctx.encoding, &[json!({"id": 7, "ping": {"stamp": 123456}})])?;
    let (first, rest) = packet.split_at(3);
    let (second, third) = rest.split_at(1);
    socket.write(&client_frame(opcode(ctx.encoding), first)).await;
    socket.write(&client_frame(0x89, b"beat")).await;
    let pong = socket.frame(ctx.patience()).await?.ok_or_else(|| Stop::fail("the connection ended"))?;
    check(pong.first == 0x8a && pong.payload == b"beat", || format!("{pong:?} came instead of a WebSocket pong"))?;
    socket.write(&client_frame(0x00, second)).await;
    socket.write(&client_frame(0x80, third)).await;
    let answer = raw_frame(ctx, &mut socket).await?;
    ctx.fits(&json!({"id": 7, "pong": {"stamp": 123456}}), &answer)
}

async fn long_catch_up(ctx: &mut Ctx) -> Outcome {
    ctx.join_as("a").await?;
    let room = ctx.room();
    let texts: Vec<String> = (0..40).map(|_| "x".repeat(60_000)).collect();
    ctx.publish("a", &room, "", &texts).await?;
    ctx.publish("a", &room, "LANE_BULK", &texts[..10]).await?;
    let subscribed = ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?;
    ctx.events("a", &subscribed["handle"], "LANE_NORMAL", 1, 40).await?;
    ctx.events("a", &subscribed["handle"], "LANE_BULK", 1, 10).await.map(drop)
}

async fn large_pages(ctx: &mut Ctx) -> Outcome {
    ctx.join_as("a").await?;
    let room = ctx.room();
    let texts: Vec<String> = (0..12).map(|_| "x".repeat(60_000)).collect();
    ctx.publish("a", &room, "", &texts).await?;
    let mut history = json!({"room": room, "direction": "HISTORY_DIRECTION_FORWARD"});
    let mut orders = Vec::new();
    for _ in 0..=texts.len() {
        let answer = ctx.ask("a", json!({"history": history}), &json!({"historyPage": {}})).await?;
        let page = &answer["historyPage"];
        let events = page["events"].as_array().cloned().unwrap_or_default();
        check(!events.is_empty(), || "an empty page".into())?;
        orders.extend(events.iter().filter_map(|event| event["order"].as_u64()));
        if !page["next"].is_object() {
            break;
        }
        history["cursor"] = page["next"].clone();
    }
    check(orders == (1..=12).collect::<Vec<u64>>(), || format!("the pages hold the orders {orders:?}"))
}

/// An envelope as no encoder writes it: a later field first, an unknown one between, a key in two parts.
fn odd_envelope() -> Vec<u8> {
    let mut envelope = Vec::new();
    for (field, text) in [(6u64, "body"), (50, "unknown"), (2, "old key"), (1, "t"), (2, "key")] {
        schema::write_varint(&mut envelope, field << 3 | 2);
        schema::write_varint(&mut envelope, text.len() as u64);
        envelope.extend_from_slice(text.as_bytes());
    }
    envelope.extend([0xa8, 0x06, 0x80, 0x00]);
    envelope
}

/// A frame whose body is the encoding of `message` with the odd envelope added.
fn with_envelope(id: u32, field: u64, message: &str, value: &Value, envelope_field: u64) -> Outcome<Vec<u8>> {
    let mut body = schema::encode(message, value)?;
    let envelope = odd_envelope();
    schema::write_varint(&mut body, envelope_field << 3 | 2);
    schema::write_varint(&mut body, envelope.len() as u64);
    body.extend(envelope);
    let mut frame = vec![0x08];
    schema::write_varint(&mut frame, id.into());
    schema::write_varint(&mut frame, field << 3 | 2);
    schema::write_varint(&mut frame, body.len() as u64);
    frame.extend(body);
    Ok(schema::record(&frame))
}

async fn expect_envelope(ctx: &mut Ctx, name: &str, pattern: Value) -> Outcome {
    let received = ctx.expect(name, &pattern).await?;
    let envelope = odd_envelope();
    let found = received.bytes.windows(envelope.len()).any(|window| window == envelope);
    check(found, || format!("{} does not hold the envelope {} byte for byte", hex(&received.bytes), hex(&envelope)))
}

async fn envelope_bytes(ctx: &mut Ctx) -> Outcome {
    ctx.join_as("a").await?;
    ctx.join_as("b").await?;
    let room = ctx.room();
    ctx.subscribe("b", json!({"room": room})).await?;
    let publish = with_envelope(9, 11, "Publish", &json!({"room": room, "number": 1}), 8)?;
    ctx.conn("a")?.send_bytes(Lane::Normal, publish).await;
    ctx.expect("a", &json!({"id": 9, "published": {"seq": 1}})).await?;
    expect_envelope(ctx, "b", json!({"event": {"seq": 1, "envelope": {"key": "key", "text": "body"}}})).await?;
    ctx.subscribe("b", json!({"room": room, "start": {"beginning": {}}})).await?;
    expect_envelope(ctx, "b", json!({"event": {"seq": 1}})).await?;
    ctx.conn("b")?.send(&[json!({"id": 5, "history": {"room": room}})]).await?;
    expect_envelope(ctx, "b", json!({"id": 5, "historyPage": {}})).await
}

async fn signal_bytes(ctx: &mut Ctx) -> Outcome {
    ctx.join_as("a").await?;
    let room = ctx.room();
    ctx.subscribe("a", json!({"room": room, "signals": true})).await?;
    let signal = with_envelope(9, 15, "Signal", &json!({"room": room, "counter": 1}), 9)?;
    ctx.conn("a")?.send_bytes(Lane::Signal, signal).await;
    ctx.expect("a", &json!({"id": 9, "done": {}})).await?;
    expect_envelope(ctx, "a", json!({"signal": {"counter": 1}})).await
}

async fn hostile_neighbours(ctx: &mut Ctx) -> Outcome {
    crate::fuzz::run(ctx.target.clone(), ctx.transport, 1_000, 7).await.map(drop)
}
