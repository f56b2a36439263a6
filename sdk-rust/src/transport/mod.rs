//! The seam between the owner task and a connection.
//!
//! A transport takes records when it can write them, gives packets as they come, and says when it is over. To add one:
//! a file here that implements [`Transport`], a scheme in [`Target::parse`], an arm in [`open`].

mod websocket;

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lanecast_protocol::codes::Code;
use lanecast_protocol::outbox::Output;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::{ConnectError, ConnectErrorKind};

/// The path of the WebSocket endpoint where an address names none.
const PATH: &str = "/v1/connect";

/// What a transport has to say.
#[derive(Debug)]
pub(crate) enum Turn {
    /// A packet, or a piece of one that ends at the end of a record.
    Packet(Bytes),
    /// What was written is gone: there is room for more.
    Written,
    /// It is over, with the peer's close code if there was one.
    Over {
        /// The close code.
        code: Option<u16>,
        /// For developers.
        detail: String,
    },
    /// The peer sent what this transport does not carry: close with this code.
    Fault(Code),
}

/// Where the next outputs come from: [`Client::poll_output`](lanecast_protocol::session::client::Client::poll_output),
/// so that the session's queues, which can still reorder, keep all that the transport cannot write yet.
pub(crate) type Source<'a> = dyn FnMut() -> Option<Output> + 'a;

/// An open connection.
pub(crate) trait Transport: Send {
    /// Whether it keeps the order inside lane urgent, and between lanes.
    fn ordered(&self) -> bool;

    /// Takes as much as it can write now, and nothing while it still writes. `message_max`: the node's limit of a
    /// message, where it is known.
    fn write(&mut self, next: &mut Source<'_>, message_max: Option<usize>);

    /// Drives reading and writing. Both make progress, whichever is busier.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn>;

    /// Writes what was taken, closes with this code (`None`: the peer has closed), and waits for the peer to close.
    /// The caller bounds the wait.
    fn close(self: Box<Self>, code: Option<Code>) -> BoxFuture<'static, ()>;
}

/// A checked address.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    uri: Uri,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let bad = |detail: String| ConnectError::local(ConnectErrorKind::BadUrl, detail);
        let uri: Uri = url.parse().map_err(|error| bad(format!("{url:?}: {error}")))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some(scheme @ ("wss" | "https" | "lanecast" | "quic")) => {
                let detail = format!("{scheme}:// is not served by this version, only ws://");
                return Err(ConnectError::local(ConnectErrorKind::UnsupportedScheme, detail));
            }
            _ => return Err(bad(format!("{url:?} does not begin with ws://"))),
        }
        let Some(authority) = uri.authority() else { return Err(bad(format!("{url:?} names no host"))) };
        if authority.as_str().contains('@') {
            return Err(bad("an address holds no user and password: credentials travel in the token".into()));
        }
        let path = match uri.path_and_query() {
            Some(path) if path.as_str() != "/" => path.as_str(),
            _ => PATH,
        };
        let uri = Uri::builder().scheme("ws").authority(authority.clone()).path_and_query(path).build();
        Ok(Self { uri: uri.map_err(|error| bad(error.to_string()))? })
    }

    /// The target that a node names in GoAway: an address of its own, or another host and port.
    pub(crate) fn moved(&self, address: &str) -> Result<Self, ConnectError> {
        if address.contains("://") {
            return Self::parse(address);
        }
        Self::parse(&format!("ws://{address}{}", self.uri.path()))
    }
}

/// Opens a connection. The caller bounds the wait.
pub(crate) async fn open(target: Target) -> Result<Box<dyn Transport>, String> {
    Ok(Box::new(websocket::WebSocket::open(target.uri).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_completed() {
        let parsed = |url: &str| Target::parse(url).map(|target| target.uri.to_string()).map_err(|error| error.kind);
        assert_eq!(parsed("ws://a:1").unwrap(), "ws://a:1/v1/connect");
        assert_eq!(parsed("ws://a:1/").unwrap(), "ws://a:1/v1/connect");
        assert_eq!(parsed("ws://[::1]:8080/x?y=z").unwrap(), "ws://[::1]:8080/x?y=z");
        assert_eq!(parsed("wss://a"), Err(ConnectErrorKind::UnsupportedScheme));
        for bad in ["", "a:1", "http://a", "ws://", "ws://user:pw@a/", "/v1/connect"] {
            assert_eq!(parsed(bad), Err(ConnectErrorKind::BadUrl), "{bad:?}");
        }
    }

    #[test]
    fn a_node_may_name_another_address() {
        let target = Target::parse("ws://a:1/path").unwrap();
        assert_eq!(target.moved("b:2").unwrap().uri, "ws://b:2/path");
        assert_eq!(target.moved("ws://c").unwrap().uri, "ws://c/v1/connect");
        assert!(target.moved("wss://c").is_err());
    }
}
