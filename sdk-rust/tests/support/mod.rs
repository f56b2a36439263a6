//! A node as a test writes it: a WebSocket server that says exactly what it is told to.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod node;
pub mod quic;
pub mod relay;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use lanecast::{Client, Position};
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

pub const EPOCH: u64 = 7;

/// Nothing in these tests takes this long unless it hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should not take so long")
}

/// A listening node.
pub struct Peer {
    listener: TcpListener,
    pub url: String,
}

impl Peer {
    pub async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// A client of this node that waits at most so long between attempts as the node says in Welcome.
    pub fn client(&self) -> Client {
        Client::builder(&self.url).token("secret").connect().unwrap()
    }

    pub async fn tcp(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// Takes the next connection and its Hello.
    pub async fn accept(&self) -> (Connection, v1::Hello) {
        self.accept_as(Some("lanecast.v1")).await.expect("the client offers the subprotocol")
    }

    pub async fn accept_as(&self, subprotocol: Option<&'static str>) -> Option<(Connection, v1::Hello)> {
        let tcp = self.tcp().await;
        #[allow(clippy::result_large_err)]
        let choose = |request: &Request, mut response: Response| {
            assert_eq!(request.headers()["sec-websocket-protocol"], "lanecast.v1");
            assert_eq!(request.uri().path(), "/v1/connect");
            if let Some(subprotocol) = subprotocol {
                response.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
            }
            Ok(response)
        };
        let socket = soon(tokio_tungstenite::accept_hdr_async(tcp, choose)).await.unwrap();
        let mut connection = Connection { socket, waiting: Vec::new(), largest: 0 };
        let frame = connection.frame().await?;
        let Some(Body::Hello(hello)) = frame.body else { panic!("not Hello: {frame:?}") };
        Some((connection, hello))
    }

    /// Takes the next connection and welcomes it.
    pub async fn welcome(&self) -> (Connection, v1::Hello) {
        let (mut connection, hello) = self.accept().await;
        connection.send([Body::Welcome(welcome())]).await;
        (connection, hello)
    }
}

pub fn welcome() -> v1::Welcome {
    v1::Welcome {
        version: 1,
        connection_id: "c".into(),
        heartbeat: Some(v1::Heartbeat { ping_after_ms: 25_000, pong_within_ms: 10_000, idle_close_ms: 60_000 }),
        limits: Some(v1::Limits {
            record_bytes: 64 * 1024,
            message_bytes: 16 * 1024,
            rooms: 100,
            publishes_in_flight: 256,
            signals_per_second: 10,
            history_page: 200,
        }),
        reconnect: Some(v1::ReconnectWindow { min_ms: 1, max_ms: 10 }),
        server_time_ms: now_ms(),
        capabilities: vec![v1::Capability::History.into(), v1::Capability::Signals.into()],
        ..Default::default()
    }
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A connection as the node sees it.
pub struct Connection {
    socket: WebSocketStream<TcpStream>,
    waiting: Vec<v1::Frame>,
    /// The longest message so far.
    pub largest: usize,
}

impl Connection {
    /// The next frame; `None`: the client has closed.
    pub async fn frame(&mut self) -> Option<v1::Frame> {
        while self.waiting.is_empty() {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Binary(packet))) => {
                    self.largest = self.largest.max(packet.len());
                    self.waiting = v1::Packet::decode(packet).unwrap().frames;
                    self.waiting.reverse();
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(other)) => panic!("unexpected {other:?}"),
            }
        }
        self.waiting.pop()
    }

    pub async fn body(&mut self) -> (u32, Body) {
        let frame = self.frame().await.expect("the client should not have closed");
        (frame.id, frame.body.expect("clients of this version send no unknown frames"))
    }

    pub async fn publish(&mut self) -> (u32, v1::Publish) {
        match self.body().await {
            (id, Body::Publish(publish)) => (id, publish),
            other => panic!("not Publish: {other:?}"),
        }
    }

    pub async fn subscribe(&mut self) -> (u32, v1::Subscribe) {
        match self.body().await {
            (id, Body::Subscribe(subscribe)) => (id, subscribe),
            other => panic!("not Subscribe: {other:?}"),
        }
    }

    pub async fn refresh(&mut self) -> (u32, v1::RefreshToken) {
        match self.body().await {
            (id, Body::RefreshToken(refresh)) => (id, refresh),
            other => panic!("not RefreshToken: {other:?}"),
        }
    }

    /// After this the client has handled what it was sent before.
    pub async fn heartbeat(&mut self) {
        self.answer(7, Body::Ping(v1::Ping::default())).await;
        assert!(matches!(self.body().await, (7, Body::Pong(_))));
    }

    /// The code with which the client closes, after whatever it still sends.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Sends frames in one message.
    pub async fn send(&mut self, bodies: impl IntoIterator<Item = Body>) {
        let packet: Vec<u8> = bodies.into_iter().flat_map(|body| codec::encode_body(0, body)).collect();
        self.raw(Message::Binary(packet.into())).await;
    }

    pub async fn answer(&mut self, id: u32, body: Body) {
        self.raw(Message::Binary(codec::encode_body(id, body))).await;
    }

    pub async fn raw(&mut self, message: Message) {
        soon(self.socket.send(message)).await.unwrap();
    }

    /// Closes with a code, as nodes do: Error first.
    pub async fn close(&mut self, code: Code) {
        let error = v1::Error { code: code.number().into(), closing: true, ..Default::default() };
        self.send([Body::Error(error)]).await;
        let frame = CloseFrame { code: code.number().into(), reason: "".into() };
        self.raw(Message::Close(Some(frame))).await;
    }
}

/// The handle that a room has in these tests.
pub const HANDLE: u64 = 3;

pub fn subscribed(room: &str, position: Position, head: Position) -> v1::Subscribed {
    v1::Subscribed {
        room: room.into(),
        handle: HANDLE,
        position: Some(position.into()),
        head: Some(head.into()),
        recovered: true,
        ..Default::default()
    }
}

pub fn normal(seq: u64) -> Position {
    Position { epoch: EPOCH, normal: seq, ..Default::default() }
}

pub fn event(seq: u64, text: &str) -> Body {
    Body::Event(v1::Event {
        handle: HANDLE,
        lane: v1::Lane::Normal.into(),
        seq,
        order: seq,
        time_ms: 1,
        from: Some(v1::Sender { user: "ann".into(), ..Default::default() }),
        envelope: envelope("msg", text),
        ..Default::default()
    })
}

pub fn envelope(r#type: &str, text: &str) -> Bytes {
    let body = Some(v1::envelope::Body::Text(text.into()));
    v1::Envelope { r#type: r#type.into(), body, ..Default::default() }.encode_to_vec().into()
}

pub fn published(publish: &v1::Publish) -> Body {
    Body::Published(v1::Published { epoch: EPOCH, lane: publish.lane, seq: publish.number, order: 9, duplicate: false })
}
