//! Handshake, credentials, heartbeat, the end of connections and the way back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::case;
use crate::client::{Transport, short};
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, QUIC, Trial};
use crate::peer::{Conn, event};
use crate::verdict::{Outcome, check};

/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_millis(400);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-HS-001"] "hello-first", "Hello comes first, with id, versions, token and instance.", ALL, [], hello_first),
        case!(["LC-HS-020"] "nothing-unnamed", "No optional part is used that Welcome does not name.", ALL, [], nothing_unnamed),
        case!(["LC-HS-020"] "newest-limits", "A client keeps to the Limits that came last.", ALL, [], newest_limits),
        case!(["LC-HS-021"] "instances-differ", "Two outboxes in memory have two instances, of random characters.", ALL, [],
            instances_differ),
        case!(["LC-HS-021"] "file-locked", "An outbox file is for one client at a time.", ALL, ["outbox_file"], file_locked),
        case!(["LC-AUTH-022"] "new-token", "After a code of the range 4100–4199 a new token is asked for and sent.", ALL, [], new_token),
        case!(["LC-LIFE-001", "LC-LIFE-004"] "ping-and-no-pong", "A quiet client pings, and without Pong connects again.", ALL, [],
            ping_and_no_pong),
        case!(["LC-LIFE-001"] "pong-keeps", "With Pong the connection stays.", ALL, [], pong_keeps),
        case!(["LC-LIFE-005"] "answers-ping", "A Ping of the node is answered with its id and stamp.", ALL, [], answers_ping),
        case!(["LC-LIFE-013"] "replaced", "A client that was replaced does not come back.", ALL, [], replaced),
        case!(["LC-LIFE-013"] "disconnected", "A client that was disconnected does not come back.", ALL, [], disconnected),
        case!(["LC-LIFE-013"] "closes-normally", "A client that is closed says so with NORMAL or the ordinary code.", ALL, [],
            closes_normally),
        case!(["LC-LIFE-022"] "go-away", "After GoAway and retry_after_ms a client resumes on a new connection.", ALL, [], go_away),
        case!(["LC-LIFE-022"] "go-away-elsewhere", "A client goes to the address that GoAway names.", ALL, [], go_away_elsewhere),
        case!(["LC-LIFE-023"] "backoff", "The waits before attempts are drawn from a window that doubles.", ALL, [], backoff),
        case!(["LC-LIFE-023"] "backoff-goes-on", "A connection that is lost at once does not begin the window anew.", ALL, [],
            backoff_goes_on),
        case!(["LC-SDK-022"] "hint-pings", "At a hint a client pings, and without Pong it is on a new connection 2 s later.", ALL, [],
            hint_pings),
        case!(["LC-SDK-022"] "hint-connects", "At a hint a client without a connection connects at once.", ALL, [], hint_connects),
        case!(["LC-SDK-023"] "background", "In the background a client connects only for what it has to publish.", ALL, ["lifecycle"],
            background),
        case!(["LC-SDK-024"] "positions-kept", "After kill -9 a subscription begins behind the last acknowledged batch.", ALL,
            ["positions_file"], positions_kept),
        case!(["LC-SDK-021"] "stays-encrypted", "GoAway leads no client from an encrypted address to one in the clear.", QUIC, [],
            stays_encrypted),
    ]
}

async fn hello_first(t: &mut Trial) -> Outcome {
    t.connect(json!({"device": "phone"})).await?;
    let mut conn = t.accept().await?;
    let hello = conn.take_hello().await?;
    let range = hello["versionMin"].as_u64() <= Some(1) && hello["versionMax"].as_u64() >= Some(1);
    let instance = hello["instance"].as_str().unwrap_or("");
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    check(range, || format!("no range with version 1: {}", short(&hello)))?;
    check(hello["token"] == "token-1", || "another token".to_owned())?;
    let (sdk, named) = (&t.driver()?.ready["sdk"], &hello["client"]["name"]);
    check(named.is_null() || named == sdk, || format!("Hello is one of {named}, and the driver one of {sdk}"))?;
    check((1..=64).contains(&instance.len()) && instance.chars().all(fits), || format!("instance {instance:?}"))
}

async fn nothing_unnamed(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(json!({"capabilities": []})).await?;
    t.subscribe(&mut conn, json!({}), "7-0-0-0").await?;
    t.tell(json!({"history": {"room": "r"}})).await?;
    t.tell(json!({"signal": {"room": "r", "type": "cursor", "key": "k", "body": {"text": "x"}}})).await?;
    t.tell(json!({"focus": {"room": "r", "level": "foreground"}})).await?;
    t.tell(json!({"refreshToken": {}})).await?;
    for seq in 1..=60 {
        let mut long = event(1, "normal", seq);
        long["event"]["envelope"]["text"] = json!("x".repeat(2_000));
        conn.send(&long).await?;
    }
    conn.listen(QUIET * 2).await?;
    for name in ["history", "signal", "focus", "refreshToken", "credit", "fragment"] {
        conn.none(name, Duration::ZERO).await?;
    }
    Ok(())
}

async fn newest_limits(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let limits = json!({"recordBytes": 262_144, "messageBytes": 65_536, "rooms": 100, "publishesInFlight": 2,
        "signalsPerSecond": 10, "historyPage": 200});
    conn.send(&json!({ "limits": limits })).await?;
    conn.listen(QUIET).await?;
    for _ in 0..5 {
        t.publish(json!({})).await?;
    }
    for seq in [1, 3, 5] {
        let first = conn.frame("publish").await?;
        let second = if seq < 5 { Some(conn.frame("publish").await?) } else { None };
        conn.none("publish", QUIET).await?;
        conn.published(&first, seq).await?;
        if let Some(second) = second {
            conn.published(&second, seq + 1).await?;
        }
    }
    Ok(())
}

async fn instance(t: &mut Trial) -> Outcome<String> {
    let conn = t.live().await?;
    let instance = conn.hello["instance"].as_str().unwrap_or("").to_owned();
    t.done(json!({"shutdown": {}})).await?;
    Ok(instance)
}

async fn instances_differ(t: &mut Trial) -> Outcome {
    let (first, second) = (instance(t).await?, instance(t).await?);
    check(first != second, || format!("two outboxes with the instance {first}"))?;
    check(first.len() >= 16, || format!("{first} is not drawn from 64 bits or more"))
}

async fn file_locked(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    t.connect(json!({"outboxFile": file})).await?;
    t.welcomed(json!({})).await?;
    let command = t.connecting(json!({"outboxFile": file})).await?;
    let mut other = t.another().await?;
    let id = other.tell(command).await?;
    let answer = other.find(super::super::trial::PATIENCE, |report| report["command"] == id).await?;
    other.end().await;
    let answer = answer.unwrap_or(Value::Null);
    check(answer.get("failed").is_some(), || format!("the second client has the file as well: {}", short(&answer)))
}

async fn new_token(t: &mut Trial) -> Outcome {
    t.connect(json!({"asksForTokens": true})).await?;
    let first = t.report("tokenWanted").await?;
    t.done(json!({"giveToken": {"ask": first["ask"], "token": "first"}})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    check(conn.hello["token"] == "first", || "another token than the one given".to_owned())?;
    conn.refuse(4101).await?;
    let second = t.report("tokenWanted").await?;
    check(second["refused"] == true, || "the application is not told that the token was refused".to_owned())?;
    t.done(json!({"giveToken": {"ask": second["ask"], "token": "second"}})).await?;
    let conn = t.welcomed(json!({})).await?;
    check(conn.hello["token"] == "second", || format!("Hello bears {}", conn.hello["token"]))
}

fn beating() -> Value {
    json!({"heartbeat": {"pingAfterMs": 400, "pongWithinMs": 400}})
}

async fn ping_and_no_pong(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(beating()).await?;
    conn.answers_pings = false;
    let since = Instant::now();
    let ping = conn.frame("ping").await?;
    let waited = ping.at - since;
    check(waited < Duration::from_millis(400) + SLACK, || {
        format!("the first ping came after {} ms", waited.as_millis())
    })?;
    let next = t.accept().await?;
    let waited = next.opened - ping.at;
    check(waited > Duration::from_millis(350), || format!("given up after {} ms", waited.as_millis()))?;
    check(waited < Duration::from_millis(1_500) + SLACK, || format!("given up after {} ms only", waited.as_millis()))
}

async fn pong_keeps(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(beating()).await?;
    conn.listen(Duration::from_millis(2_000)).await?;
    check(conn.ended.is_none(), || "the client gave a connection up that answers".to_owned())
}

async fn answers_ping(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    conn.send(&json!({"id": 77, "ping": {"stamp": 12_345}})).await?;
    let pong = conn.frame("pong").await?;
    check(pong.id == 77 && pong.body["stamp"] == 12_345, || format!("id {} and {}", pong.id, short(&pong.body)))
}

async fn stays_away(t: &mut Trial, code: u16) -> Outcome {
    let mut conn = t.live().await?;
    conn.refuse(code).await?;
    let state = t.state("closed").await?;
    check(state["code"] == code, || format!("closed with {} instead of {code}", state["code"]))?;
    t.no_connection(QUIET * 3).await
}

async fn replaced(t: &mut Trial) -> Outcome {
    stays_away(t, 4206).await
}

async fn disconnected(t: &mut Trial) -> Outcome {
    stays_away(t, 4009).await
}

async fn closes_normally(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.done(json!({"shutdown": {}})).await?;
    let code = conn.closed().await?;
    check(matches!(code, 4000 | 1000 | 1005 | 0), || format!("closed with {code}"))
}

async fn resumed(conn: &mut Conn, normal: u64) -> Outcome {
    let hello = conn.take_hello().await?;
    let at = &hello["subscriptions"][0]["start"]["position"]["normal"];
    check(*at == normal, || format!("not resumed at normal {normal}: {}", short(&hello)))
}

async fn go_away(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "normal", 1)).await?;
    t.items(&["1"]).await?;
    conn.send(&json!({"goAway": {"retryAfterMs": 600, "reason": "GO_AWAY_REASON_DRAINING", "closesInMs": 5_000}}))
        .await?;
    let since = Instant::now();
    let mut next = t.accept().await?;
    let waited = next.opened - since;
    check(waited > Duration::from_millis(550), || format!("back after {} ms already", waited.as_millis()))?;
    check(waited < Duration::from_millis(1_200) + SLACK, || format!("back after {} ms only", waited.as_millis()))?;
    resumed(&mut next, 1).await
}

async fn go_away_elsewhere(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    let mut other = t.other_peer().await?;
    let address = other.url(t.transport);
    // A page finds the other server by its description, as it found the first one.
    conn.send(&json!({"goAway": {"retryAfterMs": 50, "address": address}})).await?;
    let next = other.accept(super::super::trial::PATIENCE).await;
    let mut next = next.ok_or_else(|| crate::verdict::Stop::fail("the client does not go to the address named"))?;
    resumed(&mut next, 0).await
}

/// The window of the backoff cases, ms.
const WINDOW_MS: (u64, u64) = (150, 600);

fn window() -> Value {
    json!({"reconnect": {"minMs": WINDOW_MS.0, "maxMs": WINDOW_MS.1}})
}

fn bound(attempt: u32) -> Duration {
    Duration::from_millis((WINDOW_MS.0 << attempt).min(WINDOW_MS.1))
}

async fn backoff(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let conn = t.welcomed(window()).await?;
    let mut since = Instant::now();
    conn.cut();
    let mut waits = Vec::new();
    for attempt in 0..7 {
        let conn = t.accept().await?;
        let waited = conn.opened - since;
        check(waited < bound(attempt) + SLACK, || format!("attempt {attempt} after {} ms", waited.as_millis()))?;
        waits.push(waited.as_millis());
        since = Instant::now();
        conn.cut();
    }
    let longest = waits[2..].iter().max().copied().unwrap_or(0);
    check(longest > 60, || format!("the waits are not drawn from the window: {waits:?} ms"))?;
    check(waits.windows(2).any(|pair| pair[0].abs_diff(pair[1]) > 10), || {
        format!("the waits do not differ: {waits:?} ms")
    })
}

async fn backoff_goes_on(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut longest = 0;
    // Ten waits from at most 150 ms each cannot be longer than that; from a window that grew they are, but for one run in 10^6.
    for attempt in 0..10 {
        let conn = t.welcomed(window()).await?;
        let since = Instant::now();
        conn.cut();
        if attempt > 1 {
            let next = t.accept().await?;
            longest = longest.max((next.opened - since).as_millis());
            next.cut();
        }
    }
    check(longest > u128::from(WINDOW_MS.0) + 20, || {
        format!("the longest wait is {longest} ms, as if each were the first")
    })
}

async fn stays_encrypted(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    let clear = t.peer().await?.url(Transport::Websocket);
    conn.send(&json!({"goAway": {"retryAfterMs": 50, "address": clear}})).await?;
    let next = t.accept().await?;
    check(next.transport == Transport::Quic, || format!("connected over {} in the clear", next.transport.name()))
}

async fn hint_pings(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.answers_pings = false;
    let since = Instant::now();
    t.done(json!({"networkChanged": {}})).await?;
    conn.frame_within("ping", SLACK * 2).await?;
    let next = t.accept().await?;
    let waited = next.opened - since;
    check(waited > Duration::from_millis(1_800), || format!("given up after {} ms", waited.as_millis()))?;
    check(waited < Duration::from_millis(2_200) + SLACK, || format!("given up after {} ms only", waited.as_millis()))
}

/// A window so long that nobody comes back by itself in time.
fn long_window() -> Value {
    json!({"reconnect": {"minMs": 600_000, "maxMs": 600_000}})
}

async fn hint_connects(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let conn = t.welcomed(long_window()).await?;
    conn.cut();
    t.state("suspended").await?;
    t.done(json!({"networkChanged": {}})).await?;
    t.accept_within(SLACK * 3).await?;
    Ok(())
}

async fn background(t: &mut Trial) -> Outcome {
    let conn = t.live().await?;
    t.done(json!({"enteredBackground": {}})).await?;
    conn.cut();
    t.no_connection(QUIET * 3).await?;
    let command = t.publish(json!({})).await?;
    let mut conn = t.welcomed(json!({})).await?;
    let publish = conn.frame("publish").await?;
    conn.published(&publish, 1).await?;
    t.ends(command, "stored").await?;
    conn.cut();
    t.no_connection(QUIET * 3).await?;
    t.done(json!({"enteredForeground": {}})).await?;
    t.accept_within(SLACK * 3).await?;
    Ok(())
}

async fn positions_kept(t: &mut Trial) -> Outcome {
    let file = t.file("positions")?;
    t.connect(json!({ "positionsFile": file })).await?;
    let mut conn = t.welcomed(json!({})).await?;
    t.subscribe(&mut conn, json!({"onCommand": true, "batchMax": 1}), "7-0-0-0").await?;
    for seq in 1..=3 {
        conn.send(&event(1, "normal", seq)).await?;
    }
    t.items(&["1"]).await?;
    t.done(json!({"acknowledge": {"room": "r"}})).await?;
    t.items(&["2"]).await?;
    t.kill_and_start().await?;
    t.connect(json!({ "positionsFile": file })).await?;
    let mut conn = t.welcomed(json!({})).await?;
    t.ask_subscribe(json!({"start": "stored"})).await?;
    let subscribe = conn.frame("subscribe").await?;
    let at = &subscribe.body["start"]["position"]["normal"];
    check(*at == 1, || format!("begins with {}", short(&subscribe.body)))
}
