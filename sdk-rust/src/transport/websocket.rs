//! WebSocket: all lanes folded into one pipe, whole records in binary messages (subprotocol `lanecast.v1`).
//!
//! What is in the pipe can no longer be overtaken, so little goes in: a small message at a time, and the next one once the
//! socket has taken it. Control and urgent go in as soon as the socket takes more, the other lanes only while what is under
//! way causes no queue (see [`lanecast_pacing`]).

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use lanecast_pacing::Pace;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::Output;
use lanecast_protocol::session::client::RECORD_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::{Path, Source, Transport, Turn};

const SUBPROTOCOL: &str = "lanecast.v1";
/// A message is not made longer than this by adding to it: what is in it can no longer be overtaken.
const MESSAGE_BYTES: usize = 4 * 1024;
/// The same without pacing, where the kernel holds far more.
const UNPACED_MESSAGE_BYTES: usize = 16 * 1024;
/// Bytes that are written in one go while the socket takes them, before input has its turn.
const TURN_BYTES: usize = 64 * 1024;
/// All lanes while the socket has no room: control and urgent never wait for a queue beyond this one to drain.
const HELD: Lanes = Lanes::ALL.hold(Lane::Normal).hold(Lane::Signal).hold(Lane::Bulk);
const READ_BUFFER_BYTES: usize = 16 * 1024;

type Half<S> = fn(&mut WebSocket<S>, &mut Context<'_>) -> Poll<Turn>;

/// An open WebSocket above a stream of bytes: TCP, or TLS above it.
pub(super) struct WebSocket<S> {
    socket: WebSocketStream<S>,
    /// Tells when the socket under it has room.
    pace: Pace,
    /// A message is on its way into the socket.
    writing: bool,
    /// A message has got there since it was said last.
    written: bool,
    /// Lanes wait for the socket to have room.
    held: bool,
    paced: bool,
    path: Option<Path>,
    /// An output that did not fit into the last message.
    left: Option<Output>,
    /// Whose turn it is, so that neither reading nor writing starves.
    read_first: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> WebSocket<S> {
    pub(super) async fn open(stream: S, pace: Pace, path: Option<Path>, uri: Uri) -> Result<Self, String> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(RECORD_BYTES_MAX))
            .max_frame_size(Some(RECORD_BYTES_MAX));
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
        // Fails unless the answer names the subprotocol.
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (socket, _) = opened.map_err(|error| error.to_string())?;
        Ok(Self {
            socket,
            pace,
            writing: false,
            written: false,
            held: false,
            paced: true,
            path,
            left: None,
            read_first: true,
        })
    }

    /// Folds outputs of these lanes into one message; a single one is passed on without a copy.
    fn fold(&mut self, lanes: Lanes, next: &mut Source<'_>, message_max: usize) -> Option<Bytes> {
        let enough = if self.paced { MESSAGE_BYTES } else { UNPACED_MESSAGE_BYTES };
        let first = self.left.take().or_else(|| next(lanes))?.record;
        let mut rest = BytesMut::new();
        while first.len() + rest.len() < enough.min(message_max) {
            let Some(output) = next(lanes) else { break };
            if first.len() + rest.len() + output.record.len() > message_max {
                self.left = Some(output);
                break;
            }
            rest.extend_from_slice(&output.record);
        }
        if rest.is_empty() {
            return Some(first);
        }
        let mut message = BytesMut::with_capacity(first.len() + rest.len());
        message.extend_from_slice(&first);
        message.extend_from_slice(&rest);
        Some(message.freeze())
    }

    /// Ready when all of the message is in the socket; a broken one says so to who polls it next.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(|error| error.to_string())?;
        (self.writing, self.written) = (false, true);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.writing
            && let Err(detail) = ready!(self.poll_flush(cx))
        {
            return Poll::Ready(Turn::Over { code: None, detail });
        }
        if !self.written {
            if !self.held {
                return Poll::Pending;
            }
            ready!(self.pace.poll_room(cx));
        }
        (self.written, self.held) = (false, false);
        Poll::Ready(Turn::Written)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            let turn = match std::task::ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(packet))) => Turn::Packet(None, packet),
                Some(Ok(Message::Text(_))) => Turn::Fault(Code::TextFrame),
                Some(Ok(Message::Close(frame))) => Turn::Over {
                    code: frame.as_ref().map(|frame| frame.code.into()),
                    detail: frame.map(|frame| frame.reason.to_string()).unwrap_or_default(),
                },
                // Pings are answered by the library, within this call or the next.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => Turn::Over { code: None, detail: error.to_string() },
                None => Turn::Over { code: None, detail: "the connection ended".into() },
            };
            return Poll::Ready(turn);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for WebSocket<S> {
    fn ordered(&self) -> bool {
        true
    }

    fn write(&mut self, next: &mut Source<'_>, message_max: Option<usize>) {
        let mut left = TURN_BYTES;
        while !self.writing && left > 0 {
            let lanes = if self.pace.has_room() { Lanes::ALL } else { HELD };
            self.held = lanes != Lanes::ALL;
            let Some(message) = self.fold(lanes, next, message_max.unwrap_or(MESSAGE_BYTES)) else { return };
            left = left.saturating_sub(message.len());
            self.writing = true;
            // The socket is flushed, so it takes a message; should it be broken, the flush says so.
            let _ = Pin::new(&mut self.socket).start_send(Message::Binary(message));
            // A waker that does nothing is safe here: while something is left it is polled with the real one.
            let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }

    fn path(&self) -> Option<Path> {
        self.path.clone()
    }

    fn set_paced(&mut self, paced: bool) {
        self.paced = paced;
        self.pace.set_paced(paced);
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.read_first = !self.read_first;
        let (first, second): (Half<S>, Half<S>) = match self.read_first {
            true => (Self::poll_read, Self::poll_write),
            false => (Self::poll_write, Self::poll_read),
        };
        match first(self, cx) {
            Poll::Pending => second(self, cx),
            ready => ready,
        }
    }

    fn close(mut self: Box<Self>, code: Option<Code>) -> BoxFuture<'static, ()> {
        async move {
            if let Some(code) = code {
                let frame = CloseFrame { code: CloseCode::from(code.number()), reason: code.row().name.into() };
                if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                    return;
                }
            }
            // Reading to the end finishes the closing handshake.
            while let Some(Ok(_)) = self.socket.next().await {}
        }
        .boxed()
    }
}
