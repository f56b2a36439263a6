use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;
use crate::api;
use crate::clock::Clock;
use crate::http::listener::Listener;
use crate::http::router;
use crate::node::Node;
use crate::transport::upgrade;

/// An address of this machine that is no loopback address; without one the tests that need it end at once.
fn address() -> Option<IpAddr> {
    let found = found();
    if found.is_none() {
        eprintln!("this machine is on no network: skipped");
    }
    found
}

/// A node with `--dev --lan`.
struct Opened {
    node: Arc<Node>,
    lan: Lan,
    near: SocketAddr,
    far: SocketAddr,
}

type Socket = WebSocketStream<TcpStream>;

impl Opened {
    async fn start(address: IpAddr) -> Self {
        let mut config = Config { dev: true, ..Config::default() };
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        let clock = Clock::system();
        let lan = Lan::open(Which::Given(address), &mut config, clock.now_ms()).unwrap();
        let node = Arc::new(Node::new(config, clock));
        let listener = Listener::bind(node.clone()).await.unwrap();
        let near = listener.address().unwrap();
        let beside = listener.beside(SocketAddr::new(address, 0)).await.unwrap();
        let far = beside.address().unwrap();
        let routes = router(node.clone(), upgrade::routes().merge(api::routes(true)));
        drop(tokio::spawn(listener.serve(routes.clone())));
        drop(tokio::spawn(beside.serve(routes)));
        Self { node, lan, near, far }
    }

    async fn open(&self, to: SocketAddr, host: &str, origin: &str) -> Result<Socket, Error> {
        let mut request = format!("ws://{to}/v1/connect").into_client_request()?;
        for (name, value) in [("host", host), ("origin", origin), ("sec-websocket-protocol", "lanecast.v1")] {
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(to).await?;
        Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    }

    /// The socket of the node's own page at an address.
    async fn page(&self, to: SocketAddr) -> Socket {
        self.open(to, &to.to_string(), &format!("http://{to}")).await.unwrap()
    }

    async fn get(&self, to: SocketAddr, host: &str, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = TcpStream::connect(to).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}

async fn ask(socket: &mut Socket, id: u32, body: Body) -> Body {
    socket.send(Message::Binary(codec::encode_body(id, body))).await.unwrap();
    loop {
        let packet = socket.next().await.expect("the connection lives").unwrap().into_data();
        for record in codec::records(packet, usize::MAX) {
            let frame = codec::decode(record.unwrap()).unwrap();
            // The Error before a close has no id.
            if frame.id == id || matches!(frame.body, Some(Body::Error(_))) {
                return frame.body.unwrap();
            }
        }
    }
}

fn hello(token: &str) -> Body {
    let (token, instance) = (token.to_owned(), "i".to_owned());
    Body::Hello(v1::Hello { version_min: 1, version_max: 1, token, instance, ..Default::default() })
}

fn subscribe(room: &str) -> Body {
    Body::Subscribe(v1::Subscribe { room: room.into(), ..Default::default() })
}

#[tokio::test]
async fn the_code_lets_into_the_demo_room_and_nowhere_else() {
    let Some(address) = address() else { return };
    let node = Opened::start(address).await;
    let mut socket = node.page(node.far).await;
    let token = node.lan.url(node.far.port()).split_once("/#token=").unwrap().1.to_owned();
    match ask(&mut socket, 1, hello(&token)).await {
        Body::Welcome(welcome) => assert_eq!(welcome.user, "phone"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ask(&mut socket, 2, subscribe("demo")).await, Body::Subscribed(_)));
    for (id, room) in [(3, "other"), (4, "demo.other"), (5, "$connections")] {
        match ask(&mut socket, id, subscribe(room)).await {
            Body::Error(error) => assert_eq!(error.code, u32::from(Code::Forbidden.number()), "{room}"),
            other => panic!("{room}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn from_the_network_nobody_is_whoever_they_like() {
    // LC-AUTH-032, LC-SEC-010
    let Some(address) = address() else { return };
    let node = Opened::start(address).await;
    let mut far = node.page(node.far).await;
    match ask(&mut far, 1, hello("dev:ann")).await {
        Body::Error(error) => assert_eq!(error.code, u32::from(Code::BadToken.number())),
        other => panic!("{other:?}"),
    }
    let mut near = node.page(node.near).await;
    assert!(matches!(ask(&mut near, 1, hello("dev:ann")).await, Body::Welcome(_)));
    let told = async |to: SocketAddr| node.get(to, &to.to_string(), "/.well-known/lanecast").await.1;
    assert!(told(node.near).await.contains("\"development\":true"));
    assert!(told(node.far).await.contains("\"development\":false"), "the page asks for a token there");
}

#[tokio::test]
async fn the_network_reaches_the_node_by_its_address_only() {
    // LC-SEC-001, LC-SEC-010
    let Some(address) = address() else { return };
    let node = Opened::start(address).await;
    let own = node.far.to_string();
    assert_eq!(node.get(node.far, &own, "/").await.0, 200);
    for host in ["evil.example", &format!("evil.example:{}", node.far.port()), "192.0.2.77"] {
        assert_eq!(node.get(node.far, host, "/").await.0, 403, "{host}");
        let rebound = node.open(node.far, host, &format!("http://{host}")).await;
        assert!(matches!(rebound, Err(Error::Http(answer)) if answer.status() == 403), "{host}");
    }
    assert!(node.open(node.far, &own, "http://evil.example").await.is_err(), "another page");
    assert!(!node.node.config.origins.allow.iter().any(|origin| origin == "*"));
}

#[test]
fn only_addresses_of_a_local_network_are_opened_unasked() {
    assert!(
        ["10.1.2.3", "192.168.0.7", "172.16.9.9", "169.254.1.1", "100.64.3.4", "fd00::1"]
            .iter()
            .all(|address| is_private(address.parse().unwrap()))
    );
    assert!(!["192.0.2.1", "8.8.8.8", "100.128.0.1", "2001:db8::1"].iter().any(|a| is_private(a.parse().unwrap())));
    assert_eq!("".parse(), Ok(Which::Found));
    assert_eq!("192.0.2.7".parse(), Ok(Which::Given("192.0.2.7".parse().unwrap())));
    for bad in ["127.0.0.1", "0.0.0.0", "::", "::1", "node.local", "224.0.0.1"] {
        assert!(bad.parse::<Which>().is_err(), "{bad}");
    }
}

#[test]
fn the_code_is_drawn_with_its_address() {
    let mut config = Config { dev: true, ..Config::default() };
    let lan = Lan::open(Which::Given("192.168.1.20".parse().unwrap()), &mut config, 1_800_000_000_000).unwrap();
    let told = lan.told(8080);
    assert!(told.contains("http://192.168.1.20:8080/#token=ey"), "{told}");
    let widths: Vec<usize> =
        told.lines().filter(|line| line.contains("\x1b[30;107m")).map(|l| l.chars().count()).collect();
    assert!(widths.len() > 30 && widths.iter().all(|width| *width == widths[0] && *width <= 100), "{widths:?}");
    assert_eq!(config.lan, Some("192.168.1.20".parse().unwrap()));
}
