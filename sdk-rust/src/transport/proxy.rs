//! Through an HTTP proxy: `CONNECT`, and then the stream belongs to the node.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::{ConnectError, ConnectErrorKind};

/// Longest answer of a proxy, bytes: headers only, which nobody reads further than the status.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// How long a proxy may take for it, which includes its own connection to the node.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// A checked `http://[user:password@]host[:port]`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of Proxy-Authorization.
    authorization: Option<String>,
}

impl Proxy {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        // Without the address, which may hold a password.
        let bad = |detail: &str| ConnectError::local(ConnectErrorKind::BadUrl, format!("the proxy's address {detail}"));
        let uri: Uri = url.parse().map_err(|_| bad("is none"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("does not begin with http://"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad("names no host"));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let authorization = authority.rsplit_once('@').map(|(credentials, _)| {
            let credentials: Vec<u8> = percent_decode_str(credentials).collect();
            format!("Basic {}", STANDARD.encode(credentials))
        });
        Ok(Self { host, port: uri.port_u16().unwrap_or(80), authorization })
    }

    /// Asks for a tunnel to `authority`.
    pub(super) async fn tunnel<S>(&self, stream: &mut S, authority: &str) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.ask(stream, authority)).await;
        asked.map_err(|_| "the proxy did not answer".to_owned())?
    }

    async fn ask<S>(&self, stream: &mut S, authority: &str) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        let io = |error: std::io::Error| format!("the proxy: {error}");
        stream.write_all(request.as_bytes()).await.map_err(io)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == ANSWER_BYTES_MAX {
                return Err("the proxy's answer is too long".into());
            }
            // Byte by byte: what follows the headers belongs to the node, and this happens once per connection.
            answer.push(stream.read_u8().await.map_err(io)?);
        }
        match status(&answer) {
            Some(200..=299) => Ok(()),
            Some(407) => Err("the proxy wants other credentials (status 407)".into()),
            Some(status) => Err(format!("the proxy refused with status {status}")),
            None => Err("the proxy does not speak HTTP/1.1".into()),
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_hold_credentials_and_shows_none() {
        let proxy = Proxy::parse("http://ann:s%65cret@proxy").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy", 80));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic YW5uOnNlY3JldA=="));
        assert!(!format!("{proxy:?}").contains("secret") && !format!("{proxy:?}").contains("YW5u"));
        assert_eq!(Proxy::parse("http://[::1]:3128").unwrap().host, "::1");
        for bad in ["", "proxy:1", "https://secret@proxy", "socks5://proxy", "http://"] {
            let error = Proxy::parse(bad).unwrap_err();
            assert!(error.kind == ConnectErrorKind::BadUrl && !error.to_string().contains("secret"), "{error}");
        }
    }

    async fn answered(answer: &[u8]) -> Result<(), String> {
        let (mut ours, mut proxy) = tokio::io::duplex(64 * 1024);
        proxy.write_all(answer).await.unwrap();
        Proxy::parse("http://u:p@proxy").unwrap().tunnel(&mut ours, "node:443").await?;
        let mut asked = vec![0; 1024];
        let count = proxy.read(&mut asked).await.unwrap();
        let asked = String::from_utf8(asked[..count].to_vec()).unwrap();
        assert_eq!(asked, "CONNECT node:443 HTTP/1.1\r\nHost: node:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n");
        let mut rest = vec![0; 16];
        let count = ours.read(&mut rest).await.unwrap();
        assert_eq!(&rest[..count], b"the node's", "what follows the headers is left");
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_bounded_in_bytes_and_time() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nthe node's").await, Ok(()));
        assert!(answered(b"HTTP/1.1 407 Who\r\n\r\n").await.unwrap_err().contains("credentials"));
        assert!(answered(b"HTTP/1.1 502 No\r\n\r\n").await.unwrap_err().contains("502"));
        assert!(answered(b"SSH-2.0\r\n\r\n").await.unwrap_err().contains("HTTP"));
        assert!(answered(&[b'x'; 20_000]).await.unwrap_err().contains("too long"));
        assert!(answered(b"HTTP/1.1 200 OK\r\n").await.unwrap_err().contains("not answer"));
    }
}
