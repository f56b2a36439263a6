//! The scripted server: what a client under test talks to.
//!
//! It does nothing by itself but the handshakes of the transports. Every frame of the client is heard, with its time and its
//! place, and every answer is a case's, right or wrong. Frames are values, as everywhere in the suite; bytes that are no
//! frames can be sent as well.

mod conn;
mod link;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) use self::conn::lay_over;
pub use self::conn::{Conn, Frame, Heard, What, cause, event, gap, position};
use self::link::Link;
pub use self::relay::{TcpRelay, UdpRelay};
use crate::carrier::Peer as Carrier;
use crate::certificate::Pair;
use crate::client::{ALPN_QUIC, Transport, WireLog};
use crate::reference::{Mutant, quic_config, read_head, respond};
use crate::verdict::{Outcome, Stop};

/// Connections that wait for a case to take them.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take for the handshake of its transport.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The subprotocol that it takes.
const SUBPROTOCOL: &str = "lanecast.v1";
const PATH: &str = "/v1/connect";

/// How it takes connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Bytes of a stream that the client may send before they are read; 0: as QUIC likes.
    pub stream_window: u32,
    /// Takes early data, which no client may send anything in that publishes.
    pub early_data: bool,
}

/// A server for one case, on ports of its own.
pub struct Peer {
    /// TCP port.
    pub port: u16,
    /// UDP port.
    pub quic_port: u16,
    /// SHA-256 of its certificate.
    pub certificate_hash: [u8; 32],
    taken: mpsc::Receiver<Conn>,
    tasks: Vec<JoinHandle<()>>,
    quic: quinn::Endpoint,
}

#[derive(Clone)]
struct Doors {
    say: mpsc::Sender<Conn>,
    log: WireLog,
    quic_port: u16,
    hash: [u8; 32],
}

impl Peer {
    /// Listens for WebSocket, QUIC and WebTransport.
    pub async fn start(pair: &Pair, settings: Settings, log: WireLog) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Stop::harness)?;
        let port = listener.local_addr().map_err(Stop::harness)?.port();
        let mut config =
            quic_config(pair, settings.early_data.then_some(Mutant::EarlyDataTaken)).map_err(Stop::Harness)?;
        if settings.stream_window > 0 {
            let mut transport = quinn::TransportConfig::default();
            transport.stream_receive_window(settings.stream_window.into());
            config.transport_config(Arc::new(transport));
        }
        let quic = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).map_err(Stop::harness)?;
        let quic_port = quic.local_addr().map_err(Stop::harness)?.port();
        let (say, taken) = mpsc::channel(CONNECTIONS_MAX);
        let doors = Doors { say, log, quic_port, hash: pair.hash() };
        let tasks = vec![
            tokio::spawn(accept_tcp(listener, doors.clone())),
            tokio::spawn(accept_quic(quic.clone(), doors, settings.early_data)),
        ];
        Ok(Self { port, quic_port, certificate_hash: pair.hash(), taken, tasks, quic })
    }

    /// Where a client finds it over that transport.
    pub fn url(&self, transport: Transport) -> String {
        match transport {
            Transport::Websocket => format!("ws://127.0.0.1:{}{PATH}", self.port),
            Transport::Webtransport => format!("http://127.0.0.1:{}/", self.port),
            Transport::Quic => format!("quic://127.0.0.1:{}", self.quic_port),
        }
    }

    /// The next connection; `None`: none in time.
    pub async fn accept(&mut self, within: Duration) -> Option<Conn> {
        timeout(within, self.taken.recv()).await.ok().flatten()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.quic.close(0u32.into(), b"");
    }
}

async fn accept_tcp(listener: TcpListener, doors: Doors) {
    while let Ok((tcp, _)) = listener.accept().await {
        let doors = doors.clone();
        // Ends with the handshake, or after its deadline.
        tokio::spawn(timeout(HANDSHAKE, shake_hands(tcp, doors)));
    }
}

async fn shake_hands(mut tcp: TcpStream, doors: Doors) -> Option<()> {
    tcp.set_nodelay(true).ok()?;
    let (head, rest) = read_head(&mut tcp).await?;
    let path = head.split_ascii_whitespace().nth(1).unwrap_or("").to_owned();
    let header = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    };
    if path == "/.well-known/lanecast" {
        let body = doors.description();
        respond(&mut tcp, "200 OK", &body).await;
        return None;
    }
    let Some(key) = header("sec-websocket-key") else {
        respond(&mut tcp, "404 Not Found", "{}").await;
        return None;
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    tokio::io::AsyncWriteExt::write_all(&mut tcp, answer.as_bytes()).await.ok()?;
    let (link, heard) = Link::websocket(tcp, rest).await;
    doors.open(link, heard, Transport::Websocket, head).await
}

impl Doors {
    fn description(&self) -> String {
        let hash = base64::engine::general_purpose::STANDARD.encode(self.hash);
        let body = json!({
            "versions": [1], "websocket": PATH, "subprotocols": [SUBPROTOCOL],
            "quic": {"port": self.quic_port},
            "webtransport": {"port": self.quic_port, "path": PATH, "certificateHashes": [hash]},
        });
        body.to_string()
    }

    async fn open(&self, link: Link, heard: mpsc::Receiver<Heard>, transport: Transport, head: String) -> Option<()> {
        self.log.add("peer", "·", &format!("a connection over {}", transport.name()));
        self.say.send(Conn::new(link, heard, transport, head, self.log.clone())).await.ok()
    }
}

async fn accept_quic(endpoint: quinn::Endpoint, doors: Doors, early: bool) {
    while let Some(incoming) = endpoint.accept().await {
        let doors = doors.clone();
        // Ends with the handshake, or after its deadline.
        tokio::spawn(timeout(HANDSHAKE, shake_hands_quic(incoming, doors, early)));
    }
}

async fn shake_hands_quic(incoming: quinn::Incoming, doors: Doors, early: bool) -> Option<()> {
    let mut connecting = incoming.accept().ok()?;
    let data = connecting.handshake_data().await.ok()?;
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    if data.protocol.as_deref() == Some(ALPN_QUIC) {
        let connection = if early {
            // The server side always has keys for early data; what came in it is told by the streams.
            connecting.into_0rtt().ok()?.0
        } else {
            connecting.await.ok()?
        };
        let (link, heard) = Link::streams(Carrier::Quic(connection));
        return doors.open(link, heard, Transport::Quic, String::new()).await;
    }
    let request = wtransport::endpoint::IncomingSessionFuture::with_quic_connecting(connecting).await.ok()?;
    let head = request.path().to_owned();
    let connection = request.accept().await.ok()?;
    let (link, heard) = Link::streams(Carrier::Web(connection));
    doors.open(link, heard, Transport::Webtransport, head).await
}
