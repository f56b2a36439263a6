//! A WebSocket connection that a case drives frame by frame.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::ledger::{Handles, Ledger, body_name};
use super::{Encoding, WireLog};
use crate::schema;
use crate::target::Endpoint;
use crate::verdict::{Outcome, Stop};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The close code of a connection that ended without one.
pub const ABNORMAL: u16 = 1006;
/// Bytes of a handshake's answer that are read at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How to open a connection.
#[derive(Clone, Debug)]
pub struct Open {
    /// Name in the wire log.
    pub name: String,
    /// How packets are written.
    pub encoding: Encoding,
    /// Subprotocols to offer; `None`: that of the encoding.
    pub subprotocols: Option<Vec<String>>,
    /// Path; `None`: the endpoint's.
    pub path: Option<String>,
    /// Further headers, Origin among them.
    pub headers: Vec<(String, String)>,
    /// Bytes that the kernel buffers for a client that does not read; `None`: as it likes.
    pub receive_buffer: Option<u32>,
}

/// A handshake that was not answered with 101.
#[derive(Debug)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// Head and body as far as they came.
    pub answer: String,
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The frame, plain fields present.
    pub value: Value,
    /// The bytes of the frame; empty on JSON.
    pub bytes: Bytes,
    /// Number of the message that it came in, from 1.
    pub message: u64,
    /// When it was read.
    pub at: Instant,
}

/// What reading brought.
#[derive(Debug)]
pub enum Incoming {
    /// Frames were added to the pending ones.
    Frames,
    /// The connection is closed, with this code.
    Closed(u16),
    /// Nothing until the deadline.
    Quiet,
}

/// One connection.
pub struct Conn {
    /// Name in the wire log.
    pub name: String,
    /// How packets are written.
    pub encoding: Encoding,
    /// Headers of the handshake's answer, names in lower case.
    pub handshake: Vec<(String, String)>,
    /// Checks of every frame.
    pub ledger: Ledger,
    /// User that the connection said to be, once it joined.
    pub user: String,
    /// Instance that the connection said to be, once it joined.
    pub instance: String,
    ws: WebSocketStream<TcpStream>,
    pending: VecDeque<Received>,
    closed: Option<u16>,
    messages: u64,
    ids: u32,
    log: WireLog,
}

impl Conn {
    /// Makes the WebSocket handshake.
    pub async fn open(
        endpoint: &Endpoint,
        open: Open,
        log: &WireLog,
        handles: &Handles,
    ) -> Outcome<Result<Self, Refused>> {
        let (ws, handshake) = match shake_hands(endpoint, &open, log).await? {
            Ok(opened) => opened,
            Err(refused) => return Ok(Err(refused)),
        };
        Ok(Ok(Self {
            name: open.name,
            encoding: open.encoding,
            handshake,
            ledger: Ledger::new(handles.clone()),
            user: String::new(),
            instance: String::new(),
            ws,
            pending: VecDeque::new(),
            closed: None,
            messages: 0,
            ids: 1000,
            log: log.clone(),
        }))
    }

    /// A request id that no case writes by hand.
    pub fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    /// The value of a header of the handshake's answer.
    pub fn handshake_header(&self, name: &str) -> Option<&str> {
        self.handshake.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sends frames in one packet. That the server closed before is no fault here; reading shows it.
    pub async fn send(&mut self, frames: &[Value]) -> Outcome {
        for frame in frames {
            self.ledger.sent(frame);
            self.log.add(&self.name, "→", &short(frame));
        }
        let message = self.message(frames)?;
        let _ = self.ws.send(message).await;
        Ok(())
    }

    /// The message that holds these frames.
    pub fn message(&self, frames: &[Value]) -> Outcome<Message> {
        Ok(match self.encoding {
            Encoding::Binary => {
                let mut packet = Vec::new();
                for frame in frames {
                    packet.extend_from_slice(&schema::frame_record(frame)?);
                }
                Message::Binary(packet.into())
            }
            Encoding::Json => Message::Text(schema::packet_text(frames)?.into()),
        })
    }

    /// Sends any WebSocket message. Answers can then not be matched to requests any more.
    pub async fn send_message(&mut self, message: Message) {
        self.ledger.raw_sent();
        let shown = match &message {
            Message::Binary(bytes) => format!("raw {} bytes {}", bytes.len(), hex(&bytes[..bytes.len().min(64)])),
            Message::Text(text) => format!("raw text {text}"),
            other => format!("{other:?}"),
        };
        self.log.add(&self.name, "→", &shown);
        let _ = self.ws.send(message).await;
    }

    /// Sends a request under a fresh id and returns the answer's frame.
    pub async fn ask(&mut self, mut frame: Value, within: Duration) -> Outcome<Value> {
        let id = self.next_id();
        frame["id"] = json!(id);
        self.send(std::slice::from_ref(&frame)).await?;
        let what = format!("an answer to {}", short(&frame));
        let found = self.wait_for(within, &what, |received| received.value["id"] == id).await?;
        Ok(found.value)
    }

    /// Reads until a pending frame fits, and takes it out. Frames before it stay pending.
    pub async fn wait_for(
        &mut self,
        within: Duration,
        what: &str,
        mut fits: impl FnMut(&Received) -> bool,
    ) -> Outcome<Received> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        loop {
            while seen < self.pending.len() {
                if fits(&self.pending[seen]) {
                    return self.pending.remove(seen).ok_or_else(|| Stop::harness("pending frame vanished"));
                }
                seen += 1;
            }
            match self.read(deadline).await? {
                Incoming::Frames => {}
                Incoming::Closed(code) => {
                    return Err(Stop::fail(format!(
                        "{}: closed with {code} instead of {what}{}",
                        self.name,
                        self.pending_text()
                    )));
                }
                Incoming::Quiet => {
                    return Err(Stop::fail(format!(
                        "{}: {what} did not come within {} ms{}",
                        self.name,
                        within.as_millis(),
                        self.pending_text()
                    )));
                }
            }
        }
    }

    /// Reads until the connection is closed and returns the code.
    pub async fn wait_closed(&mut self, within: Duration) -> Outcome<u16> {
        let deadline = Instant::now() + within;
        loop {
            match self.read(deadline).await? {
                Incoming::Frames => {}
                Incoming::Closed(code) => return Ok(code),
                Incoming::Quiet => {
                    return Err(Stop::fail(format!(
                        "{}: not closed within {} ms{}",
                        self.name,
                        within.as_millis(),
                        self.pending_text()
                    )));
                }
            }
        }
    }

    /// Reads what comes in that time, or until the connection closes.
    pub async fn settle(&mut self, time: Duration) -> Outcome {
        let deadline = Instant::now() + time;
        while let Incoming::Frames = self.read(deadline).await? {}
        Ok(())
    }

    /// Ping and Pong: what the server sent before is now pending.
    pub async fn barrier(&mut self, within: Duration) -> Outcome {
        let stamp = u64::from(self.next_id());
        let answer = self.ask(json!({"ping": {"stamp": stamp}}), within).await?;
        if answer["pong"]["stamp"] != stamp {
            return Err(Stop::Fail(format!("Ping with stamp {stamp} was answered with {answer}"), Some("LC-LIFE-002")));
        }
        Ok(())
    }

    /// The frames that came and were not taken.
    pub fn pending(&self) -> &VecDeque<Received> {
        &self.pending
    }

    /// Takes all pending frames.
    pub fn take_pending(&mut self) -> Vec<Received> {
        self.pending.drain(..).collect()
    }

    /// The code with which the connection was closed, if it is.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Closes with a code.
    pub async fn close(&mut self, code: u16) {
        self.log.add(&self.name, "→", &format!("close {code}"));
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        let _ = self.ws.send(Message::Close(Some(frame))).await;
    }

    /// Ends the TCP connection without a word.
    pub fn cut(self) {
        self.log.add(&self.name, "→", "cut");
    }

    /// Sends a message that the wire log leaves out: one of a flood.
    pub async fn send_raw_quietly(&mut self, message: Message) {
        self.ledger.raw_sent();
        let _ = self.ws.send(message).await;
    }

    /// Reads one message without judging it: answers to broken requests fit no request.
    pub async fn read_unjudged(&mut self, deadline: Instant) -> Incoming {
        self.read_unchecked(deadline).await
    }

    /// Reads one message. A violation that the ledger sees stops the case.
    pub async fn read(&mut self, deadline: Instant) -> Outcome<Incoming> {
        let incoming = self.read_unchecked(deadline).await;
        match self.ledger.violation() {
            Some(violation) => {
                Err(Stop::Fail(format!("{}: {}: {}", self.name, violation.rule, violation.text), Some(violation.rule)))
            }
            None => Ok(incoming),
        }
    }

    async fn read_unchecked(&mut self, deadline: Instant) -> Incoming {
        if let Some(code) = self.closed {
            return Incoming::Closed(code);
        }
        let message = match timeout_at(deadline, self.ws.next()).await {
            Err(_) => return Incoming::Quiet,
            Ok(message) => message,
        };
        match message {
            Some(Ok(Message::Binary(bytes))) if self.encoding == Encoding::Binary => self.binary(&bytes).await,
            Some(Ok(Message::Text(text))) if self.encoding == Encoding::Json => self.text(&text).await,
            Some(Ok(Message::Close(frame))) => {
                // 1005 stands for a close frame without a code.
                let code = frame.map_or(1005, |frame| frame.code.into());
                // Flushes the answer to the close frame; its failure only says that the server was faster.
                let _ = self.ws.flush().await;
                return self.end(code);
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(_)) => {
                self.ledger.note("LC-WS-002", format!("a message of the wrong type on {}", self.encoding.subprotocol()))
            }
            None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_))) => {
                return self.end(ABNORMAL);
            }
            Some(Err(error)) => {
                self.log.add(&self.name, "!", &error.to_string());
                return self.end(ABNORMAL);
            }
        }
        Incoming::Frames
    }

    fn end(&mut self, code: u16) -> Incoming {
        self.log.add(&self.name, "←", &format!("closed {code}"));
        self.ledger.closed(code);
        self.closed = Some(code);
        Incoming::Closed(code)
    }

    async fn binary(&mut self, bytes: &Bytes) {
        self.ledger.message(bytes.len());
        self.messages += 1;
        let frames = match schema::split_records(bytes) {
            Ok(frames) => frames,
            Err(error) => return self.ledger.note("LC-FRM-001", error.0),
        };
        for frame in frames {
            match schema::decode("Frame", frame) {
                Ok(value) => self.frame(value, bytes.slice_ref(frame), schema::record(frame).len()).await,
                Err(error) => self.ledger.note("LC-FRM-001", error.0),
            }
        }
    }

    async fn text(&mut self, text: &str) {
        self.ledger.message(text.len());
        self.messages += 1;
        match schema::parse_packet_text(text) {
            Ok(frames) => {
                for frame in frames {
                    self.frame(frame, Bytes::new(), 0).await;
                }
            }
            Err(error) => self.ledger.note("LC-JSON-001", error.0),
        }
    }

    async fn frame(&mut self, value: Value, bytes: Bytes, record_bytes: usize) {
        self.log.add(&self.name, "←", &short(&value));
        self.ledger.received(&value, record_bytes);
        if body_name(&value) == Some("ping") {
            let pong = json!({"id": value["id"], "pong": {"stamp": value["ping"]["stamp"]}});
            if let Ok(message) = self.message(&[pong]) {
                let _ = self.ws.send(message).await;
            }
            return;
        }
        self.pending.push_back(Received { value, bytes, message: self.messages, at: Instant::now() });
    }

    fn pending_text(&self) -> String {
        if self.pending.is_empty() {
            return "; nothing else came".into();
        }
        let shown: Vec<String> = self.pending.iter().take(8).map(|received| short(&received.value)).collect();
        let more = self.pending.len().saturating_sub(shown.len());
        format!("; {} came{}", shown.join(" "), if more > 0 { format!(" and {more} more") } else { String::new() })
    }
}

/// Characters of a text that people are shown.
const SHOWN_MAX: usize = 100;

/// A frame without its default values, its texts cut, for people.
pub fn short(value: &Value) -> String {
    fn strip(value: &Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(name, value)| (name.clone(), strip(value)))
                    .filter(|(_, value)| match value {
                        Value::Number(number) => number.as_u64() != Some(0),
                        Value::String(text) => !text.is_empty() && !text.ends_with("_UNSPECIFIED"),
                        Value::Bool(flag) => *flag,
                        Value::Array(items) => !items.is_empty(),
                        _ => true,
                    })
                    .collect(),
            ),
            Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
            Value::String(text) if text.len() > SHOWN_MAX => {
                let head: String = text.chars().take(SHOWN_MAX).collect();
                Value::String(format!("{head}… ({} bytes)", text.len()))
            }
            other => other.clone(),
        }
    }
    strip(value).to_string()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A connection after its handshake, and the headers of the answer, names in lower case.
type Opened = (WebSocketStream<TcpStream>, Vec<(String, String)>);

/// Makes the WebSocket handshake.
pub(crate) async fn shake_hands(endpoint: &Endpoint, open: &Open, log: &WireLog) -> Outcome<Result<Opened, Refused>> {
    let mut tcp = super::raw::connect_with(endpoint, open.receive_buffer).await.map_err(Stop::harness)?;
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
    tcp.write_all(format!("{head}\r\n").as_bytes()).await.map_err(Stop::harness)?;
    let (head, rest) = read_head(&mut tcp).await?;
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
    let ws = WebSocketStream::from_partially_read(tcp, rest, Role::Client, Some(config)).await;
    Ok(Ok((ws, handshake)))
}

async fn read_head(tcp: &mut TcpStream) -> Outcome<(String, Vec<u8>)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes[..end]).into_owned(), rest));
        }
        match timeout_at(deadline, tcp.read(&mut chunk)).await {
            Err(_) => return Err(Stop::fail("the handshake was not answered within 10 s")),
            Ok(Ok(read)) if read > 0 && bytes.len() < HEAD_BYTES_MAX => bytes.extend_from_slice(&chunk[..read]),
            Ok(_) => return Err(Stop::fail("the connection ended during the handshake")),
        }
    }
}
