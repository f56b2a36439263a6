//! What tests of the node over real sockets have in common: a running node, and a client that reads what it wrote
//! itself, byte by byte, so that no library can hide what the node does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::probe::Probe;
use crate::engine::{Engine, EngineSink};
use crate::http::listener::Listener;
use crate::node::Node;
use crate::transport::quic::QuicListener;
use crate::{cluster, http};

/// A node that serves on a free port.
pub(crate) struct Running {
    pub(crate) node: Arc<Node>,
    pub(crate) address: SocketAddr,
}

/// An answer to a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.head, self.body))
    }

    /// Status and name of the code, for a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["name"].as_str().unwrap_or_default().to_owned())
    }
}

impl Running {
    /// A development node with routes of its own beside those of `http`.
    pub(crate) async fn start(change: impl FnOnce(&mut Config), clock: Clock, others: Router<Arc<Node>>) -> Self {
        let mut config = Config { dev: true, ..Config::default() };
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        Self::on(Node::new(config, clock), others).await
    }

    /// The same with an engine that the test turns.
    pub(crate) async fn probed(clock: Clock, others: Router<Arc<Node>>) -> (Self, Arc<Probe>) {
        let mut config = Config { dev: true, ..Config::default() };
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        let node = Node::without_engine(config, clock.clone());
        let probe = Arc::new(Probe::new(clock, Arc::clone(&node.hub) as Arc<dyn EngineSink>));
        node.hub.connect(Arc::clone(&probe) as Arc<dyn Engine>);
        (Self::on(node, others).await, probe)
    }

    async fn on(node: Node, others: Router<Arc<Node>>) -> Self {
        let node = Arc::new(node);
        let listener = Listener::bind(node.clone()).await.unwrap();
        let address = listener.address().unwrap();
        let router = http::router(node.clone(), others);
        drop(tokio::spawn(listener.serve(router)));
        node.cluster.listens_at(address);
        drop(tokio::spawn(cluster::run(node.clone())));
        let watching = node.clone();
        drop(tokio::spawn(async move { tokio::join!(watching.watch_store(), watching.watch_certificate()) }));
        Self { node, address }
    }

    /// Serves raw QUIC and WebTransport too, on a free port.
    pub(crate) fn serve_quic(&self) -> SocketAddr {
        let any = SocketAddr::new(self.address.ip(), 0);
        let quic = QuicListener::bind(self.node.clone(), any, self.address.port()).unwrap();
        let address = quic.address();
        self.node.quic_address.set(address).unwrap();
        drop(tokio::spawn(quic.serve()));
        address
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request on a connection of its own and reads until it is closed.
    pub(crate) async fn ask(&self, request: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (head, body) = self.ask_bytes(request, headers, body.as_bytes()).await;
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// As [`ask`](Self::ask), for bodies that are no text; gives the head and the body.
    pub(crate) async fn ask_bytes(&self, request: &str, headers: &[(&str, &str)], body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = self.connect().await;
        let mut head = format!("{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        // The node may answer, and close, before it has read a large body.
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
        let body = answer.split_off((end + 4).min(answer.len()));
        answer.truncate(end);
        (String::from_utf8_lossy(&answer).into_owned(), body)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[], "").await
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut stream = self.connect().await;
        let mut head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        Stream { stream, text: String::new(), items: VecDeque::new() }
    }
}

pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A stream of server-sent events.
pub(crate) struct Stream {
    stream: BufReader<TcpStream>,
    text: String,
    items: VecDeque<Item>,
}

/// A server-sent event.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

impl Stream {
    /// The next item; `None` where the stream ends.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(item);
            }
            let chunk = self.chunk().await?;
            self.text.push_str(&chunk);
            while let Some((item, rest)) = self.text.split_once("\n\n") {
                self.items.extend(parse(item));
                self.text = rest.to_owned();
            }
        }
    }

    /// The next item, which must be of that kind.
    pub(crate) async fn expect(&mut self, kind: &str) -> Item {
        let item = self.next().await.unwrap_or_else(|| panic!("the stream ended instead of {kind}"));
        assert_eq!(item.kind, kind, "{item:?}");
        item
    }

    async fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.stream.read_line(&mut size).await.ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).await.ok()?;
        if size == 0 { None } else { Some(String::from_utf8(chunk[..size].to_vec()).unwrap()) }
    }
}

fn parse(text: &str) -> Option<Item> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let kind = field("event")?.to_owned();
    let data = serde_json::from_str(field("data").unwrap()).unwrap();
    Some(Item { kind, id: field("id").map(str::to_owned), data })
}
