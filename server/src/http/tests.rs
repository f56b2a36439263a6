//! The listener and the routes over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, WebSocketUpgrade};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::clock::Clock;
use crate::config::{Config, OnEngineDown};
use crate::telemetry::labels::{Cap, Drop};
use crate::testing::{Running, read_to_end};

/// A node on a free port, with an echo of WebSocket messages and one of the peer's address.
async fn start(change: impl FnOnce(&mut Config)) -> Running {
    let others = Router::new()
        .route("/v1/connect", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }));
    Running::start(change, Clock::system(), others).await
}

/// A WebSocket, after its handshake.
async fn upgrade(node: &Running) -> TcpStream {
    let mut stream = node.connect().await;
    let request = "GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

async fn sockets_become(node: &Running, wanted: i64) {
    while node.node.metrics.sockets.get() != wanted {
        tokio::task::yield_now().await;
    }
}

async fn echo(mut socket: axum::extract::ws::WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_handshake_at_one_byte_at_a_time_is_closed_and_nobody_else_notices() {
    let node = start(|config| config.listen.header_timeout_ms = 150).await;
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
                assert_eq!(node.get("/healthz").await.status, 200);
            }
        } => {}
    }
    sockets_become(&node, 0).await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_the_next_free_slot_is_used() {
    let node = start(|config| config.listen.connections_max = 2).await;
    let (first, _second) = (upgrade(&node).await, upgrade(&node).await);
    let mut third = node.connect().await;
    let answer = read_to_end(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":4207"), "{answer}");
    assert_eq!(node.node.metrics.connections_refused.of(Cap::Node).get(), 1);
    drop(first);
    sockets_become(&node, 1).await;
    drop(upgrade(&node).await);
}

#[tokio::test]
async fn a_websocket_echoes_through_the_accept_loop() {
    let node = start(|_| {}).await;
    let mut stream = upgrade(&node).await;
    // A masked text frame "hi" with the mask 0.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x81\x02hi");
}

#[tokio::test]
async fn handlers_know_the_peer() {
    let node = start(|_| {}).await;
    let mut stream = node.connect().await;
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(b"GET /peer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with(&own));
}

#[tokio::test]
async fn readiness_follows_the_life_of_the_node() {
    let node = start(|_| {}).await;
    let ready = async || {
        let answer = node.get("/readyz").await;
        (answer.status, answer.json()["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(ready().await, (503, "starting".to_owned()));
    node.node.health.set_started();
    assert_eq!(ready().await, (200, "ready".to_owned()));
    node.node.health.set_following(false);
    assert_eq!(ready().await, (503, "subscriber".to_owned()));
    node.node.health.set_reachable(false);
    assert_eq!(ready().await, (200, "degraded".to_owned()));
    node.node.shutdown.begin();
    assert_eq!(ready().await, (503, "draining".to_owned()));
    assert_eq!(node.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_lost_store_may_make_a_node_unready() {
    let node = start(|config| config.readiness.on_engine_down = OnEngineDown::Unready).await;
    node.node.health.set_started();
    node.node.health.set_reachable(false);
    let answer = node.get("/readyz").await;
    assert_eq!((answer.status, answer.json()["status"].as_str().unwrap()), (503, "degraded"));
}

#[tokio::test]
async fn a_drain_waits_for_websockets_and_ends_idle_connections() {
    let node = start(|_| {}).await;
    let websocket = upgrade(&node).await;
    let mut idle = node.connect().await;
    sockets_become(&node, 2).await;
    let shutdown = node.node.shutdown.clone();
    let drain = tokio::spawn(async move { shutdown.drain(Duration::from_secs(60)).await });
    assert_eq!(read_to_end(&mut idle).await, "");
    sockets_become(&node, 1).await;
    assert!(!drain.is_finished());
    drop(websocket);
    assert_eq!(drain.await.unwrap(), 0);
}

#[tokio::test]
async fn the_routes_answer() {
    let node = start(|_| {}).await;
    let page = node.get("/").await;
    assert!(page.status == 200 && page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    let known = node.get("/.well-known/lanecast").await;
    assert_eq!(known.json()["websocket"], "/v1/connect");
    assert_eq!(
        known.json()["capabilities"],
        serde_json::json!([
            "CAPABILITY_HISTORY",
            "CAPABILITY_SIGNALS",
            "CAPABILITY_REFRESH",
            "CAPABILITY_CREDIT",
            "CAPABILITY_FOCUS",
            "CAPABILITY_FRAGMENTS",
        ])
    );
    assert!(known.head.contains("access-control-allow-origin: *"), "{}", known.head);
    assert!(known.json().get("quic").is_none() && known.json().get("webtransport").is_none(), "not served");
    assert_eq!(node.get("/nothing").await.refusal(), (404, "NOT_FOUND".to_owned()));
    assert_eq!(node.get("/assets/missing.js").await.status, 404);
    let metrics = node.get("/metrics").await.body;
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
async fn what_is_served_beside_http_is_told() {
    // LC-API-030
    let node = start(|_| {}).await;
    node.node.quic_address.set("127.0.0.1:8443".parse().unwrap()).unwrap();
    let known = node.get("/.well-known/lanecast").await.json();
    assert_eq!(known["quic"], serde_json::json!({ "port": 8443 }));
    assert_eq!((&known["webtransport"]["port"], &known["webtransport"]["path"]), (&8443.into(), &"/v1/connect".into()));
    let hashes = known["webtransport"]["certificateHashes"].as_array().unwrap();
    assert_eq!((hashes.len(), hashes[0].as_str().unwrap().len()), (1, 44));
    let page = node.get("/").await.head;
    assert!(page.contains("ws://127.0.0.1:") && page.contains(" https://127.0.0.1:8443"), "{page}");
}

#[tokio::test]
async fn a_development_node_answers_to_loopback_names_only() {
    // LC-SEC-001
    let node = start(|_| {}).await;
    let mut stream = node.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("ORIGIN"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let node = start(|_| {}).await;
    let answer = node.get(&format!("/healthz?{}", "x".repeat(40_000))).await;
    // The node closes while the client still sends; the answer may be lost to the reset.
    assert!(matches!(answer.status, 0 | 414 | 431), "{}", answer.head);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_closed() {
    let node = start(|config| config.heartbeat.no_progress_ms = 50).await;
    let mut stream = upgrade(&node).await;
    // Echoes nobody reads fill the buffers of both sides, until the node's write stalls.
    let frame = [&[0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0], vec![0; 0xffff].as_slice()].concat();
    let pushing = async { while stream.write_all(&frame).await.is_ok() {} };
    tokio::select! {
        () = pushing => {}
        () = sockets_become(&node, 0) => {}
    }
}

/// A header of the PROXY protocol that names an IPv4 address, and a request whose answer is the peer's address.
fn proxied(source: [u8; 4]) -> Vec<u8> {
    let header = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &source[..], &[10, 0, 0, 1, 0x9c, 0x40, 0x01, 0xbb]].concat();
    [&header, &b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n"[..]].concat()
}

fn behind_proxies(config: &mut Config) {
    config.listen.proxy_protocol = true;
    config.listen.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.listen.header_timeout_ms = 150;
    config.limits.connections_per_address = 1;
}

#[tokio::test]
async fn a_proxy_names_the_peer_who_is_then_capped() {
    // LC-SEC-011
    let node = start(behind_proxies).await;
    let mut first = node.connect().await;
    first.write_all(&proxied([192, 0, 2, 7])).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"192.0.2.7:40000") {
        answer.push(first.read_u8().await.unwrap());
    }
    let mut second = node.connect().await;
    second.write_all(&proxied([192, 0, 2, 7])).await.unwrap();
    let refused = read_to_end(&mut second).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("TOO_MANY_CONNECTIONS"), "{refused}");
    assert!(refused.contains("retry-after: 5\r\n"), "{refused}");
    assert_eq!(node.node.metrics.connections_refused.of(Cap::Address).get(), 1);
    let mut other = node.connect().await;
    other.write_all(&proxied([192, 0, 2, 8])).await.unwrap();
    assert_eq!(&read_some(&mut other).await[..12], b"HTTP/1.1 200");
    drop(first);
    sockets_become(&node, 1).await;
    let mut again = node.connect().await;
    again.write_all(&proxied([192, 0, 2, 7])).await.unwrap();
    assert_eq!(&read_some(&mut again).await[..12], b"HTTP/1.1 200");
}

async fn read_some(stream: &mut TcpStream) -> Vec<u8> {
    let mut some = vec![0; 512];
    let read = stream.read(&mut some).await.unwrap();
    some.truncate(read);
    some
}

#[tokio::test]
async fn without_a_proxy_header_in_time_nobody_gets_in() {
    let node = start(behind_proxies).await;
    let dropped = |reason| node.node.metrics.sockets_dropped.of(reason).get();
    let mut silent = node.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(dropped(Drop::ProxyHeaderLate), 1);
    assert_eq!(node.get("/healthz").await.head, "", "no header");
    assert_eq!(dropped(Drop::ProxyHeader), 1);
    let strange = start(|config| {
        behind_proxies(config);
        config.listen.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    });
    let strange = strange.await;
    let mut stranger = strange.connect().await;
    let _ = stranger.write_all(&proxied([127, 0, 0, 1])).await;
    assert_eq!(read_to_end(&mut stranger).await, "");
    assert_eq!(strange.node.metrics.sockets_dropped.of(Drop::NotAProxy).get(), 1);
}

#[tokio::test]
async fn a_forwarded_address_reaches_handlers() {
    let trusting = start(|config| config.listen.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let forwarded = [("x-forwarded-for", "127.0.0.1, 198.51.100.1")];
    assert_eq!(trusting.ask("GET /peer", &forwarded, "").await.body, "198.51.100.1:0");
    let not = start(|config| config.dev = false).await;
    assert!(not.ask("GET /peer", &forwarded, "").await.body.starts_with("127.0.0.1:"));
}
