//! WebSocket connections of the reference server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::mutant::Mutant;
use super::outbox::{Outbox, Turn};
use super::session::{Clocks, Fatal, PROTOCOL, Session};
use super::{NO_PROGRESS, RECORD_BYTES, Shared};
use crate::schema;

type Socket = WebSocketStream<TcpStream>;

pub(super) async fn run(tcp: TcpStream, rest: Vec<u8>, text: bool, shared: Arc<Shared>) {
    let max = if shared.is(Mutant::SizeUnchecked) { 16 << 20 } else { RECORD_BYTES as usize };
    let config = WebSocketConfig::default().max_message_size(Some(max)).max_frame_size(Some(max));
    let socket = WebSocketStream::from_partially_read(tcp, rest, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    let numbers = shared.is(Mutant::JsonNumbers);
    let mut session = Session::new(shared);
    let write = write(sink, session.outbox(), text, numbers);
    tokio::pin!(write);
    tokio::select! {
        () = read(&mut session, stream, text) => {
            // The reader ended: what was queued still leaves, and the close with it.
            let _ = timeout(Duration::from_secs(1), write).await;
        }
        () = &mut write => {}
    }
    session.leave();
}

/// Reads until the connection ends. Leaves the close, if one is due, in the outbox.
async fn read(session: &mut Session, mut stream: SplitStream<Socket>, text: bool) {
    let mut clocks = Clocks::start();
    loop {
        let result = match session.wait(&clocks, stream.next()).await {
            Err(fatal) => Err(fatal),
            Ok(Some(Ok(Message::Binary(bytes)))) if !text => session.packet(&bytes),
            Ok(Some(Ok(Message::Text(json)))) if text => match schema::packet_text_to_bytes(&json) {
                Ok(bytes) => session.packet(&bytes),
                Err(_) => Err(PROTOCOL),
            },
            Ok(Some(Ok(Message::Text(_)))) if session.shared.is(Mutant::TextTaken) => Ok(()),
            Ok(Some(Ok(Message::Text(_) | Message::Binary(_)))) => Err(Fatal(4002)),
            Ok(Some(Ok(Message::Close(_)))) => return,
            Ok(Some(Ok(_))) => continue,
            Ok(Some(Err(Error::Capacity(_)))) => Err(Fatal(4003)),
            Ok(Some(Err(_)) | None) => return,
        };
        clocks.last_record = tokio::time::Instant::now();
        if let Err(fatal) = result.and_then(|()| session.check_outbox()) {
            return session.close(fatal);
        }
    }
}

async fn write(mut sink: SplitSink<Socket, Message>, outbox: Arc<Outbox>, text: bool, numbers: bool) {
    loop {
        let (bytes, code) = match outbox.turn().await {
            Turn::Send(bytes) => (bytes, None),
            Turn::Close(bytes, code) => (bytes, Some(code)),
        };
        if !bytes.is_empty() {
            let message = match (text, schema::packet_bytes_to_text(&bytes)) {
                (true, Ok(json)) if numbers => Message::Text(unquote_numbers(&json).into()),
                (true, Ok(json)) => Message::Text(json.into()),
                _ => Message::Binary(bytes.into()),
            };
            if !matches!(timeout(NO_PROGRESS, sink.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
        // A peer that reads as fast as this writes would keep the reader from its turn.
        tokio::task::yield_now().await;
        if let Some(code) = code {
            let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
            // A peer that is gone needs no close.
            let _ = sink.send(Message::Close(Some(frame))).await;
            return;
        }
    }
}

/// The mutation of JSON: numbers in quotes lose them.
fn unquote_numbers(json: &str) -> String {
    fn walk(value: &mut Value) {
        match value {
            Value::String(text) if text.parse::<u64>().is_ok() => *value = json!(text.parse::<u64>().unwrap_or(0)),
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Object(fields) => fields.values_mut().for_each(walk),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(json).unwrap_or(Value::Null);
    walk(&mut value);
    value.to_string()
}
