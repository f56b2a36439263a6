//! The step language, in which most cases are written. `cases/README.md` is its manual.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::ctx::{Ctx, Join};
use crate::client::{Encoding, Lane, Open, StreamEnd, Transport, short};
use crate::schema;
use crate::target::TokenWish;
use crate::verdict::{Outcome, Stop, check};

/// By connection name.
type ByConn<T> = BTreeMap<String, T>;

/// One step: a map with one key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Handshake, Hello, Welcome.
    Join(NameOr<Join>),
    /// Handshake only.
    Open(NameOr<OpenStep>),
    /// A handshake that must be refused with an HTTP status.
    Refused(OpenStep),
    /// Sends a frame, or a list of frames in one packet.
    Send(ByConn<Value>),
    /// Sends one binary message, in hexadecimal; on transports with streams these bytes on the control stream.
    SendHex(ByConn<String>),
    /// Sends one text message.
    SendText(ByConn<String>),
    /// Sends bytes on a stream of its own, which the first ones open.
    Stream(StreamStep),
    /// The server stops reading a stream.
    Stopped(ByConn<String>),
    /// Sends one datagram, in hexadecimal.
    Datagram(ByConn<String>),
    /// Sends a request under a fresh id; its answer must fit.
    Ask(Ask),
    /// A request that must be refused with a code; the connection lives and the Error names the room.
    Refuse(Refuse),
    /// Error with that code and closing true comes, then the close with the same code.
    Fatal(ByConn<u64>),
    /// A frame that fits comes; others stay pending.
    Expect(ByConn<Value>),
    /// The very next frame fits.
    Next(ByConn<Value>),
    /// No such frame came or comes.
    None(ByConn<Value>),
    /// These durable events come next on the lane.
    Events(Events),
    /// Publishes durable events, all of which are stored.
    Publish(Publish),
    /// Ping and Pong.
    Barrier(String),
    /// The server closes with one of the codes.
    Closed(ByConn<Value>),
    /// Closes with a code.
    Close(ByConn<u16>),
    /// Ends the TCP connection.
    Cut(String),
    /// A request of the HTTP API.
    Http(Http),
    /// Steps several times, `${i}` from 1.
    Repeat(Repeat),
    /// Waits, where time itself is the subject.
    WaitMs(u64),
    /// Makes tokens, and keeps each under a name.
    Tokens(ByConn<TokenStep>),
    /// Sets variables.
    Set(BTreeMap<String, Value>),
    /// A value fits a pattern.
    Check(Check),
    /// `restart`, `drain`, `resume`, `engine_down`, `engine_up`, or `new_log`, `keep_log`, `old_log` of the case's room (control.md).
    Control(String),
}

/// A name, or a map that holds it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum NameOr<T> {
    /// Only the name.
    Name(String),
    /// Everything.
    Full(Box<T>),
}

/// How to make a handshake.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenStep {
    #[serde(rename = "as")]
    name: String,
    transport: Option<Transport>,
    encoding: Option<Encoding>,
    subprotocols: Option<Vec<String>>,
    path: Option<String>,
    headers: BTreeMap<String, String>,
    /// The subprotocol that the answer must name.
    chosen: Option<String>,
    /// Headers that the answer must not have.
    without: Vec<String>,
    /// Status of the refusal.
    status: Option<u16>,
    /// Pattern for the body of the refusal.
    body: Option<Value>,
}

/// Bytes on a stream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamStep {
    on: String,
    /// Name of the stream in the case.
    name: String,
    /// Kind of the header that comes first: a name of `StreamKind`, or a number. Without one there is no header.
    #[serde(default)]
    kind: Option<Value>,
    /// Lane of the header.
    #[serde(default)]
    lane: Option<Lane>,
    /// Frames that follow.
    #[serde(default)]
    frames: Vec<Value>,
    /// Bytes that follow.
    #[serde(default)]
    hex: String,
    /// Opens a bidirectional stream.
    #[serde(default)]
    bidi: bool,
    /// Ends the stream behind them.
    #[serde(default)]
    finish: bool,
    /// Resets the stream.
    #[serde(default)]
    reset: bool,
}

/// A token for a later step. The fields are those of `join`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenStep {
    user: String,
    rights: Option<Value>,
    expires_s: Option<i64>,
    claims: Option<Value>,
    bad_signature: bool,
    alg: Option<String>,
    header: Option<Value>,
    key: Option<String>,
}

/// A request and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    on: String,
    frame: Value,
    gets: Value,
}

/// A request and its refusal.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    on: String,
    frame: Value,
    code: u64,
}

/// A run of durable events.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    on: String,
    handle: Value,
    #[serde(default = "normal")]
    lane: String,
    from: Value,
    to: Value,
}

/// Durable publishes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    on: String,
    #[serde(default = "case_room")]
    room: String,
    #[serde(default)]
    lane: String,
    #[serde(default = "one")]
    count: usize,
    #[serde(default = "event_text")]
    text: String,
    /// Keeps the body of the last Published.
    #[serde(default)]
    last: Option<String>,
}

/// A request of the HTTP API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    #[serde(default = "get")]
    method: String,
    path: String,
    /// The Bearer token; by default the first API key, empty for none.
    #[serde(default = "first_key")]
    bearer: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    json: Option<Value>,
    #[serde(default)]
    text: Option<String>,
    /// Sends `json` as the protobuf of this message.
    #[serde(default)]
    encode: Option<String>,
    /// Reads the answer as the protobuf of this message.
    #[serde(default)]
    decode: Option<String>,
    status: u16,
    #[serde(default)]
    gets: Option<Value>,
    /// Pattern for headers of the answer.
    #[serde(default)]
    gets_headers: BTreeMap<String, Value>,
}

/// Steps in a loop.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    times: Value,
    steps: Vec<Step>,
}

/// A value and its pattern.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    value: Value,
    fits: Value,
}

fn normal() -> String {
    "LANE_NORMAL".into()
}

fn case_room() -> String {
    "${room}".into()
}

fn one() -> usize {
    1
}

fn event_text() -> String {
    "e${i}".into()
}

fn get() -> String {
    "GET".into()
}

fn first_key() -> String {
    "${api_key1}".into()
}

/// Runs steps. The first that fails ends them, and its number and kind stand in the text.
pub(super) fn run<'a>(steps: &'a [Step], ctx: &'a mut Ctx) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
    Box::pin(async move {
        for (index, step) in steps.iter().enumerate() {
            run_one(step, ctx).await.map_err(|stop| match stop {
                Stop::Fail(text, rule) => Stop::Fail(format!("step {}: {text}", index + 1), rule),
                Stop::Harness(text) => Stop::Harness(format!("step {}: {text}", index + 1)),
                other => other,
            })?;
        }
        Ok(())
    })
}

fn fill(ctx: &Ctx, value: &Value) -> Outcome<Value> {
    ctx.vars.fill(value).map_err(Stop::Harness)
}

fn fill_text(ctx: &Ctx, text: &str) -> Outcome<String> {
    Ok(match ctx.vars.fill_text(text).map_err(Stop::Harness)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

fn fill_number(ctx: &Ctx, value: &Value) -> Outcome<u64> {
    fill(ctx, value)?.as_u64().ok_or_else(|| Stop::Harness(format!("{value} is no number")))
}

async fn run_one(step: &Step, ctx: &mut Ctx) -> Outcome {
    match step {
        Step::Join(join) => run_join(join, ctx).await,
        Step::Open(open) => run_open(open, ctx).await,
        Step::Refused(open) => run_refused(open, ctx).await,
        Step::Send(sends) => {
            for (name, frames) in sends {
                let frames = match fill(ctx, frames)? {
                    Value::Array(frames) => frames,
                    frame => vec![frame],
                };
                ctx.conn(name)?.send(&frames).await?;
            }
            Ok(())
        }
        Step::SendHex(sends) => {
            for (name, text) in sends {
                let bytes = unhex(&fill_text(ctx, text)?)?;
                ctx.conn(name)?.send_bytes(Lane::Control, bytes).await;
            }
            Ok(())
        }
        Step::SendText(sends) => {
            for (name, text) in sends {
                let text = fill_text(ctx, text)?;
                ctx.conn(name)?.send_text(text).await;
            }
            Ok(())
        }
        Step::Stream(stream) => run_stream(stream, ctx).await,
        Step::Stopped(streams) => {
            let within = ctx.patience();
            for (name, stream) in streams {
                let stopped = tokio::time::timeout(within, ctx.conn(name)?.streams()?.stopped(stream)).await;
                let stopped = stopped.unwrap_or(Ok(false))?;
                check(stopped, || format!("{name}: the server did not stop reading stream {stream}"))?;
            }
            Ok(())
        }
        Step::Datagram(datagrams) => {
            for (name, text) in datagrams {
                let bytes = unhex(&fill_text(ctx, text)?)?;
                ctx.conn(name)?.send_datagram(&bytes)?;
            }
            Ok(())
        }
        Step::Ask(ask) => {
            let frame = fill(ctx, &ask.frame)?;
            ctx.ask(&ask.on, frame, &ask.gets).await.map(drop)
        }
        Step::Refuse(refuse) => {
            let frame = fill(ctx, &refuse.frame)?;
            ctx.refuse(&refuse.on, frame, refuse.code).await.map(drop)
        }
        Step::Fatal(codes) => {
            for (name, code) in codes {
                ctx.fatal(name, *code).await?;
            }
            Ok(())
        }
        Step::Expect(patterns) => {
            for (name, pattern) in patterns {
                ctx.expect(name, pattern).await?;
            }
            Ok(())
        }
        Step::Next(patterns) => {
            for (name, pattern) in patterns {
                ctx.next(name, pattern).await?;
            }
            Ok(())
        }
        Step::None(patterns) => {
            for (name, pattern) in patterns {
                ctx.none(name, pattern).await?;
            }
            Ok(())
        }
        Step::Events(events) => {
            let handle = fill(ctx, &events.handle)?;
            let (from, to) = (fill_number(ctx, &events.from)?, fill_number(ctx, &events.to)?);
            ctx.events(&events.on, &handle, &events.lane, from, to).await.map(drop)
        }
        Step::Publish(publish) => run_publish(publish, ctx).await,
        Step::Barrier(name) => {
            let within = ctx.patience();
            ctx.conn(name)?.barrier(within).await
        }
        Step::Closed(codes) => {
            let within = ctx.patience();
            for (name, codes) in codes {
                let code = ctx.conn(name)?.wait_closed(within).await?;
                let fits = codes.as_array().map_or(*codes == code, |list| list.contains(&json!(code)));
                check(fits, || format!("{name} closed with {code} instead of {codes}"))?;
            }
            Ok(())
        }
        Step::Close(codes) => {
            for (name, code) in codes {
                ctx.conn(name)?.close(*code).await;
            }
            Ok(())
        }
        Step::Cut(name) => {
            ctx.take(name)?.cut();
            Ok(())
        }
        Step::Http(http) => run_http(http, ctx).await,
        Step::Repeat(repeat) => {
            for i in 1..=fill_number(ctx, &repeat.times)? {
                ctx.vars.set("i", json!(i));
                run(&repeat.steps, ctx).await?;
            }
            Ok(())
        }
        Step::WaitMs(time) => {
            tokio::time::sleep(Duration::from_millis(*time)).await;
            Ok(())
        }
        Step::Tokens(wishes) => {
            for (name, wish) in wishes {
                let token = make_token(wish.clone(), ctx).await?;
                ctx.vars.set(name, json!(token));
            }
            Ok(())
        }
        Step::Set(values) => {
            for (name, value) in values {
                let value = fill(ctx, value)?;
                ctx.vars.set(name, value);
            }
            Ok(())
        }
        Step::Check(check) => {
            let value = fill(ctx, &check.value)?;
            ctx.fits(&check.fits, &value)
        }
        Step::Control(verb) => run_control(verb, ctx).await,
    }
}

async fn run_stream(step: &StreamStep, ctx: &mut Ctx) -> Outcome {
    let mut bytes = Vec::new();
    if let Some(kind) = &step.kind {
        let lane = step.lane.map_or(0, Lane::to_wire);
        let header = schema::encode("StreamHeader", &json!({"kind": kind, "lane": lane}))?;
        schema::write_varint(&mut bytes, 2 << 3 | 2);
        schema::write_varint(&mut bytes, header.len() as u64);
        bytes.extend(header);
    }
    for frame in &step.frames {
        bytes.extend(schema::frame_record(&fill(ctx, frame)?)?);
    }
    bytes.extend(unhex(&step.hex)?);
    let end = match (step.finish, step.reset) {
        (_, true) => StreamEnd::Reset,
        (true, false) => StreamEnd::Finished,
        (false, false) => StreamEnd::Open,
    };
    ctx.conn(&step.on)?.send_stream(&step.name, step.bidi, &bytes, end).await
}

async fn run_join(join: &NameOr<Join>, ctx: &mut Ctx) -> Outcome {
    let mut join = match join {
        NameOr::Name(name) => Join::named(name),
        NameOr::Full(join) => (**join).clone(),
    };
    for value in [&mut join.rights, &mut join.claims, &mut join.header, &mut join.hello].into_iter().flatten() {
        *value = fill(ctx, value)?;
    }
    for text in [&mut join.user, &mut join.instance, &mut join.token].into_iter().flatten() {
        *text = fill_text(ctx, text)?;
    }
    ctx.join(join).await.map(drop)
}

async fn make_token(step: TokenStep, ctx: &Ctx) -> Outcome<String> {
    let TokenStep { user, mut rights, expires_s, mut claims, bad_signature, alg, mut header, key } = step;
    for value in [&mut rights, &mut claims, &mut header].into_iter().flatten() {
        *value = fill(ctx, value)?;
    }
    let user = fill_text(ctx, &user)?;
    let wish = TokenWish { user, rights, expires_s, claims, bad_signature, alg, header, key };
    ctx.target.token(&wish).await
}

fn open_of(step: &OpenStep, ctx: &Ctx) -> Outcome<Open> {
    let mut headers = Vec::new();
    for (name, value) in &step.headers {
        headers.push((name.clone(), fill_text(ctx, value)?));
    }
    Ok(Open {
        transport: step.transport.unwrap_or(ctx.transport),
        encoding: step.encoding.unwrap_or(ctx.encoding),
        subprotocols: step.subprotocols.clone(),
        path: step.path.clone(),
        headers,
        ..ctx.opening(&step.name)
    })
}

async fn run_open(step: &NameOr<OpenStep>, ctx: &mut Ctx) -> Outcome {
    let step = match step {
        NameOr::Name(name) => OpenStep { name: name.clone(), ..OpenStep::default() },
        NameOr::Full(step) => (**step).clone(),
    };
    let conn = match ctx.open(open_of(&step, ctx)?).await? {
        Ok(conn) => conn,
        Err(refused) => return Err(Stop::fail(format!("the handshake was refused: {}", refused.answer))),
    };
    if let Some(chosen) = &step.chosen {
        let actual = conn.handshake_header("sec-websocket-protocol");
        check(actual == Some(chosen), || format!("the server chose {actual:?} instead of {chosen}"))?;
    }
    for header in &step.without {
        let actual = conn.handshake_header(header);
        check(actual.is_none(), || format!("the handshake's answer has {header}: {actual:?}"))?;
    }
    ctx.add(conn);
    Ok(())
}

async fn run_refused(step: &OpenStep, ctx: &mut Ctx) -> Outcome {
    let refused = match ctx.open(open_of(step, ctx)?).await? {
        Ok(_) => return Err(Stop::fail("the handshake was accepted")),
        Err(refused) => refused,
    };
    let status = step.status.unwrap_or(400);
    check(refused.status == status, || format!("refused with {} instead of {status}", refused.status))?;
    if let Some(pattern) = &step.body {
        let body = refused.answer.find('{').map_or("", |start| &refused.answer[start..]);
        let body = body.rfind('}').map_or("", |end| &body[..=end]);
        let value = serde_json::from_str(body).unwrap_or(Value::Null);
        ctx.fits(pattern, &value)?;
    }
    Ok(())
}

async fn run_publish(publish: &Publish, ctx: &mut Ctx) -> Outcome {
    let room = fill_text(ctx, &publish.room)?;
    let mut texts = Vec::new();
    let outer = ctx.vars.find("i").cloned();
    for i in 1..=publish.count {
        if outer.is_none() || publish.count > 1 {
            ctx.vars.set("i", json!(i));
        }
        texts.push(fill_text(ctx, &publish.text)?);
    }
    if let Some(outer) = outer {
        ctx.vars.set("i", outer);
    }
    let answers = ctx.publish(&publish.on, &room, &publish.lane, &texts).await?;
    if let (Some(name), Some(last)) = (&publish.last, answers.last()) {
        ctx.vars.set(name, last.clone());
    }
    Ok(())
}

async fn run_http(http: &Http, ctx: &mut Ctx) -> Outcome {
    let path = fill_text(ctx, &http.path)?;
    let bearer = fill_text(ctx, &http.bearer)?;
    let bearer = (!bearer.is_empty()).then_some(bearer);
    let mut headers = Vec::new();
    for (name, value) in &http.headers {
        headers.push((name.clone(), fill_text(ctx, value)?));
    }
    let codec = |error: schema::CodecError| Stop::Harness(error.to_string());
    let body = match (&http.json, &http.text) {
        (Some(json), _) => {
            let value = fill(ctx, json)?;
            Some(match &http.encode {
                None => value.to_string().into_bytes(),
                Some(name) => schema::encode(name, &value).map_err(codec)?,
            })
        }
        (None, Some(text)) => Some(fill_text(ctx, text)?.into_bytes()),
        (None, None) => None,
    };
    let response = ctx.http(&http.method, &path, bearer.as_deref(), &headers, body).await?;
    check(response.status == http.status, || {
        format!("{} {path}: status {} instead of {}: {}", http.method, response.status, http.status, response.body)
    })?;
    for (name, pattern) in &http.gets_headers {
        let actual = response.header(name).map_or(Value::Null, |value| json!(value));
        ctx.fits(&json!({ name.as_str(): pattern }), &json!({ name.as_str(): actual }))?;
    }
    match &http.gets {
        None => Ok(()),
        Some(pattern) => {
            let value = match &http.decode {
                None => response.json(),
                Some(name) => schema::decode(name, &response.bytes)
                    .map_err(|error| Stop::fail(format!("{} {path}: {error}", http.method)))?,
            };
            ctx.fits(pattern, &value).map_err(|stop| match stop {
                Stop::Fail(text, rule) => {
                    Stop::Fail(format!("{} {path}: {text} ({})", http.method, short(&value)), rule)
                }
                other => other,
            })
        }
    }
}

async fn run_control(verb: &str, ctx: &mut Ctx) -> Outcome {
    let target = ctx.target.clone();
    match verb {
        "restart" => {
            target.control.restart().await?;
            ctx.came_back().await
        }
        "new_log" => target.control.new_log(&ctx.room()).await,
        "keep_log" => target.control.keep_log(&ctx.room()).await,
        "old_log" => target.control.old_log(&ctx.room()).await,
        "engine_down" | "engine_up" => target.control.engine(verb == "engine_up").await,
        "drain" => target.control.drain().await,
        "resume" => {
            target.control.resume().await?;
            ctx.came_back().await
        }
        other => Err(Stop::Harness(format!("control {other} is unknown"))),
    }
}

fn unhex(text: &str) -> Outcome<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok();
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(|| Stop::Harness(format!("{text} is not hexadecimal")))
        })
        .collect()
}
