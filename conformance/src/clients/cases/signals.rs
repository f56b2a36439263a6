//! Signals: which is newer, when one is over, how they are counted.

use serde_json::{Value, json};

use super::case;
use crate::client::short;
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, Trial};
use crate::driver::kind;
use crate::peer::Conn;
use crate::target::now_ms;
use crate::verdict::{Outcome, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-SIG-011"] "newest-wins", "A signal that is not newer than the last is dropped.", ALL, ["signals"], newest_wins),
        case!(["LC-SIG-011"] "expires-by-node-clock", "A signal ends at expires_at_ms in the node's clock.", ALL, ["signals"],
            expires_by_node_clock),
        case!(["LC-SIG-012", "LC-SDK-012"] "counted-over-rooms", "Signals are counted from 1 over all rooms and keys.", ALL, ["signals"],
            counted_over_rooms),
        case!(["LC-SIG-012"] "start-rises", "start rises each time that a lasting outbox is opened.", ALL, ["signals", "outbox_file"],
            start_rises),
    ]
}

fn signal((start, counter): (u64, u64), text: &str, expires_at_ms: u64) -> Value {
    json!({"signal": {"handle": 1, "start": start, "counter": counter, "expiresAtMs": expires_at_ms,
        "from": {"user": "bob", "instance": "b"}, "envelope": {"type": "cursor", "key": "k", "text": text}}})
}

async fn listening(t: &mut Trial, welcome: Value) -> Outcome<Conn> {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(welcome).await?;
    t.subscribe(&mut conn, json!({"withSignals": true}), "7-0-0-0").await?;
    // An SDK may ask for events and for signals one after the other.
    while let Some(again) = conn.find("subscribe", QUIET).await? {
        conn.subscribed(again.id, "r", 1, "7-0-0-0", json!({})).await?;
    }
    Ok(conn)
}

async fn newest_wins(t: &mut Trial) -> Outcome {
    let mut conn = listening(t, json!({})).await?;
    let later = now_ms() + 60_000;
    let steps = [
        ((1, 5), "a", true),
        ((1, 4), "b", false),
        ((1, 5), "c", false),
        ((1, 6), "d", true),
        ((2, 1), "e", true),
        ((1, 9), "f", false),
    ];
    for (age, text, is_newer) in steps {
        conn.send(&signal(age, text, later)).await?;
        if is_newer {
            let change = t.report("signalChange").await?;
            check(change["body"]["text"] == text, || format!("{} instead of {text}", short(&change)))?;
        } else {
            t.no_report("signalChange").await?;
        }
    }
    Ok(())
}

async fn expires_by_node_clock(t: &mut Trial) -> Outcome {
    // The node's clock is an hour ahead of the client's.
    let hour = 3_600_000;
    let mut conn = listening(t, json!({"serverTimeMs": now_ms() + hour})).await?;
    conn.send(&signal((1, 1), "a", now_ms() + hour + 600)).await?;
    let live = t.report("signalChange").await?;
    check(live["gone"] == false, || format!("expired by the wrong clock: {}", short(&live)))?;
    t.no_report("signalChange").await?;
    let gone = t.report("signalChange").await?;
    check(gone["gone"] == true && gone["expired"] == true, || short(&gone))?;
    conn.send(&signal((1, 2), "late", now_ms() + hour - 1_000)).await?;
    // Some say that it is gone, which it is; nobody may say that it lives.
    let late = t.driver()?.find(QUIET, |report| kind(report) == "signalChange").await?;
    let lives = late.as_ref().is_some_and(|report| report["signalChange"]["gone"] == false);
    check(!lives, || "a signal that came too late is shown".to_owned())
}

async fn send(t: &mut Trial, conn: &mut Conn, room: &str, key: &str) -> Outcome<(u64, u64)> {
    t.done(json!({"signal": {"room": room, "type": "cursor", "key": key, "body": {"text": "x"}}})).await?;
    let signal = conn.frame("signal").await?.body;
    Ok((signal["start"].as_u64().unwrap_or(0), signal["counter"].as_u64().unwrap_or(0)))
}

async fn counted_over_rooms(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let mut ages = Vec::new();
    for (room, key) in [("r", "a"), ("r", "b"), ("s", "a"), ("r", "a")] {
        ages.push(send(t, &mut conn, room, key).await?);
    }
    check(ages == [(0, 1), (0, 2), (0, 3), (0, 4)], || format!("(start, counter) are {ages:?}"))?;
    conn.cut();
    let mut conn = t.welcomed(json!({})).await?;
    // One that still lives may come again, with a counter of its own.
    conn.listen(QUIET).await?;
    while let Some(signal) = conn.find("signal", QUIET).await? {
        check(signal.body["counter"].as_u64() > Some(4), || format!("sent again as it was: {}", short(&signal.body)))?;
    }
    Ok(())
}

async fn start_rises(t: &mut Trial) -> Outcome {
    let file = t.file("outbox")?;
    let mut starts = Vec::new();
    for _ in 0..2 {
        t.connect(json!({"outboxFile": file})).await?;
        let mut conn = t.welcomed(json!({})).await?;
        let (start, counter) = send(t, &mut conn, "r", "k").await?;
        check(counter == 1, || format!("counter {counter} in a new start"))?;
        starts.push(start);
        t.done(json!({"shutdown": {}})).await?;
    }
    check(starts[1] > starts[0], || format!("starts {starts:?} do not rise"))
}
