//! The header of the PROXY protocol, version 2, with which a proxy that does not look into connections says who is at
//! the other end. It comes before everything else, TLS included.
//!
//! Promises: where it is switched on, only proxies of the list get a connection, and each must send the header in time;
//! so nobody can claim an address by leaving it out. Nothing behind the header is read.
//! Refuses: version 1, and what the header carries beside the address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::v2::{Addresses, Header, PROTOCOL_PREFIX, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::node::Node;
use crate::telemetry::labels::Drop;

/// Bytes of a header up to its length field.
const FIXED_BYTES: usize = 16;
/// The longest header that is read. Addresses need 52 bytes; what proxies add, such as names of certificates, fits.
const HEADER_BYTES_MAX: usize = 4_096;
/// Version 2, command LOCAL: the proxy connects on its own behalf, and what follows says nothing.
const LOCAL: u8 = 0x20;

/// Why a connection did not get past its header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the PROXY protocol is on, and this hop is no trusted proxy")]
    NotAProxy,
    #[error("the PROXY header did not come in time")]
    Late,
    #[error("the connection broke within the PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("a PROXY header of {0} bytes")]
    TooLong(usize),
    #[error("no PROXY header of version 2: {0}")]
    Malformed(ParseError),
}

impl Broken {
    /// How it is counted.
    pub(super) fn reason(&self) -> Drop {
        match self {
            Self::NotAProxy => Drop::NotAProxy,
            Self::Late => Drop::ProxyHeaderLate,
            Self::Io(_) | Self::TooLong(_) | Self::Malformed(_) => Drop::ProxyHeader,
        }
    }
}

/// Who is at the other end of a fresh connection: the hop itself, or whom its header names.
pub(super) async fn peer(
    node: &Node,
    stream: &mut (impl AsyncRead + Unpin),
    hop: SocketAddr,
) -> Result<SocketAddr, Broken> {
    let listen = &node.config.listen;
    if !listen.proxy_protocol {
        return Ok(hop);
    }
    if !node.admission.is_proxy(hop.ip()) {
        return Err(Broken::NotAProxy);
    }
    let deadline = Duration::from_millis(listen.header_timeout_ms);
    let named = tokio::time::timeout(deadline, read(stream)).await.map_err(|_| Broken::Late)??;
    Ok(named.unwrap_or(hop))
}

/// Reads exactly the header; `None`: it names nobody, so the hop stands for itself.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Broken> {
    let mut header = vec![0; FIXED_BYTES];
    stream.read_exact(&mut header).await?;
    if !header.starts_with(PROTOCOL_PREFIX) {
        return Err(Broken::Malformed(ParseError::Prefix));
    }
    let bytes = FIXED_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
    if bytes > HEADER_BYTES_MAX {
        return Err(Broken::TooLong(bytes));
    }
    header.resize(bytes, 0);
    stream.read_exact(&mut header[FIXED_BYTES..]).await?;
    if header[12] == LOCAL {
        return Ok(None);
    }
    let header = Header::try_from(&header[..]).map_err(Broken::Malformed)?;
    Ok(match header.addresses {
        Addresses::IPv4(named) => Some((named.source_address, named.source_port).into()),
        Addresses::IPv6(named) => Some((IpAddr::from(named.source_address).to_canonical(), named.source_port).into()),
        Addresses::Unspecified | Addresses::Unix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with this version and command, family and transport, declared length, and what follows.
    fn header(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [PROTOCOL_PREFIX, &[command, family], &length.to_be_bytes(), rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 0x01, 0xbb];

    fn v6(source: &str) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0x9c, 0x40, 0x01, 0xbb]].concat()
    }

    async fn read_from(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), Broken> {
        let mut left = bytes;
        let named = read(&mut left).await?;
        Ok((named, left.len()))
    }

    #[tokio::test]
    async fn headers_name_who_is_there() {
        // LC-SEC-011
        let v4_and_more = [&V4[..], &[0x04, 0, 1, 42], &[0xff, 0xff, 0xff, 0xff]].concat();
        let [long, mapped] = ["2001:db8::7", "::ffff:192.0.2.7"].map(v6);
        let table: &[(&str, Vec<u8>, Option<&str>)] = &[
            ("TCP over IPv4", header(0x21, 0x11, 12, &V4), Some("192.0.2.7:40000")),
            ("TCP over IPv6", header(0x21, 0x21, 36, &long), Some("[2001:db8::7]:40000")),
            ("a mapped address", header(0x21, 0x21, 36, &mapped), Some("192.0.2.7:40000")),
            ("broken TLVs are not looked at", header(0x21, 0x11, 20, &v4_and_more), Some("192.0.2.7:40000")),
            ("unspecified", header(0x21, 0x00, 0, &[]), None),
            ("unix", header(0x21, 0x31, 216, &[1; 216]), None),
            ("LOCAL", header(0x20, 0x00, 0, &[]), None),
            ("LOCAL with an address", header(0x20, 0x11, 12, &V4), None),
            ("LOCAL with a family of tomorrow", header(0x20, 0x77, 3, &[1, 2, 3]), None),
            ("the longest", header(0x21, 0x11, 4_080, &[&V4[..], &[0; 4_068]].concat()), Some("192.0.2.7:40000")),
        ];
        for (what, bytes, named) in table {
            let with_request = [&bytes[..], b"GET /"].concat();
            let (read, left) = read_from(&with_request).await.unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_eq!(read.map(|address| address.to_string()).as_deref(), *named, "{what}");
            assert_eq!(left, 5, "{what}: what follows is not touched");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let table: &[(&str, Vec<u8>)] = &[
            ("a request", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
            ("version 1", b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 443\r\n".to_vec()),
            ("a TLS hello", [&[0x16, 0x03, 0x01][..], &[0; 30]].concat()),
            ("another version", header(0x31, 0x11, 12, &V4)),
            ("an unknown command", header(0x22, 0x11, 12, &V4)),
            ("an unknown family", header(0x21, 0x41, 12, &V4)),
            ("an unknown transport", header(0x21, 0x13, 12, &V4)),
            ("IPv4 in too few bytes", header(0x21, 0x11, 11, &V4[..11])),
            ("IPv6 in the bytes of IPv4", header(0x21, 0x21, 12, &V4)),
            ("longer than it is", header(0x21, 0x11, 200, &V4)),
            ("too long", header(0x21, 0x11, 4_081, &[0; 4_081])),
            ("as long as can be said", header(0x21, 0x11, u16::MAX, &[0; 65_535])),
            ("nothing", Vec::new()),
            ("half a prefix", PROTOCOL_PREFIX[..6].to_vec()),
            ("the prefix alone", PROTOCOL_PREFIX.to_vec()),
        ];
        for (what, bytes) in table {
            assert!(read_from(bytes).await.is_err(), "{what}");
        }
    }
}
