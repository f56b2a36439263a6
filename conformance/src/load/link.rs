//! A connection without log and ledger, for numbers of them.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use v1::frame::Body;

use crate::client::{Encoding, Open, WireLog, shake_hands};
use crate::schema::{self, v1};
use crate::target::{Target, TokenWish};
use crate::verdict::{Outcome, Stop};

/// A joined connection.
pub(super) struct Link {
    pub ws: WebSocketStream<TcpStream>,
}

/// Frames of a message.
pub(crate) fn frames(message: &Bytes) -> Outcome<Vec<v1::Frame>> {
    let records = schema::split_records(message).map_err(|error| Stop::fail(error.0))?;
    records.into_iter().map(|record| v1::Frame::decode(record).map_err(Stop::harness)).collect()
}

/// A message with one frame.
pub(crate) fn message(id: u32, body: Body) -> Message {
    Message::Binary(schema::record(&v1::Frame { id, body: Some(body) }.encode_to_vec()).into())
}

impl Link {
    /// Opens a connection, says Hello with these rooms, and waits until all are subscribed.
    pub(super) async fn join(target: &Target, name: &str, rooms: &[String]) -> Outcome<Self> {
        let wish = TokenWish { user: name.to_owned(), ..TokenWish::default() };
        let token = target.token(&wish).await?;
        let open = Open {
            name: name.to_owned(),
            encoding: Encoding::Binary,
            subprotocols: None,
            path: None,
            headers: Vec::new(),
            receive_buffer: None,
        };
        let opened = shake_hands(&target.endpoint, &open, &WireLog::default()).await?;
        let (ws, _) = opened.map_err(|refused| Stop::fail(format!("refused with {}", refused.status)))?;
        let subscribe = |room: &String| v1::Subscribe { room: room.clone(), ..v1::Subscribe::default() };
        let hello = v1::Hello {
            version_min: 1,
            version_max: 1,
            token,
            instance: name.to_owned(),
            subscriptions: rooms.iter().map(subscribe).collect(),
            ..v1::Hello::default()
        };
        let mut link = Self { ws };
        link.send(message(1, Body::Hello(hello))).await?;
        let mut waiting = rooms.len() + 1;
        while waiting > 0 {
            for frame in link.next().await? {
                match frame.body {
                    Some(Body::Welcome(_) | Body::Subscribed(_)) => waiting -= 1,
                    Some(Body::Error(error)) => return Err(Stop::fail(format!("refused: {error:?}"))),
                    _ => {}
                }
            }
        }
        Ok(link)
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: Message) -> Outcome {
        self.ws.send(message).await.map_err(Stop::harness)
    }

    /// The frames of the next message.
    pub(super) async fn next(&mut self) -> Outcome<Vec<v1::Frame>> {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Binary(bytes))) => return frames(&bytes),
                Some(Ok(Message::Close(frame))) => return Err(Stop::fail(format!("closed: {frame:?}"))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Stop::fail(error.to_string())),
                None => return Err(Stop::fail("the connection ended")),
            }
        }
    }
}
