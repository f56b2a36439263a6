//! Which transport a client takes, in networks where one of them does not work.

#![cfg(feature = "quic")]
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use lanecast::{Builder, Client, ClientState, ConnectErrorKind};
use lanecast_protocol::codec;
use lanecast_protocol::v1::frame::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use self::support::quic::{Certificate, QuicPeer};
use self::support::{soon, welcome};

/// Serves `wss://` with a Welcome and nothing else, and counts connections; they are cut when asked for.
struct Wss {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    cut: tokio::sync::watch::Sender<()>,
}

impl Wss {
    async fn serve(certificate: &Certificate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(certificate.server(b"http/1.1")));
        let connections = Arc::new(AtomicUsize::new(0));
        let (cut, cuts) = tokio::sync::watch::channel(());
        let count = connections.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, count, mut cuts) = (acceptor.clone(), count.clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = welcome_one(tcp, acceptor, &count) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, connections, cut }
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn welcome_one(tcp: TcpStream, acceptor: TlsAcceptor, count: &AtomicUsize) -> Option<()> {
    let tls = acceptor.accept(tcp).await.ok()?;
    #[allow(clippy::result_large_err)]
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", "lanecast.v1".parse().unwrap());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(tls, choose).await.ok()?;
    count.fetch_add(1, Ordering::SeqCst);
    socket.next().await?.ok()?;
    socket.send(Message::Binary(codec::encode_body(1, Body::Welcome(welcome())))).await.ok()?;
    while socket.next().await?.is_ok() {}
    None
}

/// A UDP port that takes everything and says nothing; counts packets.
async fn swallow() -> (u16, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let packets = Arc::new(AtomicUsize::new(0));
    let count = packets.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while socket.recv(&mut buffer).await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, packets)
}

fn builder(address: SocketAddr, certificate: &Certificate, quic_port: u16) -> Builder {
    let url = format!("https://{address}");
    Client::builder(url).token("t").certificate_hash(certificate.hash()).quic_port(quic_port)
}

/// Connects; returns how long it took.
async fn connect(builder: Builder) -> (Client, Duration) {
    let began = Instant::now();
    let client = builder.connect().unwrap();
    soon(client.connected()).await.unwrap();
    let took = began.elapsed();
    println!("connected after {took:?}");
    (client, took)
}

#[tokio::test]
async fn where_udp_is_blocked_a_client_connects_within_a_second() {
    let certificate = Certificate::new();
    let wss = Wss::serve(&certificate).await;
    let (port, packets) = swallow().await;
    let (client, took) = connect(builder(wss.address, &certificate, port)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(packets.load(Ordering::SeqCst) > 0, "QUIC was tried");
    // What was learned holds for the next connection: WebSocket at once, and no QUIC.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = packets.load(Ordering::SeqCst);
    let mut state = client.state();
    let began = Instant::now();
    wss.cut.send_replace(());
    soon(state.wait_for(|state| *state != ClientState::Connected)).await.unwrap();
    soon(state.wait_for(|state| *state == ClientState::Connected)).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!((wss.count(), packets.load(Ordering::SeqCst)), (2, before));
    // In another network it is not believed.
    client.network_changed().await;
    wss.cut.send_replace(());
    soon(state.wait_for(|state| *state != ClientState::Connected)).await.unwrap();
    soon(state.wait_for(|state| *state == ClientState::Connected)).await.unwrap();
    assert!(packets.load(Ordering::SeqCst) > before, "QUIC is tried again");
}

#[tokio::test]
async fn where_tcp_is_blocked_a_client_connects_within_a_second() {
    let peer = QuicPeer::listen();
    // Its connections are made by the kernel, and nobody answers on them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = builder(silent.local_addr().unwrap(), &peer.certificate, peer.address.port());
    let (_, welcomed) = tokio::join!(peer.welcome(), connect(builder));
    assert!(welcomed.1 < Duration::from_secs(1), "{:?}", welcomed.1);
}

#[tokio::test]
async fn quic_that_fails_at_once_costs_nothing() {
    let certificate = Certificate::new();
    let wss = Wss::serve(&certificate).await;
    let peer = QuicPeer::listen();
    let port = peer.address.port();
    tokio::spawn(async move {
        while let Some(incoming) = peer.endpoint.accept().await {
            incoming.refuse();
        }
    });
    let (_client, took) = connect(builder(wss.address, &certificate, port)).await;
    assert!(took < Duration::from_millis(400), "without the head start: {took:?}");
}

#[tokio::test]
async fn the_loser_leaves_nothing_half_open() {
    let certificate = Certificate::new();
    let wss = Wss::serve(&certificate).await;
    let peer = QuicPeer::listen();
    let dialing = tokio::spawn(connect(builder(wss.address, &certificate, peer.address.port())));
    // The node takes the connection only after WebSocket has won.
    let incoming = soon(peer.endpoint.accept()).await.unwrap();
    let (client, _) = soon(dialing).await.unwrap();
    let began = Instant::now();
    let ended = match incoming.accept().unwrap().await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    };
    println!("the loser ended after {:?}: {ended}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{ended}");
    assert_eq!(*client.state().borrow(), ClientState::Connected);
}

/// An HTTP proxy that carries one connection wherever it is asked to, and tells what it was asked.
async fn proxy() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, asks) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let to = head.split(' ').nth(1).unwrap().to_owned();
            asked.send(head).unwrap();
            let mut node = TcpStream::connect(to).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut node).await });
        }
    });
    (address, asks)
}

#[tokio::test]
async fn through_a_proxy_goes_websocket_and_nothing_is_raced() {
    let certificate = Certificate::new();
    let wss = Wss::serve(&certificate).await;
    let (port, packets) = swallow().await;
    let (proxy, mut asks) = proxy().await;
    let builder = builder(wss.address, &certificate, port).http_proxy(format!("http://u:p@{proxy}"));
    let (_client, took) = connect(builder).await;
    assert!(took < Duration::from_millis(400), "{took:?}");
    let ask = asks.recv().await.unwrap();
    assert!(ask.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", wss.address)), "{ask}");
    assert!(ask.contains("Proxy-Authorization: Basic dTpw\r\n"), "{ask}");
    assert_eq!(packets.load(Ordering::SeqCst), 0);
    let error = Client::builder("quic://a").http_proxy("http://proxy").connect().unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::BadUrl);
}

#[tokio::test]
async fn tls_needs_a_certificate_that_is_believed() {
    let certificate = Certificate::new();
    let wss = Wss::serve(&certificate).await;
    let url = format!("wss://localhost:{}", wss.address.port());
    let (_client, _) = connect(Client::builder(&url).token("t").extra_root(certificate.pem())).await;
    assert_eq!(wss.count(), 1);
    let stranger = Client::builder(&url).token("t").connect().unwrap();
    let mut state = stranger.state();
    let suspended = soon(state.wait_for(|state| matches!(state, ClientState::Suspended(_)))).await.unwrap().clone();
    assert!(format!("{suspended:?}").contains("certificate"), "{suspended:?}");
    assert_eq!(wss.count(), 1);
    let error = Client::builder(&url).extra_root("no certificate").connect().unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::Certificates);
}
