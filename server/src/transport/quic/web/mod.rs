//! From a QUIC connection of a browser to a WebTransport session.
//!
//! HTTP/3 is spoken here and not by a library, since what those keep for each connection, a task and its channels, was
//! more than a third of all memory that an idle session took.

mod http3;
mod session;

use std::future::poll_fn;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use lanecast_protocol::codes::Code;
use quinn::{Connecting, SendStream};

use self::http3::Request;
pub(super) use self::session::Web;
use crate::http::origin;
use crate::node::Node;

/// The path of sessions, as the well-known document names it (LC-WT-001).
const PATH: &str = "/v1/connect";

/// Waits for the request and judges it. `None`: it was refused, or the client left.
pub(super) async fn accept(node: &Node, connecting: Connecting, http_port: u16) -> Option<Web> {
    let connection = connecting.await.ok()?;
    let mut web = Web::open(connection).await?;
    let (request, (mut answer, body)) = poll_fn(|cx| web.poll_request(cx)).await?;
    let Err((code, why)) = check(node, &request, http_port) else {
        answer.write_all(&http3::response(200)).await.ok()?;
        web.begin((answer, body));
        return Some(web);
    };
    node.metrics.handshake_refused(code, &why, web.connection().remote_address());
    let status = match code {
        Code::NotFound => 404,
        Code::GoingAway => 429,
        _ => 403,
    };
    refuse(answer, status).await;
    web.connection().close(http3::NO_ERROR.into(), b"");
    None
}

/// Answers, and waits until the answer is there.
async fn refuse(mut answer: SendStream, status: u16) {
    if answer.write_all(&http3::response(status)).await.is_ok() && answer.finish().is_ok() {
        // An error is the end of the connection.
        let _ = answer.stopped().await;
    }
}

/// What stands before everything else on a unidirectional stream of a session (draft-ietf-webtrans-http3, section 4.2).
pub(super) fn stream_preamble(session: u64) -> Bytes {
    varints(&[http3::stream::WEBTRANSPORT, session])
}

/// What stands before everything else in a datagram of a session (RFC 9297, section 2.1).
pub(super) fn datagram_preamble(session: u64) -> Bytes {
    varints(&[session / 4])
}

fn varints(values: &[u64]) -> Bytes {
    let mut bytes = Vec::new();
    for value in values {
        http3::put_varint(*value, &mut bytes);
    }
    bytes.into()
}

fn check(node: &Node, request: &Request, http_port: u16) -> Result<(), (Code, &'static str)> {
    if !request.is_session() || request.path() != PATH {
        return Err((Code::NotFound, "there are no sessions at this path"));
    }
    if !is_allowed(request.authority(), request.origin.as_deref(), http_port, node) {
        return Err((Code::Origin, "pages of this origin may not connect"));
    }
    if node.shutdown.is_draining() {
        return Err((Code::GoingAway, "the node shuts down"));
    }
    Ok(())
}

/// Judges the origin as for WebSocket (LC-WT-003), but for the port: a page of the node's own comes from where it
/// serves pages, or from the scheme's own port if a proxy stands before that, and never from the port of QUIC.
fn is_allowed(authority: &str, origin: Option<&str>, http_port: u16, node: &Node) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    [format!("{host}:{http_port}"), host.to_owned()].into_iter().any(|host| {
        let Ok(host) = HeaderValue::from_str(&host) else { return false };
        let mut headers = HeaderMap::from_iter([(header::HOST, host)]);
        if let Some(origin) = origin {
            let Ok(origin) = HeaderValue::from_str(origin) else { return false };
            headers.insert(header::ORIGIN, origin);
        }
        (!node.config.dev || origin::is_addressed_to(&headers, node.config.lan))
            && origin::is_allowed(&headers, &node.config)
    })
}

/// What a client says.
#[cfg(test)]
pub(super) mod testing {
    pub(in super::super) use super::http3::testing::{block, request};

    pub(in super::super) fn settings() -> Vec<u8> {
        super::http3::settings()
    }

    /// What stands before everything else on a bidirectional stream of a session.
    pub(in super::super) fn bidirectional_preamble(session: u64) -> Vec<u8> {
        super::varints(&[0x41, session]).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;

    #[test]
    fn an_own_page_comes_from_where_pages_are_served() {
        // LC-WT-003
        let allowed = |authority: &str, origin: Option<&str>, dev| {
            let node = Node::new(Config { dev, ..Config::default() }, Clock::manual(0));
            is_allowed(authority, origin, 8080, &node)
        };
        assert!(allowed("chat.example:8443", None, false), "a program");
        assert!(allowed("chat.example:8443", Some("http://chat.example:8080"), false));
        assert!(allowed("chat.example:8443", Some("https://chat.example"), false));
        assert!(allowed("[::1]:8443", Some("http://[::1]:8080"), true));
        assert!(allowed("127.0.0.1:9", Some("http://127.0.0.1:8080"), true));
        for (authority, origin, dev) in [
            ("chat.example:8443", "https://chat.example:8443", false),
            ("chat.example:8443", "https://evil.example", false),
            ("chat.example:8443", "null", false),
            ("chat.example:8443", "", false),
            ("evil.example:8443", "http://evil.example:8080", true),
        ] {
            assert!(!allowed(authority, Some(origin), dev), "{authority} {origin}");
        }
    }
}
