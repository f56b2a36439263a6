//! The page at `/`, from the bundle that is built into the binary.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lanecast_protocol::codes::Code;

use super::error::Refused;
use crate::node::Node;

struct Asset {
    path: &'static str,
    etag: &'static str,
    media_type: &'static str,
    body: &'static [u8],
}

const ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// What the page may do: its own scripts, styles and images, and connections to this node. `'self'` does not cover
/// `ws:` in older browsers, nor the port of WebTransport, so the node's own host is named beside it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                      manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      connect-src 'self'";

pub(super) async fn index(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    serve("index.html", &headers, quic_port(&node))
}

pub(super) async fn asset(State(node): State<Arc<Node>>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    serve(&format!("assets/{path}"), &headers, quic_port(&node))
}

fn quic_port(node: &Node) -> Option<u16> {
    node.quic_address.get().map(SocketAddr::port)
}

fn serve(path: &str, headers: &HeaderMap, quic_port: Option<u16>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return Refused::new(Code::NotFound, "The page has no such file.").into_response();
    };
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|etag| etag == asset.etag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.media_type)], asset.body).into_response()
    };
    let fixed = [
        (header::ETAG, asset.etag),
        // Asked for each time, answered 304: names of assets need not change with their content.
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, content_security_policy(headers, quic_port));
    response
}

fn content_security_policy(headers: &HeaderMap, quic_port: Option<u16>) -> HeaderValue {
    // The host is repeated only if it cannot be anything but one: it comes from the request.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_plain = |host: &&str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    let own = host.filter(is_plain).map_or(String::new(), |host| {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
        let webtransport = quic_port.map_or(String::new(), |port| format!(" https://{name}:{port}"));
        format!(" ws://{host} wss://{host}{webtransport}")
    });
    HeaderValue::try_from(format!("{POLICY}{own}")).unwrap_or(HeaderValue::from_static(POLICY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_page_may_connect_to_its_own_node_only() {
        let policy = |host, quic| {
            let policy = content_security_policy(&headers(header::HOST, host), quic);
            policy.to_str().unwrap().split_once("connect-src ").unwrap().1.to_owned()
        };
        assert_eq!(policy("127.0.0.1:8080", None), "'self' ws://127.0.0.1:8080 wss://127.0.0.1:8080");
        assert_eq!(policy("x; script-src *", Some(1)), "'self'");
        assert_eq!(policy("a.b:80", Some(8443)), "'self' ws://a.b:80 wss://a.b:80 https://a.b:8443");
        assert_eq!(policy("a.b", Some(8443)), "'self' ws://a.b wss://a.b https://a.b:8443");
        assert_eq!(policy("[::1]:80", Some(8443)), "'self' ws://[::1]:80 wss://[::1]:80 https://[::1]:8443");
        assert_eq!(policy("[::1]", Some(8443)), "'self' ws://[::1] wss://[::1] https://[::1]:8443");
    }

    #[test]
    fn an_unchanged_file_is_not_sent_again() {
        let first = serve("index.html", &HeaderMap::new(), None);
        assert_eq!(first.status(), 200);
        let etag = first.headers()[header::ETAG].to_str().unwrap();
        assert_eq!(serve("index.html", &headers(header::IF_NONE_MATCH, etag), None).status(), 304);
        assert_eq!(serve("assets/../index.html", &HeaderMap::new(), None).status(), 404);
    }
}
