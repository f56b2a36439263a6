//! The listener and the routes over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, WebSocketUpgrade};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::listener::Listener;

struct Running {
    node: Arc<Node>,
    address: SocketAddr,
}

impl Running {
    /// A node on a free port, with an echo of WebSocket messages and one of the peer's address.
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { dev: true, ..Config::default() };
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let node = Arc::new(Node::new(config, Clock::system()));
        let listener = Listener::bind(node.clone()).await.unwrap();
        let address = listener.address().unwrap();
        let others = Router::new()
            .route("/v1/connect", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
            .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }));
        let router = router(node.clone(), others);
        drop(tokio::spawn(listener.serve(router)));
        Self { node, address }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request on a connection of its own and reads until it is closed.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        let head = format!("{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// A WebSocket, after its handshake.
    async fn upgrade(&self) -> TcpStream {
        let mut stream = self.connect().await;
        let request = format!(
            "GET /v1/connect HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }

    async fn sockets_become(&self, wanted: i64) {
        while self.node.metrics.sockets.get() != wanted {
            tokio::task::yield_now().await;
        }
    }
}

async fn echo(mut socket: axum::extract::ws::WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_handshake_at_one_byte_at_a_time_is_closed_and_nobody_else_notices() {
    let node = Running::start(|config| config.listen.header_timeout_ms = 150).await;
    let mut slow = node.connect().await;
    let (mut read, mut write) = slow.split();
    let dawdle = async {
        // As slow as it takes: at this pace the request would need half a minute.
        for byte in std::iter::repeat_n(b"GET / HTTP/1.1\r\nx-padding: ".as_slice(), 100).flatten() {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the whole request was taken");
    };
    let closed = async {
        let mut rest = Vec::new();
        let _ = read.read_to_end(&mut rest).await;
    };
    tokio::select! {
        () = dawdle => {}
        () = closed => {}
        () = async {
            loop {
                assert!(node.ask("GET /healthz").await.starts_with("HTTP/1.1 200"));
            }
        } => {}
    }
    node.sockets_become(0).await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_the_next_free_slot_is_used() {
    let node = Running::start(|config| config.listen.connections_max = 2).await;
    let (first, _second) = (node.upgrade().await, node.upgrade().await);
    let mut third = node.connect().await;
    let answer = read_to_end(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":4207"), "{answer}");
    assert_eq!(node.node.metrics.sockets_refused.get(), 1);
    drop(first);
    node.sockets_become(1).await;
    drop(node.upgrade().await);
}

#[tokio::test]
async fn a_websocket_echoes_through_the_accept_loop() {
    let node = Running::start(|_| {}).await;
    let mut stream = node.upgrade().await;
    // A masked text frame "hi" with the mask 0.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x81\x02hi");
}

#[tokio::test]
async fn handlers_know_the_peer() {
    let node = Running::start(|_| {}).await;
    let mut stream = node.connect().await;
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(b"GET /peer HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with(&own));
}

#[tokio::test]
async fn readiness_follows_the_life_of_the_node() {
    let node = Running::start(|_| {}).await;
    let ready = async || node.ask("GET /readyz").await;
    assert!(ready().await.starts_with("HTTP/1.1 503"), "not started");
    node.node.health.set_started();
    assert!(ready().await.starts_with("HTTP/1.1 200"));
    node.node.health.set_degraded(true);
    let degraded = ready().await;
    assert!(degraded.starts_with("HTTP/1.1 200") && degraded.contains("degraded"), "{degraded}");
    node.node.shutdown.begin();
    let draining = ready().await;
    assert!(draining.starts_with("HTTP/1.1 503") && draining.contains("draining"), "{draining}");
    assert!(node.ask("GET /healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_drain_waits_for_websockets_and_ends_idle_connections() {
    let node = Running::start(|_| {}).await;
    let websocket = node.upgrade().await;
    let mut idle = node.connect().await;
    node.sockets_become(2).await;
    let shutdown = node.node.shutdown.clone();
    let drain = tokio::spawn(async move { shutdown.drain(Duration::from_secs(60)).await });
    assert_eq!(read_to_end(&mut idle).await, "");
    node.sockets_become(1).await;
    assert!(!drain.is_finished());
    drop(websocket);
    assert_eq!(drain.await.unwrap(), 0);
}

#[tokio::test]
async fn the_routes_answer() {
    let node = Running::start(|_| {}).await;
    let page = node.ask("GET /").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"), "{page}");
    let known = node.ask("GET /.well-known/lanecast").await;
    assert!(known.contains(r#""websocket":"/v1/connect""#) && known.contains("CAPABILITY_SIGNALS"), "{known}");
    let missing = node.ask("GET /nothing").await;
    assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("NOT_FOUND"), "{missing}");
    assert!(node.ask("GET /assets/missing.js").await.starts_with("HTTP/1.1 404"));
    let metrics = node.ask("GET /metrics").await;
    for line in [
        "lanecast_http_requests_total{route=\"page\",status=\"2xx\"} 1",
        "lanecast_http_requests_total{route=\"page\",status=\"4xx\"} 1",
        "lanecast_http_requests_total{route=\"well_known\",status=\"2xx\"} 1",
        "lanecast_http_requests_total{route=\"other\",status=\"4xx\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let node = Running::start(|_| {}).await;
    let answer = node.ask(&format!("GET /healthz?{}", "x".repeat(40_000))).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}
