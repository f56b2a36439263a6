//! The accept loop.
//!
//! Promises: no peer keeps another from being accepted; a request whose headers dawdle is closed; no more sockets than
//! configured; every connection is a task that the drain awaits.
//! Refuses: HTTP/2, which would carry WebSockets past the bounds on connections. `axum::serve` has no deadline for
//! headers and no bound, which is why this loop exists.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lanecast_pacing::Pace;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::forwarded::Client;
use super::proxy_header;
use super::secure::Secure;
use super::socket::{Slot, Socket};
use crate::node::Node;
use crate::telemetry::labels::{Cap, Drop};

/// How long the loop waits after the system refused to accept, for want of file descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a client gets that is one too many for its address.
const TOO_MANY_OF_ADDRESS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
    content-type: application/json\r\ncontent-length: 64\r\n\r\n\
    {\"code\":4207,\"name\":\"TOO_MANY_CONNECTIONS\",\"retryAfterMs\":5000}\n";

/// What a client gets that is one too many for the node. The request is not read, so this is as much as can be said.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
    content-type: application/json\r\ncontent-length: 44\r\n\r\n{\"code\":4207,\"name\":\"TOO_MANY_CONNECTIONS\"}\n";

/// How long a client that is one too many for its address has to take that answer.
const TURN_AWAY_WAIT: Duration = Duration::from_secs(1);

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    slots: Arc<Semaphore>,
    secure: Option<Secure>,
    node: Arc<Node>,
}

impl Listener {
    /// Binds the configured address.
    pub async fn bind(node: Arc<Node>) -> io::Result<Self> {
        let tcp = TcpListener::bind(node.config.listen.address).await?;
        let slots = Arc::new(Semaphore::new(node.config.listen.connections_max));
        Ok(Self { tcp, slots, secure: Secure::of(&node), node })
    }

    /// Binds another address beside this one, with which it shares all bounds.
    pub async fn beside(&self, address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { tcp, slots: self.slots.clone(), secure: self.secure.clone(), node: self.node.clone() })
    }

    /// The address that was bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the node is closed, also while it drains, so that probes are answered. Connections are tasks of
    /// the node's [`Shutdown`](crate::shutdown::Shutdown). Cancel safe: cancelling it closes the listener and leaves
    /// the connections.
    pub async fn serve(self, router: Router) {
        let mut closed = pin!(self.node.shutdown.closed());
        loop {
            let accepted = tokio::select! {
                () = &mut closed => return,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer, &router),
                // One peer's connection broke before it was taken.
                Err(error) if is_of_peer(&error) => tracing::debug!(%error, "connection broke before it was accepted"),
                Err(error) => {
                    tracing::error!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, hop: SocketAddr, router: &Router) {
        let Ok(permit) = self.slots.clone().try_acquire_owned() else {
            self.node.metrics.connections_refused.of(Cap::Node).inc();
            tracing::debug!(%hop, "too many connections");
            if self.secure.is_some() {
                // A handshake is what a node without a free slot cannot afford.
                return;
            }
            // Without waiting: a fresh socket takes so few bytes at once, and if not, closing says enough.
            let _ = stream.into_std().and_then(|mut stream| stream.write(TOO_MANY));
            return;
        };
        let slot = Slot::new(permit, self.node.shutdown.hold(), self.node.metrics.sockets.clone());
        // Boxed: the task keeps the size of its largest state, and this one ends when the socket is upgraded.
        let secure = self.secure.clone();
        let connection = Box::pin(serve_socket(stream, hop, slot, secure, router.clone(), self.node.clone()));
        self.node.shutdown.spawn(connection);
    }
}

fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One socket from accept to close: who is there, TLS where the port speaks it, then HTTP.
async fn serve_socket(
    mut stream: TcpStream,
    hop: SocketAddr,
    slot: Slot,
    secure: Option<Secure>,
    router: Router,
    node: Arc<Node>,
) {
    let peer = match proxy_header::peer(&node, &mut stream, hop).await {
        Ok(peer) => peer,
        Err(why) => {
            node.metrics.sockets_dropped.of(why.reason()).inc();
            return tracing::debug!(%hop, %why, "socket dropped");
        }
    };
    let place = node.admission.address(peer.ip());
    let has_place = place.is_some();
    // Twice the session's own limit, which ends a WebSocket with a code first.
    let stall = 2 * Duration::from_millis(node.config.heartbeat.no_progress_ms.into());
    let socket = Socket::new(stream, stall, slot.with_address(place));
    let pace = socket.pace();
    let Some(secure) = secure else { return serve_stream(socket, pace, has_place, peer, router, node).await };
    // Boxed: what a handshake needs is not kept for the life of the connection.
    match Box::pin(secure.accept(socket, &node)).await {
        Ok(stream) => Box::pin(serve_stream(stream, pace, has_place, peer, router, node)).await,
        Err(error) => tracing::debug!(%peer, %error, "no TLS"),
    }
}

/// One stream, whatever it came through: HTTP for whose address has a place for it.
async fn serve_stream<S>(stream: S, pace: Pace, has_place: bool, peer: SocketAddr, router: Router, node: Arc<Node>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if has_place {
        return serve_http(stream, pace, peer, router, node).await;
    }
    tracing::debug!(%peer, "too many connections of this address");
    turn_away(stream).await;
}

/// Tells a client that it is one too many, and waits a moment for it to take the answer: bytes that it has sent and
/// nobody read would turn the close into a reset, which may overtake the answer.
async fn turn_away(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let told = async {
        stream.write_all(TOO_MANY_OF_ADDRESS).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not take it has been told as well as can be.
    let _ = tokio::time::timeout(TURN_AWAY_WAIT, told).await;
}

/// Answers the requests of one stream. Ends when it is closed, or was handed on to a WebSocket.
async fn serve_http<S>(stream: S, pace: Pace, peer: SocketAddr, router: Router, node: Arc<Node>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let listen = &node.config.listen;
    let router = TowerToHyperService::new(router);
    let known = Arc::clone(&node);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let client = Client::of(&known.admission, known.config.dev, peer, request.headers());
        request.extensions_mut().insert(ConnectInfo(client.address));
        request.extensions_mut().insert(pace.clone());
        request.extensions_mut().insert(client);
        router.call(request)
    });
    // Who comes while the node drains, a probe for example, is answered once.
    let was_draining = node.shutdown.is_draining();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(listen.header_timeout_ms))
        .max_buf_size(listen.header_bytes)
        .keep_alive(!was_draining)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = node.shutdown.draining(), if !was_draining => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if error.is_timeout() {
            node.metrics.sockets_dropped.of(Drop::RequestHeadLate).inc();
        }
        tracing::debug!(%peer, %error, "connection ended");
    }
}
