//! Where drivers dial that have no standard input: browsers, phones.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::wire::{FRAME_BYTES_MAX, Form};
use super::{Said, read_report};
use crate::verdict::{Outcome, Stop};

/// A WebSocket server on loopback that takes drivers.
pub struct Hub {
    listener: TcpListener,
    port: u16,
    /// One driver is taken at a time, so that each goes to who started it.
    turn: Mutex<()>,
}

/// A driver that dialed.
pub(super) struct Dialing {
    socket: WebSocketStream<TcpStream>,
    first: Message,
}

/// The sending half of a driver that dialed.
pub(super) struct Dialed {
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
}

impl Hub {
    /// Listens on a port of the loopback address; 0: any free one.
    pub async fn start(port: u16) -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(Stop::harness)?;
        let port = listener.local_addr().map_err(Stop::harness)?.port();
        Ok(Self { listener, port, turn: Mutex::new(()) })
    }

    /// The address to dial.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/", self.port)
    }

    /// The next driver that dials and says something. One that fails before is passed over.
    pub(super) async fn dialed(&self) -> Outcome<Dialing> {
        let _turn = self.turn.lock().await;
        loop {
            let (tcp, _) = self.listener.accept().await.map_err(Stop::harness)?;
            let bounds = WebSocketConfig::default()
                .max_message_size(Some(FRAME_BYTES_MAX))
                .max_frame_size(Some(FRAME_BYTES_MAX));
            let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(tcp, Some(bounds)).await else { continue };
            if let Some(Ok(first)) = socket.next().await {
                return Ok(Dialing { socket, first });
            }
        }
    }
}

impl Dialing {
    pub(super) fn split(self, say: mpsc::Sender<Said>) -> (Dialed, JoinHandle<()>) {
        let (sink, stream) = self.socket.split();
        (Dialed { sink }, tokio::spawn(read(self.first, stream, say)))
    }
}

async fn read(first: Message, stream: SplitStream<WebSocketStream<TcpStream>>, say: mpsc::Sender<Said>) {
    let mut messages = futures_util::stream::once(async { Ok(first) }).chain(stream).boxed();
    while let Some(Ok(message)) = messages.next().await {
        let report = match message {
            Message::Text(text) => read_report(Form::Json, text.as_bytes()),
            Message::Binary(bytes) => read_report(Form::Protobuf, &bytes),
            Message::Close(_) => return,
            _ => continue,
        };
        let broken = report.is_err();
        // Fails when nobody reads any more.
        if say.send(report).await.is_err() || broken {
            return;
        }
    }
}

impl Dialed {
    pub(super) async fn send(&mut self, form: Form, message: Vec<u8>) -> Result<(), String> {
        let message = match form {
            Form::Protobuf => Message::Binary(message.into()),
            Form::Json => Message::Text(String::from_utf8(message).map_err(|error| error.to_string())?.into()),
        };
        self.sink.send(message).await.map_err(|error| error.to_string())
    }
}
