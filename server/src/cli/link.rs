//! A WebSocket client for the commands of the shell: the protocol's client session with a driver as small as can be.
//!
//! One connection at a time, reconnecting as the session says. The SDK is the place for more.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lanes;
use lanecast_protocol::publisher::Bounds;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{Action, Client, ClientState, Event, Options, RECORD_BYTES_MAX};
use lanecast_protocol::v1;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::Failure;
use super::dial::{Address, Stream};
use crate::clock::Clock;
use crate::transport::websocket::Encoding;

/// Records joined into one message.
const MESSAGE_BYTES: usize = 64 * 1024;
/// A publish that was not stored after this long is given up.
const OUTBOX_TTL_MS: u64 = 30_000;

type Socket = WebSocketStream<Stream>;

/// Where to connect, and as whom.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The node's WebSocket address.
    #[arg(long, env = "LANECAST_URL", default_value = "ws://127.0.0.1:8080/v1/connect")]
    url: String,
    /// The user token; a node with --dev takes "dev:<user>".
    #[arg(long, env = "LANECAST_TOKEN", default_value = "dev:shell", hide_env_values = true)]
    token: String,
}

/// A client and its connection.
pub(super) struct Link {
    pub(super) client: Client,
    target: Target,
    clock: Clock,
    socket: Option<Socket>,
}

impl Link {
    pub(super) fn new(target: Target) -> Self {
        let info = v1::ClientInfo {
            name: "lanecast-cli".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let options = Options {
            instance: format!("{:032x}", rand::random::<u128>()),
            info,
            device: String::new(),
            outbox: Bounds { items_max: 1024, bytes_max: 16 * 1024 * 1024 },
            outbox_ttl_ms: OUTBOX_TTL_MS,
            renews_tokens: false,
            seed: rand::random(),
        };
        let (clock, mut client) = (Clock::system(), Client::new(options));
        client.connect(now(&clock));
        Self { client, target, clock, socket: None }
    }

    pub(super) fn now(&self) -> Now {
        now(&self.clock)
    }

    /// The next thing that happens. Fails when the client is closed for good.
    pub(super) async fn event(&mut self) -> Result<Event, Failure> {
        loop {
            self.act().await;
            let drained = self.write().await;
            match self.client.poll_event() {
                Some(Event::State(ClientState::Closed { code })) => return Err(closed(code)),
                Some(event) => return Ok(event),
                None => self.wait(drained).await,
            }
        }
    }

    async fn act(&mut self) {
        while let Some(action) = self.client.poll_action() {
            match action {
                // There is one token: repeating it would be refused again.
                Action::Connect { refused, .. } if refused != 0 => self.client.no_token(self.now(), refused),
                Action::Connect { .. } => match self.open().await {
                    Ok(socket) => {
                        self.socket = Some(socket);
                        self.client.opened(self.now(), self.target.token.clone(), true);
                    }
                    Err(error) => {
                        eprintln!("lanecast: cannot connect to {}: {}", self.target.url, error.0);
                        self.client.failed(self.now());
                    }
                },
                Action::Disconnect(_) => {
                    self.write().await;
                    if let Some(mut socket) = self.socket.take() {
                        // The peer may be gone already.
                        let _ = socket.close(None).await;
                    }
                }
                // There is no other.
                Action::RenewToken { .. } => self.client.not_renewed(self.now()),
            }
        }
    }

    async fn open(&self) -> Result<Socket, Failure> {
        let address =
            Address::parse(&self.target.url).ok_or("it is no address such as wss://chat.example/v1/connect")?;
        let mut request = self.target.url.as_str().into_client_request()?;
        let subprotocol = HeaderValue::from_static(Encoding::Binary.subprotocol());
        request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol);
        Ok(tokio_tungstenite::client_async(request, address.connect().await?).await?.0)
    }

    /// Writes what may leave. Returns when the client was asked for it last.
    async fn write(&mut self) -> Now {
        let mut packet = BytesMut::new();
        loop {
            let now = self.now();
            let output = self.client.poll_output(now, Lanes::ALL);
            let done = output.is_none();
            if let Some(output) = output {
                packet.extend_from_slice(&output.record);
            }
            if !packet.is_empty() && (done || packet.len() >= MESSAGE_BYTES) {
                let message = Message::Binary(packet.split().freeze());
                if let Some(socket) = &mut self.socket
                    && socket.send(message).await.is_err()
                {
                    self.lost(None);
                }
            }
            if done {
                return now;
            }
        }
    }

    async fn wait(&mut self, drained: Now) {
        let now_ms = self.now().monotonic_ms;
        let sleep = self.client.poll_timeout(drained).map_or(60_000, |at| at.saturating_sub(now_ms));
        let sleep = tokio::time::sleep(Duration::from_millis(sleep));
        let received = async {
            match &mut self.socket {
                Some(socket) => socket.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => self.client.handle_timeout(self.now()),
            received = received => match received {
                Some(Ok(Message::Binary(packet))) => self.records(packet),
                Some(Ok(Message::Close(frame))) => self.lost(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.lost(None),
            },
        }
    }

    fn records(&mut self, packet: Bytes) {
        for record in codec::records(packet, RECORD_BYTES_MAX) {
            match record {
                Ok(record) => self.client.handle_record(self.now(), None, record),
                Err(_) => return self.lost(Some(Code::Protocol.number())),
            }
        }
    }

    fn lost(&mut self, code: Option<u16>) {
        self.socket = None;
        self.client.handle_closed(self.now(), code);
    }
}

fn now(clock: &Clock) -> Now {
    Now { monotonic_ms: clock.elapsed().as_millis() as u64, wall_ms: clock.now_ms() }
}

fn name(code: u32) -> String {
    match Code::from_number(code) {
        None if code == 0 => "it was ended by an operator or a backend".to_owned(),
        Some(code) => format!("{code}: {}", code.row().sentence),
        None => format!("the connection ended with code {code}"),
    }
}

fn closed(code: u32) -> Failure {
    Failure::from(name(code))
}

/// The text of a refusal.
pub(super) fn refused(code: u32, detail: &str) -> Failure {
    Failure::from(format!("{} {detail}", name(code)))
}
