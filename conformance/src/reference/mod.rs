//! A reference server: small, in memory, independent of every other implementation.
//!
//! It serves the profiles core, history, signals and json over WebSocket, WebTransport and QUIC, with the room policies
//! of the fixture, so that the suite can be tested without a node. It refuses to be a product: it holds one lock, keeps no bound on
//! what a slow subscriber has waiting, and knows no HTTP API.

mod credit;
mod fragments;
mod mutant;
mod outbox;
mod rights;
mod room;
mod session;
mod state;
mod streams;
mod websocket;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use quinn::crypto::rustls::QuicServerConfig;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub use mutant::Mutant;

use crate::carrier::Peer;
use crate::certificate::Pair;
use crate::client::{ALPN_HTTP3, ALPN_QUIC};
use crate::schema::v1;
use crate::target::Endpoint;
use crate::verdict::{Outcome, Stop};
use state::State;

/// Limits that it states in Welcome.
const RECORD_BYTES: u32 = 262_144;
const MESSAGE_BYTES: usize = 65_536;
const ROOMS: u32 = 100;
const PUBLISHES: u32 = 256;
const SIGNALS: u32 = 10;
const SIGNALS_BURST: u32 = 20;
const HISTORY_PAGE: u32 = 200;
/// Connections of a user, and of an address that a proxy names.
const USER_CONNECTIONS: u32 = 30;
const ADDRESS_CONNECTIONS: u32 = 10;
/// Numbers of the protocol are smaller.
const NUMBER_MAX: u64 = 1 << 53;
const HELLO_WITHIN: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const IDLE_CLOSE: Duration = Duration::from_secs(20);
const NO_PROGRESS: Duration = Duration::from_secs(30);
/// Between GoAway and the close of who is still there.
const CLOSES_IN: Duration = Duration::from_millis(1500);
const CAPABILITIES: [v1::Capability; 6] = [
    v1::Capability::History,
    v1::Capability::Signals,
    v1::Capability::Refresh,
    v1::Capability::Fragments,
    v1::Capability::Credit,
    v1::Capability::Focus,
];

/// What all connections share.
struct Shared {
    state: Mutex<State>,
    secret: String,
    node: String,
    mutant: Option<Mutant>,
    connections: AtomicU64,
    draining: AtomicBool,
    quic_port: u16,
    certificate_hash: [u8; 32],
    ended: watch::Sender<bool>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// A running reference server.
pub struct Reference {
    mutant: Option<Mutant>,
    secret: String,
    port: u16,
    /// One UDP port for raw QUIC and WebTransport, which outlives restarts.
    quic: quinn::Endpoint,
    quic_port: u16,
    certificate_hash: [u8; 32],
    life: Mutex<Option<Life>>,
}

/// From one start to the next.
struct Life {
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
}

impl Reference {
    /// Starts it on ports of the loopback address, TCP and UDP; 0: any free one.
    pub async fn start(port: u16, quic_port: u16, secret: &str, mutant: Option<Mutant>) -> Outcome<Arc<Self>> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(Stop::harness)?;
        let port = listener.local_addr().map_err(Stop::harness)?.port();
        let pair = Pair::new().map_err(Stop::Harness)?;
        let config = quic_config(&pair, mutant).map_err(Stop::Harness)?;
        let quic = quinn::Endpoint::server(config, ([127, 0, 0, 1], quic_port).into()).map_err(Stop::harness)?;
        let quic_port = quic.local_addr().map_err(Stop::harness)?.port();
        let reference = Self {
            mutant,
            secret: secret.to_owned(),
            port,
            quic,
            quic_port,
            certificate_hash: pair.hash(),
            life: Mutex::new(None),
        };
        reference.begin(listener);
        Ok(Arc::new(reference))
    }

    /// Where it listens.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::plain("127.0.0.1", self.port, "/v1/connect")
    }

    /// Where it takes QUIC connections.
    pub fn quic_port(&self) -> u16 {
        self.quic_port
    }

    /// Ends it with all connections and starts it with other epochs.
    pub async fn restart(&self) -> Outcome {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(life) = life {
            life.shared.ended.send_replace(true);
            for task in life.accepting {
                task.abort();
                // Ends with the abort, which frees the port.
                let _ = task.await;
            }
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.map_err(Stop::harness)?;
        self.begin(listener);
        Ok(())
    }

    /// Tells it to stop: GoAway to all, and the close of who stays. It takes that long.
    pub fn drain(&self) -> Duration {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Life { shared, .. }) = &*life {
            session::drain(shared);
        }
        CLOSES_IN + streams::LINGER + Duration::from_millis(500)
    }

    /// Loses the log of a room and tells its subscribers.
    pub fn new_log(&self, room: &str) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Life { shared, .. }) = &*life {
            shared.lock().new_log(room);
        }
    }

    /// Keeps the log of a room as it is.
    pub fn keep_log(&self, room: &str) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Life { shared, .. }) = &*life {
            shared.lock().keep_log(room);
        }
    }

    /// Puts back what was kept of the log of a room, and tells its subscribers.
    pub fn old_log(&self, room: &str) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Life { shared, .. }) = &*life {
            shared.lock().old_log(room);
        }
    }

    /// Loses or regains the logs and tells the subscribers.
    pub fn engine(&self, up: bool) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Life { shared, .. }) = &*life {
            shared.lock().engine(up);
        }
    }

    fn begin(&self, listener: TcpListener) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(self.mutant)),
            secret: self.secret.clone(),
            node: format!("reference-{:08x}", rand::random::<u32>()),
            mutant: self.mutant,
            connections: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            quic_port: self.quic_port,
            certificate_hash: self.certificate_hash,
            ended: watch::channel(false).0,
        });
        let accepting = vec![
            tokio::spawn(accept(listener, shared.clone())),
            tokio::spawn(accept_quic(self.quic.clone(), shared.clone())),
        ];
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(Life { shared, accepting });
    }
}

/// What the QUIC endpoint takes: both protocols, nothing as early data (LC-QUIC-011).
pub(crate) fn quic_config(pair: &Pair, mutant: Option<Mutant>) -> Result<quinn::ServerConfig, String> {
    let told = |error: &dyn std::fmt::Display| format!("QUIC: {error}");
    let (certificate, key) = pair.der();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| told(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|error| told(&error))?;
    tls.alpn_protocols = vec![ALPN_QUIC.to_vec(), ALPN_HTTP3.to_vec()];
    if mutant == Some(Mutant::EarlyDataTaken) {
        tls.max_early_data_size = u32::MAX;
    }
    let tls = QuicServerConfig::try_from(tls).map_err(|error| told(&error))?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(tls)))
}

async fn accept_quic(endpoint: quinn::Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut ended = shared.ended.subscribe();
            tokio::select! {
                _ = quic_connection(incoming, shared.clone()) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        });
    }
}

/// Takes a connection by the protocol that it names. `None`: it ended before it was one.
async fn quic_connection(incoming: quinn::Incoming, shared: Arc<Shared>) -> Option<()> {
    let mut connecting = incoming.accept().ok()?;
    let data = connecting.handshake_data().await.ok()?;
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    if data.protocol.as_deref() == Some(ALPN_QUIC) {
        let connection = match connecting.into_0rtt() {
            Ok((connection, _)) if shared.is(Mutant::EarlyDataTaken) => connection,
            Ok((connection, handshaken)) => {
                handshaken.await;
                connection
            }
            Err(connecting) => connecting.await.ok()?,
        };
        streams::run(Peer::Quic(connection), shared).await;
        return Some(());
    }
    let request = wtransport::endpoint::IncomingSessionFuture::with_quic_connecting(connecting).await.ok()?;
    let own = format!("https://{}", request.authority());
    let foreign = request.origin().is_some_and(|origin| origin != own);
    if foreign && !shared.is(Mutant::AnyOrigin) {
        request.forbidden().await;
        return None;
    }
    if request.path().split('?').next() != Some("/v1/connect") {
        request.not_found().await;
        return None;
    }
    let connection = request.accept().await.ok()?;
    streams::run(Peer::Web(connection), shared).await;
    Some(())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut ended = shared.ended.subscribe();
            tokio::select! {
                () = connection(tcp, shared.clone()) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        });
    }
}

async fn connection(mut tcp: TcpStream, shared: Arc<Shared>) {
    let _ = tcp.set_nodelay(true);
    let head = tokio::time::timeout(HELLO_WITHIN, read_head(&mut tcp)).await;
    let Ok(Some((head, rest))) = head else { return };
    let mut words = head.split_ascii_whitespace();
    let path = words.nth(1).unwrap_or("").split('?').next().unwrap_or("").to_owned();
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(known, _)| known.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    if path == "/.well-known/lanecast" {
        let hash = base64::engine::general_purpose::STANDARD.encode(shared.certificate_hash);
        let body = json!({
            "versions": [1], "websocket": "/v1/connect", "subprotocols": ["lanecast.v1", "lanecast.v1+json"],
            "quic": {"port": shared.quic_port},
            "webtransport": {"port": shared.quic_port, "path": "/v1/connect", "certificateHashes": [hash]},
            "capabilities": CAPABILITIES.map(|capability| capability.as_str_name()), "limits": session::limits_json(), "node": shared.node,
        });
        return respond(&mut tcp, "200 OK", &body.to_string()).await;
    }
    let Some(key) = header("sec-websocket-key").filter(|_| path == "/v1/connect") else {
        return respond(&mut tcp, "404 Not Found", &api_error(4310, "NOT_FOUND")).await;
    };
    let own = header("host").map(|host| format!("http://{host}"));
    if let Some(origin) = header("origin")
        && Some(&origin) != own.as_ref()
    {
        return respond(&mut tcp, "403 Forbidden", &api_error(4008, "ORIGIN")).await;
    }
    let offered = header("sec-websocket-protocol").unwrap_or_default();
    let chosen = offered.split(',').map(str::trim).find(|name| matches!(*name, "lanecast.v1" | "lanecast.v1+json"));
    let Some(chosen) = chosen else {
        return respond(&mut tcp, "400 Bad Request", &api_error(4300, "INVALID")).await;
    };
    let place = header("x-forwarded-for").map(|list| {
        let mut hops = list.split(',').map(str::trim);
        let client = if shared.is(Mutant::ForwardedFromLeft) { hops.next() } else { hops.next_back() };
        format!("address {}", client.unwrap_or_default())
    });
    if let Some(place) = &place
        && !shared.lock().hold(place, ADDRESS_CONNECTIONS)
    {
        return respond(&mut tcp, "503 Service Unavailable", &api_error(4207, "TOO_MANY_CONNECTIONS")).await;
    }
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    if tcp.write_all(answer.as_bytes()).await.is_ok() {
        websocket::run(tcp, rest, chosen == "lanecast.v1+json", shared.clone()).await;
    }
    if let Some(place) = &place {
        shared.lock().release(place);
    }
}

fn api_error(code: u32, name: &str) -> String {
    json!({"code": code, "name": name, "detail": ""}).to_string()
}

pub(crate) async fn respond(tcp: &mut TcpStream, status: &str, body: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: *\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Who is gone needs no answer.
    let _ = tcp.write_all(answer.as_bytes()).await;
    let _ = tcp.shutdown().await;
}

pub(crate) async fn read_head(tcp: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let read = tcp.read(&mut chunk).await.ok()?;
        if read == 0 || bytes.len() > HEAD_BYTES_MAX {
            return None;
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}

fn next_connection(shared: &Shared) -> u64 {
    shared.connections.fetch_add(1, Ordering::Relaxed)
}
