//! What operators do with nodes: the list, honest answers, the drain by command.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::case::{Case, Ctx, Join, Need};
use crate::client::Encoding;
use crate::client::raw::RawSocket;
use crate::verdict::{Outcome, check};

/// The time in which a command is answered.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What a busy machine may add to a deadline.
const TOLERANCE: Duration = Duration::from_secs(4);

pub(super) fn cases() -> Vec<Case> {
    let case = |id: &str, title: &str, also: &[&str], needs: &[Need], code| {
        // The API does not know in which form its connections speak.
        Case::code(id, title, also, needs, code).only(Encoding::Binary)
    };
    vec![
        case(
            "LC-API-050/nodes",
            "The nodes are listed with what they do, the one of the connection among them.",
            &[],
            &[Need::Operate],
            |ctx| Box::pin(nodes(ctx)),
        ),
        case(
            "LC-API-056/honest",
            "A command is answered within 2 s; it is complete exactly if no node is missing.",
            &[],
            &[Need::Operate],
            |ctx| Box::pin(honest(ctx)),
        ),
        case(
            "LC-API-054/drain",
            "A node that a command drains says GoAway, serves on, closes who stays, and takes nobody new.",
            &["LC-LIFE-020"],
            &[Need::Drain, Need::Operate],
            |ctx| Box::pin(drain(ctx)),
        )
        .within_s(90),
    ]
}

/// A request with the first API key; gives the JSON of an answer with status 200.
async fn ask(ctx: &mut Ctx, method: &str, path: &str, body: Option<Value>) -> Outcome<Value> {
    let key = ctx.target.api_keys.first().cloned();
    let body = body.map(|body| body.to_string().into_bytes());
    let answer = ctx.http(method, path, key.as_deref(), &[], body).await?;
    check(answer.status == 200, || format!("{method} {path}: {} {}", answer.status, answer.body))?;
    Ok(answer.json())
}

/// A connection; gives the id of its node.
async fn join(ctx: &mut Ctx, name: &str) -> Outcome<String> {
    let welcome = Some(json!({"node": "$=node"}));
    ctx.join(Join { welcome, ..Join::named(name) }).await?;
    Ok(ctx.vars.find("node").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The entry of a node in the list.
async fn listed(ctx: &mut Ctx, node: &str) -> Outcome<Value> {
    let list = ask(ctx, "GET", "/v1/nodes", None).await?;
    let found = list["nodes"].as_array().and_then(|nodes| nodes.iter().find(|known| known["id"] == *node));
    check(found.is_some(), || format!("{node} is not in {list}"))?;
    Ok(found.cloned().unwrap_or_default())
}

async fn nodes(ctx: &mut Ctx) -> Outcome {
    let node = join(ctx, "a").await?;
    let own = listed(ctx, &node).await?;
    for name in ["address", "version"] {
        check(own[name].as_str().is_some_and(|text| !text.is_empty()), || format!("{name} of {own}"))?;
    }
    check(own["draining"] != true, || format!("a node that serves is draining: {own}"))
}

async fn honest(ctx: &mut Ctx) -> Outcome {
    let nobody = json!({"user": ctx.user("nobody")});
    let began = Instant::now();
    let answer = ask(ctx, "POST", "/v1/disconnect", Some(nobody)).await?;
    let took = began.elapsed();
    check(took <= ANSWER_WITHIN, || format!("answered after {} ms", took.as_millis()))?;
    let missing = answer["missing"].as_array().map_or(0, Vec::len);
    let complete = answer["complete"] == true;
    check(!(complete && missing > 0), || format!("complete, and {missing} nodes missing: {answer}"))?;
    check(answer["nodes"].as_u64().is_some_and(|nodes| nodes > 0), || format!("no node answered: {answer}"))?;
    let list = ask(ctx, "GET", "/v1/nodes", None).await?;
    // Without knowing the others, nothing is complete.
    check(!complete || list["complete"] == true, || format!("{answer}, but {list}"))
}

async fn drain(ctx: &mut Ctx) -> Outcome {
    let room = ctx.room();
    let node = join(ctx, "a").await?;
    let handle = ctx.subscribe("a", json!({"room": room})).await?["handle"].clone();
    let answer = ask(ctx, "POST", &format!("/v1/nodes/{node}/drain"), None).await?;
    check(answer["complete"] == true, || format!("draining was answered with {answer}"))?;
    let pattern = json!({"id": 0, "goAway": {"reason": "GO_AWAY_REASON_DRAINING", "closesInMs": "$>0"}});
    let said = ctx.expect("a", &pattern).await?.value;
    ctx.publish_one("a", &room, "still served").await?;
    ctx.events("a", &handle, "LANE_NORMAL", 1, 1).await?;
    let closes_in = Duration::from_millis(said["goAway"]["closesInMs"].as_u64().unwrap_or(0));
    ctx.fatal_within("a", 4204, closes_in + TOLERANCE).await?;
    let own = listed(ctx, &node).await?;
    check(own["draining"] == true, || format!("a node that drains is listed as {own}"))?;
    let endpoint = ctx.target.endpoint.clone();
    let mut socket = RawSocket::connect(&endpoint).await?;
    let refused = socket.upgrade(&endpoint, ctx.encoding.subprotocol(), ctx.patience()).await.is_err();
    check(refused, || "a node that was drained takes a new connection".into())?;
    let target = ctx.target.clone();
    target.control.drain().await?;
    target.control.resume().await?;
    ctx.came_back().await?;
    ctx.join_as("b").await.map(drop)
}
