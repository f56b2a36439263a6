//! A model client: small, over WebSocket only, with faults on demand, so that the cases for clients can be seen to fail.
//!
//! It is its own driver. It refuses to be a product: it knows one epoch of a room, no fragments, no credit, no history, no
//! signals, and keeps no outbox but what waits for its answer.

mod mutant;
mod room;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::Stdout;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

pub use self::mutant::ClientMutant;
use self::room::{Room, Taken};
use crate::client::socket::Socket;
use crate::client::{Open, Transport, Trust, WireLog, body_name, shake_hands};
use crate::driver::wire::{self, Form};
use crate::schema;
use crate::target::Endpoint;

const PROTOCOL: u16 = 4001;
/// Commands that were read and not carried out.
const COMMANDS_MAX: usize = 256;
const NUMBER_MAX: u64 = 1 << 53;
/// What of the drivers' protocol it does not have.
const LACKS: [&str; 12] = [
    "outbox_file",
    "positions_file",
    "lifecycle",
    "extra_root",
    "certificate_hash",
    "history",
    "signals",
    "focus",
    "refresh_token",
    "flush",
    "replicated",
    "process",
];

/// A publish that is not settled.
struct Publish {
    command: u64,
    frame: Value,
    id: Option<u64>,
    number: u64,
    not_before: Instant,
    told: bool,
}

/// Where it stands.
enum Phase {
    Idle,
    /// Waits until then to connect.
    Waiting(Instant),
    /// Waits for a token.
    Asking,
    Handshake,
    Open,
    Closed,
}

struct Model {
    mutant: Option<ClientMutant>,
    output: Stdout,
    phase: Phase,
    options: Value,
    token: String,
    asked: u64,
    refused: bool,
    socket: Option<WebSocketStream<Socket>>,
    instance: String,
    ids: u64,
    attempt: u32,
    window: (u64, u64),
    rooms_max: usize,
    opened: Instant,
    heartbeat: (Duration, Duration),
    sent: Instant,
    pong_due: Option<Instant>,
    leave: Option<Instant>,
    error: u16,
    rooms: BTreeMap<String, Room>,
    publishes: Vec<Publish>,
    numbers: BTreeMap<(String, String), u64>,
}

/// Speaks the drivers' protocol on standard input and output until the input ends.
///
/// # Errors
///
/// If the suite does not keep to the protocol.
pub async fn drive(mutant: Option<ClientMutant>) -> Result<(), String> {
    let mut model = Model::new(mutant);
    let lacks: Vec<Value> = LACKS.iter().map(|what| json!({"what": what, "why": "the model has none"})).collect();
    model.report(json!({"ready": {"sdk": "model", "version": "1", "transports": ["websocket"], "lacks": lacks}})).await;
    let (say, mut commands) = mpsc::channel(COMMANDS_MAX);
    let reading = tokio::spawn(async move {
        let mut input = tokio::io::stdin();
        while let Ok(Some(frame)) = wire::read_frame(&mut input).await {
            if say.send(Form::of(&frame).read_command(&frame)).await.is_err() {
                return;
            }
        }
    });
    loop {
        let deadline = model.deadline();
        tokio::select! {
            command = commands.recv() => match command {
                None => break,
                Some(command) => model.obey(command.map_err(|error| error.0)?).await,
            },
            message = hear(&mut model.socket) => model.hear(message).await,
            () = sleep_until(deadline) => model.tick().await,
        }
    }
    reading.abort();
    Ok(())
}

/// The next message; for ever without a socket.
async fn hear(socket: &mut Option<WebSocketStream<Socket>>) -> Option<Message> {
    match socket {
        Some(socket) => socket.next().await.and_then(Result::ok),
        None => std::future::pending().await,
    }
}

impl Model {
    fn new(mutant: Option<ClientMutant>) -> Self {
        let now = Instant::now();
        Self {
            mutant,
            output: tokio::io::stdout(),
            phase: Phase::Idle,
            options: Value::Null,
            token: String::new(),
            asked: 0,
            refused: false,
            socket: None,
            instance: format!("{:032x}", rand::random::<u128>()),
            ids: 0,
            attempt: 0,
            window: (50, 100),
            rooms_max: usize::MAX,
            opened: now,
            heartbeat: (Duration::from_secs(25), Duration::from_secs(10)),
            sent: now,
            pong_due: None,
            leave: None,
            error: 0,
            rooms: BTreeMap::new(),
            publishes: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn is(&self, mutant: ClientMutant) -> bool {
        self.mutant == Some(mutant)
    }

    async fn report(&mut self, report: Value) {
        // Fails when the suite is gone, which the end of the input says as well.
        if let Ok(message) = Form::Protobuf.report(&report) {
            let _ = wire::write_frame(&mut self.output, &message).await;
        }
    }

    async fn state(&mut self, name: &str, code: u16) {
        self.report(json!({"state": {"name": name, "code": code}})).await;
    }

    async fn done(&mut self, command: u64) {
        self.report(json!({"command": command, "done": {}})).await;
    }

    async fn failed(&mut self, command: u64, code: u64, retryable: bool) {
        let failed = json!({"kind": "refused", "code": code, "retryable": retryable});
        self.report(json!({"command": command, "failed": failed})).await;
    }

    async fn obey(&mut self, mut command: Value) {
        let id = command["id"].as_u64().unwrap_or(0);
        let name = body_name(&command).unwrap_or("nothing").to_owned();
        let what = command[&name].take();
        let room = what["room"].as_str().unwrap_or("").to_owned();
        match name.as_str() {
            "connect" => {
                *self = Self { asked: 0, ..Self::new(self.mutant) };
                let fixed = if what["asksForTokens"] == true { "" } else { what["token"].as_str().unwrap_or("") };
                self.token = fixed.to_owned();
                self.options = what;
                self.done(id).await;
                self.begin().await;
            }
            "giveToken" => {
                if !self.is(ClientMutant::RefusedTokenAgain) || self.token.is_empty() {
                    self.token = what["token"].as_str().unwrap_or("").to_owned();
                }
                self.done(id).await;
                self.dial().await;
            }
            "subscribe" => {
                self.rooms.insert(room.clone(), Room::new(&what));
                self.done(id).await;
                self.ask(&room).await;
            }
            "publish" => self.publish(id, what).await,
            "acknowledge" => {
                let mutant = self.mutant;
                let Some(kept) = self.rooms.get_mut(&room) else { return self.done(id).await };
                let reports: Vec<Value> = kept.acknowledge(&room, mutant).into_iter().collect();
                self.reports(reports).await;
                self.done(id).await;
                self.hand_over(&room).await;
            }
            "shutdown" => {
                self.close(4000).await;
                self.phase = Phase::Closed;
                self.done(id).await;
            }
            _ => self.failed(id, 0, false).await,
        }
    }

    async fn reports(&mut self, reports: Vec<Value>) {
        for report in reports {
            self.report(report).await;
        }
    }

    async fn hand_over(&mut self, name: &str) {
        let mutant = self.mutant;
        let reports = self.rooms.get_mut(name).map(|room| room.reports(name, mutant)).unwrap_or_default();
        self.reports(reports).await;
    }

    // The connection.

    async fn begin(&mut self) {
        self.state("connecting", 0).await;
        if self.options["asksForTokens"] == true && (self.token.is_empty() || self.refused) {
            self.asked += 1;
            self.phase = Phase::Asking;
            return self.report(json!({"tokenWanted": {"ask": self.asked, "refused": self.refused}})).await;
        }
        self.dial().await;
    }

    async fn dial(&mut self) {
        self.refused = false;
        let Ok(mut endpoint) = Endpoint::parse(self.options["url"].as_str().unwrap_or(""), &Trust::default()) else {
            self.phase = Phase::Closed;
            return self.state("closed", 0).await;
        };
        if self.is(ClientMutant::TokenInUrl) {
            endpoint.path = format!("{}?token={}", endpoint.path, self.token);
        }
        let open = Open::plain("model", Transport::Websocket);
        let Ok(Ok((socket, _))) = shake_hands(&endpoint, &open, &WireLog::default()).await else {
            return self.lost(0).await;
        };
        self.socket = Some(socket);
        self.phase = Phase::Handshake;
        self.error = 0;
        let mutant = self.mutant;
        let mut subscriptions = Vec::new();
        self.rooms.values_mut().for_each(|room| room.asked = None);
        for (name, room) in self.rooms.iter_mut().take(self.rooms_max) {
            room.asked = Some(0);
            subscriptions.push(room.subscribe(name, mutant));
        }
        let id = self.id();
        let hello = json!({"versionMin": 1, "versionMax": 1, "token": self.token, "instance": self.instance,
            "subscriptions": subscriptions});
        self.send(json!({"id": id, "hello": hello})).await;
    }

    fn id(&mut self) -> u64 {
        if !self.is(ClientMutant::OneId) || self.ids == 0 {
            self.ids += 1;
        }
        self.ids
    }

    async fn send(&mut self, frame: Value) {
        self.sent = Instant::now();
        if let (Some(socket), Ok(record)) = (&mut self.socket, schema::frame_record(&frame)) {
            // That the peer is gone shows at reading.
            let _ = socket.send(Message::Binary(record.into())).await;
        }
    }

    async fn close(&mut self, code: u16) {
        if let Some(mut socket) = self.socket.take() {
            let frame = CloseFrame { code: code.into(), reason: "".into() };
            let _ = socket.send(Message::Close(Some(frame))).await;
        }
        self.state("closed", code).await;
    }

    /// The connection is over, with the node's code.
    async fn lost(&mut self, code: u16) {
        let lived = self.opened.elapsed().as_millis() as u64;
        if matches!(self.phase, Phase::Open) && lived >= self.window.1 {
            self.attempt = 0;
        }
        self.socket = None;
        (self.pong_due, self.leave) = (None, None);
        for publish in &mut self.publishes {
            publish.id = None;
        }
        let transient = |publish: &Publish| publish.number == 0;
        if !self.is(ClientMutant::TransientKept) {
            for publish in self.publishes.extract_if(.., |publish| transient(publish)).collect::<Vec<_>>() {
                self.failed(publish.command, 0, true).await;
            }
        }
        if self.is(ClientMutant::NumbersBeginAnew) {
            self.numbers.clear();
        }
        if self.stops_at(code) {
            self.phase = Phase::Closed;
            return self.state("closed", code).await;
        }
        self.refused = (4100..4200).contains(&code);
        self.state("suspended", code).await;
        let bound = (self.window.0 << self.attempt.min(20)).min(self.window.1);
        let wait = if self.is(ClientMutant::NoJitter) { self.window.0 } else { rand::random_range(0..=bound) };
        self.attempt += 1;
        self.phase = Phase::Waiting(Instant::now() + Duration::from_millis(wait));
    }

    fn stops_at(&self, code: u16) -> bool {
        match code {
            4206 => !self.is(ClientMutant::ComesBack),
            4000..4100 => true,
            4200..4300 => self.is(ClientMutant::UnknownCodeStops),
            _ => false,
        }
    }

    fn deadline(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        match self.phase {
            Phase::Waiting(until) => until,
            Phase::Open => {
                let ping = match (self.is(ClientMutant::NoPing), self.pong_due) {
                    (true, _) => None,
                    (false, Some(_)) if self.is(ClientMutant::PongNotNeeded) => None,
                    (false, Some(due)) => Some(due),
                    (false, None) => Some(self.sent + self.heartbeat.0),
                };
                let again =
                    self.publishes.iter().filter(|publish| publish.id.is_none()).map(|publish| publish.not_before);
                [ping, self.leave].into_iter().flatten().chain(again).min().unwrap_or(far)
            }
            _ => far,
        }
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Waiting(until) if until <= now => self.begin().await,
            Phase::Open => {
                let silent = self.pong_due.is_some_and(|due| due <= now) && !self.is(ClientMutant::PongNotNeeded);
                if silent || self.leave.is_some_and(|at| at <= now) {
                    self.socket = None;
                    if self.leave.is_some() {
                        self.window.0 = 0;
                    }
                    return self.lost(0).await;
                }
                if self.pong_due.is_none() && self.sent + self.heartbeat.0 <= now && !self.is(ClientMutant::NoPing) {
                    let id = self.id();
                    self.send(json!({"id": id, "ping": {"stamp": 1}})).await;
                    self.pong_due = Some(now + self.heartbeat.1);
                }
                self.fly().await;
            }
            _ => {}
        }
    }

    // What the node says.

    async fn hear(&mut self, message: Option<Message>) {
        match message {
            Some(Message::Binary(bytes)) => {
                let records =
                    schema::split_records(&bytes).map(|records| records.into_iter().map(<[u8]>::to_vec).collect());
                let records: Vec<Vec<u8>> = records.unwrap_or_default();
                for record in records {
                    if let Ok(frame) = schema::decode("Frame", &record) {
                        self.take(frame).await;
                    }
                }
            }
            Some(Message::Close(frame)) => {
                let code = frame.map_or(0, |frame| frame.code.into());
                self.lost(code).await;
            }
            Some(_) => {}
            None => self.lost(self.error).await,
        }
    }

    async fn take(&mut self, mut frame: Value) {
        if has_large(&frame) && !self.is(ClientMutant::LargeNumbersTaken) {
            self.close(PROTOCOL).await;
            self.phase = Phase::Closed;
            return;
        }
        let id = frame["id"].as_u64().unwrap_or(0);
        let name = body_name(&frame).unwrap_or("nothing").to_owned();
        let body = frame[&name].take();
        match name.as_str() {
            "welcome" => self.welcomed(&body).await,
            "ping" => {
                let stamp = if self.is(ClientMutant::WrongStamp) { json!(7) } else { body["stamp"].clone() };
                self.send(json!({"id": id, "pong": {"stamp": stamp}})).await;
            }
            "pong" => self.pong_due = None,
            "goAway" => {
                let after = body["retryAfterMs"].as_u64().unwrap_or(0);
                let after = if self.is(ClientMutant::GoAwayHurried) { 0 } else { after };
                if let Some(address) = body["address"].as_str().filter(|address| !address.is_empty()) {
                    self.options["url"] = json!(address);
                }
                self.leave = Some(Instant::now() + Duration::from_millis(after));
            }
            "subscribed" => {
                let room = body["room"].as_str().unwrap_or("").to_owned();
                if let Some(room) = self.rooms.get_mut(&room).filter(|room| room.asked == Some(id)) {
                    room.subscribed(&body);
                }
            }
            "event" | "gap" => self.room_frame(&name, &body).await,
            "published" => self.settled(id, &body).await,
            "error" if body["closing"] == true => self.error = body["code"].as_u64().unwrap_or(0) as u16,
            "error" => self.refused(id, &body).await,
            _ => {}
        }
    }

    async fn welcomed(&mut self, welcome: &Value) {
        let ms = |value: &Value| Duration::from_millis(value.as_u64().unwrap_or(10_000));
        self.heartbeat = (ms(&welcome["heartbeat"]["pingAfterMs"]), ms(&welcome["heartbeat"]["pongWithinMs"]));
        let window = &welcome["reconnect"];
        self.window = (window["minMs"].as_u64().unwrap_or(50), window["maxMs"].as_u64().unwrap_or(100));
        self.rooms_max = welcome["limits"]["rooms"].as_u64().unwrap_or(100) as usize;
        self.phase = Phase::Open;
        self.opened = Instant::now();
        self.state("connected", 0).await;
        let late: Vec<String> =
            self.rooms.iter().filter(|(_, room)| room.asked.is_none()).map(|(name, _)| name.clone()).collect();
        for name in late {
            self.ask(&name).await;
        }
        self.fly().await;
    }

    async fn ask(&mut self, name: &str) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let (id, mutant) = (self.id(), self.mutant);
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.asked = Some(id);
        let subscribe = room.subscribe(name, mutant);
        self.send(json!({"id": id, "subscribe": subscribe})).await;
    }

    async fn room_frame(&mut self, kind: &str, body: &Value) {
        let mutant = self.mutant;
        let found = self.rooms.iter_mut().find(|(_, room)| body["handle"] == room.handle);
        let Some((name, room)) = found else { return };
        let (name, outstanding) = (name.clone(), room.asked.is_some());
        match room.take(&name, kind, body, mutant) {
            Taken::Hole if !outstanding => self.ask(&name).await,
            Taken::Item => self.hand_over(&name).await,
            Taken::Hole | Taken::Nothing => {}
        }
    }

    // Publishes.

    async fn publish(&mut self, command: u64, what: Value) {
        let lane = what["lane"].as_str().filter(|lane| !lane.is_empty()).unwrap_or("normal").to_owned();
        let (room, transient) = (what["room"].as_str().unwrap_or("").to_owned(), what["transient"] == true);
        let number = if transient {
            0
        } else {
            let number = self.numbers.entry((room.clone(), lane.clone())).or_default();
            *number += 1;
            *number
        };
        let delivery = if transient { "DELIVERY_TRANSIENT" } else { "DELIVERY_DURABLE" };
        let frame = json!({"room": room, "lane": format!("LANE_{}", lane.to_uppercase()), "delivery": delivery, "number": number,
            "envelope": {"type": what["type"], "key": what["key"], "text": what["body"]["text"].as_str().unwrap_or("")}});
        self.publishes.push(Publish { command, frame, id: None, number, not_before: Instant::now(), told: false });
        self.fly().await;
    }

    /// Sends what is due, in order, and nothing behind what has to wait.
    async fn fly(&mut self) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let mut order: Vec<usize> = (0..self.publishes.len()).collect();
        if self.is(ClientMutant::AgainReversed) {
            order.reverse();
        }
        for at in order {
            if self.publishes[at].id.is_some() {
                continue;
            }
            if self.publishes[at].not_before > Instant::now() {
                return;
            }
            let id = self.id();
            let after = self.after(at);
            let publish = &mut self.publishes[at];
            publish.id = Some(id);
            publish.frame["after"] = json!(after);
            let (frame, command, told) = (publish.frame.clone(), publish.command, publish.told);
            self.send(json!({"id": id, "publish": frame})).await;
            if self.is(ClientMutant::StoredWhenSent) && !told {
                self.publishes[at].told = true;
                self.report(json!({"command": command, "stored": {"lane": "normal", "seq": 1}})).await;
            }
        }
    }

    /// The highest earlier number of the same room and lane that is not settled.
    fn after(&self, at: usize) -> u64 {
        let this = &self.publishes[at];
        let same =
            |other: &&Publish| other.frame["room"] == this.frame["room"] && other.frame["lane"] == this.frame["lane"];
        let earlier =
            self.publishes.iter().filter(same).map(|other| other.number).filter(|number| *number < this.number);
        if this.number == 0 { 0 } else { earlier.max().unwrap_or(0) }
    }

    fn find(&mut self, id: u64) -> Option<usize> {
        self.publishes.iter().position(|publish| publish.id == Some(id))
    }

    async fn settled(&mut self, id: u64, published: &Value) {
        let Some(at) = self.find(id) else { return };
        let publish = self.publishes.remove(at);
        let lane = published["lane"].as_str().unwrap_or("").trim_start_matches("LANE_").to_lowercase();
        let mut stored = published.clone();
        stored["lane"] = json!(lane);
        if !publish.told {
            self.report(json!({"command": publish.command, "stored": stored})).await;
        }
    }

    async fn refused(&mut self, id: u64, error: &Value) {
        let Some(at) = self.find(id) else { return };
        let code = error["code"].as_u64().unwrap_or(0);
        if (4400..4500).contains(&code) {
            let wait = error["retryAfterMs"].as_u64().unwrap_or(0);
            let wait = if self.is(ClientMutant::RepeatsAtOnce) { 0 } else { wait };
            self.publishes[at].id = None;
            self.publishes[at].not_before = Instant::now() + Duration::from_millis(wait);
            return self.fly().await;
        }
        let publish = self.publishes.remove(at);
        self.failed(publish.command, code, false).await;
    }
}

/// Whether a frame holds a number that no frame may hold.
fn has_large(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| number >= NUMBER_MAX),
        Value::Array(items) => items.iter().any(has_large),
        Value::Object(fields) => fields.values().any(has_large),
        _ => false,
    }
}
