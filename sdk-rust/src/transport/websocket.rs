//! WebSocket: all lanes folded into one pipe, whole records in binary messages (subprotocol `lanecast.v1`).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lanes;
use lanecast_protocol::outbox::Output;
use lanecast_protocol::session::client::RECORD_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::{Source, Transport, Turn};

const SUBPROTOCOL: &str = "lanecast.v1";
/// A message is not made longer than this by adding to it: what is in it can no longer be overtaken.
const MESSAGE_BYTES: usize = 16 * 1024;
const READ_BUFFER_BYTES: usize = 16 * 1024;

type Half<S> = fn(&mut WebSocket<S>, &mut Context<'_>) -> Poll<Turn>;

/// An open WebSocket above a stream of bytes: TCP, or TLS above it.
pub(super) struct WebSocket<S> {
    socket: WebSocketStream<S>,
    /// A message is on its way into the socket.
    writing: bool,
    /// An output that did not fit into the last message.
    left: Option<Output>,
    /// Whose turn it is, so that neither reading nor writing starves.
    read_first: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> WebSocket<S> {
    pub(super) async fn open(stream: S, uri: Uri) -> Result<Self, String> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(RECORD_BYTES_MAX))
            .max_frame_size(Some(RECORD_BYTES_MAX));
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
        // Fails unless the answer names the subprotocol.
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (socket, _) = opened.map_err(|error| error.to_string())?;
        Ok(Self { socket, writing: false, left: None, read_first: true })
    }

    /// Folds outputs into one message; a single one is passed on without a copy.
    fn fold(&mut self, next: &mut Source<'_>, message_max: usize) -> Option<Bytes> {
        let first = self.left.take().or_else(|| next(Lanes::ALL))?.record;
        let mut rest = BytesMut::new();
        while first.len() + rest.len() < MESSAGE_BYTES.min(message_max) {
            let Some(output) = next(Lanes::ALL) else { break };
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

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if !self.writing {
            return Poll::Pending;
        }
        match std::task::ready!(Pin::new(&mut self.socket).poll_flush(cx)) {
            Ok(()) => {
                self.writing = false;
                Poll::Ready(Turn::Written)
            }
            Err(error) => Poll::Ready(Turn::Over { code: None, detail: error.to_string() }),
        }
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
        if self.writing {
            return;
        }
        let Some(message) = self.fold(next, message_max.unwrap_or(MESSAGE_BYTES)) else { return };
        self.writing = true;
        // The socket is flushed, so it takes a message; should it be broken, the flush says so.
        let _ = Pin::new(&mut self.socket).start_send(Message::Binary(message));
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
