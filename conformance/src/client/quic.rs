//! QUIC connections of the suite: one socket for all of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig, VarInt};

use super::Trust;

/// The protocol name of raw QUIC.
pub(crate) const ALPN_QUIC: &[u8] = b"lanecast/1";
/// The protocol name of HTTP/3, under which WebTransport runs.
pub(crate) const ALPN_HTTP3: &[u8] = b"h3";
/// Keeps idle connections alive without any record (LC-LIFE-003 is about records).
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// When a server that says nothing at all is given up.
const SILENT: Duration = Duration::from_secs(60);
/// Bytes that a client takes on all streams together beyond what it has read.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Opens QUIC connections.
pub struct Dialer {
    v4: Endpoint,
    v6: Option<Endpoint>,
    raw: Arc<QuicClientConfig>,
    http3: Arc<QuicClientConfig>,
}

/// How the transport of one connection is set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Windows {
    /// Bytes that each stream may be ahead of the reader.
    pub stream: Option<u32>,
}

impl Dialer {
    /// Binds the socket. It belongs to the runtime in which it is made.
    pub fn new(trust: &Trust) -> Result<Self, String> {
        let config = |alpn: &[u8]| -> Result<Arc<QuicClientConfig>, String> {
            let tls = trust.client_config(&[alpn])?;
            Ok(Arc::new(QuicClientConfig::try_from(tls).map_err(|error| format!("TLS: {error}"))?))
        };
        let bind = |address: SocketAddr| Endpoint::client(address);
        Ok(Self {
            v4: bind((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(|error| format!("a UDP socket: {error}"))?,
            // A machine without IPv6 only misses servers there.
            v6: bind((Ipv6Addr::UNSPECIFIED, 0).into()).ok(),
            raw: config(ALPN_QUIC)?,
            http3: config(ALPN_HTTP3)?,
        })
    }

    /// Connects. The protocol is [`ALPN_QUIC`] or [`ALPN_HTTP3`].
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        http3: bool,
        windows: Windows,
    ) -> Result<Connection, String> {
        let told = |error: &dyn std::fmt::Display| format!("quic://{host}:{port}: {error}");
        let address = tokio::net::lookup_host((host, port)).await.map_err(|error| told(&error))?.next();
        let address = address.ok_or_else(|| told(&"no address"))?;
        let endpoint = if address.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let endpoint = endpoint.ok_or_else(|| told(&"this machine has no IPv6"))?;
        let mut config = ClientConfig::new(if http3 { self.http3.clone() } else { self.raw.clone() });
        config.transport_config(Arc::new(transport(windows)));
        let connecting = endpoint.connect_with(config, address, host).map_err(|error| told(&error))?;
        connecting.await.map_err(|error| told(&error))
    }
}

fn transport(windows: Windows) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_idle_timeout(SILENT.try_into().ok());
    transport.receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    if let Some(bytes) = windows.stream {
        transport.stream_receive_window(VarInt::from_u32(bytes));
    }
    transport
}
