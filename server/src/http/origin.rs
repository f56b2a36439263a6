//! Which pages may connect (LC-SEC-001).
//!
//! A browser sends `Origin` with every WebSocket handshake and every cross-site request; a program sends none and is
//! judged by its credential alone. WebSocket handshakes are not bound by CORS, so the node must judge for itself.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

use crate::config::Config;

/// Whether the request may go on: it names no origin, an allowed one, or the node's own.
///
/// Where the node itself speaks TLS its own origin is https only: else whoever is in the middle could write a page of
/// the same host for http. In development the node's own host must be a name of this machine: else a page elsewhere
/// could have its own name resolve to 127.0.0.1 and would be taken for the node's own page.
pub fn is_allowed(headers: &HeaderMap, config: &Config) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (first, second) = (origins.next(), origins.next());
    let Some(origin) = first else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if second.is_some() {
        return false;
    }
    if config.origins.allow.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (origin.split_once("://"), host) {
        (Some((scheme, own)), Some(host)) => {
            own.eq_ignore_ascii_case(host)
                && (!config.speaks_tls() || scheme.eq_ignore_ascii_case("https"))
                && (!config.dev || is_of_this_machine(host, config.lan))
        }
        _ => false,
    }
}

/// Whether the request is addressed to this machine by a name that nobody else can give it.
///
/// A page elsewhere whose own name resolves to 127.0.0.1 is of one origin with the node, for the browser, and may send
/// any request; in development, where everybody is trusted, its `Host` is what gives it away. An address on the local
/// network, where one was opened, counts only as the literal that it is.
pub fn is_addressed_to(headers: &HeaderMap, lan: Option<IpAddr>) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    host.is_none_or(|host| is_of_this_machine(host, lan))
}

fn is_of_this_machine(host: &str, lan: Option<IpAddr>) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || lan == Some(address))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const LAN: &str = "192.0.2.7";

    fn allowed(origin: &str, host: &str, allow: &[&str], dev: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if !origin.is_empty() {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let mut config = Config { dev, lan: Some(LAN.parse().unwrap()), ..Config::default() };
        config.origins.allow = allow.iter().map(ToString::to_string).collect();
        is_allowed(&headers, &config)
    }

    #[test]
    fn origins_are_judged() {
        // LC-SEC-001
        assert!(allowed("", "chat.example", &[], false), "a program");
        assert!(allowed("https://chat.example", "chat.example", &[], false));
        assert!(allowed("http://127.0.0.1:8080", "127.0.0.1:8080", &[], true));
        assert!(allowed("http://localhost:8080", "localhost:8080", &[], true));
        assert!(allowed("http://[::1]:8080", "[::1]:8080", &[], true));
        assert!(allowed("https://app.example", "chat.example", &["https://app.example"], false));
        assert!(allowed("https://any.example", "chat.example", &["*"], false));

        assert!(!allowed("https://evil.example", "chat.example", &[], false));
        assert!(!allowed("https://chat.example:444", "chat.example", &[], false));
        assert!(!allowed("http://app.example", "chat.example", &["https://app.example"], false));
        assert!(!allowed("null", "chat.example", &[], false));
        assert!(allowed("http://192.0.2.7:8080", "192.0.2.7:8080", &[], true), "the local network");
        assert!(!allowed("http://evil.example:8080", "evil.example:8080", &[], true), "a rebound name");
    }

    #[test]
    fn a_rebound_name_is_told_by_its_host() {
        let addressed = |host: &'static str| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            (is_addressed_to(&headers, None), is_addressed_to(&headers, Some(LAN.parse().unwrap())))
        };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"] {
            assert_eq!(addressed(host), (true, true), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "192.0.2.1", "[2001:db8::1]", ""] {
            assert_eq!(addressed(host), (false, false), "{host}");
        }
        assert_eq!(addressed("192.0.2.7:8080"), (false, true));
        assert_eq!(addressed("192.0.2.7.evil.example:8080"), (false, false));
        assert!(is_addressed_to(&HeaderMap::new(), None), "HTTP/1.0");
    }

    #[test]
    fn two_origins_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("a"));
        headers.append(header::ORIGIN, HeaderValue::from_static("https://a"));
        headers.append(header::ORIGIN, HeaderValue::from_static("https://a"));
        assert!(!is_allowed(&headers, &Config::default()));
    }
}
