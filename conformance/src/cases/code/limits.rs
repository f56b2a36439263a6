//! Caps on connections, and publishes beyond a rate: refused without effect, and stored in order once their time has come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::case::{Case, Ctx, Join, Need};
use crate::client::{Conn, Encoding, Open, Transport};
use crate::target::{TokenWish, all_rights};
use crate::verdict::{Outcome, Stop, check};

/// Connections of a user that the fixture allows.
const USER_CONNECTIONS: usize = 30;
/// Connections of an address that the fixture allows.
const ADDRESS_CONNECTIONS: usize = 10;
/// How long a server may take to let go of a connection that has ended: it waits 1 s for a peer to take its goodbye.
const NOTICE: Duration = Duration::from_secs(2);
/// Events of a user that the fixture's policy for `conform.rate.**` lets pass at once.
const BURST: u64 = 20;
/// Publishes sent together: more than the burst, and fewer than the rate brings in the time of a case.
const PIPELINE: u64 = 60;
/// Events that the same policy lets all together publish to a room at once.
const ROOM_BURST: usize = 100;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-SEC-011/connections-of-a-user",
            "One connection too many of a user is refused; another user's is not, and a place is free when one ends.",
            &[],
            &[Need::Fixture],
            |ctx| Box::pin(connections_of_a_user(ctx)),
        ),
        Case::code(
            "LC-SEC-011/forwarded-addresses",
            "Behind a listed proxy the address that it saw is capped, whatever its client wrote before it.",
            &[],
            &[Need::Fixture],
            |ctx| Box::pin(forwarded_addresses(ctx)),
        )
        .over(&[Transport::Websocket])
        .only(Encoding::Binary),
        Case::code(
            "LC-SEC-011/proxies-are-not-capped",
            "The hop of a listed proxy itself is not capped by address.",
            &[],
            &[Need::Fixture],
            |ctx| Box::pin(proxies_are_not_capped(ctx)),
        )
        .over(&[Transport::Websocket])
        .only(Encoding::Binary),
        Case::code(
            "LC-FLOW-007/by-token",
            "A newer token that changes the rate of signals is followed by Limits; more holds at once, less 10 s later.",
            &["LC-FLOW-001", "LC-AUTH-020"],
            &[Need::Jwt, Need::Refresh, Need::Signals],
            |ctx| Box::pin(by_token(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-FLOW-001/publish-rate",
            "Publishes beyond the rate are refused with a time; sent again in order, each is stored once and in order.",
            &["LC-ERR-008", "LC-PUB-021", "LC-PUB-023"],
            &[Need::Fixture],
            |ctx| Box::pin(publish_rate(ctx)),
        )
        .within_s(60),
        Case::code(
            "LC-FLOW-001/http-rate",
            "Each event of a batch counts, and what is beyond the rate is answered 429 with Retry-After.",
            &["LC-API-041", "LC-API-003"],
            &[Need::Fixture, Need::Api],
            |ctx| Box::pin(http_rate(ctx)),
        )
        .only(Encoding::Binary),
    ]
}

fn as_user(name: &str, user: &str, refused: Option<u64>) -> Join {
    Join { user: Some(user.to_owned()), refused, ..Join::named(name) }
}

/// Goes on with a token that lets so many signals a second pass, and expects to be told.
async fn go_on_with(ctx: &mut Ctx, per_second: u64) -> Outcome {
    let wish = TokenWish { user: ctx.user("a"), claims: Some(signals_claim(per_second)), ..TokenWish::default() };
    let token = ctx.target.token(&wish).await?;
    ctx.ask("a", json!({"refreshToken": {"token": token}}), &json!({"tokenRefreshed": {}})).await?;
    ctx.expect("a", &json!({"id": 0, "limits": {"signalsPerSecond": per_second, "rooms": "$>0"}})).await.map(drop)
}

fn signals_claim(per_second: u64) -> Value {
    json!({"lanecast": {"rights": all_rights(), "signals_per_second": per_second}})
}

/// How many of these signals, sent at once, are accepted.
async fn accepted(ctx: &mut Ctx, counters: std::ops::Range<u64>) -> Outcome<usize> {
    let room = ctx.room();
    let signal = |counter: u64| json!({"room": room, "counter": counter, "envelope": {"type": "t", "key": "k"}});
    let frames: Vec<Value> = counters.clone().map(|n| json!({"id": n + 1, "signal": signal(n)})).collect();
    ctx.conn("a")?.send(&frames).await?;
    let mut accepted = 0;
    for n in counters {
        let answer = ctx.expect("a", &json!({"id": n + 1})).await?.value;
        accepted += usize::from(answer["done"].is_object());
    }
    Ok(accepted)
}

async fn by_token(ctx: &mut Ctx) -> Outcome {
    const MANY: u64 = 60;
    let welcome = Some(json!({"limits": {"signalsPerSecond": "$=rate"}}));
    ctx.join(Join { claims: Some(signals_claim(MANY)), welcome, ..Join::named("a") }).await?;
    if ctx.vars.find("rate").and_then(Value::as_u64) != Some(MANY) {
        return Err(Stop::Unsupported("no limit changes with the token".into()));
    }
    go_on_with(ctx, 2).await?;
    let lowered = Instant::now();
    let before = accepted(ctx, 1..MANY + 1).await?;
    check(before == MANY as usize, || format!("{before} of {MANY} signals passed before the lower rate held"))?;
    tokio::time::sleep_until(lowered + Duration::from_secs(12)).await;
    let after = accepted(ctx, 1_000..1_000 + MANY).await?;
    check(after < MANY as usize, || "the lower rate does not hold after 12 s".to_owned())?;
    go_on_with(ctx, 10 * MANY).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let raised = accepted(ctx, 2_000..2_000 + MANY).await?;
    check(raised == MANY as usize, || format!("{raised} of {MANY} signals passed at the higher rate"))
}

async fn connections_of_a_user(ctx: &mut Ctx) -> Outcome {
    let user = ctx.user("full");
    for n in 1..=USER_CONNECTIONS {
        ctx.join(as_user(&format!("c{n}"), &user, None)).await?;
    }
    ctx.join(as_user("late", &user, Some(4207))).await?;
    ctx.join_as("other").await?;
    drop(ctx.take("c7")?);
    tokio::time::sleep(NOTICE).await;
    ctx.join(as_user("again", &user, None)).await?;
    ctx.join(as_user("late", &user, Some(4207))).await.map(drop)
}

/// Opens a connection as a proxy would; `None`: it was refused with TOO_MANY_CONNECTIONS.
async fn open_through(ctx: &mut Ctx, forwarded_for: Option<&str>) -> Outcome<Option<Conn>> {
    let headers = forwarded_for.map(|value| ("x-forwarded-for".to_owned(), value.to_owned()));
    let mut open = Open::plain("proxied", Transport::Websocket);
    open.headers.extend(headers);
    match ctx.open(open).await? {
        Ok(conn) => Ok(Some(conn)),
        Err(refused) => {
            let told = refused.status == 503 && refused.answer.contains("4207");
            check(told, || format!("refused with {} instead of 503: {}", refused.status, refused.answer))?;
            Ok(None)
        }
    }
}

async fn forwarded_addresses(ctx: &mut Ctx) -> Outcome {
    let mut open = Vec::new();
    for n in 1..=ADDRESS_CONNECTIONS {
        let conn = open_through(ctx, Some(&format!("198.51.100.{n}, 203.0.113.9"))).await?;
        open.push(conn.ok_or_else(|| Stop::fail(format!("connection {n} of an address was refused")))?);
    }
    for late in ["198.51.100.99, 203.0.113.9", "203.0.113.9"] {
        let conn = open_through(ctx, Some(late)).await?;
        check(conn.is_none(), || format!("one too many was accepted from {late}"))?;
    }
    let other = open_through(ctx, Some("203.0.113.9, 203.0.113.10")).await?;
    check(other.is_some(), || "another address was refused".into())?;
    open.pop();
    tokio::time::sleep(NOTICE).await;
    let again = open_through(ctx, Some("203.0.113.9")).await?;
    check(again.is_some(), || "the place of a connection that ended is not free".into())
}

async fn proxies_are_not_capped(ctx: &mut Ctx) -> Outcome {
    let mut open = Vec::new();
    for n in 0..=ADDRESS_CONNECTIONS {
        let conn = open_through(ctx, None).await?;
        open.push(conn.ok_or_else(|| Stop::fail(format!("the proxy's own connection {} was refused", n + 1)))?);
    }
    Ok(())
}

async fn publish_rate(ctx: &mut Ctx) -> Outcome {
    let room = format!("conform.rate.{}", ctx.unique);
    ctx.join_as("a").await?;
    ctx.join_as("b").await?;
    let deadline = Instant::now() + Duration::from_secs(40);
    let (mut id, mut passed_at_once) = (100, 0);
    let mut unsettled: Vec<u64> = (1..=PIPELINE).collect();
    while !unsettled.is_empty() {
        let answers = pipeline(ctx, &room, &mut id, &unsettled).await?;
        let mut wait_ms = 0;
        for (number, answer) in &answers {
            if answer["published"].is_object() {
                ctx.fits(&json!({"published": {"duplicate": false, "seq": number}}), answer)?;
                continue;
            }
            let code = answer["error"]["code"].as_u64().unwrap_or(0);
            check(matches!(code, 4400 | 4402), || format!("publish {number} was answered {answer}"))?;
            ctx.fits(&json!({"error": {"closing": false, "room": room, "retryAfterMs": "$>0"}}), answer)?;
            if code == 4400 {
                wait_ms = wait_ms.max(answer["error"]["retryAfterMs"].as_u64().unwrap_or(0));
            }
        }
        unsettled.retain(|number| !answers[number]["published"].is_object());
        if passed_at_once == 0 {
            passed_at_once = PIPELINE - unsettled.len() as u64;
            check((BURST..PIPELINE).contains(&passed_at_once), || {
                format!("{passed_at_once} of {PIPELINE} publishes passed at once; the burst is {BURST}")
            })?;
            // One user's rate is not another's.
            let other = json!({"publish": {"room": room, "delivery": "DELIVERY_TRANSIENT", "envelope": {"type": "t"}}});
            ctx.ask("b", other, &json!({"published": {}})).await?;
        }
        if Instant::now() > deadline {
            return Err(Stop::fail(format!("publishes {unsettled:?} were still refused after 40 s")));
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
    let subscribed = ctx.subscribe("b", json!({"room": room, "start": {"beginning": {}}})).await?;
    check(subscribed["headOrder"] == PIPELINE, || format!("{PIPELINE} publishes gave {subscribed}"))?;
    let events = ctx.events("b", &subscribed["handle"], "LANE_NORMAL", 1, PIPELINE).await?;
    for (at, event) in events.iter().enumerate() {
        let text = &event["envelope"]["text"];
        check(*text == (at + 1).to_string().as_str(), || format!("event {} is publish {text}", at + 1))?;
    }
    Ok(())
}

/// Sends publishes in one packet, each after the one before it; their answers by number.
async fn pipeline(ctx: &mut Ctx, room: &str, id: &mut u64, numbers: &[u64]) -> Outcome<BTreeMap<u64, Value>> {
    let first = *id;
    let mut after = 0;
    let mut frames = Vec::new();
    for number in numbers {
        let envelope = json!({"type": "t", "text": number.to_string()});
        let publish = json!({"room": room, "number": number, "after": after, "envelope": envelope});
        frames.push(json!({"id": *id, "publish": publish}));
        (*id, after) = (*id + 1, *number);
    }
    ctx.conn("a")?.send(&frames).await?;
    let mut answers = BTreeMap::new();
    for (at, number) in numbers.iter().enumerate() {
        answers.insert(*number, ctx.expect("a", &json!({"id": first + at as u64})).await?.value);
    }
    Ok(answers)
}

async fn http_rate(ctx: &mut Ctx) -> Outcome {
    let room = format!("conform.rate.{}", ctx.unique);
    let key = ctx.target.api_keys.first().cloned();
    let event = |n: usize| json!({"room": room, "envelope": {"type": "t", "text": n.to_string()}});
    let batch = json!({"events": (0..2 * ROOM_BURST).map(event).collect::<Vec<_>>()}).to_string().into_bytes();
    let answer = ctx.http("POST", "/v1/batch", key.as_deref(), &[], Some(batch)).await?;
    let json = answer.json();
    let results = json["results"].as_array().cloned().unwrap_or_default();
    check(answer.status == 200 && results.len() == 2 * ROOM_BURST, || format!("the batch: {} {json}", answer.status))?;
    let mut stored = 0;
    for result in &results {
        if result["published"].is_object() {
            stored += 1;
            ctx.fits(&json!({"published": {"seq": stored.to_string()}}), result)?;
        } else {
            ctx.fits(&json!({"error": {"code": 4400, "name": "RATE_LIMITED", "retryAfterMs": "$>0"}}), result)?;
        }
    }
    let passed = ROOM_BURST..results.len();
    check(passed.contains(&stored), || format!("{stored} of {} events passed at once", results.len()))?;
    let path = format!("/v1/rooms/{room}/events");
    let body = json!({"envelope": {"type": "t"}}).to_string().into_bytes();
    // A token may have come back meanwhile.
    for _ in 0..ROOM_BURST {
        let answer = ctx.http("POST", &path, key.as_deref(), &[], Some(body.clone())).await?;
        if answer.status == 200 {
            continue;
        }
        let wait_s = answer.header("retry-after").and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        check(answer.status == 429 && wait_s > 0, || format!("{} with Retry-After {wait_s}", answer.status))?;
        return ctx.fits(&json!({"code": 4400, "name": "RATE_LIMITED", "retryAfterMs": "$>0"}), &answer.json());
    }
    Err(Stop::fail("a publish for each token that comes back is never refused"))
}
