//! HTTPS and wss over real sockets, with real files.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use lanecast_protocol::binding::{Piece, Purpose, StreamReader};
use lanecast_protocol::codec;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use prost::Message as _;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::*;
use crate::clock::Clock;
use crate::config::{Certificate, Config};
use crate::testing::Running;
use crate::tls::testing::{Authority, write};
use crate::transport::upgrade;

/// A node whose certificate is in files of the test's own.
struct Https {
    node: Running,
    authority: Authority,
    folder: TempDir,
}

type Socket = WebSocketStream<ClientStream<TcpStream>>;

impl Https {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let files = write(folder.path(), &authority.issue());
        let pair = Arc::new(files.read().unwrap());
        let with_certificate = |config: &mut Config| {
            config.certificate = Some(Certificate { files, pair });
            change(config);
        };
        let node = Running::start(with_certificate, Clock::system(), upgrade::routes()).await;
        Self { node, authority, folder }
    }

    async fn handshake(&self) -> ClientStream<TcpStream> {
        self.handshake_as(self.authority.client(&[b"h2", b"http/1.1"])).await
    }

    async fn handshake_as(&self, client: Arc<ClientConfig>) -> ClientStream<TcpStream> {
        let connector = TlsConnector::from(client);
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, self.node.connect().await).await.unwrap()
    }

    /// The certificate that a new handshake is shown.
    async fn shown(&self) -> Vec<u8> {
        let stream = self.handshake().await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    async fn websocket(&self, origin: &str) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
        self.websocket_on(self.node.connect().await, origin).await
    }

    async fn websocket_on(
        &self,
        tcp: TcpStream,
        origin: &str,
    ) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
        let mut request = format!("wss://localhost:{}/v1/connect", self.node.address.port()).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("lanecast.v1"));
        request.headers_mut().insert("origin", HeaderValue::from_str(origin).unwrap());
        let connector = TlsConnector::from(self.authority.client(&[b"http/1.1"]));
        let tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await?;
        Ok(tokio_tungstenite::client_async(request, tls).await?.0)
    }

    /// A connection by raw QUIC.
    async fn quic(&self, endpoint: &quinn::Endpoint, to: SocketAddr) -> Quic {
        let crypto = QuicClientConfig::try_from(self.authority.client(&[b"lanecast/1"])).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&Purpose::Control.header()).await.unwrap();
        let mut quic = Quic { connection, send, receive, reader: StreamReader::control(usize::MAX) };
        assert!(matches!(quic.ask(1, hello()).await, Body::Welcome(_)));
        quic
    }

    /// A connection of a user.
    async fn connect(&self) -> Socket {
        let origin = format!("https://localhost:{}", self.node.address.port());
        let mut socket = self.websocket(&origin).await.unwrap();
        assert!(matches!(ask(&mut socket, 1, hello()).await, Body::Welcome(_)));
        socket
    }
}

/// A greeting of a user whom nobody else is.
fn hello() -> Body {
    let instance = format!("{:032x}", rand::random::<u128>());
    let token = format!("dev:{instance}");
    Body::Hello(v1::Hello { version_min: 1, version_max: 1, token, instance, ..Default::default() })
}

struct Quic {
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    reader: StreamReader,
}

impl Quic {
    async fn ask(&mut self, id: u32, body: Body) -> Body {
        self.send.write_all(&codec::encode_body(id, body)).await.unwrap();
        loop {
            let chunk = self.receive.read_chunk(usize::MAX, true).await.unwrap().expect("the connection lives");
            let Piece::Records(_, packet) = self.reader.feed(chunk.bytes).unwrap() else { continue };
            for record in codec::records(packet, usize::MAX) {
                let frame = codec::decode(record.unwrap()).unwrap();
                if frame.id == id {
                    return frame.body.unwrap();
                }
            }
        }
    }

    /// The certificate that its handshake was shown.
    fn shown(&self) -> Vec<u8> {
        let chain = self.connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
        chain[0].to_vec()
    }
}

async fn ask(socket: &mut Socket, id: u32, body: Body) -> Body {
    socket.send(Message::Binary(codec::encode_body(id, body))).await.unwrap();
    loop {
        let packet = socket.next().await.expect("the connection lives").unwrap().into_data();
        for record in codec::records(packet, usize::MAX) {
            let frame = codec::decode(record.unwrap()).unwrap();
            if frame.id == id {
                return frame.body.unwrap();
            }
        }
    }
}

async fn ping(socket: &mut Socket, stamp: u64) {
    match ask(socket, 9, Body::Ping(v1::Ping { stamp })).await {
        Body::Pong(pong) => assert_eq!(pong.stamp, stamp),
        other => panic!("{other:?}"),
    }
}

/// Reads what follows the handshake: a request and its answer are behind it.
async fn take_tickets(stream: &mut ClientStream<TcpStream>) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

fn certificate_in(folder: &Path) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_file(folder.join("tls.crt")).unwrap().to_vec()
}

#[tokio::test]
async fn a_certificate_is_replaced_under_a_hundred_connections() {
    let https = Https::start(|_| {}).await;
    let before = certificate_in(https.folder.path());
    assert_eq!(https.shown().await, before);
    let to = https.node.serve_quic();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let (mut sockets, mut quics) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        sockets.push(https.connect().await);
        quics.push(https.quic(&endpoint, to).await);
    }
    assert_eq!(quics[0].shown(), before);
    let resuming = https.authority.client(&[]);
    let mut resumed = https.handshake_as(Arc::clone(&resuming)).await;
    take_tickets(&mut resumed).await;
    let mut resumed = https.handshake_as(Arc::clone(&resuming)).await;
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    take_tickets(&mut resumed).await;

    write(https.folder.path(), &https.authority.issue());
    let after = certificate_in(https.folder.path());
    assert_ne!(after, before);
    let replaced = async {
        while https.shown().await != after {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), replaced).await.expect("new handshakes get the new certificate");

    for (stamp, socket) in (1..).zip(&mut sockets) {
        ping(socket, stamp).await;
    }
    for (stamp, quic) in (1..).zip(&mut quics) {
        let pong = quic.ask(9, Body::Ping(v1::Ping { stamp })).await;
        assert!(matches!(pong, Body::Pong(pong) if pong.stamp == stamp));
    }
    assert_eq!(https.node.node.registry.len(), 200, "none was dropped");
    assert_eq!(https.quic(&endpoint, to).await.shown(), after);
    let anew = https.handshake_as(resuming).await;
    assert_ne!(anew.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "else it would not see the new one");
    let mut late = https.connect().await;
    assert_eq!(late.get_ref().get_ref().1.peer_certificates().unwrap()[0].to_vec(), after);
    ping(&mut late, 1).await;
}

#[tokio::test]
async fn http_is_the_only_protocol_above_tls() {
    let https = Https::start(|_| {}).await;
    let mut stream = https.handshake().await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("strict-transport-security"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_dawdles_is_closed() {
    let https = Https::start(|config| config.tls.handshake_timeout_ms = 150).await;
    let failed = |why| https.node.node.metrics.tls_handshakes_failed.of(why).get();
    let mut slow = https.node.connect().await;
    let (mut read, mut write) = slow.split();
    let dawdle = async {
        // The head of a ClientHello of 512 bytes, then a byte at a time.
        let _ = write.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await;
        for _ in 0..400 {
            if write.write_all(&[0]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the whole handshake was taken");
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = dawdle => {}
        _ = read.read_to_end(&mut rest) => {}
    }
    assert_eq!((failed(TlsFailure::Late), failed(TlsFailure::Refused)), (1, 0));

    let mut plain = https.node.connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let _ = plain.read_to_end(&mut rest).await;
    assert_eq!(failed(TlsFailure::Refused), 1, "HTTP without TLS");
    while https.node.node.metrics.sockets.get() != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_own_origin_of_a_node_with_tls_is_https() {
    // LC-SEC-001
    let https = Https::start(|_| {}).await;
    let port = https.node.address.port();
    assert!(https.websocket(&format!("https://localhost:{port}")).await.is_ok());
    assert!(https.websocket(&format!("http://localhost:{port}")).await.is_err(), "whoever is in the middle wrote it");
}

/// An event that is published, or comes.
fn publish(room: &str, lane: v1::Lane, number: u64, bytes: usize) -> Body {
    let envelope = v1::Envelope {
        r#type: "t".into(),
        body: Some(v1::envelope::Body::Data(vec![7; bytes].into())),
        ..Default::default()
    };
    Body::Publish(v1::Publish {
        room: room.into(),
        lane: lane.into(),
        number,
        after: number - 1,
        envelope: envelope.encode_to_vec().into(),
        ..Default::default()
    })
}

#[tokio::test]
async fn an_urgent_event_overtakes_what_a_slow_reader_has_not_taken() {
    // LC-LANE-006
    const BULK: (u64, usize) = (200, 8 * 1024);
    /// What the sockets of both sides, TLS and messages may hold; the kernel alone would take megabytes.
    const BEYOND_OUR_QUEUES: usize = 256 * 1024;
    let https = Https::start(|_| {}).await;
    let tcp = tokio::net::TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4 * 1024).unwrap();
    let tcp = tcp.connect(https.node.address).await.unwrap();
    let origin = format!("https://localhost:{}", https.node.address.port());
    let mut reader = https.websocket_on(tcp, &origin).await.unwrap();
    assert!(matches!(ask(&mut reader, 1, hello()).await, Body::Welcome(_)));
    let subscribe = Body::Subscribe(v1::Subscribe { room: "a".into(), ..Default::default() });
    assert!(matches!(ask(&mut reader, 2, subscribe).await, Body::Subscribed(_)));

    let mut writer = https.connect().await;
    for number in 1..=BULK.0 {
        let bulk = publish("a", v1::Lane::Bulk, number, BULK.1);
        assert!(matches!(ask(&mut writer, 3, bulk).await, Body::Published(_)));
    }
    let urgent = publish("a", v1::Lane::Urgent, 1, 10);
    assert!(matches!(ask(&mut writer, 4, urgent).await, Body::Published(_)));

    let (mut before, mut after) = (0, 0);
    let mut came = false;
    while before + after < BULK.0 as usize * BULK.1 {
        let packet = reader.next().await.expect("the connection lives").unwrap().into_data();
        for record in codec::records(packet, usize::MAX) {
            let frame = codec::decode(record.unwrap()).unwrap();
            let Some(Body::Event(event)) = frame.body else { continue };
            match event.lane() {
                v1::Lane::Urgent => came = true,
                _ if came => after += BULK.1,
                _ => before += BULK.1,
            }
        }
    }
    assert!(came && before <= BEYOND_OUR_QUEUES, "{before} bytes before it, {after} behind");
}
