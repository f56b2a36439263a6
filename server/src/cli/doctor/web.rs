//! The well-known document, and whether a stream of events comes through while it lasts.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt as _;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::report::Check;
use super::{CONNECT_PATH, Patient, STEP, since};
use crate::cli::api::quoted;

/// Bytes of the document at most.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// What comes later than this after the head was held back on the way.
const AT_ONCE: Duration = Duration::from_millis(1_000);

/// What the document says.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) websocket: String,
    pub(super) development: bool,
    /// Where QUIC is served, if it is.
    pub(super) quic_port: Option<u16>,
    /// Where WebTransport is served, if it is.
    pub(super) webtransport: Option<(u16, String)>,
    /// The certificates of a node for development.
    pub(super) hashes: Vec<[u8; 32]>,
}

impl Known {
    /// Reads the document; `None` if it is another one.
    fn of(document: &Value) -> Option<Self> {
        document["versions"].as_array()?;
        let port = |of: &Value| of["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let path = |of: &Value| of.as_str().map_or(CONNECT_PATH.to_owned(), str::to_owned);
        let webtransport = &document["webtransport"];
        let hashes = webtransport["certificateHashes"].as_array();
        let hashes = hashes.into_iter().flatten().filter_map(Value::as_str);
        Some(Self {
            websocket: path(&document["websocket"]),
            development: document["development"].as_bool().unwrap_or(false),
            quic_port: port(&document["quic"]),
            webtransport: port(webtransport).map(|port| (port, path(&webtransport["path"]))),
            hashes: hashes.filter_map(|hash| BASE64_STANDARD.decode(hash).ok()?.try_into().ok()).collect(),
        })
    }
}

/// An answer that may still come, and the connection on which it does.
struct Answer {
    response: Response<hyper::body::Incoming>,
    _connection: AbortOnDropHandle<()>,
}

async fn get(patient: &Patient, to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let stream = patient.address.connect_to(to, &patient.trust).await.map_err(|error| said(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let mut request = Request::get(path).header(HOST, patient.address.authority());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).map_err(|error| said(&error))?;
    let response = sender.send_request(request).await.map_err(|error| said(&error))?;
    Ok(Answer { response, _connection: connection })
}

/// The document.
pub(super) async fn well_known(patient: &Patient, to: SocketAddr) -> (Check, Option<Known>) {
    const NAME: &str = "well-known";
    let asked = async {
        let answer = get(patient, to, "/.well-known/lanecast", &[]).await?;
        let status = answer.response.status();
        let body = axum::body::to_bytes(Body::new(answer.response.into_body()), DOCUMENT_BYTES_MAX).await;
        Ok::<_, String>((status, body.map_err(|error| error.to_string())?))
    };
    let strange = |finding: String| {
        let check = Check::warning(NAME, finding).advise(
            "Is it a node? A proxy must pass /.well-known/lanecast too: without it clients do not learn where QUIC and \
             WebTransport are.",
        );
        (check, None)
    };
    match tokio::time::timeout(STEP, asked).await {
        Err(_) => strange(format!("no answer within {STEP:?}")),
        Ok(Err(error)) => {
            let scheme = if patient.address.tls { "" } else { " Perhaps the port speaks TLS: try https." };
            strange(format!("what answers speaks no HTTP ({error}).{scheme}"))
        }
        Ok(Ok((status, _))) if !status.is_success() => strange(format!("status {status}")),
        Ok(Ok((_, body))) => {
            let document: Value = serde_json::from_slice(&body).unwrap_or_default();
            let Some(known) = Known::of(&document) else { return strange("another document".to_owned()) };
            let speaks = document["versions"].as_array().is_some_and(|versions| versions.contains(&1.into()));
            let node = document["node"].as_str().unwrap_or("?");
            let kind = if known.development { ", for development" } else { "" };
            let check = if speaks {
                Check::ok(NAME, format!("node {node}{kind}"))
            } else {
                Check::problem(NAME, format!("node {node} speaks versions {}, not 1", document["versions"]))
                    .advise("This program is too old for the node.")
            };
            (check, Some(known))
        }
    }
}

/// Whether server-sent events come at once: the user's own inbox needs no right.
pub(super) async fn stream(patient: &Patient, to: SocketAddr, user: &str, token: &str) -> Check {
    const NAME: &str = "SSE";
    let clock = &patient.clock;
    let began = clock.elapsed();
    let path = format!("/v1/rooms/{}/events", quoted(&format!("user:{user}")));
    let bearer = format!("Bearer {token}");
    let headers = [(ACCEPT.as_str(), "text/event-stream"), (AUTHORIZATION.as_str(), &bearer)];
    let held = |what: &str| {
        Check::warning(NAME, what).advise(
            "A proxy collects answers before it passes them on: switch that off for /v1/ (nginx: proxy_buffering off). \
             WebSocket clients are not concerned.",
        )
    };
    let answer = match tokio::time::timeout(STEP, get(patient, to, &path, &headers)).await {
        Err(_) => return held(&format!("nothing of the stream comes within {STEP:?}")),
        Ok(Err(error)) => return Check::warning(NAME, format!("no answer: {error}")),
        Ok(Ok(answer)) => answer,
    };
    let status = answer.response.status();
    if !status.is_success() {
        return Check::warning(NAME, format!("the stream is refused with status {status}"));
    }
    let head = since(clock, began);
    let mut body = Body::new(answer.response.into_body()).into_data_stream();
    match tokio::time::timeout(AT_ONCE, body.next()).await {
        Ok(Some(Ok(_))) if since(clock, began) > AT_ONCE.as_millis() => {
            held(&format!("the beginning of the stream took {} ms", since(clock, began)))
        }
        Ok(Some(Ok(_))) => Check::ok(NAME, format!("the stream begins after {} ms", since(clock, began))),
        Ok(_) => Check::warning(NAME, "the stream ends at once"),
        Err(_) => held(&format!("the head comes after {head} ms, but nothing of the stream within {AT_ONCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_document_is_read() {
        let known = Known::of(&json!({
            "versions": [1], "websocket": "/ws", "development": true, "quic": {"port": 8443},
            "webtransport": {"port": 9443, "path": "/wt", "certificateHashes": [BASE64_STANDARD.encode([7; 32]), "x"]},
        }));
        let known = known.unwrap();
        assert_eq!((known.websocket.as_str(), known.quic_port), ("/ws", Some(8443)));
        assert_eq!(known.webtransport, Some((9443, "/wt".to_owned())));
        assert_eq!(known.hashes, [[7; 32]]);
        let plain = Known::of(&json!({ "versions": [1] })).unwrap();
        assert_eq!((plain.websocket.as_str(), plain.quic_port, plain.webtransport), (CONNECT_PATH, None, None));
        assert!(Known::of(&json!({ "error": "not found" })).is_none());
    }
}
