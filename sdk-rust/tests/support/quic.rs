//! A node as a test writes it, over QUIC.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lanecast::{Builder, Client};
use lanecast_protocol::binding::{Piece, Purpose, StreamReader};
use lanecast_protocol::codec;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, ServerConfig};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{soon, welcome};

/// A certificate for `127.0.0.1` and `localhost`.
pub struct Certificate {
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Certificate {
    pub fn new() -> Self {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        Self { made: rcgen::generate_simple_self_signed(names).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.made.cert.pem()
    }

    pub fn key_pem(&self) -> String {
        self.made.signing_key.serialize_pem()
    }

    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.made.cert.der()).into()
    }

    pub fn server(&self, alpn: &[u8]) -> rustls::ServerConfig {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.made.signing_key.serialize_der()));
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }
}

/// A listening node.
pub struct QuicPeer {
    pub endpoint: Endpoint,
    pub certificate: Certificate,
    pub address: SocketAddr,
}

impl QuicPeer {
    pub fn listen() -> Self {
        let certificate = Certificate::new();
        let crypto = QuicServerConfig::try_from(certificate.server(b"lanecast/1")).unwrap();
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.local_addr().unwrap();
        Self { endpoint, certificate, address }
    }

    pub fn builder(&self) -> Builder {
        self.builder_at(self.address)
    }

    /// A client that reaches this node at another address.
    pub fn builder_at(&self, address: SocketAddr) -> Builder {
        Client::builder(format!("quic://{address}")).token("secret").certificate_hash(self.certificate.hash())
    }

    pub async fn accept(&self) -> (QuicConnection, v1::Hello) {
        let incoming = soon(self.endpoint.accept()).await.unwrap();
        let mut connection = QuicConnection::new(soon(incoming.accept().unwrap()).await.unwrap()).await;
        let (lane, frame) = connection.frame().await.unwrap();
        assert_eq!(lane, Lane::Control);
        let Some(Body::Hello(hello)) = frame.body else { panic!("not Hello: {frame:?}") };
        (connection, hello)
    }

    /// Takes the next connection and welcomes it.
    pub async fn welcome(&self) -> (QuicConnection, v1::Hello) {
        let (mut connection, hello) = self.accept().await;
        connection.answer(1, Body::Welcome(welcome())).await;
        (connection, hello)
    }
}

/// A connection as the node sees it.
pub struct QuicConnection {
    pub connection: Connection,
    control: SendStream,
    lanes: HashMap<Lane, SendStream>,
    frames: mpsc::UnboundedReceiver<(Lane, v1::Frame)>,
    messages: Arc<AtomicUsize>,
}

impl QuicConnection {
    async fn new(connection: Connection) -> Self {
        let (mut control, reading) = soon(connection.accept_bi()).await.unwrap();
        control.write_all(&Purpose::Control.header()).await.unwrap();
        let (sender, frames) = mpsc::unbounded_channel();
        let messages = Arc::<AtomicUsize>::default();
        tokio::spawn(read(reading, StreamReader::control(1 << 20), sender.clone(), Arc::clone(&messages)));
        let (accepting, streams, counted) = (connection.clone(), sender.clone(), Arc::clone(&messages));
        tokio::spawn(async move {
            while let Ok(stream) = accepting.accept_uni().await {
                let reader = StreamReader::unidirectional(1 << 20);
                tokio::spawn(read(stream, reader, streams.clone(), Arc::clone(&counted)));
            }
        });
        let datagrams = connection.clone();
        tokio::spawn(async move {
            while let Ok(datagram) = datagrams.read_datagram().await {
                records(Lane::Signal, datagram, &sender);
            }
        });
        Self { connection, control, lanes: HashMap::new(), frames, messages }
    }

    /// How many message streams of the client's have carried something.
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::SeqCst)
    }

    /// The next frame, and the lane on which it came; `None`: the client has closed.
    pub async fn frame(&mut self) -> Option<(Lane, v1::Frame)> {
        tokio::select! {
            biased;
            frame = self.frames.recv() => frame,
            _ = self.connection.closed() => None,
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("no frame comes"),
        }
    }

    pub async fn body(&mut self) -> (Lane, u32, Body) {
        let (lane, frame) = self.frame().await.expect("the client should not have closed");
        (lane, frame.id, frame.body.unwrap())
    }

    pub async fn publish(&mut self) -> (Lane, u32, v1::Publish) {
        match self.body().await {
            (lane, id, Body::Publish(publish)) => (lane, id, publish),
            other => panic!("not Publish: {other:?}"),
        }
    }

    pub async fn answer(&mut self, id: u32, body: Body) {
        self.control.write_all(&codec::encode_body(id, body)).await.unwrap();
    }

    /// Sends on the ordered stream of a lane.
    pub async fn send(&mut self, lane: Lane, body: Body) {
        if !self.lanes.contains_key(&lane) {
            let mut stream = self.connection.open_uni().await.unwrap();
            stream.write_all(&Purpose::Lane(lane).header()).await.unwrap();
            self.lanes.insert(lane, stream);
        }
        let stream = self.lanes.get_mut(&lane).unwrap();
        stream.write_all(&codec::encode_body(0, body)).await.unwrap();
    }

    /// Sends on a stream of its own.
    pub async fn alone(&self, header: &[u8], body: Body) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(header).await.unwrap();
        stream.write_all(&codec::encode_body(0, body)).await.unwrap();
        stream
    }

    /// The code with which the client closes.
    pub async fn closed(&self) -> u64 {
        match soon(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }
}

async fn read(
    mut stream: RecvStream,
    mut reader: StreamReader,
    frames: mpsc::UnboundedSender<(Lane, v1::Frame)>,
    messages: Arc<AtomicUsize>,
) {
    while let Ok(Some(chunk)) = stream.read_chunk(64 * 1024, true).await {
        if let Piece::Records(lane, packet) = reader.feed(chunk.bytes).unwrap() {
            messages.fetch_add(usize::from(reader.purpose() == Some(Purpose::Message)), Ordering::SeqCst);
            records(lane, packet, &frames);
        }
    }
}

fn records(lane: Lane, packet: Bytes, frames: &mpsc::UnboundedSender<(Lane, v1::Frame)>) {
    for record in codec::records(packet, 1 << 20) {
        let frame = codec::decode(record.unwrap()).unwrap();
        assert_eq!(Lane::of(frame.body.as_ref().unwrap()), lane, "LC-QUIC-003");
        let _ = frames.send((lane, frame));
    }
}
