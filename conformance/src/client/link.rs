//! What carries the packets of a connection: a WebSocket, or the streams and datagrams of a QUIC connection.
//!
//! A link knows framing and nothing else. It reads only when it is asked to, so that a case can be a slow reader, and
//! it sends whatever it is given, right or wrong.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::lane::Lane;
use super::socket::Socket;
use super::streams::Streams;
use super::{Encoding, Transport, WireLog};
use crate::target::{Endpoint, Target};
use crate::verdict::{Outcome, Stop};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The close code of a connection that ended without one.
pub const ABNORMAL: u16 = 1006;
/// The close code of a connection that was ended in order, but without a code.
pub const NO_CODE: u16 = 1005;
/// Bytes of a handshake's answer that are read at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How to open a connection.
#[derive(Clone, Debug)]
pub struct Open {
    /// Name in the wire log.
    pub name: String,
    /// What carries the packets.
    pub transport: Transport,
    /// How packets are written; JSON is for WebSocket.
    pub encoding: Encoding,
    /// Subprotocols to offer; `None`: that of the encoding.
    pub subprotocols: Option<Vec<String>>,
    /// Path; `None`: the endpoint's.
    pub path: Option<String>,
    /// Further headers, Origin among them.
    pub headers: Vec<(String, String)>,
    /// Bytes that the transport buffers, by stream where it has streams, for a client that does not read; `None`: as
    /// it likes.
    pub receive_buffer: Option<u32>,
}

impl Open {
    /// Everything by default.
    pub fn plain(name: &str, transport: Transport) -> Self {
        Self {
            name: name.to_owned(),
            transport,
            encoding: Encoding::Binary,
            subprotocols: None,
            path: None,
            headers: Vec::new(),
            receive_buffer: None,
        }
    }
}

/// A handshake that the server refused.
#[derive(Debug)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// Head and body as far as they came.
    pub answer: String,
}

/// Where a record stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a WebSocket message.
    Message,
    /// In a datagram.
    Datagram,
    /// On a stream.
    Stream {
        /// Which one, in the order in which the server opened them; the control stream is 0.
        number: u64,
        /// The kind that its header names: a value of `StreamKind`.
        kind: i32,
        /// The lane that its header names.
        lane: Option<Lane>,
    },
}

/// What reading brought.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Whole records.
    Packet(Bytes, Place),
    /// A text message.
    Text(String),
    /// Something without records.
    Nothing,
    /// The server broke this rule of the framing.
    Broken(&'static str, String),
    /// The connection is closed, with this code.
    Closed(u16),
}

/// What carries the packets of one connection.
#[derive(Debug)]
pub(crate) enum Link {
    /// A WebSocket.
    WebSocket(Box<WebSocketStream<Socket>>),
    /// QUIC, raw or in a WebTransport session.
    Streams(Box<Streams>),
}

/// A link after its handshake, and the headers of the answer, names in lower case.
type Opened = (Link, Vec<(String, String)>);

impl Link {
    /// Makes the handshake.
    pub(crate) async fn open(target: &Target, open: &Open, log: &WireLog) -> Outcome<Result<Opened, Refused>> {
        match open.transport {
            Transport::Websocket => {
                let opened = shake_hands(&target.endpoint, open, log).await?;
                Ok(opened.map(|(socket, headers)| (Self::WebSocket(Box::new(socket)), headers)))
            }
            Transport::Quic | Transport::Webtransport => {
                let opened = Streams::open(target, open, log).await?;
                Ok(opened.map(|streams| (Self::Streams(Box::new(streams)), Vec::new())))
            }
        }
    }

    /// Whether frames of different lanes may overtake each other.
    pub(crate) fn has_streams(&self) -> bool {
        matches!(self, Self::Streams(_))
    }

    /// Sends whole records of that lane, or whatever the bytes are. Whether the server is gone shows at reading.
    pub(crate) async fn send(&mut self, lane: Lane, bytes: Bytes) {
        match self {
            Self::WebSocket(socket) => {
                let _ = socket.send(Message::Binary(bytes)).await;
            }
            Self::Streams(streams) => streams.send(lane, bytes).await,
        }
    }

    /// Sends a text message; a transport without messages has none.
    pub(crate) async fn send_text(&mut self, text: String) {
        if let Self::WebSocket(socket) = self {
            let _ = socket.send(Message::Text(text.into())).await;
        }
    }

    /// Sends a ping of the transport itself. QUIC sends its own all the time.
    pub(crate) async fn ping(&mut self) {
        if let Self::WebSocket(socket) = self {
            let _ = socket.send(Message::Ping(b"still here".as_slice().into())).await;
        }
    }

    /// Closes with a code.
    pub(crate) async fn close(&mut self, code: u16) {
        match self {
            Self::WebSocket(socket) => {
                let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
                let _ = socket.send(Message::Close(Some(frame))).await;
            }
            Self::Streams(streams) => streams.close(code).await,
        }
    }

    /// Reads what comes next; `None`: nothing until the deadline.
    ///
    /// Cancel safe: nothing that was read is lost.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Option<Arrival> {
        match self {
            Self::WebSocket(socket) => {
                let message = timeout_at(deadline, socket.next()).await.ok()?;
                Some(match message {
                    Some(Ok(Message::Binary(bytes))) => Arrival::Packet(bytes, Place::Message),
                    Some(Ok(Message::Text(text))) => Arrival::Text(text.as_str().to_owned()),
                    Some(Ok(Message::Close(frame))) => {
                        // Flushes the answer to the close frame; its failure only says that the server was faster.
                        let _ = socket.flush().await;
                        Arrival::Closed(frame.map_or(NO_CODE, |frame| frame.code.into()))
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Arrival::Nothing,
                    // However it broke, there is nothing more to read.
                    None | Some(Err(_)) => Arrival::Closed(ABNORMAL),
                })
            }
            Self::Streams(streams) => timeout_at(deadline, streams.next()).await.ok(),
        }
    }
}

/// A WebSocket after its handshake, and the headers of the answer, names in lower case.
type OpenedSocket = (WebSocketStream<Socket>, Vec<(String, String)>);

/// Makes the WebSocket handshake.
pub(crate) async fn shake_hands(
    endpoint: &Endpoint,
    open: &Open,
    log: &WireLog,
) -> Outcome<Result<OpenedSocket, Refused>> {
    let mut socket = Socket::connect(endpoint, open.receive_buffer).await.map_err(Stop::harness)?;
    let offered = open.subprotocols.clone().unwrap_or_else(|| vec![open.encoding.subprotocol().into()]);
    let path = open.path.as_deref().unwrap_or(&endpoint.path);
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n",
        endpoint.authority()
    );
    if !offered.is_empty() {
        head.push_str(&format!("Sec-WebSocket-Protocol: {}\r\n", offered.join(", ")));
    }
    for (name, value) in &open.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    log.add(&open.name, "→", &format!("handshake {path} offering {offered:?}"));
    socket.write_all(format!("{head}\r\n").as_bytes()).await.map_err(Stop::harness)?;
    let (head, rest) = read_head(&mut socket).await?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    log.add(&open.name, "←", head.lines().next().unwrap_or(""));
    if status != 101 {
        return Ok(Err(Refused { status, answer: head + &String::from_utf8_lossy(&rest) }));
    }
    let handshake: Vec<(String, String)> = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let accept = handshake.iter().find(|(name, _)| name == "sec-websocket-accept");
    if accept.is_none_or(|(_, value)| *value != derive_accept_key(KEY.as_bytes())) {
        return Err(Stop::fail("Sec-WebSocket-Accept does not fit the key"));
    }
    let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
    let socket = WebSocketStream::from_partially_read(socket, rest, Role::Client, Some(config)).await;
    Ok(Ok((socket, handshake)))
}

async fn read_head(socket: &mut Socket) -> Outcome<(String, Vec<u8>)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes[..end]).into_owned(), rest));
        }
        match timeout_at(deadline, socket.read(&mut chunk)).await {
            Err(_) => return Err(Stop::fail("the handshake was not answered within 10 s")),
            Ok(Ok(read)) if read > 0 && bytes.len() < HEAD_BYTES_MAX => bytes.extend_from_slice(&chunk[..read]),
            Ok(_) => return Err(Stop::fail("the connection ended during the handshake")),
        }
    }
}
