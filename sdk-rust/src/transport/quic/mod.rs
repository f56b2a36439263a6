//! QUIC (ALPN `lanecast/1`): a stream for each lane, so that a lost packet of one lane holds up no other.
//!
//! ```text
//!  outputs ──▶ outgoing: control, lane streams, streams for one message or signal, datagrams ──▶ node
//!  packets ◀── incoming: control, ≤ 64 streams, datagrams ◀── node
//!  silence ◀── watch: sent and not acknowledged for 2 s
//! ```
//!
//! What a stream carries is decided by [`lanecast_protocol::binding`]; here bytes are moved.

mod incoming;
mod outgoing;
mod watch;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_pacing::quic::{Meter, Pacing};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{AckFrequencyConfig, ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};

use self::incoming::Incoming;
use self::outgoing::Outgoing;
use self::watch::Watch;
use super::{Path, Source, Target, Tls, Transport, Turn, resolve};

/// Streams of the node that are open at once: 32 with one urgent message each, the lanes, transfers and large signals,
/// with room for as many that were read and not yet given back.
const STREAMS_MAX: u32 = 64;
/// Bytes that the node may send ahead of us on one stream. At 50 ms of round trip it allows 40 Mbit/s.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// As much for all streams together, so that one that is full does not stop the others.
const WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
/// Bytes of ours that QUIC holds until they are acknowledged: so many that Credit bounds lanes normal and bulk first. Once it
/// is full urgent bytes wait for an acknowledgement too; what that frees goes to the most urgent lane that waits.
const SEND_WINDOW_BYTES: u64 = 1024 * 1024;
/// Datagrams that wait for us: the oldest signal is the one to lose.
const DATAGRAMS_IN_BYTES: usize = 64 * 1024;
/// Datagrams of ours that wait in QUIC, about four: in our queue they are conflated, there not.
const DATAGRAMS_OUT_BYTES: usize = 4 * 1024;
/// What a round trip is taken for until one was measured: a lost first packet is sent again after three times this,
/// within the head start that QUIC has in a race.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// How many later packets may be acknowledged, and how many round trips pass, before a packet counts as lost. QUIC's own three
/// packets take every packet that a wireless link has repeated for a lost one, and slow down for nothing: 10,000 events
/// over 2 % loss and 20 ms of jitter took 37 s, and 23 s with these on both sides.
const REORDERED_PACKETS: u32 = 64;
const REORDERED_RTTS: f32 = 1.25;
/// How long a node is asked to wait at most before it says what came, instead of 25 ms: a loss shows that much sooner.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(5);
/// How long the last bytes may take to be acknowledged before the connection is closed.
const FINISH_WITHIN: Duration = Duration::from_millis(300);
/// How long the close itself may take to leave.
const CLOSE_WITHIN: Duration = Duration::from_millis(300);

/// An open connection.
pub(super) struct Quic {
    /// One for each connection: it has a socket of its own, which can be exchanged.
    endpoint: Endpoint,
    connection: Connection,
    incoming: Incoming,
    outgoing: Outgoing,
    watch: Watch,
    meter: Option<Meter>,
    /// Whose turn it is, so that neither reading nor writing starves.
    read_first: bool,
}

type Half = fn(&mut Quic, &mut Context<'_>) -> Poll<Turn>;

/// Opens a connection to the host of the target and this UDP port.
pub(super) async fn open(target: &Target, port: u16, tls: &Tls) -> Result<Box<dyn Transport>, String> {
    let config = client_config(tls)?;
    let addresses = resolve::lookup(&target.host, port).await?;
    let connected = resolve::first_of(addresses, |address| connect(address, config.clone(), &target.host)).await;
    let (endpoint, connection) = connected?;
    Ok(Box::new(Quic::new(endpoint, connection).await?))
}

fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let crypto = QuicClientConfig::try_from(tls.quic()?).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.max_ack_delay(Some(ACKNOWLEDGED_WITHIN));
    let mut transport = TransportConfig::default();
    transport
        .ack_frequency_config(Some(acknowledgements))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .send_fairness(true)
        .congestion_controller_factory(Arc::new(Pacing::default()))
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN_BYTES))
        .datagram_send_buffer_size(DATAGRAMS_OUT_BYTES)
        .initial_rtt(INITIAL_RTT)
        .packet_threshold(REORDERED_PACKETS)
        .time_threshold(REORDERED_RTTS)
        // The protocol pings, and gives a silent node up: two heartbeats would only wake a phone twice.
        .keep_alive_interval(None)
        .max_idle_timeout(None);
    config.transport_config(Arc::new(transport));
    Ok(config)
}

async fn connect(address: SocketAddr, config: ClientConfig, host: &str) -> Result<(Endpoint, Connection), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{address}: {error}");
    let endpoint = Endpoint::client(any_port(address.is_ipv6())).map_err(|error| failed(&error))?;
    let connecting = endpoint.connect_with(config, address, host).map_err(|error| failed(&error))?;
    // No 0-RTT: what is sent after this cannot be replayed (LC-QUIC-011).
    let connection = connecting.await.map_err(|error| failed(&error))?;
    Ok((endpoint, connection))
}

fn any_port(v6: bool) -> SocketAddr {
    match v6 {
        true => (Ipv6Addr::UNSPECIFIED, 0).into(),
        false => (Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

impl Quic {
    async fn new(endpoint: Endpoint, connection: Connection) -> Result<Self, String> {
        // LC-QUIC-002
        let (send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let incoming = Incoming::new(&connection, recv);
        let outgoing = Outgoing::new(connection.clone(), send);
        let watch = Watch::new(&connection);
        let meter = Meter::of(&connection);
        Ok(Self { endpoint, connection, incoming, outgoing, watch, meter, read_first: true })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let turn = std::task::ready!(self.incoming.poll(cx));
        self.watch.arm(&self.connection);
        Poll::Ready(turn)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.outgoing.poll(cx)
    }

    /// Leaves by another socket. A path that the node does not follow shows as silence.
    fn rebind(&self) -> std::io::Result<()> {
        let v6 = self.endpoint.local_addr()?.is_ipv6();
        self.endpoint.rebind(UdpSocket::bind(any_port(v6))?)
    }
}

impl Transport for Quic {
    fn ordered(&self) -> bool {
        false
    }

    fn write(&mut self, next: &mut Source<'_>, _message_max: Option<usize>) {
        let meter = self.meter.as_ref();
        let mut hurried = |lanes: Lanes| {
            let output = next(lanes)?;
            if let (Some(meter), Lane::Control | Lane::Urgent) = (meter, output.lane) {
                meter.hurry(output.record.len());
            }
            Some(output)
        };
        if self.outgoing.take(&mut hurried) {
            self.watch.arm(&self.connection);
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.read_first = !self.read_first;
        let (first, second): (Half, Half) = match self.read_first {
            true => (Self::poll_read, Self::poll_write),
            false => (Self::poll_write, Self::poll_read),
        };
        if let Poll::Ready(turn) = first(self, cx) {
            return Poll::Ready(turn);
        }
        if let Poll::Ready(turn) = second(self, cx) {
            return Poll::Ready(turn);
        }
        // Last, so that a node whose answer has come is not taken for a silent one.
        self.watch.poll(cx, &self.connection)
    }

    fn window(&self) -> Option<u64> {
        self.meter.as_ref().map(|meter| meter.read(&self.connection).window)
    }

    fn unreliable_round_trip(&self) -> Option<Duration> {
        let figures = self.meter.as_ref()?.read(&self.connection);
        figures.is_unreliable.then(|| self.connection.rtt())
    }

    fn set_paced(&mut self, paced: bool) {
        if let Some(meter) = &self.meter {
            meter.set_paced(paced);
        }
        self.outgoing.set_prioritized(paced);
    }

    fn path(&self) -> Option<Path> {
        // Not bound: the system sends from whatever address leads to the node, and the node follows.
        Path::new(self.connection.remote_address(), None)
    }

    fn network_changed(&mut self) {
        if let Err(error) = self.rebind() {
            tracing::debug!(%error, "no other socket");
        }
        self.watch.arm(&self.connection);
    }

    fn close(self: Box<Self>, code: Option<Code>) -> BoxFuture<'static, ()> {
        let Self { endpoint, connection, outgoing, .. } = *self;
        async move {
            if let Some(code) = code {
                // Closing throws away what is not acknowledged.
                let _ = tokio::time::timeout(FINISH_WITHIN, outgoing.finish()).await;
                connection.close(VarInt::from_u32(code.number().into()), code.row().name.as_bytes());
            }
            drop(connection);
            let _ = tokio::time::timeout(CLOSE_WITHIN, endpoint.wait_idle()).await;
        }
        .boxed()
    }
}

/// The connection is over, for this reason.
fn over(error: &ConnectionError) -> Turn {
    let code = match error {
        ConnectionError::ApplicationClosed(close) => u16::try_from(close.error_code.into_inner()).ok(),
        _ => None,
    };
    Turn::Over { code, detail: error.to_string() }
}
