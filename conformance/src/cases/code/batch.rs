//! Batches and broadcasts at their bounds.

use serde_json::{Value, json};

use crate::case::{Case, Ctx, Need};
use crate::client::Encoding;
use crate::verdict::{Outcome, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::code(
            "LC-API-040/bounds",
            "A batch has 1 to 256 events; one without or with more publishes nothing.",
            &["LC-API-041"],
            &[Need::Api],
            |ctx| Box::pin(batch(ctx)),
        )
        .only(Encoding::Binary),
        Case::code(
            "LC-API-042/bounds",
            "A broadcast names 1 to 1,000 rooms; one with more publishes nothing.",
            &[],
            &[Need::Api],
            |ctx| Box::pin(broadcast(ctx)),
        )
        .only(Encoding::Binary),
    ]
}

/// Posts and gives status, body, and the number of the code if it is a refusal.
async fn post(ctx: &mut Ctx, path: &str, body: &Value) -> Outcome<(u16, Value)> {
    let key = ctx.target.api_keys.first().cloned();
    let answer = ctx.http("POST", path, key.as_deref(), &[], Some(body.to_string().into_bytes())).await?;
    Ok((answer.status, answer.json()))
}

async fn refused(ctx: &mut Ctx, path: &str, body: &Value) -> Outcome {
    let (status, answer) = post(ctx, path, body).await?;
    check(status == 400 && answer["code"] == 4300, || format!("{path}: {status} {answer} instead of 400 INVALID"))
}

async fn order(ctx: &mut Ctx, room: &str) -> Outcome<Value> {
    let key = ctx.target.api_keys.first().cloned();
    let path = format!("/v1/rooms/{room}/position");
    Ok(ctx.http("GET", &path, key.as_deref(), &[], None).await?.json()["order"].clone())
}

async fn batch(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let events = |count: usize| {
        let event = |n: usize| json!({"room": room, "envelope": {"type": "t", "text": n.to_string()}});
        json!({"events": (0..count).map(event).collect::<Vec<_>>()})
    };
    let (none, most, more) = (events(0), events(256), events(257));
    refused(ctx, "/v1/batch", &none).await?;
    refused(ctx, "/v1/batch", &more).await?;
    let before = order(ctx, &room).await?;
    check(before.is_null() || before == "0", || format!("a refused batch stored events up to order {before}"))?;
    let (status, answer) = post(ctx, "/v1/batch", &most).await?;
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    check(status == 200 && results.len() == 256, || format!("256 events: {status} with {} results", results.len()))?;
    for (at, result) in results.iter().enumerate() {
        let seq = &result["published"]["seq"];
        check(*seq == (at + 1).to_string().as_str(), || format!("event {at} has seq {seq} instead of {}", at + 1))?;
    }
    Ok(())
}

async fn broadcast(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let body = |count: usize| {
        let rooms: Vec<String> = (0..count).map(|n| format!("{room}.{n}")).collect();
        json!({"rooms": rooms, "envelope": {"type": "t", "text": "all"}})
    };
    let (most, more) = (body(1_000), body(1_001));
    refused(ctx, "/v1/broadcast", &more).await?;
    let before = order(ctx, &format!("{room}.0")).await?;
    check(before.is_null() || before == "0", || "a refused broadcast stored an event".into())?;
    let (status, answer) = post(ctx, "/v1/broadcast", &most).await?;
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    let stored = results.iter().filter(|result| result["published"]["seq"] == "1").count();
    check(status == 200 && stored == 1_000, || format!("1,000 rooms: {status}, {stored} of them stored"))
}
