//! What a token says, read without checking its signature, which only the node can.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::report::Check;
use crate::auth::token::TOKEN_BYTES_MAX;

const NAME: &str = "token";

/// Looks at the claims by a clock, ms since the Unix epoch.
pub(super) fn claims(token: &str, now_ms: u64) -> Check {
    if let Some(user) = token.strip_prefix("dev:") {
        return Check::ok(NAME, format!("for development, user {user:?}"))
            .advise("Only nodes started with --dev take it, and from their own machine only.");
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Check::problem(NAME, format!("{} bytes; a node takes {TOKEN_BYTES_MAX}", token.len()))
            .advise("Put less into it: patterns instead of lists of rooms.");
    }
    let Some((header, claims)) = read(token) else {
        return Check::problem(NAME, "is no JWT: three parts in base64url, joined by dots")
            .advise("Give the token itself, without \"Bearer\" and quotes; `lanecast token` makes one.");
    };
    if header["alg"].as_str().is_none_or(|alg| alg.eq_ignore_ascii_case("none")) {
        return Check::problem(NAME, "is not signed (alg none)").advise("No node takes that: sign it.");
    }
    judge(&header, &claims, now_ms)
}

fn judge(header: &Value, claims: &Value, now_ms: u64) -> Check {
    let summary = summary(header, claims);
    let seconds = |name: &str| claims[name].as_f64().filter(|seconds| seconds.is_finite());
    let now = now_ms as f64 / 1_000.0;
    let Some(expires) = seconds("exp") else {
        return Check::problem(NAME, format!("has no time of expiry (exp): {summary}"))
            .advise("Nodes refuse tokens without one: add exp, in seconds since 1970.");
    };
    if expires > 1e11 || seconds("nbf").is_some_and(|begins| begins > 1e11) {
        return Check::problem(NAME, format!("counts its times in milliseconds: {summary}"))
            .advise("exp, nbf and iat are seconds since 1970.");
    }
    if expires <= now {
        return Check::problem(NAME, format!("expired {} ago: {summary}", span(now - expires)))
            .advise("Get a new one. If it is fresh, the clock of whoever made it is behind.");
    }
    if let Some(begins) = seconds("nbf").filter(|begins| *begins > now) {
        return Check::problem(NAME, format!("holds only in {}: {summary}", span(begins - now)))
            .advise("The clock of whoever made it is ahead, or this one is behind: keep both by NTP.");
    }
    let finding = format!("expires in {}: {summary}", span(expires - now));
    if claims["sub"].as_str().is_none_or(str::is_empty) {
        return Check::problem(NAME, format!("names no user (sub); {finding}")).advise("Nodes refuse it: add sub.");
    }
    if claims["lanecast"]["rights"].as_array().is_none_or(Vec::is_empty) {
        return Check::warning(NAME, finding)
            .advise("It allows nothing but reading the user's own inbox: add the claim lanecast.rights.");
    }
    Check::ok(NAME, finding)
}

/// Who, for whom, by whom, what: in one line.
fn summary(header: &Value, claims: &Value) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, value: &Value| match value {
        Value::Null => {}
        Value::String(text) => parts.push(format!("{name} {text:?}")),
        other => parts.push(format!("{name} {other}")),
    };
    part("user", &claims["sub"]);
    part("device", &claims["device"]);
    part("audience", &claims["aud"]);
    part("issuer", &claims["iss"]);
    part("algorithm", &header["alg"]);
    part("key", &header["kid"]);
    let rights = claims["lanecast"]["rights"].as_array();
    let rights: Vec<String> = rights.into_iter().flatten().map(right).collect();
    parts.push(if rights.is_empty() { "no rights".to_owned() } else { format!("rights {}", rights.join("; ")) });
    parts.join(", ")
}

fn right(right: &Value) -> String {
    let list = |name: &str| {
        let items = right[name].as_array();
        items.map(|items| items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(","))
    };
    let mut text = format!("{}@{}", list("allow").unwrap_or_default(), list("rooms").unwrap_or_default());
    if let Some(types) = list("types") {
        text.push_str(&format!(" types {types}"));
    }
    if let Some(lane) = right["lane"].as_str() {
        text.push_str(&format!(" up to {lane}"));
    }
    text
}

fn read(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let json = |part: &str| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    parts.next().is_none().then_some((json(header)?, json(claims)?))
}

/// A length of time for people.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
