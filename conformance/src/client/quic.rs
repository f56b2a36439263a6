//! QUIC connections of the suite: one socket for all of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connecting, Connection, Endpoint, TransportConfig, VarInt};

use super::Trust;

/// The protocol name of raw QUIC.
pub(crate) const ALPN_QUIC: &[u8] = b"lanecast/1";
/// The protocol name of HTTP/3, under which WebTransport runs.
pub(crate) const ALPN_HTTP3: &[u8] = b"h3";
/// Keeps idle connections alive without any record (LC-LIFE-003 is about records).
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// When a server that says nothing at all is given up.
const SILENT: Duration = Duration::from_secs(60);
/// Time in which a server sends its tickets after a handshake.
const TICKET: Duration = Duration::from_millis(300);
/// Bytes that a client takes on all streams together beyond what it has read.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Opens QUIC connections.
pub struct Dialer {
    v4: Endpoint,
    v6: Option<Endpoint>,
    trust: Trust,
    raw: Arc<QuicClientConfig>,
    http3: Arc<QuicClientConfig>,
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
            trust: trust.clone(),
            raw: config(ALPN_QUIC)?,
            http3: config(ALPN_HTTP3)?,
        })
    }

    /// Connects, with HTTP/3 or without. `window`: bytes that each stream may be ahead of its reader.
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        http3: bool,
        window: Option<u32>,
    ) -> Result<Connection, String> {
        let crypto = if http3 { self.http3.clone() } else { self.raw.clone() };
        let connecting = self.begin(host, port, crypto, window).await?;
        connecting.await.map_err(|error| format!("quic://{host}:{port}: {error}"))
    }

    /// A raw connection whose handshake is still under way, for early data, with a ticket that was got for it; `None`:
    /// the server takes no early data.
    pub(crate) async fn early(&self, host: &str, port: u16) -> Result<Option<Connection>, String> {
        let mut tls = self.trust.client_config(&[ALPN_QUIC])?;
        tls.enable_early_data = true;
        let crypto = Arc::new(QuicClientConfig::try_from(tls).map_err(|error| format!("TLS: {error}"))?);
        let first = self.begin(host, port, crypto.clone(), None).await?;
        let first = first.await.map_err(|error| format!("quic://{host}:{port}: {error}"))?;
        tokio::time::sleep(TICKET).await;
        first.close(0u32.into(), b"");
        let second = self.begin(host, port, crypto, None).await?;
        Ok(second.into_0rtt().ok().map(|(connection, _)| connection))
    }

    async fn begin(
        &self,
        host: &str,
        port: u16,
        crypto: Arc<QuicClientConfig>,
        window: Option<u32>,
    ) -> Result<Connecting, String> {
        let told = |error: &dyn std::fmt::Display| format!("quic://{host}:{port}: {error}");
        let address = tokio::net::lookup_host((host, port)).await.map_err(|error| told(&error))?.next();
        let address = address.ok_or_else(|| told(&"no address"))?;
        let endpoint = if address.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let endpoint = endpoint.ok_or_else(|| told(&"this machine has no IPv6"))?;
        let mut config = ClientConfig::new(crypto);
        config.transport_config(Arc::new(transport(window)));
        endpoint.connect_with(config, address, host).map_err(|error| told(&error))
    }
}

fn transport(window: Option<u32>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_idle_timeout(SILENT.try_into().ok());
    transport.receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    if let Some(bytes) = window {
        transport.stream_receive_window(VarInt::from_u32(bytes));
    }
    transport
}
