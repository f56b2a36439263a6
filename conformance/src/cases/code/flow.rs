//! Floods and slow readers: what overtakes, what is conflated, what is dropped and counted, who is closed.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::case::{Case, Ctx, Join, Need};
use crate::client::{ABNORMAL, Encoding, Incoming, Lane, Transport};
use crate::schema;
use crate::verdict::{Outcome, Stop, check};

/// What the kernel, or QUIC by stream, buffers for a client that does not read.
const SMALL_BUFFER: u32 = 32 * 1024;
const SMALL_WINDOW: u32 = 128 * 1024;
/// Between two records of a client that only reads, so that it is not idle.
const BETWEEN_PINGS: Duration = Duration::from_secs(5);
/// Bytes of a large event.
const LARGE: usize = 60_000;
/// How fast a slow reader reads.
const LINK_BYTES_PER_MS: u64 = 1_000;
/// Large events of a replay that no socket buffers swallow (the kernel's send buffer grows to 4 MiB at most).
const MANY: usize = 120;
/// As many as no windows of QUIC swallow.
const MANY_ON_STREAMS: usize = 40;
/// Large events of each of two lanes whose shares are judged. They run alone: beside other replays, and the publishes before
/// them, it may be the log of a busy server that sets the pace, and a lane whose events it has not read yet has no share.
const RACING: usize = 80;
/// Publishes that a case lets wait for their answer.
const WAITING: u64 = 20;
/// Time in which a server fills what the transport takes.
const FILL: Duration = Duration::from_millis(800);
/// Time without any progress after which a connection is closed.
const NO_PROGRESS: Duration = Duration::from_secs(30);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-LANE-004/turns",
            "A long replay of one room does not hold up another room of the lane.",
            &["LC-SUB-010"],
            &[],
            |ctx| Box::pin(turns(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-LANE-005/overtake",
            "Pong and urgent events overtake a replay that waits in the node.",
            &["LC-LANE-002"],
            &[],
            |ctx| Box::pin(overtake(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-LANE-006/urgent-flood",
            "A flood of urgent events comes first, and leaves the events that wait beside it their half.",
            &["LC-LANE-005"],
            &[],
            |ctx| Box::pin(urgent_flood(ctx)),
        )
        .within_s(120)
        .alone(),
        Case::code(
            "LC-LANE-007/shares",
            "Two replays at once share the connection by the weights of their lanes.",
            &[],
            &[],
            |ctx| Box::pin(shares(ctx)),
        )
        .within_s(120)
        .alone(),
        Case::code(
            "LC-FLOW-001/signal-rate",
            "Signals beyond the rate are answered with RATE_LIMITED and a time, and are accepted after it.",
            &["LC-ERR-008"],
            &[Need::Signals],
            |ctx| Box::pin(signal_rate(ctx)),
        ),
        Case::code(
            "LC-FLOW-002/transients-of-a-slow-reader",
            "Of a flood of transient events a slow reader gets, or is told of, every single one.",
            &["LC-SUB-020", "LC-SUB-021"],
            &[],
            |ctx| Box::pin(slow_transients(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-FLOW-003/slow-reader",
            "A slow reader loses no durable event and delays nobody.",
            &["LC-SUB-010"],
            &[],
            |ctx| Box::pin(slow_reader(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-FLOW-004/answers-not-taken",
            "Who asks and asks and does not read is closed with CONTROL_OVERFLOW.",
            &["LC-LIFE-011"],
            &[],
            |ctx| Box::pin(answers_not_taken(ctx)),
        )
        .only(Encoding::Binary)
        // A stream can be left unread, so that nothing overflows.
        .over(&[Transport::Websocket])
        .within_s(90),
        Case::code(
            "LC-FLOW-005/no-progress",
            "Who takes nothing for 30 s is closed; who takes little is not.",
            &[],
            &[],
            |ctx| Box::pin(no_progress(ctx)),
        )
        .only(Encoding::Binary)
        .within_s(150),
        Case::code(
            "LC-PUB-006/in-flight",
            "Of more publishes than may wait each is stored and answered, or TOO_MANY_IN_FLIGHT and not stored.",
            &["LC-ERR-008", "LC-FRM-013"],
            &[],
            |ctx| Box::pin(in_flight(ctx)),
        ),
        Case::code(
            "LC-SIG-009/conflation",
            "Of signals that wait for a slow reader only the newest of a key arrives.",
            &["LC-FLOW-002"],
            &[Need::Signals],
            |ctx| Box::pin(conflation(ctx)),
        )
        // As datagrams they do not wait.
        .over(&[Transport::Websocket])
        .within_s(90),
    ]
}

fn large_texts(count: usize) -> Vec<String> {
    (0..count).map(|_| "x".repeat(LARGE)).collect()
}

/// Large events that no buffers of the transport swallow.
fn many(ctx: &Ctx) -> usize {
    if ctx.transport == Transport::Websocket { MANY } else { MANY_ON_STREAMS }
}

async fn join_slow(ctx: &mut Ctx, name: &str) -> Outcome {
    let buffer = if ctx.transport == Transport::Websocket { SMALL_BUFFER } else { SMALL_WINDOW };
    ctx.join(Join { receive_buffer: Some(buffer), ..Join::named(name) }).await.map(drop)
}

/// Events of a handle among the frames, in the order in which they came.
fn events_of<'a>(frames: &'a [Value], handle: &'a Value) -> impl Iterator<Item = (usize, &'a Value)> {
    frames
        .iter()
        .enumerate()
        .filter(move |(_, frame)| frame["event"]["handle"] == *handle)
        .map(|(place, frame)| (place, &frame["event"]))
}

/// Reads until a frame fits, and returns all frames up to then, in their order. No faster than a link of
/// [`LINK_BYTES_PER_MS`], so that what holds them up is this client, and not how fast a busy server reads its log.
pub(super) async fn read_until(ctx: &mut Ctx, name: &str, done: impl Fn(&[Value]) -> bool) -> Outcome<Vec<Value>> {
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut frames: Vec<Value> = Vec::new();
    let mut pinged = Instant::now();
    loop {
        let conn = ctx.conn(name)?;
        if pinged.elapsed() > BETWEEN_PINGS {
            conn.send(&[json!({"ping": {}})]).await?;
            pinged = Instant::now();
        }
        let came = frames.len();
        frames.extend(conn.take_pending().into_iter().map(|received| received.value));
        if done(&frames) {
            return Ok(frames);
        }
        let texts = frames[came..].iter().filter_map(|frame| frame["event"]["envelope"]["text"].as_str());
        tokio::time::sleep(Duration::from_millis(texts.map(str::len).sum::<usize>() as u64 / LINK_BYTES_PER_MS)).await;
        match conn.read(deadline).await? {
            Incoming::Frames => {}
            Incoming::Closed(code) => return Err(Stop::fail(format!("{name} was closed with {code}"))),
            Incoming::Quiet => {
                return Err(Stop::fail(format!("{name}: not everything came; {} frames did", frames.len())));
            }
        }
    }
}

async fn turns(ctx: &mut Ctx) -> Outcome {
    let many = many(ctx);
    let room = ctx.room();
    let (long, short) = (format!("{room}.long"), format!("{room}.short"));
    ctx.join_as("p").await?;
    ctx.publish("p", &long, "", &large_texts(many)).await?;
    ctx.publish("p", &short, "", &["e".to_owned(), "f".to_owned()]).await?;
    join_slow(ctx, "a").await?;
    let first = ctx.subscribe("a", json!({"room": long, "start": {"beginning": {}}})).await?["handle"].clone();
    tokio::time::sleep(FILL).await;
    ctx.conn("a")?.send(&[json!({"id": 5, "subscribe": {"room": short, "start": {"beginning": {}}}})]).await?;
    let last = json!(many);
    let frames = read_until(ctx, "a", |frames| {
        frames.iter().any(|frame| frame["event"]["handle"] == first && frame["event"]["seq"] == last)
    })
    .await?;
    let second = frames.iter().find(|frame| frame["id"] == 5).map(|frame| frame["subscribed"]["handle"].clone());
    let second = second.ok_or_else(|| Stop::fail("Subscribed of the second room came after the whole replay"))?;
    let arrived = events_of(&frames, &second).count();
    check(arrived == 2, || format!("{arrived} of 2 events of the second room came before the end of the replay"))
}

async fn overtake(ctx: &mut Ctx) -> Outcome {
    let many = many(ctx);
    let room = ctx.room();
    let (long, calls) = (format!("{room}.long"), format!("{room}.calls"));
    ctx.join_as("p").await?;
    ctx.publish("p", &long, "LANE_NORMAL", &large_texts(many)).await?;
    join_slow(ctx, "a").await?;
    let urgent = ctx.subscribe("a", json!({"room": calls})).await?["handle"].clone();
    let replay = ctx.subscribe("a", json!({"room": long, "start": {"beginning": {}}})).await?["handle"].clone();
    tokio::time::sleep(FILL).await;
    ctx.publish("p", &calls, "LANE_URGENT", &["ring".to_owned()]).await?;
    ctx.conn("a")?.send(&[json!({"id": 5, "ping": {"stamp": 5}})]).await?;
    let last = json!(many);
    let frames = read_until(ctx, "a", |frames| {
        frames.iter().any(|frame| frame["event"]["handle"] == replay && frame["event"]["seq"] == last)
    })
    .await?;
    let place_of_call = events_of(&frames, &urgent).map(|(place, _)| place).next();
    let place_of_pong = frames.iter().position(|frame| frame["id"] == 5);
    let place_of_last = events_of(&frames, &replay).last().map_or(0, |(place, _)| place);
    for (what, place) in [("the urgent event", place_of_call), ("Pong", place_of_pong)] {
        let place = place.ok_or_else(|| Stop::fail(format!("{what} came after the whole replay")))?;
        check(place + 10 < place_of_last, || format!("{what} came as frame {place} of {place_of_last}"))?;
    }
    Ok(())
}

/// Publishes as many large events to two lanes, and replays both at once to a slow reader; returns how many of the second
/// lane came before the last of the first one.
async fn race(ctx: &mut Ctx, lanes: [&str; 2]) -> Outcome<usize> {
    let room = ctx.room();
    ctx.join_as("p").await?;
    for lane in lanes {
        ctx.publish("p", &room, lane, &large_texts(RACING)).await?;
    }
    join_slow(ctx, "a").await?;
    let handle = ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?["handle"].clone();
    tokio::time::sleep(FILL).await;
    let last = json!(RACING);
    let came = |frames: &[Value], lane: &str| {
        frames.iter().any(|frame| frame["event"]["lane"] == *lane && frame["event"]["seq"] == last)
    };
    let frames = read_until(ctx, "a", |frames| came(frames, lanes[0])).await?;
    let before = events_of(&frames, &handle).filter(|(_, event)| event["lane"] == *lanes[1]).count();
    ctx.events("a", &handle, lanes[1], before as u64 + 1, RACING as u64).await?;
    Ok(before)
}

async fn urgent_flood(ctx: &mut Ctx) -> Outcome {
    let normal = race(ctx, ["LANE_URGENT", "LANE_NORMAL"]).await?;
    // Half of the bytes but for the burst. What a server reads from its log one after the other may blur it.
    check((RACING * 3 / 4..=RACING).contains(&normal), || {
        format!("beside {RACING} urgent events {normal} normal ones came, which have half of the bytes")
    })
}

async fn shares(ctx: &mut Ctx) -> Outcome {
    let bulk = race(ctx, ["LANE_NORMAL", "LANE_BULK"]).await?;
    // A fourth. It is more where what is read from a log comes later than it could leave: bulk has what normal cannot use.
    check((RACING / 6..RACING / 2).contains(&bulk), || {
        format!("beside {RACING} normal events {bulk} of lane bulk came, whose weight is a fourth")
    })
}

async fn signal_rate(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let welcome = json!({"limits": {"signalsPerSecond": "$=rate"}});
    ctx.join(Join { welcome: Some(welcome), ..Join::named("a") }).await?;
    let rate = ctx.vars.find("rate").and_then(Value::as_u64).unwrap_or(0);
    let count = rate * 10;
    let signal = |counter: u64| json!({"room": room, "counter": counter, "envelope": {"type": "t", "key": "k"}});
    let frames: Vec<Value> = (1..=count).map(|n| json!({"id": n + 1, "signal": signal(n)})).collect();
    ctx.conn("a")?.send(&frames).await?;
    let (mut accepted, mut retry_after) = (0, 0);
    for n in 1..=count {
        let answer = ctx.expect("a", &json!({"id": n + 1})).await?.value;
        if answer["done"].is_object() {
            accepted += 1;
            continue;
        }
        ctx.fits(&json!({"error": {"code": 4400, "closing": false, "room": room, "retryAfterMs": "$>0"}}), &answer)?;
        retry_after = answer["error"]["retryAfterMs"].as_u64().unwrap_or(0);
    }
    check(accepted >= rate, || format!("{accepted} signals were accepted at once, {rate} a second are allowed"))?;
    check(accepted < count, || format!("all {count} signals were accepted at once at {rate} a second"))?;
    tokio::time::sleep(Duration::from_millis(retry_after + 100)).await;
    ctx.ask("a", json!({"signal": signal(count + 1)}), &json!({"done": {}})).await.map(drop)
}

async fn slow_transients(ctx: &mut Ctx) -> Outcome {
    let many = many(ctx);
    let room = ctx.room();
    let count = many as u64 * 2;
    join_slow(ctx, "a").await?;
    ctx.join_as("p").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    for i in 0..count {
        let text = format!("{i}{}", "x".repeat(LARGE / 2));
        let publish = json!({"room": room, "delivery": "DELIVERY_TRANSIENT", "envelope": {"type": "t", "text": text}});
        ctx.conn("p")?.send(&[json!({"id": i + 2, "publish": publish})]).await?;
        if i >= WAITING {
            ctx.expect("p", &json!({"id": i + 2 - WAITING, "published": {"seq": 0}})).await?;
        }
    }
    let number = handle.as_u64().unwrap_or(0);
    let deadline = Instant::now() + Duration::from_secs(30);
    while ctx.conn("a")?.ledger.transients(number, 1) < count {
        match ctx.conn("a")?.read(deadline).await? {
            Incoming::Frames => {}
            Incoming::Closed(code) => return Err(Stop::fail(format!("the slow reader was closed with {code}"))),
            Incoming::Quiet => {
                let sum = ctx.conn("a")?.ledger.transients(number, 1);
                return Err(Stop::fail(format!("{sum} of {count} transient events came or were counted in gaps")));
            }
        }
    }
    let within = ctx.patience();
    ctx.conn("a")?.barrier(within).await?;
    let sum = ctx.conn("a")?.ledger.transients(number, 1);
    check(sum == count, || format!("{sum} transient events came or were counted, {count} were published"))
}

async fn slow_reader(ctx: &mut Ctx) -> Outcome {
    let many = many(ctx);
    let (room, within) = (ctx.room(), ctx.patience());
    join_slow(ctx, "slow").await?;
    ctx.join_as("quick").await?;
    ctx.join_as("p").await?;
    let handle = ctx.subscribe("slow", json!({"room": room})).await?["handle"].clone();
    ctx.subscribe("quick", json!({"room": room})).await?;
    for seq in 1..=many as u64 {
        ctx.publish("p", &room, "", &large_texts(1)).await?;
        ctx.events("quick", &handle, "LANE_NORMAL", seq, seq).await?;
        if seq % 10 == 0 {
            // Neither is idle; the slow one still reads nothing.
            ctx.conn("quick")?.barrier(within).await?;
            ctx.conn("slow")?.send(&[json!({"ping": {}})]).await?;
        }
    }
    ctx.events("slow", &handle, "LANE_NORMAL", 1, many as u64).await?;
    ctx.none("slow", &json!({"gap": {}})).await
}

async fn answers_not_taken(ctx: &mut Ctx) -> Outcome {
    join_slow(ctx, "a").await?;
    let frame = json!({"id": 9, "subscribe": {"room": format!("{}..", "r".repeat(250))}});
    let packet = schema::frame_record(&frame)?.repeat(800);
    for _ in 0..100 {
        let conn = ctx.conn("a")?;
        let sending = conn.send_bytes(Lane::Control, packet.clone());
        if timeout(Duration::from_secs(2), sending).await.is_err() {
            break;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let conn = ctx.conn("a")?;
        conn.take_pending().into_iter().try_for_each(|received| {
            let error = &received.value["error"];
            let wrong = error["closing"] == true && error["code"] != 4203;
            check(!wrong, || format!("closed with {error} instead of CONTROL_OVERFLOW"))
        })?;
        // Whoever does not take answers may not get the Error either.
        match conn.read_unjudged(deadline).await {
            Incoming::Frames => {}
            // The reset of a connection with unread bytes may swallow the close.
            Incoming::Closed(4203 | ABNORMAL) => return Ok(()),
            Incoming::Closed(code) => return Err(Stop::fail(format!("closed with {code} instead of 4203"))),
            Incoming::Quiet => return Err(Stop::fail("80,000 requests whose answers nobody takes, and no close")),
        }
    }
}

async fn no_progress(ctx: &mut Ctx) -> Outcome {
    let many = many(ctx);
    let room = ctx.room();
    ctx.join_as("p").await?;
    ctx.publish("p", &room, "", &large_texts(many)).await?;
    join_slow(ctx, "stuck").await?;
    join_slow(ctx, "slow").await?;
    let start = json!({"room": room, "start": {"beginning": {}}});
    let handle = ctx.subscribe("stuck", start.clone()).await?["handle"].clone();
    ctx.subscribe("slow", start).await?;
    let until = Instant::now() + NO_PROGRESS + Duration::from_secs(8);
    while Instant::now() < until {
        // A read or two a second keep the slow one going; a frame without an answer keeps both from being idle.
        for _ in 0..2 {
            let soon = Instant::now() + Duration::from_millis(200);
            ctx.conn("slow")?.read(soon).await?;
        }
        for name in ["slow", "stuck"] {
            ctx.conn(name)?.send(&[json!({"credit": {}})]).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ctx.events("slow", &handle, "LANE_NORMAL", 1, many as u64).await?;
    let stuck = ctx.conn("stuck")?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match stuck.read(deadline).await? {
            Incoming::Frames => {}
            Incoming::Closed(4202 | ABNORMAL) => return Ok(()),
            Incoming::Closed(code) => return Err(Stop::fail(format!("closed with {code} instead of NO_PROGRESS"))),
            Incoming::Quiet => return Err(Stop::fail("a client that took nothing for 38 s was not closed")),
        }
    }
}

async fn in_flight(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let welcome = json!({"limits": {"publishesInFlight": "$=max"}});
    ctx.join(Join { welcome: Some(welcome), ..Join::named("a") }).await?;
    let count = ctx.vars.find("max").and_then(Value::as_u64).unwrap_or(0) * 3;
    let frames: Vec<Value> = (1..=count)
        .map(|n| json!({"id": n + 1, "publish": {"room": room, "number": n, "envelope": {"type": "t"}}}))
        .collect();
    for chunk in frames.chunks(1000) {
        ctx.conn("a")?.send(chunk).await?;
    }
    let mut stored = 0;
    for n in 1..=count {
        let answer = ctx.expect("a", &json!({"id": n + 1})).await?.value;
        if answer["published"].is_object() {
            stored += 1;
            ctx.fits(&json!({"published": {"duplicate": false, "seq": stored}}), &answer)?;
        } else {
            ctx.fits(&json!({"error": {"code": 4403, "retryAfterMs": "$>0", "closing": false}}), &answer)?;
        }
    }
    let subscribed = ctx.subscribe("a", json!({"room": room})).await?;
    check(subscribed["headOrder"] == stored, || format!("{stored} publishes were answered, {subscribed} are stored"))
}

async fn conflation(ctx: &mut Ctx) -> Outcome {
    let many = many(ctx);
    let room = ctx.room();
    let long = format!("{room}.long");
    ctx.join_as("p").await?;
    ctx.publish("p", &long, "LANE_URGENT", &large_texts(many)).await?;
    join_slow(ctx, "a").await?;
    ctx.subscribe("a", json!({"room": room, "signals": true})).await?;
    let replay = ctx.subscribe("a", json!({"room": long, "start": {"beginning": {}}})).await?["handle"].clone();
    // A busy server may not have filled the transport yet; then signals need not wait, and it is tried again.
    for attempt in 0.. {
        tokio::time::sleep(FILL * 4u32.pow(attempt)).await;
        let last = u64::from(attempt + 1) * 10;
        for counter in last - 9..=last {
            let envelope = json!({"type": "t", "key": "k"});
            let signal = json!({"room": room, "counter": counter, "ttlMs": 60_000, "envelope": envelope});
            ctx.ask("p", json!({"signal": signal}), &json!({"done": {}})).await?;
        }
        let frames = read_until(ctx, "a", |frames| {
            let whole = events_of(frames, &replay).any(|(_, event)| event["seq"] == json!(many));
            whole && frames.iter().any(|frame| frame["signal"]["counter"] == json!(last))
        })
        .await?;
        let others = frames.iter().filter(|frame| frame["signal"].is_object()).count() - 1;
        if others <= 2 {
            break;
        }
        check(attempt < 2, || format!("{others} older signals of the same key came, too"))?;
        ctx.subscribe("a", json!({"room": long, "start": {"beginning": {}}})).await?;
    }
    Ok(())
}
