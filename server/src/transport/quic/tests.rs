//! The endpoint over real sockets, met by a client that holds streams in its hands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lanecast_protocol::binding::{Piece, Purpose, StreamReader};
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::v1::{self, start};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use wtransport::endpoint::ConnectOptions;
use wtransport::tls::Sha256Digest;

use super::web;
use crate::clock::Clock;
use crate::config::Config;
use crate::testing::Running;
use crate::tls::testing::client;

mod driven;

const LIMIT: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Quic,
    Web,
}

const KINDS: [Kind; 2] = [Kind::Quic, Kind::Web];

/// A frame, the purpose of the stream on which it came (`None`: a datagram), and a number of that stream.
type Came = (Option<Purpose>, u64, v1::Frame);

/// The client's end of a connection.
struct Peer {
    connection: quinn::Connection,
    /// `None`: raw QUIC.
    session: Option<u64>,
    held: Option<Session>,
}

/// What keeps a WebTransport session.
struct Session {
    settings: SendStream,
    request: SendStream,
    /// Answered with 200 so far.
    _answer: RecvStream,
}

impl Peer {
    async fn open_control(&self) -> (SendStream, RecvStream) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        if let Some(session) = self.session {
            send.write_all(&web::testing::bidirectional_preamble(session)).await.unwrap();
        }
        (send, receive)
    }

    fn preamble(&self) -> Bytes {
        self.session.map_or(Bytes::new(), web::stream_preamble)
    }

    /// The next stream of lanes, past what marks it as the session's.
    async fn accept(&self) -> Option<RecvStream> {
        loop {
            let mut stream = self.connection.accept_uni().await.ok()?;
            let preamble = self.preamble();
            let mut front = vec![0; preamble.len()];
            stream.read_exact(&mut front).await.ok()?;
            if front == preamble {
                return Some(stream);
            }
            assert_eq!(front[..2], [0x00, 0x04], "the node's settings");
            // Whoever drops a stream wants no more of it.
            std::mem::forget(stream);
        }
    }

    async fn receive_datagram(&self) -> Option<Bytes> {
        let datagram = self.connection.read_datagram().await.ok()?;
        let preamble = self.session.map_or(Bytes::new(), web::datagram_preamble);
        Some(datagram.slice_ref(datagram.strip_prefix(&preamble[..]).expect("a datagram of the session")))
    }

    fn datagram(&self, record: Bytes) -> Bytes {
        let preamble = self.session.map_or(Bytes::new(), web::datagram_preamble);
        [preamble, record].concat().into()
    }
}

struct Client {
    link: Arc<Peer>,
    session: Option<Session>,
    control: SendStream,
    came: mpsc::UnboundedReceiver<Came>,
    seen: Vec<Came>,
}

async fn start(change: impl FnOnce(&mut Config)) -> Running {
    let running = Running::start(change, Clock::system(), axum::Router::new()).await;
    running.serve_quic();
    running
}

fn web_client(running: &Running) -> wtransport::Endpoint<wtransport::endpoint::endpoint_side::Client> {
    let hashes = running.node.tls.as_ref().unwrap().hashes().into_iter().map(Sha256Digest::new);
    let config = wtransport::ClientConfig::builder().with_bind_default().with_server_certificate_hashes(hashes).build();
    wtransport::Endpoint::client(config).unwrap()
}

async fn dial(running: &Running, alpn: &[u8]) -> quinn::Connection {
    dial_at(running, *running.node.quic_address.get().unwrap(), alpn).await
}

async fn dial_at(running: &Running, address: SocketAddr, alpn: &[u8]) -> quinn::Connection {
    let certificate = running.node.tls.as_ref().unwrap().certificate();
    let crypto = QuicClientConfig::try_from(client(&certificate, &[alpn])).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint.connect(address, "localhost").unwrap().await.unwrap()
}

async fn connect(running: &Running, kind: Kind) -> Peer {
    match kind {
        Kind::Quic => Peer { connection: dial(running, super::RAW).await, session: None, held: None },
        Kind::Web => {
            let connection = dial(running, super::HTTP_3).await;
            let mut settings = connection.open_uni().await.unwrap();
            settings.write_all(&web::testing::settings()).await.unwrap();
            let (mut request, mut answer) = connection.open_bi().await.unwrap();
            request.write_all(&web::testing::request("127.0.0.1", "/v1/connect", None)).await.unwrap();
            assert_eq!(status(&mut answer).await, 200);
            let session = Some(request.id().into());
            Peer { connection, session, held: Some(Session { settings, request, _answer: answer }) }
        }
    }
}

/// The status with which a request is answered.
async fn status(answer: &mut RecvStream) -> u16 {
    let mut bytes = [0; 10];
    tokio::time::timeout(SOON, answer.read_exact(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8_lossy(&bytes[7..]).parse().unwrap()
}

impl Client {
    /// Connects and opens control, whose header goes with the first frame.
    async fn open(running: &Running, kind: Kind) -> Self {
        Self::begin(connect(running, kind).await).await
    }

    async fn begin(mut peer: Peer) -> Self {
        let session = peer.held.take();
        let link = Arc::new(peer);
        let (mut control, reads) = link.open_control().await;
        control.write_chunk(Purpose::Control.header()).await.unwrap();
        let (send, came) = mpsc::unbounded_channel();
        drop(tokio::spawn(read(reads, StreamReader::control(LIMIT), 0, send.clone())));
        drop(tokio::spawn(accept(Arc::clone(&link), send.clone())));
        drop(tokio::spawn(datagrams(Arc::clone(&link), send)));
        Self { link, session, control, came, seen: Vec::new() }
    }

    async fn join(running: &Running, kind: Kind, user: &str) -> Self {
        let mut client = Self::open(running, kind).await;
        client.send(hello(user)).await;
        client.wait(|frame| matches!(frame.body, Some(Body::Welcome(_)))).await;
        client
    }

    async fn send(&mut self, body: Body) {
        self.control.write_chunk(codec::encode_body(7, body)).await.unwrap();
    }

    /// Opens a stream and writes to it.
    async fn stream(&self, purpose: Purpose, records: &[Bytes]) -> SendStream {
        let mut stream = self.link.connection.open_uni().await.unwrap();
        let bytes = [&[self.link.preamble(), purpose.header()], records].concat().concat();
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    /// The first frame that fits, with where it came.
    async fn wait(&mut self, fits: impl Fn(&v1::Frame) -> bool) -> Came {
        loop {
            if let Some(at) = self.seen.iter().position(|(_, _, frame)| fits(frame)) {
                return self.seen.remove(at);
            }
            let came = tokio::time::timeout(SOON, self.came.recv()).await;
            let seen = &self.seen;
            self.seen.push(
                came.unwrap_or_else(|_| panic!("nothing came, but {:?}", seen.first())).expect("the connection lives"),
            );
        }
    }

    async fn subscribe(&mut self, room: &str) -> u64 {
        let start = v1::Start { at: Some(start::At::Beginning(v1::StartBeginning {})) };
        self.send(Body::Subscribe(v1::Subscribe {
            room: room.into(),
            start: Some(start),
            signals: true,
            ..Default::default()
        }))
        .await;
        let (_, _, frame) = self.wait(|frame| matches!(frame.body, Some(Body::Subscribed(_)))).await;
        let Some(Body::Subscribed(subscribed)) = frame.body else { unreachable!() };
        subscribed.handle
    }

    /// The Error that closes, and the code with which the connection is closed then.
    async fn closed(&mut self) -> (u32, Option<u64>) {
        let (_, _, frame) = self.wait(|frame| matches!(&frame.body, Some(Body::Error(error)) if error.closing)).await;
        let Some(Body::Error(error)) = frame.body else { unreachable!() };
        (error.code, closed(&self.link).await)
    }
}

async fn closed(link: &Peer) -> Option<u64> {
    match tokio::time::timeout(SOON, link.connection.closed()).await.expect("the node closes") {
        quinn::ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

async fn read(mut reads: RecvStream, mut reader: StreamReader, number: u64, send: mpsc::UnboundedSender<Came>) {
    while let Ok(Some(chunk)) = reads.read_chunk(usize::MAX, true).await {
        let Piece::Records(_, records) = reader.feed(chunk.bytes).unwrap() else { continue };
        for record in codec::records(records, LIMIT) {
            let frame = codec::decode(record.unwrap()).unwrap();
            let lane = frame.body.as_ref().map(Lane::of);
            assert_eq!(lane, reader.purpose().map(Purpose::lane), "{frame:?}");
            drop(send.send((reader.purpose(), number, frame)));
        }
    }
}

async fn accept(link: Arc<Peer>, send: mpsc::UnboundedSender<Came>) {
    let mut number = 0;
    while let Some(reads) = link.accept().await {
        number += 1;
        drop(tokio::spawn(read(reads, StreamReader::unidirectional(LIMIT), number, send.clone())));
    }
}

async fn datagrams(link: Arc<Peer>, send: mpsc::UnboundedSender<Came>) {
    while let Some(packet) = link.receive_datagram().await {
        for record in codec::records(packet, LIMIT) {
            drop(send.send((None, 0, codec::decode(record.unwrap()).unwrap())));
        }
    }
}

fn hello(user: &str) -> Body {
    let (token, instance) = (format!("dev:{user}"), user.to_owned());
    Body::Hello(v1::Hello { version_min: 1, version_max: 1, token, instance, ..Default::default() })
}

fn publish(room: &str, lane: v1::Lane, number: u64, text: &str) -> Body {
    let envelope = prost::Message::encode_to_vec(&v1::Envelope {
        r#type: "t".into(),
        body: Some(v1::envelope::Body::Text(text.into())),
        ..Default::default()
    });
    let delivery = v1::Delivery::Durable.into();
    Body::Publish(v1::Publish {
        room: room.into(),
        lane: lane.into(),
        delivery,
        number,
        after: number - 1,
        envelope: envelope.into(),
        ..Default::default()
    })
}

fn is_published(frame: &v1::Frame) -> bool {
    matches!(frame.body, Some(Body::Published(_)))
}

fn is_event(frame: &v1::Frame) -> bool {
    matches!(frame.body, Some(Body::Event(_)))
}

#[tokio::test]
async fn every_lane_has_its_streams() {
    // LC-QUIC-001, LC-QUIC-003, LC-QUIC-004, LC-QUIC-009, LC-WT-001
    let running = start(|_| {}).await;
    for kind in KINDS {
        let room = format!("lanes.{kind:?}");
        let mut client = Client::join(&running, kind, "ann").await;
        client.subscribe(&room).await;
        for (purpose, lane) in [
            (Purpose::Lane(Lane::Urgent), v1::Lane::Urgent),
            (Purpose::Lane(Lane::Normal), v1::Lane::Normal),
            (Purpose::Lane(Lane::Bulk), v1::Lane::Bulk),
        ] {
            let records = [1, 2].map(|n| codec::encode_body(n, publish(&room, lane, n.into(), "x")));
            let _stream = client.stream(purpose, &records).await;
            client.wait(is_published).await;
            client.wait(is_published).await;
            let [first, second] = [client.wait(is_event).await, client.wait(is_event).await];
            match lane {
                v1::Lane::Urgent => {
                    assert_eq!((first.0, second.0), (Some(Purpose::Message), Some(Purpose::Message)));
                    assert_ne!(first.1, second.1, "each message has a stream of its own");
                }
                _ => assert_eq!((first.0, first.1), (Some(purpose), second.1), "one ordered stream"),
            }
        }
        for (bytes, expected) in [(10, None), (3_000, Some(Purpose::Signal))] {
            let envelope = v1::Envelope { r#type: "t".into(), key: "k".into(), ..Default::default() };
            let mut envelope = prost::Message::encode_to_vec(&envelope);
            prost::encoding::bytes::encode(99, &vec![0; bytes], &mut envelope);
            let signal = v1::Signal {
                room: room.clone(),
                counter: bytes as u64,
                envelope: envelope.into(),
                ..Default::default()
            };
            let record = codec::encode_body(0, Body::Signal(signal));
            let mut other = Client::join(&running, kind, "bob").await;
            if bytes < 1_000 {
                other.link.connection.send_datagram(other.link.datagram(record)).unwrap();
            } else {
                other.stream(Purpose::Signal, &[record]).await.finish().unwrap();
            }
            let (purpose, ..) = client.wait(|frame| matches!(frame.body, Some(Body::Signal(_)))).await;
            assert_eq!(purpose, expected, "{kind:?}");
            other.send(Body::Ping(v1::Ping { stamp: 1 })).await;
            other.wait(|frame| matches!(frame.body, Some(Body::Pong(_)))).await;
        }
    }
}

#[tokio::test]
async fn frames_that_overtake_hello_wait_for_it() {
    // LC-QUIC-002
    let running = start(|_| {}).await;
    for kind in KINDS {
        let mut client = Client::open(&running, kind).await;
        let record = codec::encode_body(5, publish("early", v1::Lane::Normal, 1, "x"));
        let _stream = client.stream(Purpose::Lane(Lane::Normal), &[record]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(hello("ann")).await;
        let (_, _, welcome) = client.wait(|_| true).await;
        assert!(matches!(welcome.body, Some(Body::Welcome(_))), "{kind:?}: {welcome:?}");
        client.wait(is_published).await;
    }
}

#[tokio::test]
async fn broken_streams_close_with_their_code() {
    // LC-QUIC-001, LC-QUIC-003, LC-QUIC-006, LC-FRM-004, LC-FRM-007
    let running = start(|_| {}).await;
    let ping = codec::encode_body(1, Body::Ping(v1::Ping { stamp: 1 }));
    for kind in KINDS {
        for (case, expected) in
            ["wrong lane", "no header", "second header", "too large", "cut off", "header in a datagram"]
                .into_iter()
                .zip([4001, 4001, 4001, 4003, 4001, 4001])
        {
            let mut client = Client::join(&running, kind, "ann").await;
            let bulk = Purpose::Lane(Lane::Bulk);
            let mut streams = Vec::new();
            match case {
                "wrong lane" => streams.push(client.stream(bulk, std::slice::from_ref(&ping)).await),
                "no header" => {
                    let mut stream = client.link.connection.open_uni().await.unwrap();
                    stream.write_all(&[client.link.preamble(), ping.clone()].concat()).await.unwrap();
                    streams.push(stream);
                }
                "second header" => streams.push(client.stream(bulk, &[bulk.header()]).await),
                "too large" => {
                    streams.push(client.stream(bulk, &[Bytes::from_static(&[0x0a, 0xff, 0xff, 0xff, 0x7f])]).await);
                }
                "cut off" => client.stream(bulk, &[Bytes::from_static(&[0x0a, 5, 1])]).await.finish().unwrap(),
                _ => client.link.connection.send_datagram(client.link.datagram(Purpose::Signal.header())).unwrap(),
            }
            assert_eq!(client.closed().await, (expected, Some(u64::from(expected))), "{kind:?}: {case}");
        }
        // A stream of an unknown kind, and one that is taken back in the middle of a record, change nothing.
        let mut client = Client::join(&running, kind, "ann").await;
        let mut unknown = client.link.connection.open_uni().await.unwrap();
        unknown
            .write_all(&[client.link.preamble(), Bytes::from_static(&[0x12, 2, 8, 77, 1, 2, 3])].concat())
            .await
            .unwrap();
        let mut taken_back = client.stream(Purpose::Lane(Lane::Normal), &[Bytes::from_static(&[0x0a, 5, 1])]).await;
        taken_back.reset(1u32.into()).unwrap();
        client.send(Body::Ping(v1::Ping { stamp: 1 })).await;
        client.wait(|frame| matches!(frame.body, Some(Body::Pong(_)))).await;
        assert!(unknown.stopped().await.unwrap().is_some(), "{kind:?}: it is not read");
    }
}

#[tokio::test]
async fn a_lane_that_is_not_read_delays_no_other() {
    // LC-FLOW-003, LC-LANE-005
    let running = start(|config| config.limits.record_bytes = 80_000).await;
    for kind in KINDS {
        let room = format!("slow.{kind:?}");
        let mut publisher = Client::join(&running, kind, "pub").await;
        let text = "x".repeat(60_000);
        let record = |n| codec::encode_body(1, publish(&room, v1::Lane::Normal, n, &text));
        let records: Vec<_> = (1..=60).map(record).collect();
        let _normal = publisher.stream(Purpose::Lane(Lane::Normal), &records).await;
        for _ in 0..60 {
            publisher.wait(is_published).await;
        }
        // This client accepts no stream, and so reads none but control.
        let link = connect(&running, kind).await;
        let (mut control, mut reads) = link.open_control().await;
        let start = Some(v1::Start { at: Some(start::At::Beginning(v1::StartBeginning {})) });
        let subscribe = v1::Subscribe { room, start, ..Default::default() };
        let bodies = [hello("slow"), Body::Subscribe(subscribe)].map(|body| codec::encode_body(1, body));
        control.write_all(&[&[Purpose::Control.header()], &bodies[..]].concat().concat()).await.unwrap();
        let mut reader = StreamReader::control(LIMIT);
        let mut pongs = 0;
        for turn in 0..20 {
            let ping = codec::encode_body(9, Body::Ping(v1::Ping { stamp: turn }));
            control.write_chunk(ping).await.unwrap();
            while pongs <= turn {
                let chunk = tokio::time::timeout(SOON, reads.read_chunk(LIMIT, true)).await.unwrap().unwrap();
                let Piece::Records(_, records) = reader.feed(chunk.unwrap().bytes).unwrap() else { continue };
                pongs += codec::records(records, LIMIT)
                    .filter(|record| {
                        let frame = codec::decode(record.clone().unwrap()).unwrap();
                        matches!(frame.body, Some(Body::Pong(_)))
                    })
                    .count() as u64;
            }
        }
    }
}

#[tokio::test]
async fn sessions_are_opened_at_one_path_and_for_allowed_origins() {
    // LC-WT-001, LC-WT-003
    let running = start(|_| {}).await;
    let port = running.node.quic_address.get().unwrap().port();
    let own = format!("http://127.0.0.1:{}", running.address.port());
    for (path, origin, opens) in [
        ("/v1/connect", own.as_str(), true),
        ("/v1/other", own.as_str(), false),
        ("/v1/connect", "https://evil.example", false),
    ] {
        let options = ConnectOptions::builder(format!("https://127.0.0.1:{port}{path}")).add_header("origin", origin);
        let opened = web_client(&running).connect(options.build()).await;
        assert_eq!(opened.is_ok(), opens, "{path} {origin}: {opened:?}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_closed_in_time() {
    // LC-HS-006
    let running = start(|config| config.heartbeat.hello_timeout_ms = 300).await;
    for kind in KINDS {
        let link = connect(&running, kind).await;
        assert_eq!(closed(&link).await, Some(Code::HandshakeTimeout.number().into()), "{kind:?}: no control");
        let mut client = Client::open(&running, kind).await;
        let code = u32::from(Code::HandshakeTimeout.number());
        assert_eq!(client.closed().await, (code, Some(u64::from(code))), "{kind:?}: no Hello");
    }
}

/// The code with which the node closes a connection of HTTP/3.
async fn closed_by_http(connection: &quinn::Connection) -> u64 {
    match tokio::time::timeout(SOON, connection.closed()).await.expect("the node closes") {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        error => panic!("{error}"),
    }
}

/// Opens a stream and writes as much as the node takes.
async fn write(connection: &quinn::Connection, bytes: &[u8]) -> SendStream {
    let mut stream = connection.open_uni().await.unwrap();
    let _ = stream.write_all(bytes).await;
    stream
}

#[tokio::test]
async fn clients_that_break_http_are_told_how() {
    // LC-WT-001
    let running = start(|_| {}).await;
    let settings = web::testing::settings();
    let request = web::testing::request("127.0.0.1", "/v1/connect", None);
    for (case, unidirectional, bidirectional, code) in [
        ("no settings", vec![vec![0x00, 0x21, 0]], None, 0x10a),
        ("two control streams", vec![settings.clone(), settings.clone()], None, 0x103),
        ("two encoders", vec![vec![0x02], vec![0x02]], None, 0x103),
        ("a push", vec![vec![0x01]], None, 0x103),
        ("a stream of no session", vec![vec![0x40, 0x54, 1]], None, 0x108),
        ("huge headers", vec![settings.clone()], Some(vec![0x01, 0x7f, 0xff]), 0x107),
        ("body without request", vec![settings.clone()], Some(vec![0x00, 0]), 0x105),
        ("no header", vec![settings.clone()], Some(web::testing::block(0x01, &[0, 0])), 0x100),
        ("a field twice", vec![settings.clone()], Some([&request[..], &request].concat()), 0x105),
        ("endless settings", vec![[&settings[..], &[0x21, 0x80, 1, 0, 0], &vec![0; 70_000]].concat()], None, 0x107),
    ] {
        let connection = dial(&running, super::HTTP_3).await;
        let mut streams = Vec::new();
        for bytes in &unidirectional {
            streams.push(write(&connection, bytes).await);
        }
        let mut requests = Vec::new();
        if let Some(bytes) = bidirectional {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            let _ = send.write_all(&bytes).await;
            requests.push((send, receive));
        }
        assert_eq!(closed_by_http(&connection).await, code, "{case}");
    }
    for (case, bytes) in [("control", &settings[..]), ("encoder", &[0x02]), ("decoder", &[0x03])] {
        let connection = dial(&running, super::HTTP_3).await;
        write(&connection, bytes).await.finish().unwrap();
        assert_eq!(closed_by_http(&connection).await, 0x104, "{case} ends");
    }
}

#[tokio::test]
async fn a_session_ends_with_its_request() {
    // LC-WT-001
    let running = start(|_| {}).await;
    for case in ["end", "reset", "capsule", "control stream ends"] {
        let mut client = Client::join(&running, Kind::Web, "ann").await;
        let session = client.session.as_mut().unwrap();
        match case {
            "end" => session.request.finish().unwrap(),
            "reset" => session.request.reset(1u32.into()).unwrap(),
            "capsule" => {
                let capsules = [web::testing::block(0x78ae, &[1; 9]), web::testing::block(0x2843, &[0; 4])].concat();
                session.request.write_all(&web::testing::block(0x00, &capsules)).await.unwrap();
            }
            _ => session.settings.finish().unwrap(),
        }
        let expected = if case == "control stream ends" { 0x104 } else { 0x100 };
        assert_eq!(closed(&client.link).await, Some(expected), "{case}");
    }
}

#[tokio::test]
async fn what_is_of_no_session_is_refused() {
    // LC-WT-001
    let running = start(|_| {}).await;
    let connection = dial(&running, super::HTTP_3).await;
    // All of this is there before the settings and the request are.
    let unknown = write(&connection, &[0x21, 1, 2, 3]).await;
    let other = write(&connection, &[0x40, 0x54, 8]).await;
    let (mut request, mut answer) = connection.open_bi().await.unwrap();
    request.write_all(&web::testing::request("127.0.0.1", "/v1/connect", None)).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, unknown.stopped()).await.unwrap(), Ok(Some(0x103u32.into())));
    let _encoder = write(&connection, &[0x02, 0x20]).await;
    let settings = write(&connection, &web::testing::settings()).await;
    assert_eq!(status(&mut answer).await, 200);
    let (mut second, mut refused) = connection.open_bi().await.unwrap();
    second.write_all(&web::testing::request("127.0.0.1", "/v1/connect", None)).await.unwrap();
    let error = tokio::time::timeout(SOON, refused.read_to_end(10)).await.unwrap();
    assert!(format!("{error:?}").contains(&0x10b.to_string()), "a second session: {error:?}");
    drop((second, refused));
    let session = Some(request.id().into());
    let peer = Peer { connection, session, held: Some(Session { settings, request, _answer: answer }) };
    peer.connection.send_datagram(Bytes::from_static(&[1, 0xff])).unwrap();
    let mut client = Client::begin(peer).await;
    client.send(hello("ann")).await;
    client.wait(|frame| matches!(frame.body, Some(Body::Welcome(_)))).await;
    assert_eq!(tokio::time::timeout(SOON, other.stopped()).await.unwrap(), Ok(Some(0x3994_bd84u32.into())));
    // A datagram of another session is nobody's, and one that names none is a fault.
    client.send(Body::Ping(v1::Ping { stamp: 1 })).await;
    client.wait(|frame| matches!(frame.body, Some(Body::Pong(_)))).await;
    client.link.connection.send_datagram(Bytes::from_static(&[0x40])).unwrap();
    assert_eq!(closed(&client.link).await, Some(0x33));
}

#[tokio::test]
async fn requests_are_answered_by_what_they_ask() {
    // LC-WT-001, LC-WT-003
    let running = start(|_| {}).await;
    for (path, origin, expected) in [("/v1/connect", None, 200), ("/", None, 404), ("/v1/connect", Some("null"), 403)] {
        let connection = dial(&running, super::HTTP_3).await;
        let _settings = write(&connection, &web::testing::settings()).await;
        let (mut request, mut answer) = connection.open_bi().await.unwrap();
        request.write_all(&web::testing::request("127.0.0.1", path, origin)).await.unwrap();
        assert_eq!(status(&mut answer).await, expected, "{path} {origin:?}");
        if expected != 200 {
            assert_eq!(closed_by_http(&connection).await, 0x100, "{path}");
        }
    }
}
