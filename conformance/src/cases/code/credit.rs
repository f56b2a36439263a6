//! Credit: what of lanes normal and bulk is under way, what a receiver says of it, and what it must not say. And focus, which
//! shows in the order of what waits for credit.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::case::{Case, Ctx, Join, Need};
use crate::client::{ABNORMAL, Incoming, Lane, Received};
use crate::schema;
use crate::verdict::{Outcome, Stop, check};

/// What may be under way before the first Credit, bytes.
const FIRST: usize = 64 * 1024;
/// What a receiver may leave uncounted, bytes; so a single record may go beyond the window while no more is under way.
const UNCOUNTED: usize = 4 * 1024;
/// Events of a flood and bytes of each: 300 kB, which no window of these cases lets through.
const FLOOD: usize = 150;
const EVENT: usize = 2_000;
/// Time in which a server sends what it may.
const QUIET: Duration = Duration::from_millis(700);
/// Time without any progress after which a connection is closed.
const NO_PROGRESS: Duration = Duration::from_secs(30);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-FLOW-010/what-is-under-way",
            "No more of a lane is under way than the newest Credit allows, and 64 KiB before the first; another lane goes on.",
            &["LC-FLOW-003"],
            &[Need::Credit],
            |ctx| Box::pin(under_way(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-FLOW-010/what-came",
            "What a client sends on lanes normal and bulk is counted in Credit, to the byte, and soon.",
            &[],
            &[Need::Credit],
            |ctx| Box::pin(counted(ctx)),
        ),
        Case::code(
            "LC-FLOW-010/contradictions",
            "Credit that takes back what an earlier one counted, or counts what was never sent, closes with PROTOCOL.",
            &["LC-ERR-001"],
            &[Need::Credit],
            |ctx| Box::pin(contradictions(ctx)),
        ),
        Case::code(
            "LC-FLOW-010/not-named",
            "A client that does not name CREDIT gets everything without sending any, and is sent none.",
            &["LC-FRM-011"],
            &[Need::Credit],
            |ctx| Box::pin(not_named(ctx)),
        ),
        Case::code(
            "LC-FLOW-005/credit-withheld",
            "Who names CREDIT and gives none for 30 s while events wait is closed, whatever its transport takes.",
            &["LC-FLOW-010"],
            &[Need::Credit],
            |ctx| Box::pin(withheld(ctx)),
        )
        .within_s(90),
        Case::code(
            "LC-FLOW-020/turns",
            "What waits of a room in the foreground comes before the others, and of one in the background behind them, in order.",
            &["LC-LANE-003", "LC-LANE-004"],
            &[Need::Credit, Need::Focus],
            |ctx| Box::pin(focus(ctx)),
        )
        .within_s(90),
    ]
}

async fn join(ctx: &mut Ctx, name: &str) -> Outcome {
    let hello = Some(json!({"capabilities": ["CAPABILITY_CREDIT"]}));
    ctx.join(Join { hello, ..Join::named(name) }).await.map(drop)
}

/// Bytes of a frame's record, also where it came as JSON.
fn record_bytes(received: &Received) -> Outcome<usize> {
    match received.bytes.is_empty() {
        true => {
            schema::frame_record(&received.value).map(|record| record.len()).map_err(|error| Stop::harness(error.0))
        }
        false => Ok(schema::record(&received.bytes).len()),
    }
}

/// What comes of a lane until it is quiet: events and bytes.
async fn what_comes(ctx: &mut Ctx, name: &str, lane: Lane) -> Outcome<(usize, usize)> {
    let (mut events, mut bytes) = (0, 0);
    loop {
        let conn = ctx.conn(name)?;
        conn.settle(QUIET).await?;
        let frames = conn.take_pending();
        let mut came = 0;
        for received in frames.iter().filter(|received| Lane::of(&received.value) == lane) {
            came += 1;
            bytes += record_bytes(received)?;
        }
        if came == 0 {
            return Ok((events, bytes));
        }
        events += came;
    }
}

async fn flood(ctx: &mut Ctx, lane: &str) -> Outcome<String> {
    let room = ctx.room();
    ctx.join_as("p").await?;
    let texts: Vec<String> = (0..FLOOD).map(|_| "x".repeat(EVENT)).collect();
    ctx.publish("p", &room, lane, &texts).await?;
    Ok(room)
}

async fn credit(ctx: &mut Ctx, name: &str, consumed: usize, window: usize) -> Outcome {
    let credit = json!({"lane": "LANE_BULK", "consumed": consumed, "window": window});
    ctx.conn(name)?.send(&[json!({"credit": credit})]).await
}

async fn under_way(ctx: &mut Ctx) -> Outcome {
    let room = flood(ctx, "LANE_BULK").await?;
    join(ctx, "a").await?;
    ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?;
    let (mut events, mut consumed) = what_comes(ctx, "a", Lane::Bulk).await?;
    check(consumed <= FIRST, || format!("{consumed} bytes of bulk before the first Credit"))?;
    check(consumed > FIRST / 8, || format!("only {consumed} bytes of bulk before the first Credit"))?;
    ctx.publish_one("p", &room, "passes").await?;
    ctx.expect("a", &json!({"event": {"lane": "LANE_NORMAL", "seq": 1}})).await?;
    for window in [20_000, 0, 200_000, 9_000] {
        credit(ctx, "a", consumed, window).await?;
        let (more, bytes) = what_comes(ctx, "a", Lane::Bulk).await?;
        // Beyond the window a single record may go, while next to nothing is under way.
        let most = window.max(UNCOUNTED + EVENT + 500);
        check(bytes <= most, || format!("{bytes} bytes came under a window of {window}"))?;
        check(more > 0, || format!("nothing came under a window of {window}"))?;
        (events, consumed) = (events + more, consumed + bytes);
    }
    let deadline = Instant::now() + ctx.patience() + Duration::from_secs(30);
    while events < FLOOD && Instant::now() < deadline {
        credit(ctx, "a", consumed, 1 << 20).await?;
        let (more, bytes) = what_comes(ctx, "a", Lane::Bulk).await?;
        (events, consumed) = (events + more, consumed + bytes);
    }
    check(events == FLOOD, || format!("{events} of {FLOOD} events came, with credit for all"))
}

async fn counted(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    join(ctx, "a").await?;
    let mut sent = 0;
    for number in 1..=20_u64 {
        let envelope = json!({"type": "t", "text": "x".repeat(EVENT)});
        let publish = json!({
            "room": room, "lane": "LANE_BULK", "number": number, "after": number - 1, "envelope": envelope,
        });
        let frame = json!({"id": number + 1, "publish": publish});
        sent += schema::frame_record(&frame).map_err(|error| Stop::harness(error.0))?.len() as u64;
        ctx.conn("a")?.send(&[frame]).await?;
    }
    let mut before = 0;
    while before + UNCOUNTED as u64 <= sent {
        let credit = ctx.expect("a", &json!({"credit": {"lane": "LANE_BULK", "window": "$>0"}})).await?.value;
        let consumed = credit["credit"]["consumed"].as_u64().unwrap_or(0);
        check(consumed > before, || format!("Credit for {consumed} after one for {before}"))?;
        check(consumed <= sent, || format!("Credit for {consumed} of {sent} bytes that were sent"))?;
        before = consumed;
    }
    Ok(())
}

async fn contradictions(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("p").await?;
    let texts: Vec<String> = (0..5).map(|_| "x".repeat(EVENT)).collect();
    ctx.publish("p", &room, "LANE_BULK", &texts).await?;
    for (name, wrong) in [("less", -1), ("more", 1)] {
        join(ctx, name).await?;
        ctx.subscribe(name, json!({"room": room, "start": {"beginning": {}}})).await?;
        let (_, bytes) = what_comes(ctx, name, Lane::Bulk).await?;
        credit(ctx, name, bytes, 1 << 20).await?;
        ctx.conn(name)?.barrier(Duration::from_secs(5)).await?;
        let consumed = bytes.saturating_add_signed(wrong);
        credit(ctx, name, consumed, 1 << 20).await?;
        ctx.fatal(name, 4001).await?;
    }
    Ok(())
}

async fn not_named(ctx: &mut Ctx) -> Outcome {
    let room = flood(ctx, "LANE_BULK").await?;
    ctx.join_as("a").await?;
    let handle = ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?["handle"].clone();
    ctx.events("a", &handle, "LANE_BULK", 1, FLOOD as u64).await?;
    for name in ["a", "p"] {
        ctx.none(name, &json!({"credit": {}})).await?;
    }
    Ok(())
}

async fn focus(ctx: &mut Ctx) -> Outcome {
    const LARGE: usize = 5_000;
    const MANY: u64 = 100;
    // So that what holds the events up is this client, and not how fast a server reads its log.
    const WINDOW: usize = 12 * LARGE;
    let room = ctx.room();
    ctx.join_as("p").await?;
    let texts: Vec<String> = (0..MANY).map(|_| "x".repeat(LARGE)).collect();
    join(ctx, "a").await?;
    let mut handles = Vec::new();
    for level in ["BACKGROUND", "DEFAULT", "FOREGROUND"] {
        let name = format!("{room}.{}", level.to_lowercase());
        ctx.publish("p", &name, "LANE_BULK", &texts).await?;
        let start = json!({"room": name, "start": {"beginning": {}}});
        handles.push(ctx.subscribe("a", start).await?["handle"].clone());
        let level = format!("FOCUS_LEVEL_{level}");
        ctx.ask("a", json!({"focus": {"room": name, "level": level}}), &json!({"done": {}})).await?;
    }
    let (mut consumed, mut order) = (0, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while order.len() < 3 * MANY as usize && Instant::now() < deadline {
        let conn = ctx.conn("a")?;
        conn.settle(QUIET).await?;
        for received in conn.take_pending().iter().filter(|received| Lane::of(&received.value) == Lane::Bulk) {
            consumed += record_bytes(received)?;
            let event = &received.value["event"];
            order.extend(handles.iter().position(|handle| *handle == event["handle"]));
        }
        credit(ctx, "a", consumed, WINDOW).await?;
    }
    check(order.len() == 3 * MANY as usize, || format!("{} of {} events came", order.len(), 3 * MANY))?;
    for level in [2, 1] {
        let last = order.iter().rposition(|of| *of == level).unwrap_or(0);
        let lower = order[..last].iter().filter(|of| **of < level).count() as u64;
        // What waited in the node before the rooms had their levels, and the turn now and then that keeps a room alive.
        check(lower < MANY * 2 / 3, || format!("{lower} events of lower rooms came before the last of level {level}"))?;
    }
    Ok(())
}

async fn withheld(ctx: &mut Ctx) -> Outcome {
    let room = flood(ctx, "LANE_NORMAL").await?;
    join(ctx, "a").await?;
    ctx.subscribe("a", json!({"room": room, "start": {"beginning": {}}})).await?;
    let began = Instant::now();
    let until = began + NO_PROGRESS + Duration::from_secs(15);
    let mut pinged = began;
    while Instant::now() < until {
        let conn = ctx.conn("a")?;
        if pinged.elapsed() > Duration::from_secs(5) {
            // Answers are taken, which is no progress of what waits.
            pinged = Instant::now();
            let id = conn.next_id();
            conn.send(&[json!({"id": id, "ping": {}})]).await?;
        }
        match conn.read(Instant::now() + Duration::from_secs(1)).await? {
            Incoming::Frames | Incoming::Quiet => {}
            Incoming::Closed(4202 | ABNORMAL) => {
                let took = began.elapsed();
                let early = took < NO_PROGRESS - Duration::from_secs(5);
                return check(!early, || format!("closed after {took:?}"));
            }
            Incoming::Closed(code) => return Err(Stop::fail(format!("closed with {code} instead of NO_PROGRESS"))),
        }
    }
    Err(Stop::fail("a client that gave no Credit for 45 s while events waited was not closed"))
}
