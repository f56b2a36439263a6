//! TLS on the HTTP port: between the socket, or what a proxy says about it, and HTTP.
//!
//! Promises: a handshake runs in the task of its connection, never in the accept loop, and one that dawdles is closed at
//! its deadline. Refuses: HTTP/2, as the listener does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::node::Node;
use crate::telemetry::labels::TlsFailure;

/// What TLS holds at most of what HTTP wrote and the socket has not taken, bytes: what is there is beyond our queues.
const BUFFER_BYTES: usize = 16 * 1024;

/// Makes TLS of sockets.
#[derive(Clone)]
pub(super) struct Secure {
    acceptor: TlsAcceptor,
    deadline: Duration,
}

impl Secure {
    /// `None` where the HTTP port speaks none.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let tls = node.tls_of_http()?;
        let config = Arc::new(tls.server_config(&[b"http/1.1"]));
        let deadline = Duration::from_millis(node.config.tls.handshake_timeout_ms);
        Some(Self { acceptor: TlsAcceptor::from(config), deadline })
    }

    /// The handshake; why there was none is counted. Not cancel safe: a dropped handshake is a dropped connection.
    pub(super) async fn accept(&self, socket: Socket, node: &Node) -> io::Result<TlsStream<Socket>> {
        let handshake = self.acceptor.accept_with(socket, |session| session.set_buffer_limit(Some(BUFFER_BYTES)));
        let (failure, error) = match tokio::time::timeout(self.deadline, handshake).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => (TlsFailure::Refused, error),
            Err(_) => (TlsFailure::Late, io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
        };
        node.metrics.tls_handshakes_failed.of(failure).inc();
        Err(error)
    }
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
