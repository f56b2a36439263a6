//! Whom a request comes from, if a proxy brought it: X-Forwarded-For (LC-SEC-011).
//!
//! Each proxy appends the address that it sees, so the header is read from its right end, and only for as long as the
//! hop that wrote an entry is a trusted proxy: the first address that is none is the client, and what stands left of it
//! is the client's own invention. Refuses: the header `Forwarded`, for which there is no telling who wrote which part.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use lanecast_protocol::codes::Code;

use super::error::Refused;
use crate::admission::{self, AddressSlot, Admission};
use crate::node::Node;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Proxies that a request may have passed; a longer chain is not followed to its end.
const HOPS_MAX: usize = 32;

/// The address of who came through a trusted proxy that does not say from where. It is nobody's own and no loopback
/// address, and all of these count as one.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Whom a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; the port is 0 if no proxy named one.
    pub address: SocketAddr,
    /// Whether a trusted proxy said so. The socket then holds no slot for the address.
    forwarded: bool,
}

impl Client {
    /// Whom a request with these headers comes from, that came over a socket from `peer`.
    pub(super) fn of(admission: &Admission, dev: bool, peer: SocketAddr, headers: &HeaderMap) -> Self {
        if admission.is_proxy(peer.ip()) {
            let named = first_stranger(admission, headers);
            return Self { address: named.unwrap_or(peer), forwarded: named.is_some() };
        }
        // In development this machine is trusted with everything. A proxy on it that nobody listed must not lend that
        // to the world, so what is not believed can still take it away.
        let lent = dev && peer.ip().to_canonical().is_loopback() && names_another_machine(headers);
        Self { address: if lent { UNKNOWN } else { peer }, forwarded: false }
    }

    /// A slot for a request that stays open, beside the one of its socket; `Ok(None)`: the socket's is enough.
    ///
    /// # Errors
    /// TOO_MANY_CONNECTIONS.
    pub fn slot(&self, admission: &Admission) -> Result<Option<AddressSlot>, Refused> {
        if !self.forwarded {
            return Ok(None);
        }
        let slot = admission.address(self.address.ip());
        slot.map(Some).ok_or_else(|| admission::too_many("address").into())
    }
}

impl FromRequestParts<std::sync::Arc<Node>> for Client {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &std::sync::Arc<Node>) -> Result<Self, Refused> {
        let client = parts.extensions.get::<Self>().copied();
        client.ok_or_else(|| Refused::new(Code::Internal, "The listener did not say who is there."))
    }
}

/// The rightmost address that is no trusted proxy, or else the leftmost one. `None`: there is no address at all.
fn first_stranger(admission: &Admission, headers: &HeaderMap) -> Option<SocketAddr> {
    let mut last = None;
    for entry in entries(headers, &FORWARDED_FOR).take(HOPS_MAX) {
        let Some(address) = entry else { return Some(UNKNOWN) };
        last = Some(address);
        if !admission.is_proxy(address.ip()) {
            break;
        }
    }
    last
}

/// Whether some header says that the request was made on another machine.
fn names_another_machine(headers: &HeaderMap) -> bool {
    let mut named = entries(headers, &FORWARDED_FOR).chain(entries(headers, &REAL_IP));
    headers.contains_key(header::FORWARDED)
        || named.any(|entry| entry.is_none_or(|address| !address.ip().is_loopback()))
}

/// The entries of all headers of the name, the last one first; `None` for what is no address.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<SocketAddr>> + 'a {
    let values = headers.get_all(name).into_iter().rev();
    let texts = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    texts.map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()).map(address)
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let (ip, port) = match bare.parse::<IpAddr>() {
        Ok(ip) => (ip, 0),
        Err(_) => text.parse::<SocketAddr>().map(|address| (address.ip(), address.port())).ok()?,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::HeaderValue;

    use super::*;
    use crate::config::Config;
    use crate::telemetry::Metrics;

    type Given<'a> = (&'a HeaderName, &'a [u8]);

    fn admission() -> Admission {
        let mut config = Config::default();
        config.limits.connections_per_address = 1;
        config.listen.trusted_proxies =
            ["10.0.0.0/8", "fd00::/8", "127.0.0.2/32"].map(|net| net.parse().unwrap()).into();
        Admission::new(&config, Arc::new(Metrics::new()))
    }

    fn headers(list: &[Given<'_>]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn client(dev: bool, peer: &str, list: &[Given<'_>]) -> (String, bool) {
        let client = Client::of(&admission(), dev, peer.parse().unwrap(), &headers(list));
        (client.address.to_string(), client.forwarded)
    }

    #[test]
    fn proxies_are_believed_from_the_right_and_nobody_else_is() {
        // LC-SEC-011
        let (proxy, stranger) = ("10.0.0.1:900", "192.0.2.9:900");
        let table: &[(&str, &[&str], &str, bool)] = &[
            (stranger, &["198.51.100.1"], stranger, false),
            ("127.0.0.1:900", &["198.51.100.1"], "127.0.0.1:900", false),
            (proxy, &[], proxy, false),
            (proxy, &["", " , ,"], proxy, false),
            (proxy, &["198.51.100.1"], "198.51.100.1:0", true),
            ("[::ffff:10.0.0.1]:900", &["198.51.100.1"], "198.51.100.1:0", true),
            // What stands left of the first stranger is the stranger's invention.
            (proxy, &["127.0.0.1, 203.0.113.5, 198.51.100.1"], "198.51.100.1:0", true),
            (proxy, &["127.0.0.1,198.51.100.1,10.9.9.9 , 10.0.0.2"], "198.51.100.1:0", true),
            (proxy, &["203.0.113.5", "198.51.100.1", "10.0.0.2"], "198.51.100.1:0", true),
            (proxy, &["198.51.100.1, 10.0.0.2,"], "198.51.100.1:0", true),
            // A chain of proxies only: who began it.
            (proxy, &["10.0.0.3, 10.0.0.2"], "10.0.0.3:0", true),
            // The forms that proxies write.
            (proxy, &["198.51.100.1:1234"], "198.51.100.1:1234", true),
            (proxy, &["2001:db8::7"], "[2001:db8::7]:0", true),
            (proxy, &["[2001:db8::7]"], "[2001:db8::7]:0", true),
            (proxy, &["[2001:db8::7]:1234"], "[2001:db8::7]:1234", true),
            (proxy, &["::ffff:198.51.100.1"], "198.51.100.1:0", true),
            (proxy, &["198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1:0", true),
            // What is no address is not skipped: what is left of it was not written by a proxy.
            (proxy, &["unknown"], "0.0.0.0:0", true),
            (proxy, &["198.51.100.1, unknown"], "0.0.0.0:0", true),
            (proxy, &["127.0.0.1, _hidden, 10.0.0.2"], "0.0.0.0:0", true),
            (proxy, &["198.51.100.1\tx"], "0.0.0.0:0", true),
            (proxy, &["127.0.0.1.example.org"], "0.0.0.0:0", true),
            (proxy, &["0127.0.0.1"], "0.0.0.0:0", true),
            (proxy, &["fe80::1%eth0"], "0.0.0.0:0", true),
            (proxy, &["198.51.100.1:99999"], "0.0.0.0:0", true),
            (proxy, &["for=198.51.100.1"], "0.0.0.0:0", true),
            (proxy, &["\"198.51.100.1\""], "0.0.0.0:0", true),
        ];
        for (peer, values, expected, forwarded) in table {
            let list: Vec<Given<'_>> = values.iter().map(|value| (&FORWARDED_FOR, value.as_bytes())).collect();
            assert_eq!(client(false, peer, &list), ((*expected).to_owned(), *forwarded), "{peer} {values:?}");
        }
        assert_eq!(client(false, proxy, &[(&FORWARDED_FOR, b"\xff\xfe")]).0, "0.0.0.0:0", "no UTF-8");
        assert_eq!(client(false, proxy, &[(&header::FORWARDED, b"for=198.51.100.1")]).0, proxy, "not read");
    }

    #[test]
    fn a_chain_is_followed_so_far_and_no_further() {
        let long = vec!["10.0.0.9"; HOPS_MAX].join(",");
        let value = format!("198.51.100.1,{long}");
        assert_eq!(client(false, "10.0.0.1:900", &[(&FORWARDED_FOR, value.as_bytes())]).0, "10.0.0.9:0");
        let endless = ",".repeat(16_000);
        assert_eq!(client(false, "10.0.0.1:900", &[(&FORWARDED_FOR, endless.as_bytes())]).0, "10.0.0.1:900");
    }

    #[test]
    fn in_development_a_proxy_lends_nobody_the_trust_in_this_machine() {
        // LC-AUTH-032
        let near = "127.0.0.1:900";
        let table: &[(bool, &[Given<'_>], bool)] = &[
            (true, &[], true),
            (true, &[(&FORWARDED_FOR, b"127.0.0.1, ::1")], true),
            (true, &[(&FORWARDED_FOR, b"198.51.100.1")], false),
            (true, &[(&FORWARDED_FOR, b"198.51.100.1, 127.0.0.1")], false),
            (true, &[(&FORWARDED_FOR, b"unknown")], false),
            (true, &[(&REAL_IP, b"198.51.100.1")], false),
            (true, &[(&REAL_IP, b"127.0.0.1")], true),
            (true, &[(&header::FORWARDED, b"for=127.0.0.1")], false),
            (false, &[(&FORWARDED_FOR, b"198.51.100.1")], true),
        ];
        for (dev, list, is_near) in table {
            let (address, forwarded) = client(*dev, near, list);
            assert_eq!((address == near, forwarded), (*is_near, false), "{dev} {list:?}");
        }
        let (through_the_list, _) = client(true, "127.0.0.2:900", &[(&FORWARDED_FOR, b"198.51.100.1")]);
        assert_eq!(through_the_list, "198.51.100.1:0");
    }

    #[test]
    fn who_came_through_a_proxy_takes_a_slot_of_its_own() {
        let admission = admission();
        let of = |peer: &str, list: &[Given<'_>]| Client::of(&admission, false, peer.parse().unwrap(), &headers(list));
        let forwarded = of("10.0.0.1:900", &[(&FORWARDED_FOR, b"198.51.100.1")]);
        let slot = forwarded.slot(&admission).unwrap();
        assert!(slot.is_some());
        assert_eq!(forwarded.slot(&admission).unwrap_err().code, Code::TooManyConnections);
        for socket_holds in [of("198.51.100.1:9", &[]), of("10.0.0.1:900", &[])] {
            assert!(socket_holds.slot(&admission).unwrap().is_none(), "{socket_holds:?}");
        }
        drop(slot);
        assert!(forwarded.slot(&admission).is_ok());
    }
}
