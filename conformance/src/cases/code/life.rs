//! Clocks: deadlines of the handshake, idle connections, tokens that expire, a server that stops.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::case::{Case, Ctx, Join, Need};
use crate::client::raw::{RawSocket, client_frame, handshake};
use crate::client::{Encoding, Lane, Transport};
use crate::verdict::{Outcome, Stop, check};

/// The time in which Hello, or the head of a request, must have come.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// What a busy machine may add to a deadline.
const TOLERANCE: Duration = Duration::from_secs(4);
/// Idle times above this are not waited for.
const IDLE_MAX: Duration = Duration::from_secs(70);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-HS-006/no-hello",
            "A connection without Hello ends after 10 s with HANDSHAKE_TIMEOUT.",
            &["LC-LIFE-011"],
            &[],
            |ctx| Box::pin(no_hello(ctx)),
        ),
        Case::code(
            "LC-HS-006/slow-hello",
            "A Hello that comes at one byte per second ends after 10 s with HANDSHAKE_TIMEOUT.",
            &["LC-SEC-006"],
            &[],
            |ctx| Box::pin(slow_hello(ctx)),
        )
        .over(&[Transport::Websocket]),
        Case::code(
            "LC-HS-006/slow-hello-on-a-stream",
            "A Hello that comes at one byte per second on control ends after 10 s with HANDSHAKE_TIMEOUT.",
            &["LC-SEC-006", "LC-LIFE-011"],
            &[],
            |ctx| Box::pin(slow_hello_on_a_stream(ctx)),
        )
        .over(&[Transport::Webtransport, Transport::Quic]),
        Case::code(
            "LC-SEC-004/slow-head",
            "A WebSocket handshake at one byte per second is cut after 10 s, and nobody else notices.",
            &["LC-SEC-006"],
            &[],
            |ctx| Box::pin(slow_head(ctx)),
        )
        .only(Encoding::Binary),
        Case::code(
            "LC-HS-013/same-flight",
            "Requests in the same flight as Hello are handled after Welcome and its subscriptions, in order.",
            &["LC-HS-010", "LC-HS-012"],
            &[],
            |ctx| Box::pin(same_flight(ctx)),
        ),
        Case::code(
            "LC-AUTH-004/token-expires",
            "A connection whose token expires ends with TOKEN_EXPIRED.",
            &["LC-LIFE-011"],
            &[],
            |ctx| Box::pin(token_expires(ctx)),
        ),
        Case::code(
            "LC-LIFE-003/idle",
            "A connection without records ends with IDLE_TIMEOUT when the heartbeat says, and not before.",
            &["LC-HS-011"],
            &[],
            |ctx| Box::pin(idle(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-LIFE-010/subscriptions-end",
            "What is published after a client left goes to the others as before.",
            &[],
            &[],
            |ctx| Box::pin(leave(ctx)),
        ),
        Case::code(
            "LC-LIFE-020/drain",
            "A server that is told to stop says GoAway, serves on, and closes who stays with GOING_AWAY.",
            &["LC-LIFE-011"],
            &[Need::Drain],
            |ctx| Box::pin(drain(ctx)),
        )
        .within_s(90),
    ]
}

async fn no_hello(ctx: &mut Ctx) -> Outcome {
    ctx.open_named("a").await?;
    ctx.fatal_within("a", 4200, HELLO_WITHIN + TOLERANCE).await.map(drop)
}

/// Writes a byte each second until all are written or the server ends the connection. Returns how long that took.
async fn trickle(socket: &mut RawSocket, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    for byte in bytes {
        let ended = !socket.write(&[*byte]).await || socket.ends(Duration::from_secs(1)).await;
        if ended || started.elapsed() > HELLO_WITHIN + TOLERANCE {
            break;
        }
    }
    started.elapsed()
}

async fn slow_hello(ctx: &mut Ctx) -> Outcome {
    let (endpoint, within) = (ctx.target.endpoint.clone(), ctx.patience());
    let mut socket = RawSocket::connect(&endpoint).await?;
    socket.upgrade(&endpoint, ctx.encoding.subprotocol(), within).await?;
    let opcode = if ctx.encoding == Encoding::Json { 0x81 } else { 0x82 };
    let took = trickle(&mut socket, &client_frame(opcode, &[b'x'; 120])).await;
    check(took < HELLO_WITHIN + TOLERANCE, || format!("the connection still lives after {} s", took.as_secs()))?;
    // The close frame that ended it says why.
    let close = 4200u16.to_be_bytes();
    let found = socket.unread().windows(2).any(|window| window == close);
    check(found, || "the connection ended without the code HANDSHAKE_TIMEOUT".into())
}

async fn slow_hello_on_a_stream(ctx: &mut Ctx) -> Outcome {
    let started = Instant::now();
    ctx.open_named("a").await?;
    let mut hello = vec![0x0a, 200];
    hello.resize(60, b'x');
    for byte in hello {
        let conn = ctx.conn("a")?;
        conn.send_bytes(Lane::Control, vec![byte]).await;
        conn.settle(Duration::from_secs(1)).await?;
        if conn.closed().is_some() || started.elapsed() > HELLO_WITHIN + TOLERANCE {
            break;
        }
    }
    let took = started.elapsed();
    check(took < HELLO_WITHIN + TOLERANCE, || format!("the connection still lives after {} s", took.as_secs()))?;
    ctx.fatal("a", 4200).await.map(drop)
}

async fn slow_head(ctx: &mut Ctx) -> Outcome {
    ctx.join_as("healthy").await?;
    let endpoint = ctx.target.endpoint.clone();
    let mut socket = RawSocket::connect(&endpoint).await?;
    let head = handshake(&endpoint, "lanecast.v1");
    let took = trickle(&mut socket, head.as_bytes()).await;
    check(took < HELLO_WITHIN + TOLERANCE, || format!("the connection still lives after {} s", took.as_secs()))?;
    let within = ctx.patience();
    ctx.conn("healthy")?.barrier(within).await
}

async fn same_flight(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let (first, second) = (format!("{room}.1"), format!("{room}.2"));
    let mut hello = ctx.hello(&Join::named("a")).await?;
    hello["subscriptions"] = json!([{"room": first}]);
    ctx.open_named("a").await?;
    let conn = ctx.conn("a")?;
    let publish = json!({"room": first, "number": 1, "envelope": {"type": "t"}});
    conn.send(&[json!({"id": 1, "hello": hello}), json!({"id": 2, "subscribe": {"room": second}})]).await?;
    conn.send(&[json!({"id": 3, "publish": publish})]).await?;
    conn.send(&[json!({"id": 4, "ping": {"stamp": 1}})]).await?;
    ctx.next("a", &json!({"id": 1, "welcome": {}})).await?;
    ctx.next("a", &json!({"id": 0, "subscribed": {"room": first, "handle": "$=h"}})).await?;
    ctx.expect("a", &json!({"id": 2, "subscribed": {"room": second}})).await?;
    ctx.expect("a", &json!({"id": 3, "published": {"seq": 1}})).await?;
    ctx.expect("a", &json!({"id": 4, "pong": {"stamp": 1}})).await?;
    let handle = ctx.vars.find("h").cloned().unwrap_or(Value::Null);
    ctx.events("a", &handle, "LANE_NORMAL", 1, 1).await.map(drop)
}

async fn token_expires(ctx: &mut Ctx) -> Outcome {
    let welcome = json!({"serverTimeMs": "$=now", "tokenExpiresAtMs": "$=expiry"});
    ctx.join(Join { expires_s: Some(3), welcome: Some(welcome), ..Join::named("a") }).await?;
    let number = |name: &str| ctx.vars.find(name).and_then(Value::as_u64).unwrap_or(0);
    let (now, expiry) = (number("now"), number("expiry"));
    check((1..=4_000).contains(&expiry.saturating_sub(now)), || {
        format!("a token of 3 s expires at {expiry}, now is {now}")
    })?;
    let started = Instant::now();
    // 5 s after the expiry, and what the node's leeway for clocks may add.
    ctx.fatal_within("a", 4101, Duration::from_secs(3 + 5 + 5)).await?;
    let early = started.elapsed() < Duration::from_millis(expiry - now).saturating_sub(Duration::from_millis(500));
    check(!early, || format!("closed {} ms after Welcome, before the token expired", started.elapsed().as_millis()))
}

async fn idle(ctx: &mut Ctx) -> Outcome {
    let welcome = json!({"heartbeat": {"idleCloseMs": "$=idle"}});
    ctx.join(Join { welcome: Some(welcome), ..Join::named("a") }).await?;
    let time = Duration::from_millis(ctx.vars.find("idle").and_then(Value::as_u64).unwrap_or(0));
    if time > IDLE_MAX {
        return Err(Stop::Skipped(format!("the idle time of {} s is not waited for", time.as_secs())));
    }
    // Records count: with this one the clock begins anew.
    ctx.conn("a")?.settle((time / 2).min(Duration::from_secs(10))).await?;
    let (within, earliest) = (ctx.patience(), Instant::now());
    ctx.conn("a")?.barrier(within).await?;
    let started = Instant::now();
    // The transport's own pings do not count.
    for _ in 0..3 {
        ctx.conn("a")?.settle(time / 5).await?;
        ctx.conn("a")?.ping_transport().await;
    }
    let open = ctx.conn("a")?.closed().is_none();
    check(open, || format!("closed after {} ms", started.elapsed().as_millis()))?;
    ctx.fatal_within("a", 4201, time / 2 + TOLERANCE).await?;
    let took = earliest.elapsed();
    check(took >= time - Duration::from_millis(500), || format!("closed after {} ms already", took.as_millis()))?;
    let took = started.elapsed();
    check(took <= time + TOLERANCE, || format!("closed after {} ms only", took.as_millis()))
}

async fn leave(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    ctx.join_as("b").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    ctx.subscribe("b", json!({"room": room})).await?;
    ctx.conn("b")?.close(4000).await;
    let within = ctx.patience();
    ctx.conn("b")?.wait_closed(within).await?;
    let texts: Vec<String> = (0..20).map(|i| format!("e{i}")).collect();
    ctx.publish("a", &room, "", &texts).await?;
    ctx.events("a", &handle, "LANE_NORMAL", 1, 20).await.map(drop)
}

async fn drain(ctx: &mut Ctx) -> Outcome {
    let (room, within) = (ctx.room(), ctx.patience());
    ctx.join_as("a").await?;
    ctx.join_as("b").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    let target = ctx.target.clone();
    target.control.drain().await?;
    let pattern = json!({"id": 0, "goAway": {
        "reason": "GO_AWAY_REASON_DRAINING", "closesInMs": "$>0", "retryAfterMs": "$>=0"}});
    let said = ctx.expect("a", &pattern).await?.value;
    ctx.expect("b", &pattern).await?;
    ctx.publish_one("b", &room, "still served").await?;
    ctx.events("a", &handle, "LANE_NORMAL", 1, 1).await?;
    ctx.conn("a")?.barrier(within).await?;
    let closes_in = Duration::from_millis(said["goAway"]["closesInMs"].as_u64().unwrap_or(0));
    ctx.fatal_within("a", 4204, closes_in + TOLERANCE).await?;
    ctx.fatal_within("b", 4204, closes_in + TOLERANCE).await?;
    target.control.resume().await?;
    ctx.came_back().await?;
    ctx.join_as("c").await.map(drop)
}
