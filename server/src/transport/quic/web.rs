//! From a QUIC connection of a browser to a WebTransport session.

use axum::http::{HeaderMap, HeaderValue, header};
use lanecast_protocol::codes::Code;
use quinn::Connecting;
use wtransport::endpoint::{IncomingSessionFuture, SessionRequest};

use crate::http::origin;
use crate::node::Node;

/// The path of sessions, as the well-known document names it (LC-WT-001).
pub(super) const PATH: &str = "/v1/connect";

/// Waits for the request and judges it. `None`: it was refused, or the client left.
pub(super) async fn accept(node: &Node, connecting: Connecting, http_port: u16) -> Option<wtransport::Connection> {
    let peer = connecting.remote_address();
    let request = IncomingSessionFuture::with_quic_connecting(connecting).await.ok()?;
    let Err((code, why)) = check(node, &request, http_port) else { return request.accept().await.ok() };
    node.metrics.handshake_refused(code, &why, peer);
    match code {
        Code::NotFound => request.not_found().await,
        Code::GoingAway => request.too_many_requests().await,
        _ => request.forbidden().await,
    }
    None
}

fn check(node: &Node, request: &SessionRequest, http_port: u16) -> Result<(), (Code, &'static str)> {
    if request.path() != PATH {
        return Err((Code::NotFound, "there are no sessions at this path"));
    }
    if !is_allowed(request.authority(), request.origin(), http_port, node) {
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
