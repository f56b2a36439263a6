//! WebSocket: all routes fold into one pipe (LC-WS-008).
//!
//! What is in the pipe can no longer be overtaken, so little goes in: a small message at a time, and the next one once the
//! socket has taken it. Control and urgent go in as soon as the socket takes more, the other lanes only while what is under
//! way causes no queue (see [`lanecast_pacing`]).

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};
use lanecast_pacing::Pace;
use lanecast_protocol::codec::{self, CodecError};
use lanecast_protocol::codes::Code;
use lanecast_protocol::json;
use lanecast_protocol::lane::{Lane, Lanes};
use tokio_tungstenite::tungstenite;

use super::{Gone, Received, Source, Transport};

/// Bytes of records that go into one message, unless a single record is longer. What is in a message is beyond our
/// queues, so it bounds how long an urgent record can wait behind others; below it the cost per message shows.
const MESSAGE_BYTES: usize = 4 * 1024;
/// The same without pacing, where the kernel holds far more.
const UNPACED_MESSAGE_BYTES: usize = 16 * 1024;

/// All lanes while the socket has no room: control and urgent never wait for a queue beyond this one to drain.
const HELD: Lanes = Lanes::ALL.hold(Lane::Normal).hold(Lane::Signal).hold(Lane::Bulk);

/// How the packets of a connection are written: the WebSocket subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `lanecast.v1`: protobuf in binary messages.
    Binary,
    /// `lanecast.v1+json`: canonical JSON in text messages.
    Json,
}

impl Encoding {
    /// All encodings, in the order in which the node prefers them.
    pub const ALL: [Self; 2] = [Self::Binary, Self::Json];

    /// The name of the subprotocol.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Binary => "lanecast.v1",
            Self::Json => "lanecast.v1+json",
        }
    }
}

/// A WebSocket connection.
pub struct WebSocketTransport {
    socket: WebSocket,
    pace: Pace,
    encoding: Encoding,
    /// Longest record, and so longest message, bytes.
    record_bytes: usize,
    /// The message that the socket has not taken yet.
    unsent: Option<Message>,
    /// A record that would have made the last message too long.
    carry: Option<Bytes>,
    /// Whether the socket holds something to flush.
    dirty: bool,
    /// Whether lanes wait for the socket to have room.
    is_held: bool,
    is_paced: bool,
    /// Whether a write said that the peer is gone.
    is_gone: bool,
    /// Whether each record is to be written by itself, as the bench's other half.
    one_by_one: bool,
}

impl WebSocketTransport {
    /// Wraps a socket after its handshake.
    pub fn new(socket: WebSocket, pace: Pace, encoding: Encoding, record_bytes: usize, one_by_one: bool) -> Self {
        Self {
            socket,
            pace,
            encoding,
            record_bytes,
            unsent: None,
            carry: None,
            dirty: false,
            is_held: false,
            is_paced: true,
            is_gone: false,
            one_by_one,
        }
    }

    /// Whether something is on its way into the socket.
    fn is_writing(&self) -> bool {
        self.unsent.is_some() || self.dirty || self.is_gone
    }

    /// Folds outputs of these lanes into one packet; a single one is passed on without a copy.
    fn fold(&mut self, bytes_max: usize, lanes: Lanes, next: &mut Source<'_>) -> Option<Bytes> {
        let mut next = || next(lanes);
        let packet = self.carry.take().or_else(|| next().map(|output| output.record))?;
        let mut joined = BytesMut::new();
        while !self.one_by_one
            && joined.len().max(packet.len()) < bytes_max
            && let Some(output) = next()
        {
            if joined.len().max(packet.len()) + output.record.len() > self.record_bytes {
                self.carry = Some(output.record);
                break;
            }
            if joined.is_empty() {
                joined.reserve(bytes_max.min(packet.len() + output.record.len() + 1024));
                joined.extend_from_slice(&packet);
            }
            joined.extend_from_slice(&output.record);
        }
        Some(if joined.is_empty() { packet } else { joined.freeze() })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.is_gone {
            return Poll::Ready(Err(Gone));
        }
        if self.unsent.is_some() {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(|_| Gone)?;
            if let Some(message) = self.unsent.take() {
                Pin::new(&mut self.socket).start_send(message).map_err(|_| Gone)?;
                self.dirty = true;
            }
        }
        if self.dirty {
            ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(|_| Gone)?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn received(&self, message: Message) -> Option<Received> {
        let records = |packet| Received::Records(codec::records(packet, self.record_bytes), None);
        let fault = |code, detail| Received::Fault(CodecError { code, detail });
        Some(match (message, self.encoding) {
            (Message::Binary(packet), Encoding::Binary) => records(packet),
            (Message::Text(text), Encoding::Json) => match json::from_json("Packet", text.as_bytes()) {
                Ok(packet) => records(packet),
                Err(error) => Received::Fault(error),
            },
            (Message::Text(_), Encoding::Binary) => fault(Code::TextFrame, "text on the binary subprotocol"),
            (Message::Binary(_), Encoding::Json) => fault(Code::TextFrame, "binary on the JSON subprotocol"),
            (Message::Close(_), _) => Received::Closed,
            (Message::Ping(_) | Message::Pong(_), _) => return None,
        })
    }

    fn message(&self, packet: Bytes) -> Message {
        match self.encoding {
            Encoding::Binary => Message::Binary(packet),
            Encoding::Json => {
                let text = json::to_json("Packet", &packet).unwrap_or_else(|error| {
                    // Only an envelope that is no protobuf could do this, and those are refused at publish.
                    tracing::error!(%error, "a packet has no JSON form");
                    String::from("{}")
                });
                Message::Text(text.into())
            }
        }
    }
}

/// What a failed read means: the peer is gone, or it sent what must be answered.
fn fault(error: axum::Error) -> Received {
    let inner = error.into_inner();
    let fault = |code, detail| Received::Fault(CodecError { code, detail });
    match inner.downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => fault(Code::TooLarge, "message above the limit"),
        Some(tungstenite::Error::Utf8(_)) => fault(Code::Protocol, "text that is not UTF-8"),
        Some(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
            Received::Closed
        }
        Some(tungstenite::Error::Protocol(_)) => fault(Code::Protocol, "not a WebSocket frame"),
        _ => Received::Closed,
    }
}

impl Transport for WebSocketTransport {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        loop {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None => return Poll::Ready(Received::Closed),
                Some(Err(error)) => return Poll::Ready(fault(error)),
                Some(Ok(message)) => {
                    // A WebSocket ping was answered by the library; the answer has to be flushed.
                    self.dirty |= matches!(message, Message::Ping(_));
                    if let Some(received) = self.received(message) {
                        return Poll::Ready(received);
                    }
                }
            }
        }
    }

    fn takes(&self) -> Lanes {
        match () {
            () if self.is_writing() => Lanes::NONE,
            () if self.pace.has_room() => Lanes::ALL,
            () => HELD,
        }
    }

    fn is_busy(&self) -> bool {
        self.is_writing() || self.is_held
    }

    fn send(&mut self, bytes_max: usize, next: &mut Source<'_>) -> usize {
        let lanes = self.takes();
        if lanes.is_empty() {
            return 0;
        }
        self.is_held = lanes != Lanes::ALL;
        let message_max = if self.is_paced { MESSAGE_BYTES } else { UNPACED_MESSAGE_BYTES };
        let Some(packet) = self.fold(message_max.min(bytes_max), lanes, next) else { return 0 };
        let bytes = packet.len();
        self.unsent = Some(self.message(packet));
        // A waker that does nothing is safe here: while something is left it is polled with the real one.
        let written = self.poll_write(&mut Context::from_waker(Waker::noop()));
        self.is_gone = written == Poll::Ready(Err(Gone));
        bytes
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.is_writing() {
            return self.poll_write(cx);
        }
        if self.is_held {
            ready!(self.pace.poll_room(cx));
            self.is_held = false;
        }
        Poll::Ready(Ok(()))
    }

    fn set_paced(&mut self, is_paced: bool) {
        self.is_paced = is_paced;
        self.pace.set_paced(is_paced);
    }

    fn start_close(&mut self, code: Code) {
        let reason = code.row().name;
        self.unsent = Some(Message::Close(Some(CloseFrame { code: code.number(), reason: reason.into() })));
    }
}
