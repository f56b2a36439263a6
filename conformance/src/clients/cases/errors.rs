//! Codes that nobody knows, and what their details must not change.

use std::time::Duration;

use serde_json::{Value, json};

use super::case;
use crate::client::short;
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, Trial};
use crate::verdict::{Outcome, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-ERR-003"] "unknown-stop", "An unknown code of 4000–4099 stops the client.", ALL, [], unknown_stop),
        case!(["LC-ERR-003"] "unknown-credential", "An unknown code of 4100–4199 asks for a new token.", ALL, [], unknown_credential),
        case!(["LC-ERR-003"] "unknown-ended", "An unknown code of 4200–4299 leads to a new connection.", ALL, [], unknown_ended),
        case!(["LC-ERR-003"] "out-of-range", "A code outside of all ranges is a broken connection.", ALL, [], out_of_range),
        case!(["LC-ERR-003"] "unknown-refusal", "A request with an unknown code of 4300–4399 is given up, of 4400–4499 repeated.",
            ALL, [], unknown_refusal),
        case!(["LC-ERR-004"] "detail-means-nothing", "A detail that claims something else changes nothing.", ALL, [], detail),
    ]
}

async fn unknown_stop(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    conn.refuse(4077).await?;
    let state = t.state("closed").await?;
    check(state["code"] == 4077, || format!("closed with {}", state["code"]))?;
    t.no_connection(QUIET * 2).await
}

async fn unknown_credential(t: &mut Trial) -> Outcome {
    t.connect(json!({"asksForTokens": true})).await?;
    let first = t.report("tokenWanted").await?;
    t.done(json!({"giveToken": {"ask": first["ask"], "token": "first"}})).await?;
    t.welcomed(json!({})).await?.refuse(4177).await?;
    let second = t.report("tokenWanted").await?;
    check(second["refused"] == true, || "not told that the token was refused".to_owned())
}

async fn comes_back(t: &mut Trial, code: u16) -> Outcome {
    let mut conn = t.live().await?;
    conn.refuse(code).await?;
    t.welcomed(json!({})).await?;
    Ok(())
}

async fn unknown_ended(t: &mut Trial) -> Outcome {
    comes_back(t, 4277).await
}

async fn out_of_range(t: &mut Trial) -> Outcome {
    comes_back(t, 4877).await
}

async fn unknown_refusal(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    let command = t.publish(json!({})).await?;
    let publish = conn.frame("publish").await?;
    conn.error(publish.id, 4377, 0).await?;
    let failed = t.ends(command, "failed").await?;
    check(failed["code"] == 4377 && failed["retryable"] == false, || short(&failed))?;
    let command = t.publish(json!({})).await?;
    let publish = conn.frame("publish").await?;
    conn.error(publish.id, 4477, 300).await?;
    let again = conn.frame("publish").await?;
    let waited = again.at - publish.at;
    check(waited > Duration::from_millis(280), || format!("repeated after {} ms", waited.as_millis()))?;
    check(again.body["number"] == publish.body["number"], || "another number".to_owned())?;
    conn.published(&again, 1).await?;
    t.ends(command, "stored").await?;
    Ok(())
}

async fn refused_with(t: &mut Trial, detail: &str) -> Outcome<Value> {
    let mut conn = t.live().await?;
    let command = t.publish(json!({})).await?;
    let publish = conn.frame("publish").await?;
    conn.send(&json!({"id": publish.id, "error": {"code": 4302, "detail": detail}})).await?;
    let failed = t.ends(command, "failed").await?;
    check(conn.ended.is_none(), || "the connection ended".to_owned())?;
    t.done(json!({"shutdown": {}})).await?;
    Ok(json!([failed["kind"], failed["code"], failed["codeName"], failed["retryable"]]))
}

async fn detail(t: &mut Trial) -> Outcome {
    let plain = refused_with(t, "").await?;
    let claims = "RATE_LIMITED (4400): retry after 10 ms, retryable=true, closing";
    let misled = refused_with(t, claims).await?;
    check(plain == misled, || format!("{plain} becomes {misled}"))
}
