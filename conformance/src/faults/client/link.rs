//! A connection with deadlines: a node that is stopped or gone is left, not waited for.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::shared::Shared;
use crate::client::socket::Socket;
use crate::client::{Open, Transport, WireLog, shake_hands};
use crate::load::link::frames;
use crate::schema::{self, v1};
use crate::target::TokenWish;
use crate::verdict::Stop;

/// A node that does not answer for this long is left.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Bytes of a WebSocket message of several records; below every node's limits.record_bytes.
const MESSAGE_BYTES: usize = 48 * 1024;

/// A joined connection, and what Welcome said.
pub(in crate::faults) struct Link {
    ws: WebSocketStream<Socket>,
    out: Vec<u8>,
    /// Frames that came with Welcome.
    held: Vec<v1::Frame>,
    pub(super) in_flight_max: usize,
    pub(super) window: (u64, u64),
}

/// Why a connection ended or could not be made.
pub(in crate::faults) type Why = String;

impl Link {
    /// Opens a connection to a node and says Hello.
    pub(in crate::faults) async fn join(
        shared: &Shared,
        node: usize,
        name: &str,
        receive_buffer: Option<u32>,
        subscriptions: Vec<v1::Subscribe>,
    ) -> Result<Self, Why> {
        let joining = Self::join_patiently(shared, node, name, receive_buffer, subscriptions);
        timeout(DEAD_AFTER, joining).await.unwrap_or_else(|_| Err("no Welcome in time".into()))
    }

    async fn join_patiently(
        shared: &Shared,
        node: usize,
        name: &str,
        receive_buffer: Option<u32>,
        subscriptions: Vec<v1::Subscribe>,
    ) -> Result<Self, Why> {
        let wish = TokenWish { user: name.to_owned(), ..TokenWish::default() };
        let token = shared.target.token(&wish).await.map_err(told)?;
        let open = Open { receive_buffer, ..Open::plain(name, Transport::Websocket) };
        let endpoint = shared.nodes.get(node).ok_or("no such node")?;
        let opened = shake_hands(endpoint, &open, &WireLog::default()).await.map_err(told)?;
        let (ws, _) = opened.map_err(|refused| format!("the handshake was answered with {}", refused.status))?;
        let mut link = Self { ws, out: Vec::new(), held: Vec::new(), in_flight_max: 1, window: (0, 0) };
        let hello = v1::Hello {
            version_min: 1,
            version_max: 1,
            token,
            instance: name.to_owned(),
            subscriptions,
            ..v1::Hello::default()
        };
        link.push(1, v1::frame::Body::Hello(hello)).await?;
        link.flush().await?;
        link.welcome().await
    }

    /// Reads Welcome, which comes before every other frame (LC-HS-010).
    async fn welcome(mut self) -> Result<Self, Why> {
        let mut records = self.next().await?.into_iter();
        match records.next().and_then(|frame| frame.body) {
            Some(v1::frame::Body::Welcome(welcome)) => {
                let limits = welcome.limits.unwrap_or_default();
                self.in_flight_max = limits.publishes_in_flight.max(1) as usize;
                let window = welcome.reconnect.unwrap_or_default();
                self.window = (window.min_ms.into(), window.max_ms.into());
            }
            other => return Err(format!("instead of Welcome came {other:?}")),
        }
        self.held = records.collect();
        Ok(self)
    }

    /// Adds a record to what is sent next.
    pub(in crate::faults) async fn push(&mut self, id: u32, body: v1::frame::Body) -> Result<(), Why> {
        let frame = v1::Frame { id, body: Some(body) };
        let record = schema::record(&frame.encode_to_vec());
        if !self.out.is_empty() && self.out.len() + record.len() > MESSAGE_BYTES {
            self.flush().await?;
        }
        self.out.extend_from_slice(&record);
        Ok(())
    }

    /// Sends what was pushed.
    pub(in crate::faults) async fn flush(&mut self) -> Result<(), Why> {
        if self.out.is_empty() {
            return Ok(());
        }
        let message = Message::Binary(Bytes::from(std::mem::take(&mut self.out)));
        match timeout(DEAD_AFTER, self.ws.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("sending: {error}")),
            Err(_) => Err("the node takes nothing".into()),
        }
    }

    /// The frames of the next message. Cancel safe: nothing is lost when it is dropped.
    pub(in crate::faults) async fn next(&mut self) -> Result<Vec<v1::Frame>, Why> {
        if !self.held.is_empty() {
            return Ok(std::mem::take(&mut self.held));
        }
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Binary(bytes))) => return frames(&bytes).map_err(told),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    return Err(format!("closed with {code}"));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the connection ended".into()),
            }
        }
    }

    /// Leaves for good.
    pub(in crate::faults) async fn close(mut self) {
        // The node may be gone already.
        let _ = timeout(DEAD_AFTER, self.ws.close(None)).await;
    }
}

fn told(stop: Stop) -> Why {
    match stop {
        Stop::Fail(text, _) | Stop::Unsupported(text) | Stop::Skipped(text) | Stop::Harness(text) => text,
    }
}
