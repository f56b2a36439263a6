//! The WebSocket: origin, upgrade, greeting, heartbeat, clock.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::session::client::RECORD_BYTES_MAX;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::report::{Check, Report};
use super::token::span;
use super::web::Known;
use super::{Patient, STEP, since};
use crate::cli::dial::Stream;
use crate::transport::websocket::Encoding;

/// Pings, and how far apart: further than any link's jitter, so that answers in one bunch tell of a buffer.
const PINGS: usize = 5;
const PING_EVERY: Duration = Duration::from_millis(250);
/// By how much clocks may differ before tokens are judged wrong: what nodes allow unless configured.
const SKEW_MAX_MS: i64 = 5_000;

type Socket = WebSocketStream<Stream>;

/// What a node says to a greeting.
pub(super) enum Greeting {
    /// There is a session.
    Welcome(v1::Welcome),
    /// It was refused.
    Refused(u32, String),
}

/// The records with which a client begins.
pub(super) fn hello(token: &str) -> Bytes {
    let client = v1::ClientInfo {
        name: "lanecast-doctor".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    codec::encode_body(
        1,
        Body::Hello(v1::Hello {
            version_min: 1,
            version_max: 1,
            token: token.into(),
            instance: format!("{:032x}", rand::random::<u128>()),
            client: Some(client),
            ..Default::default()
        }),
    )
}

/// What the first frame of a node says; `None` for one that says nothing about the greeting.
pub(super) fn greeting(body: Body) -> Option<Greeting> {
    match body {
        Body::Welcome(welcome) => Some(Greeting::Welcome(welcome)),
        Body::Error(error) => Some(Greeting::Refused(error.code, error.detail)),
        _ => None,
    }
}

/// Judges what the node says to a greeting, and says so in the report. Gives the welcome.
pub(super) fn judge(
    name: &'static str,
    greeting: Greeting,
    has_token: bool,
    took_ms: u128,
    report: &mut Report,
) -> Option<v1::Welcome> {
    let (code, detail) = match greeting {
        Greeting::Welcome(welcome) => {
            report.session = true;
            let finding = format!("session of user {:?} on node {} after {took_ms} ms", welcome.user, welcome.node);
            report.add(Check::ok(name, finding));
            return Some(welcome);
        }
        Greeting::Refused(code, detail) => (code, detail),
    };
    let row = Code::from_number(code).map(Code::row);
    let said = row.map_or(format!("code {code}"), |row| format!("{} ({code}): {}", row.name, row.sentence));
    if !has_token && code == u32::from(Code::BadToken.number()) {
        report.session = true;
        report.add(Check::ok(name, "the node answers, and wants a token").advise("Give --token to try a session too."));
        return None;
    }
    report.refused |= (4100..4200).contains(&code);
    report.add(Check::problem(name, format!("refused: {said} {detail}")).advise(what_to_do(code)));
    None
}

fn what_to_do(code: u32) -> &'static str {
    match Code::from_number(code) {
        Some(Code::BadToken) => {
            "The node's log says why at level debug. Compare algorithm, key, audience and issuer of the token with \
             [tokens]; tokens \"dev:…\" need --dev and the same machine."
        }
        Some(Code::TokenExpired) => "Get a new token; if it is new, compare the clocks of issuer and node.",
        Some(Code::TokenRevoked) => "It was revoked on purpose: sign in again.",
        Some(Code::GoingAway) => "The node is being stopped: another one, or the same in a while, takes connections.",
        Some(Code::TooManyConnections) => "Raise the cap that was met, or find who holds so many connections.",
        Some(Code::Version) => "Node and client are of versions that have no protocol version in common.",
        _ => "See the table of codes in the specification.",
    }
}

/// Whether pages may connect: those of the given origin, else the node's own.
pub(super) async fn origin(patient: &Patient, to: SocketAddr, known: Option<&Known>, report: &mut Report) {
    const NAME: &str = "origin";
    let scheme = if patient.address.tls { "https" } else { "http" };
    let own = format!("{scheme}://{}", patient.address.authority());
    let origin = patient.origin.as_ref().unwrap_or(&own);
    match timeout(STEP, open(patient, to, known, Some(origin))).await {
        Ok(Ok(mut socket)) => {
            // Being polite is worth no wait.
            drop(timeout(Duration::from_millis(200), socket.close(None)).await);
            report.add(Check::ok(NAME, format!("pages of {origin} may connect")));
        }
        Ok(Err(Error::Http(response))) if response.status() == 403 => {
            let finding = format!("pages of {origin} are refused");
            if patient.origin.is_some() {
                report.refused = true;
                let advice = format!("If they should connect, add it to the node: [origins] allow = [{origin:?}].");
                report.add(Check::problem(NAME, finding).advise(advice));
            } else {
                report.add(Check::warning(NAME, finding).advise(
                    "It is the node's own address, so a proxy changes the header Host: have it passed on, or list the \
                     origin in [origins] allow. Pages elsewhere: try --origin.",
                ));
            }
        }
        // The upgrade itself does not work, which the next check explains.
        _ => report.add(Check::skipped(NAME, "no WebSocket")),
    }
}

async fn open(patient: &Patient, to: SocketAddr, known: Option<&Known>, origin: Option<&str>) -> Result<Socket, Error> {
    let address = &patient.address;
    let path = match (address.path.as_str(), known) {
        ("/" | "", Some(known)) => known.websocket.as_str(),
        ("/" | "", None) => super::CONNECT_PATH,
        (path, _) => path,
    };
    let scheme = if address.tls { "wss" } else { "ws" };
    let mut request = format!("{scheme}://{}{path}", address.authority()).into_client_request()?;
    let subprotocol = HeaderValue::from_static(Encoding::Binary.subprotocol());
    request.headers_mut().insert("sec-websocket-protocol", subprotocol);
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", HeaderValue::from_str(origin)?);
    }
    let stream = address.connect_to(to, &patient.trust).await?;
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}

/// Upgrade, greeting, pings. Gives the user of the session.
pub(super) async fn examine(
    patient: &Patient,
    to: SocketAddr,
    known: Option<&Known>,
    report: &mut Report,
) -> Option<String> {
    const NAME: &str = "WebSocket";
    let began = patient.clock.elapsed();
    let mut socket = match timeout(STEP, open(patient, to, known, patient.origin.as_deref())).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            report.add(explain(&error));
            return None;
        }
        Err(_) => {
            report.add(Check::problem(NAME, format!("the upgrade is not answered within {STEP:?}")).advise(
                "A proxy may not know WebSocket, or wait for the end of an answer that has none (see nginx: \
                 proxy_http_version 1.1, the headers Upgrade and Connection).",
            ));
            return None;
        }
    };
    let token = patient.token(known);
    let greeted = timeout(STEP, greet(&mut socket, token.unwrap_or_default())).await;
    let greeting = match greeted {
        Ok(Some(greeting)) => greeting,
        Ok(None) => {
            report.add(Check::problem(NAME, "the connection was closed instead of an answer").advise(
                "Something between cuts WebSockets after the upgrade: a proxy that inspects traffic, for example.",
            ));
            return None;
        }
        Err(_) => {
            report.add(Check::problem(NAME, format!("the upgrade is done, but no frame comes within {STEP:?}")).advise(
                "A proxy holds back what the node sends: switch buffering off for this path (nginx: proxy_buffering off).",
            ));
            return None;
        }
    };
    let welcome = judge(NAME, greeting, token.is_some(), since(&patient.clock, began), report)?;
    beat(patient, &mut socket, report).await;
    drop(timeout(Duration::from_millis(200), socket.close(None)).await);
    Some(welcome.user)
}

async fn greet(socket: &mut Socket, token: &str) -> Option<Greeting> {
    socket.send(Message::Binary(hello(token))).await.ok()?;
    loop {
        for body in bodies(socket).await? {
            if let Some(greeting) = greeting(body) {
                return Some(greeting);
            }
        }
    }
}

/// The frames of the next message; `None` at the end.
async fn bodies(socket: &mut Socket) -> Option<Vec<Body>> {
    let message = socket.next().await?.ok()?;
    let Message::Binary(packet) = message else { return Some(Vec::new()) };
    let records = codec::records(packet, RECORD_BYTES_MAX).filter_map(Result::ok);
    Some(records.filter_map(|record| codec::decode(record).ok()?.body).collect())
}

/// A ping: when it was sent and when its answer came, and the node's clock then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub(super) sent: Duration,
    pub(super) answered: Duration,
    pub(super) server_time_ms: u64,
    pub(super) wall_ms: u64,
}

/// Latency, buffers, clocks.
async fn beat(patient: &Patient, socket: &mut Socket, report: &mut Report) {
    let beats = pings(patient, socket).await;
    let late = beats.len() < PINGS;
    if beats.is_empty() {
        report.add(Check::problem("Pong", "no answer to a Ping").advise(
            "What the node sends is held back on the way: switch buffering off in the proxy, or clients give up.",
        ));
        return;
    }
    report.add(judge_beats(&beats, late));
    report.add(judge_clocks(&beats));
}

async fn pings(patient: &Patient, socket: &mut Socket) -> Vec<Beat> {
    let clock = &patient.clock;
    let (mut sent, mut beats) = (Vec::with_capacity(PINGS), Vec::with_capacity(PINGS));
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let exchange = async {
        while beats.len() < PINGS {
            tokio::select! {
                _ = ticks.tick(), if sent.len() < PINGS => {
                    sent.push(clock.elapsed());
                    let ping = codec::encode_body(2, Body::Ping(v1::Ping { stamp: sent.len() as u64 }));
                    if socket.send(Message::Binary(ping)).await.is_err() {
                        return;
                    }
                }
                got = bodies(socket) => {
                    let Some(got) = got else { return };
                    for body in got {
                        let Body::Pong(pong) = body else { continue };
                        let place = usize::try_from(pong.stamp).unwrap_or(0).wrapping_sub(1);
                        let Some(sent) = sent.get(place) else { continue };
                        let (answered, wall_ms) = (clock.elapsed(), clock.now_ms());
                        beats.push(Beat { sent: *sent, answered, server_time_ms: pong.server_time_ms, wall_ms });
                    }
                }
            }
        }
    };
    // Those that did not come are missing, which says enough.
    let _ = timeout(STEP, exchange).await;
    beats
}

/// Whether answers to pings that were sent apart came in bunches: at least half of them right behind another one.
pub(super) fn is_bunched(beats: &[Beat]) -> bool {
    let gaps = beats.windows(2).map(|pair| pair[1].answered.saturating_sub(pair[0].answered));
    let close = gaps.filter(|gap| *gap < PING_EVERY / 5).count();
    beats.len() > 2 && close * 2 >= beats.len() - 1
}

pub(super) fn judge_beats(beats: &[Beat], late: bool) -> Check {
    const NAME: &str = "Pong";
    let latencies = beats.iter().map(|beat| beat.answered.saturating_sub(beat.sent).as_millis());
    let (least, most) = (latencies.clone().min().unwrap_or(0), latencies.max().unwrap_or(0));
    let finding = format!("round trip {least} to {most} ms over {} pings", beats.len());
    if is_bunched(beats) {
        return Check::warning(
            NAME,
            format!("{finding}: sent {} ms apart, the answers came in bunches", PING_EVERY.as_millis()),
        )
        .advise(
            "A proxy collects what the node sends: switch buffering off for this path (nginx: proxy_buffering off), \
                 or urgent events wait for others.",
        );
    }
    if late {
        return Check::warning(NAME, format!("{finding}; {} were not answered in time", PINGS - beats.len()))
            .advise("The link or a proxy is slow, or the node is overloaded.");
    }
    Check::ok(NAME, finding)
}

/// Compares the clocks by the quickest answer, which leaves least room for error.
pub(super) fn judge_clocks(beats: &[Beat]) -> Check {
    const NAME: &str = "clocks";
    let quickest = beats.iter().min_by_key(|beat| beat.answered.saturating_sub(beat.sent));
    let Some(beat) = quickest else { return Check::skipped(NAME, "no Pong") };
    let round_trip_ms = i64::try_from(beat.answered.saturating_sub(beat.sent).as_millis()).unwrap_or(i64::MAX);
    let at_node = beat.server_time_ms.cast_signed().saturating_add(round_trip_ms / 2);
    let ahead_ms = at_node.saturating_sub(beat.wall_ms.cast_signed());
    let which = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let apart = span(ahead_ms.unsigned_abs() as f64 / 1_000.0);
    if ahead_ms.abs() - round_trip_ms / 2 > SKEW_MAX_MS {
        return Check::warning(NAME, format!("the node's clock is {apart} {which} this one")).advise(
            "Tokens made here expire too soon there, or do not hold yet: keep both by NTP, or raise tokens.leeway_ms.",
        );
    }
    let skew_ms = ahead_ms.abs();
    Check::ok(NAME, format!("the node's differs by {skew_ms} ms, give or take {} ms", round_trip_ms / 2 + 1))
}

fn explain(error: &Error) -> Check {
    const NAME: &str = "WebSocket";
    match error {
        Error::Http(response) => {
            let status = response.status();
            let body =
                response.body().as_deref().and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
            let code = body.and_then(|body| body["code"].as_u64()).and_then(|code| u32::try_from(code).ok());
            let problem = Check::problem(NAME, format!("the upgrade is refused with status {status}"));
            match code.and_then(Code::from_number) {
                Some(Code::Origin) => problem.advise("The origin is not allowed, see above."),
                Some(code) => {
                    let row = code.row();
                    problem.advise(format!("{}: {} {}", row.name, row.sentence, what_to_do(code.number().into())))
                }
                None => problem.advise(
                    "A proxy does not pass the upgrade on (nginx: proxy_http_version 1.1, proxy_set_header Upgrade \
                     $http_upgrade, Connection \"upgrade\"), or the path is not the one of the node.",
                ),
            }
        }
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol)) => {
            Check::problem(NAME, "the upgrade is done without the subprotocol lanecast.v1")
                .advise("A proxy drops the header Sec-WebSocket-Protocol, or what answers is no node.")
        }
        error => Check::problem(NAME, format!("no upgrade: {error}"))
            .advise("What answers there is no node, or a proxy changes what it passes on."),
    }
}
