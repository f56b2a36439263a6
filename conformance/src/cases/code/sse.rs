//! Server-sent events.

use std::time::Duration;

use serde_json::{Value, json};

use crate::case::{Case, Ctx, Need};
use crate::client::Encoding;
use crate::client::http::{Sse, SseItem};
use crate::verdict::{Outcome, Stop, check};

pub(super) fn cases() -> Vec<Case> {
    let case = |id: &str, title: &str, also: &[&str], needs: &[Need], code| {
        // The stream has an encoding of its own.
        Case::code(id, title, also, needs, code).only(Encoding::Json)
    };
    vec![
        case(
            "LC-API-020/starts",
            "A stream starts where header or query say, the header first, else live; its first item is subscribed.",
            &["LC-API-023"],
            &[Need::Api],
            |ctx| Box::pin(starts(ctx)),
        ),
        case(
            "LC-API-021/ids",
            "Starting again at the id of any item yields exactly what followed it, on every lane.",
            &["LC-LANE-001"],
            &[Need::Api],
            |ctx| Box::pin(ids(ctx)),
        ),
        case(
            "LC-API-021/gap",
            "A gap is an item of its own, with the position after it as id.",
            &[],
            &[Need::Api, Need::Fixture],
            |ctx| Box::pin(gap(ctx)),
        ),
        case(
            "LC-API-022/no-ids",
            "Transient events and signals have no id, and signals come only if asked for, the live ones first.",
            &["LC-SIG-004"],
            &[Need::Api, Need::Signals],
            |ctx| Box::pin(no_ids(ctx)),
        ),
        case(
            "LC-API-024/unknown-epoch",
            "A position of another epoch yields subscribed with a new position, and what was revoked.",
            &[],
            &[Need::Api],
            |ctx| Box::pin(unknown_epoch(ctx)),
        ),
        case(
            "LC-API-025/quiet-stream",
            "A stream begins with a retry time and bears a comment when nothing happens for 25 s.",
            &[],
            &[Need::Api],
            |ctx| Box::pin(quiet_stream(ctx)),
        )
        .within_s(60),
    ]
}

async fn item(ctx: &Ctx, stream: &mut Sse, event: &str) -> Outcome<SseItem> {
    let item =
        stream.next(ctx.patience()).await?.ok_or_else(|| Stop::fail(format!("the stream ended before {event}")))?;
    check(item.event == event, || format!("an item {} came instead of {event}: {}", item.event, item.data))?;
    Ok(item)
}

async fn open(ctx: &mut Ctx, room: &str, query: &str, header: Option<&str>) -> Outcome<(Sse, SseItem)> {
    let mut stream = ctx.sse(room, query, header).await?;
    let status = stream.response.status;
    check(status == 200, || format!("the stream {query} was answered with {status}"))?;
    let kind = stream.response.header("content-type").unwrap_or("").to_owned();
    check(kind.starts_with("text/event-stream"), || format!("the content type is {kind}"))?;
    let first = item(ctx, &mut stream, "subscribed").await?;
    Ok((stream, first))
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

async fn starts(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    let texts: Vec<String> = (1..=4).map(|i| format!("e{i}")).collect();
    let epoch = ctx.publish("a", &room, "", &texts).await?[0]["epoch"].clone();
    let at = |normal: u64| format!("{epoch}-0-{normal}-0");
    for (query, header, normal) in [
        ("".to_owned(), None, 4),
        ("?from=live".into(), None, 4),
        ("?from=beginning".into(), None, 0),
        ("?count=3".into(), None, 1),
        ("?since_ms=3600000".into(), None, 0),
        (format!("?position={}", at(2)), None, 2),
        ("".into(), Some(at(1)), 1),
        ("?from=beginning".into(), Some(at(3)), 3),
    ] {
        let (mut stream, first) = open(ctx, &room, &query, header.as_deref()).await?;
        check(first.id == Some(at(normal)), || format!("{query} with {header:?} begins at {:?}", first.id))?;
        for seq in normal + 1..=4 {
            let event = item(ctx, &mut stream, "event").await?;
            check(number(&event.json()["seq"]) == seq, || format!("{query}: seq {seq} is due, {} came", event.data))?;
        }
    }
    let (mut stream, _) = open(ctx, &room, "", None).await?;
    ctx.publish_one("a", &room, "live").await?;
    let event = item(ctx, &mut stream, "event").await?;
    let value = event.json();
    check(event.id == Some(at(5)) && number(&value["epoch"]) == number(&epoch) && number(&value["handle"]) == 0, || {
        format!("{:?} {}", event.id, event.data)
    })
}

async fn ids(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    for lane in ["LANE_NORMAL", "LANE_URGENT", "LANE_NORMAL", "LANE_BULK"] {
        ctx.publish("a", &room, lane, &["x".to_owned(), "y".to_owned()]).await?;
    }
    let (mut stream, first) = open(ctx, &room, "?from=beginning", None).await?;
    let mut places = vec![first.id.unwrap_or_default()];
    let mut events = Vec::new();
    for _ in 0..8 {
        let event = item(ctx, &mut stream, "event").await?;
        places.push(event.id.clone().ok_or_else(|| Stop::fail("a durable event without id"))?);
        let value = event.json();
        events.push((value["lane"].as_str().unwrap_or("").to_owned(), number(&value["seq"])));
    }
    for (place, id) in places.iter().enumerate() {
        let mut rest: Vec<_> = events[place..].to_vec();
        let (mut stream, first) = open(ctx, &room, "", Some(id)).await?;
        check(first.id.as_ref() == Some(id), || format!("asked for {id}, begins at {:?}", first.id))?;
        while !rest.is_empty() {
            let value = item(ctx, &mut stream, "event").await?.json();
            let came = (value["lane"].as_str().unwrap_or("").to_owned(), number(&value["seq"]));
            let known = rest.iter().position(|due| *due == came);
            let known = known.ok_or_else(|| Stop::fail(format!("after {id} {came:?} came; due are {rest:?}")))?;
            rest.remove(known);
        }
    }
    Ok(())
}

async fn gap(ctx: &mut Ctx) -> Outcome {
    let room = ctx.vars.find("trim_room").and_then(Value::as_str).unwrap_or("").to_owned();
    ctx.join_as("a").await?;
    let texts: Vec<String> = (1..=25).map(|i| format!("e{i}")).collect();
    let epoch = ctx.publish("a", &room, "", &texts).await?[0]["epoch"].clone();
    let (mut stream, _) = open(ctx, &room, &format!("?position={epoch}-0-3-0"), None).await?;
    let gap = item(ctx, &mut stream, "gap").await?;
    let value = gap.json();
    check(
        gap.id == Some(format!("{epoch}-0-15-0"))
            && number(&value["from"]) == 4
            && number(&value["to"]) == 15
            && value["cause"] == "GAP_CAUSE_TRIMMED",
        || format!("{:?} {}", gap.id, gap.data),
    )?;
    let event = item(ctx, &mut stream, "event").await?;
    check(number(&event.json()["seq"]) == 16, || event.data)
}

async fn no_ids(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    let signal = |counter: u64| json!({"signal": {"room": room, "counter": counter, "ttlMs": 20_000, "envelope": {"type": "t", "key": "k"}}});
    ctx.ask("a", signal(1), &json!({"done": {}})).await?;
    let (mut with, _) = open(ctx, &room, "?signals=true", None).await?;
    let (mut without, _) = open(ctx, &room, "", None).await?;
    let live = item(ctx, &mut with, "signal").await?;
    check(live.id.is_none() && number(&live.json()["counter"]) == 1, || format!("{:?} {}", live.id, live.data))?;
    ctx.ask("a", signal(2), &json!({"done": {}})).await?;
    let next = item(ctx, &mut with, "signal").await?;
    check(next.id.is_none() && number(&next.json()["counter"]) == 2, || format!("{:?} {}", next.id, next.data))?;
    let publish = json!({"room": room, "delivery": "DELIVERY_TRANSIENT", "envelope": {"type": "t"}});
    ctx.ask("a", json!({"publish": publish}), &json!({"published": {}})).await?;
    for stream in [&mut with, &mut without] {
        let event = item(ctx, stream, "event").await?;
        check(event.id.is_none(), || format!("a transient event has the id {:?}", event.id))?;
    }
    Ok(())
}

async fn unknown_epoch(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    ctx.join_as("a").await?;
    let epoch = ctx.publish_one("a", &room, "e").await?["epoch"].clone();
    let (mut stream, first) = open(ctx, &room, "", Some("77-0-3-0")).await?;
    check(first.id == Some(format!("{epoch}-0-0-0")), || format!("the id is {:?}", first.id))?;
    let value = first.json();
    let revoked = value["rolledBack"].as_array().cloned().unwrap_or_default();
    let normal = revoked.iter().find(|gap| gap["lane"] == "LANE_NORMAL").cloned().unwrap_or(Value::Null);
    check(revoked.len() == 3 && number(&normal["epoch"]) == 77 && number(&normal["from"]) == 4, || first.data.clone())?;
    for range in revoked {
        let gap = item(ctx, &mut stream, "gap").await?;
        check(gap.json() == range && gap.id == first.id, || format!("{range} came as {:?} {}", gap.id, gap.data))?;
    }
    let event = item(ctx, &mut stream, "event").await?;
    check(number(&event.json()["seq"]) == 1, || event.data)
}

async fn quiet_stream(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let (mut stream, _) = open(ctx, &room, "", None).await?;
    check(stream.retry_ms.is_some(), || "the stream says no retry time".into())?;
    let before = stream.comments;
    match stream.next(Duration::from_secs(28)).await {
        Ok(Some(item)) => Err(Stop::fail(format!("an item came: {}", item.data))),
        Ok(None) => Err(Stop::fail("the stream ended")),
        Err(_) => check(stream.comments > before, || "no comment came in 28 s".into()),
    }
}
