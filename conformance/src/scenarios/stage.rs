//! Where a scenario is played: the server, the relays before it, and the clients.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::Scenario;
use super::client::Client;
use super::steps::{self, Connect, Fails, Fill, GiveToken, Publish, Step};
use crate::client::{Transport, WireLog, short};
use crate::driver::{Driver, Launch, kind};
use crate::peer::{TcpRelay, UdpRelay};
use crate::target::{Target, TokenWish};
use crate::verdict::{Outcome, Stop, check};

/// Events of a request of the HTTP API.
const BATCH_MAX: u32 = 200;
/// Between a cut and the next request, so that the clients are on their way back or there already.
const AFTER_CUT: Duration = Duration::from_millis(150);

/// The stage of one scenario over one transport.
pub(super) struct Stage {
    target: Arc<Target>,
    launch: Launch,
    transport: Transport,
    log: WireLog,
    room: String,
    clients: BTreeMap<String, Client>,
    /// Drivers that have no client at present.
    idle: Vec<Driver>,
    relays: Option<Relays>,
    directory: PathBuf,
    /// Events of the room that were published so far.
    said: u32,
}

/// What clients reach in place of the server.
struct Relays {
    tcp: TcpRelay,
    udp: Option<UdpRelay>,
}

impl Stage {
    pub(super) fn new(
        (target, launch, idle): (Arc<Target>, Launch, Vec<Driver>),
        rooms: &str,
        transport: Transport,
        log: WireLog,
    ) -> Self {
        let own: u64 = rand::random();
        Self {
            target,
            launch,
            transport,
            log,
            room: format!("{rooms}.{own:016x}"),
            clients: BTreeMap::new(),
            idle,
            relays: None,
            directory: std::env::temp_dir().join(format!("lanecast-scenario-{own:016x}")),
            said: 0,
        }
    }

    /// Plays a scenario to its end.
    pub(super) async fn play(&mut self, scenario: &Scenario) -> Outcome {
        std::fs::create_dir_all(&self.directory).map_err(Stop::harness)?;
        self.relays = Some(self.relay().await?);
        let steps = scenario.parse().map_err(Stop::Harness)?;
        if !scenario.needs.is_empty() {
            let driver = &self.client("alice").await?.driver;
            if let Some((what, why)) = scenario.needs.iter().find_map(|what| Some((what, driver.lacks(what)?))) {
                return Err(Stop::Unsupported(format!("the client has no {what}: {why}")));
            }
        }
        for (number, (who, step)) in steps.into_iter().enumerate() {
            let told = |stop| match stop {
                Stop::Fail(text, rule) => Stop::Fail(format!("step {}: {text}", number + 1), rule),
                other => other,
            };
            self.step(&who, step).await.map_err(told)?;
        }
        Ok(())
    }

    /// Closes the clients; the drivers that can serve another scenario.
    pub(super) async fn end(mut self) -> Vec<Driver> {
        for client in self.clients.into_values() {
            self.idle.extend(client.driver.emptied().await);
        }
        // Left to the system's own cleaning if that fails.
        let _ = std::fs::remove_dir_all(&self.directory);
        self.idle
    }

    async fn relay(&self) -> Outcome<Relays> {
        if self.transport == Transport::Websocket {
            return Ok(Relays { tcp: TcpRelay::start(self.target.endpoint.port, None).await?, udp: None });
        }
        let own = self.target.stream_endpoint(self.transport)?.port;
        let udp = UdpRelay::start(own).await?;
        let tcp = TcpRelay::start(self.target.endpoint.port, Some((own, udp.port))).await?;
        Ok(Relays { tcp, udp: Some(udp) })
    }

    fn relays(&self) -> Outcome<&Relays> {
        self.relays.as_ref().ok_or_else(|| Stop::harness("no relays"))
    }

    fn cut(&self) -> Outcome {
        let relays = self.relays()?;
        relays.tcp.cut();
        if let Some(udp) = &relays.udp {
            udp.cut();
        }
        self.log.add("stage", "·", "cut");
        Ok(())
    }

    /// The client of that name, with a driver.
    async fn client(&mut self, who: &str) -> Outcome<&mut Client> {
        if !self.clients.contains_key(who) {
            let mut driver = match self.idle.pop() {
                Some(driver) => driver,
                None => self.launch.start().await?,
            };
            driver.log_to(self.log.clone());
            self.clients.insert(who.to_owned(), Client::new(driver, self.room.clone()));
        }
        self.clients.get_mut(who).ok_or_else(|| Stop::harness("no client"))
    }

    async fn step(&mut self, who: &str, step: Step) -> Outcome {
        let (room, transport) = (self.room.clone(), self.transport);
        match step {
            Step::Connect(connect) => self.connect(who, connect).await,
            Step::GiveToken(give) => self.give_token(who, give).await,
            Step::Do(command) => self.client(who).await?.done(in_room(command, &room)).await,
            Step::Fails(fails) => self.fails(who, fails).await,
            Step::Subscribe(options) => self.subscribe(who, options).await,
            Step::Publish(publish) => self.publish(who, publish).await,
            Step::Stored {} => self.client(who).await?.stored().await,
            Step::Queued {} => self.queued(who).await,
            Step::Fill(fill) => self.fill(fill).await,
            Step::Receive(receive) => self.client(who).await?.receive(&receive, transport).await,
            Step::Acknowledge {} => self.client(who).await?.acknowledge().await,
            Step::Gap(wanted) => {
                let gap = self.client(who).await?.report("gap").await?;
                let seqs =
                    gap["to"].as_u64().unwrap_or(0).wrapping_sub(gap["from"].as_u64().unwrap_or(0)).wrapping_add(1);
                check(gap["cause"] == wanted.cause.as_str() && seqs == wanted.seqs, || short(&gap))
            }
            Step::Signals { count } => self.signals(who, count).await,
            Step::Conflated { last, changes_max } => self.client(who).await?.conflated(last, changes_max).await,
            Step::History(history) => self.client(who).await?.history(&room, &history).await,
            Step::State { name, code } => {
                let state = self.client(who).await?.state(&name).await?;
                check(code == 0 || state["code"] == code, || format!("code {} instead of {code}", state["code"]))
            }
            Step::Cut {} => self.cut(),
            Step::Kill { stores_position } => {
                let mut driver = self.launch.start().await?;
                driver.log_to(self.log.clone());
                self.client(who).await?.replace(driver, stores_position).await;
                Ok(())
            }
            Step::Shutdown {} => {
                let client = self.client(who).await?;
                client.done(json!({"shutdown": {}})).await?;
                client.state("closed").await?;
                client.begin_anew();
                Ok(())
            }
            Step::Repeat { times, steps } => {
                for _ in 0..times {
                    for step in &steps {
                        let (who, step) = steps::parse(step).map_err(Stop::Harness)?;
                        Box::pin(self.step(&who, step)).await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn connect(&mut self, who: &str, with: Connect) -> Outcome {
        let wish = TokenWish { user: who.to_owned(), rights: with.rights, ..TokenWish::default() };
        let token = if with.asks { String::new() } else { self.target.token(&wish).await? };
        let relays = self.relays()?;
        let url = match (self.transport, &relays.udp) {
            (Transport::Quic, Some(udp)) => format!("quic://127.0.0.1:{}", udp.port),
            (Transport::Webtransport, _) => format!("http://127.0.0.1:{}/", relays.tcp.port),
            _ => format!("ws://127.0.0.1:{}{}", relays.tcp.port, self.target.endpoint.path),
        };
        let file = |wanted: bool, name: &str| {
            let path = self.directory.join(format!("{who}.{name}"));
            if wanted { path.to_string_lossy().into_owned() } else { String::new() }
        };
        let connect = json!({"connect": {"url": url, "transport": self.transport.name(), "token": token,
            "asksForTokens": with.asks, "certificateSha256": self.certificate_sha256(), "app": "scenario",
            "outboxFile": file(with.outbox, "outbox"), "positionsFile": file(with.positions, "positions")}});
        let asks = with.asks;
        let client = self.client(who).await?;
        client.done(connect).await?;
        if asks { Ok(()) } else { client.connected().await }
    }

    /// The certificate of the server as it names it itself, in hexadecimal digits; empty where none is needed.
    fn certificate_sha256(&self) -> String {
        if self.transport != Transport::Quic {
            return String::new();
        }
        let document = &self.target.discovery;
        let hash = document["webtransport"]["certificateHashes"][0].as_str().unwrap_or("").to_owned();
        BASE64.decode(hash).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    async fn give_token(&mut self, who: &str, give: GiveToken) -> Outcome {
        let wish = TokenWish { user: who.to_owned(), expires_s: Some(give.seconds), ..TokenWish::default() };
        let wanted = self.client(who).await?.report("tokenWanted").await?;
        let refused = wanted["refused"].as_bool();
        check(give.refused.is_none() || give.refused == refused, || format!("asked with {}", short(&wanted)))?;
        let token = self.target.token(&wish).await?;
        let client = self.client(who).await?;
        client.done(json!({"giveToken": {"ask": wanted["ask"], "token": token}})).await?;
        if give.connected { client.connected().await } else { Ok(()) }
    }

    async fn fails(&mut self, who: &str, wanted: Fails) -> Outcome {
        let command = in_room(wanted.command, &self.room);
        let client = self.client(who).await?;
        let subscribes = command.get("subscribe").is_some();
        let id = client.driver.tell(command).await?;
        let answer = client.answer(id).await?;
        if subscribes && answer.get("done").is_some() {
            // A subscription that the node refuses ends with the code.
            let ended = client.driver.find(super::client::PATIENCE, |report| report["roomState"]["name"] == "ended");
            let ended = ended.await?.unwrap_or(Value::Null);
            return check(ended["roomState"]["code"] == wanted.code, || format!("ended with {}", short(&ended)));
        }
        let failed = answer.get("failed").ok_or_else(|| Stop::fail(format!("it did not fail: {}", short(&answer))))?;
        let fits = failed["code"] == wanted.code
            && failed["codeName"] == wanted.name.as_str()
            && failed["retryable"] == wanted.retryable;
        check(fits, || format!("failed with {} instead of {wanted_name}", short(failed), wanted_name = wanted.name))
    }

    async fn subscribe(&mut self, who: &str, options: Map<String, Value>) -> Outcome {
        let room = self.room.clone();
        let client = self.client(who).await?;
        let mut subscribe = json!({ "room": room });
        for (name, value) in options {
            subscribe[name] = value;
        }
        if subscribe["start"] == "position" {
            subscribe["position"] = json!(client.stored_position());
        }
        client.done(json!({ "subscribe": subscribe })).await
    }

    async fn publish(&mut self, who: &str, publish: Publish) -> Outcome {
        let room = self.room.clone();
        for number in 0..publish.count {
            self.said += 1;
            let (lane, text) = (turn(&publish.lanes, number), self.said.to_string());
            let command = json!({"publish": {"room": room, "type": "msg", "lane": lane, "transient": publish.transient,
                "body": {"text": text}}});
            let client = self.client(who).await?;
            let id = client.driver.tell(command).await?;
            client.publishes.push(id);
        }
        Ok(())
    }

    async fn queued(&mut self, who: &str) -> Outcome {
        let client = self.client(who).await?;
        for id in client.publishes.clone() {
            let queued = |report: &Value| report["command"] == id && kind(report) == "queued";
            let found = client.driver.find(super::client::PATIENCE, queued).await?;
            check(found.is_some(), || format!("publish {id} is never queued"))?;
        }
        Ok(())
    }

    async fn fill(&mut self, fill: Fill) -> Outcome {
        let key =
            self.target.api_keys.first().cloned().ok_or_else(|| Stop::harness("filling a room needs an API key"))?;
        let headers = [
            ("Authorization".to_owned(), format!("Bearer {key}")),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ];
        let (mut left, mut since_cut) = (fill.count, 0);
        while left > 0 {
            let count = left.min(BATCH_MAX);
            let events: Vec<Value> = (0..count).map(|number| self.event(turn(&fill.lanes, number))).collect();
            let body = json!({ "events": events }).to_string().into_bytes();
            let answer = self.target.http("POST", "/v1/batch", &headers, Some(body), &self.log).await?.json();
            let results = answer["results"].as_array().map_or(&[][..], Vec::as_slice);
            let stored = results.iter().filter(|result| result.get("published").is_some()).count();
            check(stored == count as usize, || format!("{stored} of {count} events were stored: {}", short(&answer)))?;
            left -= count;
            since_cut += count;
            if fill.cut_every > 0 && since_cut >= fill.cut_every {
                since_cut = 0;
                self.cut()?;
                tokio::time::sleep(AFTER_CUT).await;
            }
        }
        Ok(())
    }

    fn event(&mut self, lane: &str) -> Value {
        self.said += 1;
        let lane = format!("LANE_{}", lane.to_uppercase());
        json!({"room": self.room, "lane": lane, "envelope": {"type": "msg", "text": self.said.to_string()}})
    }

    async fn signals(&mut self, who: &str, count: u32) -> Outcome {
        let room = self.room.clone();
        let client = self.client(who).await?;
        for number in 1..=count {
            let signal = json!({"room": room, "type": "cursor", "key": "k", "body": {"text": number.to_string()}});
            client.done(json!({ "signal": signal })).await?;
        }
        Ok(())
    }
}

/// The lane of the event with that number: the lanes in turn.
fn turn(lanes: &[String], number: u32) -> &str {
    match lanes.len() {
        0 => "normal",
        count => &lanes[number as usize % count],
    }
}

/// A command with the room in the place of `{room}`.
fn in_room(command: Value, room: &str) -> Value {
    match command {
        Value::String(text) => Value::String(text.replace("{room}", room)),
        Value::Array(items) => items.into_iter().map(|item| in_room(item, room)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, in_room(value, room))).collect(),
        other => other,
    }
}
