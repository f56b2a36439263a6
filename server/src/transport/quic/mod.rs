//! One UDP port for raw QUIC and WebTransport.
//!
//! ```text
//!  Initial ─▶ Retry under load ─▶ TLS, ALPN ─┬─ lanecast/1 ─────────────────────────▶ Link ─▶ control ─▶ session
//!                                            └─ h3 ─▶ request: path, Origin, Host ──▶ Link ─▶ control ─▶ session
//! ```
//!
//! Promises: no handshake takes longer than its deadline; who spoofs addresses costs a packet and no state once many
//! handshakes are under way; every connection is a task that the drain awaits.
//! Refuses: 0-RTT (LC-QUIC-011), and HTTP/3 for anything but sessions.

mod link;
mod outgoing;
mod overdue;
mod share;
mod streams;
#[cfg(test)]
mod tests;
mod web;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lanecast_pacing::quic::Pacing;
use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Now;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{AckFrequencyConfig, Connecting, Endpoint, Incoming, ServerConfig, TransportConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::link::Link;
use self::streams::{SEND_WINDOW_BYTES, StreamsTransport};
use crate::admission::AddressSlot;
use crate::node::Node;
use crate::session::{self, Connection};
use crate::telemetry::labels::{self, Cap};

/// ALPN of raw QUIC.
const RAW: &[u8] = b"lanecast/1";
/// ALPN of HTTP/3, over which WebTransport runs.
const HTTP_3: &[u8] = b"h3";
/// Handshakes under way beyond which a client must show that it owns its address, by a Retry.
const RETRY_ABOVE: usize = 64;
/// Handshakes under way at most. Beyond it a client is refused, and tries again or takes WebSocket.
const HANDSHAKES_MAX: usize = 1_024;
/// Unidirectional streams that a client has open at most: three of HTTP/3, one per lane, and single messages and signals,
/// which make room as they end. Each may hold one record that is not complete, and QUIC keeps a place for each from the
/// beginning.
const CLIENT_STREAMS_MAX: u32 = 16;
/// Bidirectional streams: control, and the request of a session. A second one of raw QUIC is never read.
const CLIENT_BIDI_STREAMS_MAX: u32 = 2;
/// Bytes of one stream that a client may send ahead of what the session has read: a record of any size fits.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of all streams together.
const RECEIVE_WINDOW_BYTES: u32 = 512 * 1024;
/// By how many later packets one may be overtaken before it counts as lost. Three, the usual number, takes every path that
/// reorders for one that loses: with 2 % loss and 20 ms of jitter 10,000 events took 37 s instead of 23 s. What really
/// was lost still shows by its time.
const REORDERED_PACKETS: u32 = 64;
/// After how many round trips a packet that was overtaken counts as lost: time for a jitter of a quarter of the round trip.
const LOST_AFTER_ROUND_TRIPS: f32 = 1.25;
/// How long a client is asked to wait at most before it says what came, instead of 25 ms: a loss shows that much sooner, and
/// only where packets are rare does it say so more often.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(5);
/// Bytes of datagrams that wait to be sent: four of full size, since only our own queues can conflate and expire signals.
const DATAGRAM_SEND_BYTES: usize = 4 * 1_200;
/// Bytes of datagrams that came and were not read; beyond it the oldest is lost, as a datagram may be.
const DATAGRAM_RECEIVE_BYTES: usize = 64 * 1024;
/// By how much QUIC's own idle time-out is longer than the session's, which says why it closes.
const IDLE_MARGIN: Duration = Duration::from_secs(10);

/// How long the endpoint may take to say goodbye.
const FAREWELL: Duration = Duration::from_millis(500);

/// The bound endpoint.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    address: SocketAddr,
    /// Port of the pages that are the node's own.
    http_port: u16,
    slots: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    node: Arc<Node>,
}

/// What a connection holds of the node for as long as it lives.
struct Held {
    _permit: OwnedSemaphorePermit,
    /// `None`: the address has its share; it is told so once it can be.
    address: Option<AddressSlot>,
    _hold: TaskTrackerToken,
}

impl QuicListener {
    /// Binds the address. `http_port`: where the node serves pages.
    ///
    /// # Errors
    /// If the address cannot be had, or the node has no certificate.
    pub fn bind(node: Arc<Node>, address: SocketAddr, http_port: u16) -> io::Result<Self> {
        let endpoint = Endpoint::server(server_config(&node)?, address)?;
        let address = endpoint.local_addr()?;
        let slots = Arc::new(Semaphore::new(node.config.listen.connections_max));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Ok(Self { endpoint, address, http_port, slots, handshakes, node })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the node drains, and keeps the endpoint until it is closed. Connections are tasks of the node's
    /// [`Shutdown`](crate::shutdown::Shutdown). Cancelling it ends all connections.
    pub async fn serve(self) {
        let mut draining = pin!(self.node.shutdown.draining());
        loop {
            let incoming = tokio::select! {
                () = &mut draining => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            self.take(incoming);
        }
        // Who comes now is sent to another node at once, and who is here may stay until the drain is over.
        self.endpoint.set_server_config(None);
        self.node.shutdown.closed().await;
        // The last packets say why. A peer that does not answer is not waited for.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }

    fn take(&self, incoming: Incoming) {
        let peer = incoming.remote_address();
        let refuse = |incoming: Incoming, why: &str| {
            self.node.metrics.handshake_refused(Code::TooManyConnections, &why, peer);
            incoming.refuse();
        };
        if self.handshakes.available_permits() < HANDSHAKES_MAX - RETRY_ABOVE && incoming.may_retry() {
            // Fails only if it may not be sent, which was asked.
            let _ = incoming.retry();
            return;
        }
        let Ok(handshake) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            return refuse(incoming, "too many QUIC handshakes are under way");
        };
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.node.metrics.connections_refused.of(Cap::Node).inc();
            return refuse(incoming, "the node has too many QUIC connections");
        };
        let address = self.node.admission.address(peer.ip());
        let held = Held { _permit: permit, address, _hold: self.node.shutdown.hold() };
        let (node, http_port) = (Arc::clone(&self.node), self.http_port);
        let opened = session::now(&node);
        // Boxed: what a handshake needs is not kept for the life of the connection.
        self.node.shutdown.spawn(async move {
            let shaken = Box::pin(shake_hands(&node, incoming, http_port, handshake)).await;
            let Some((link, label)) = shaken else { return };
            serve(node, link, label, peer, opened, held).await;
        });
    }
}

fn server_config(node: &Node) -> io::Result<ServerConfig> {
    let tls = node.tls.as_ref().ok_or_else(|| io::Error::other("QUIC needs a certificate"))?;
    let crypto = QuicServerConfig::try_from(tls.server_config(&[RAW, HTTP_3])).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport(node)));
    Ok(config)
}

fn transport(node: &Node) -> TransportConfig {
    let idle = Duration::from_millis(node.config.heartbeat.idle_close_ms.into()) + IDLE_MARGIN;
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.max_ack_delay(Some(ACKNOWLEDGED_WITHIN));
    let mut transport = TransportConfig::default();
    transport
        .ack_frequency_config(Some(acknowledgements))
        .max_concurrent_bidi_streams(CLIENT_BIDI_STREAMS_MAX.into())
        .max_concurrent_uni_streams(CLIENT_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(RECEIVE_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .packet_threshold(REORDERED_PACKETS)
        .time_threshold(LOST_AFTER_ROUND_TRIPS)
        .datagram_send_buffer_size(DATAGRAM_SEND_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BYTES))
        // Else what is written last would be sent first.
        .send_fairness(true)
        .congestion_controller_factory(Arc::new(Pacing::default()))
        // Bounds of the option keep it below what QUIC can say.
        .max_idle_timeout(idle.try_into().ok());
    transport
}

/// From the first packet to a link, within the time for a handshake. The permit is given back at its end.
async fn shake_hands(
    node: &Node,
    incoming: Incoming,
    http_port: u16,
    _handshake: OwnedSemaphorePermit,
) -> Option<(Link, labels::Transport)> {
    let peer = incoming.remote_address();
    let within = Duration::from_millis(node.config.tls.handshake_timeout_ms);
    let shaken = tokio::time::timeout(within, async {
        let mut connecting = incoming.accept().ok()?;
        match alpn(&mut connecting).await?.as_slice() {
            RAW => Some((Link::quic(connecting.await.ok()?), labels::Transport::Quic)),
            _ => Some((Link::web(web::accept(node, connecting, http_port).await?), labels::Transport::WebTransport)),
        }
    });
    let shaken = shaken.await.ok().flatten();
    if shaken.is_none() {
        tracing::debug!(%peer, "no QUIC connection came of a handshake");
        node.metrics.quic_handshakes_failed.inc();
    }
    shaken
}

/// What both sides speak. The TLS layer has refused everything else.
async fn alpn(connecting: &mut Connecting) -> Option<Vec<u8>> {
    let data = connecting.handshake_data().await.ok()?;
    data.downcast::<HandshakeData>().ok()?.protocol
}

async fn serve(node: Arc<Node>, mut link: Link, label: labels::Transport, peer: SocketAddr, opened: Now, held: Held) {
    let refuse = |link: &Link, code: Code, why: &str| {
        node.metrics.handshake_refused(code, &why, peer);
        link.close(code);
    };
    if held.address.is_none() {
        return refuse(&link, Code::TooManyConnections, "the address has too many connections");
    }
    // LC-HS-006: the time for Hello runs from the opening of the connection.
    let within = Duration::from_millis(node.config.heartbeat.hello_timeout_ms.into());
    let control = match tokio::time::timeout(within, link.accept_control()).await {
        Ok(Some(control)) => control,
        Ok(None) => return,
        Err(_) => return refuse(&link, Code::HandshakeTimeout, "no control stream in time"),
    };
    let transport = StreamsTransport::new(Arc::clone(&node), link, control);
    let connection = Connection::new(node, transport, (label, labels::Encoding::Binary), peer);
    Box::pin(Box::new(connection.opened(opened)).run()).await;
    drop(held);
}
