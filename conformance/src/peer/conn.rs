//! One connection of the scripted server, as a case speaks of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::link::Link;
use crate::client::{Lane, Place, StreamEnd, Transport, WireLog, body_name, short};
use crate::schema;
use crate::target::now_ms;
use crate::verdict::{Outcome, Stop, check};

/// How long what should come at once may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The optional parts that Welcome names unless a case says otherwise.
const CAPABILITIES: [&str; 6] = ["HISTORY", "SIGNALS", "FRAGMENTS", "CREDIT", "FOCUS", "REFRESH"];

/// Something that the client did.
#[derive(Debug)]
pub struct Heard {
    /// When it came.
    pub at: Instant,
    /// What it was.
    pub what: What,
}

/// What a client can do to a connection.
#[derive(Debug)]
pub enum What {
    /// A WebSocket message of so many bytes; its frames follow.
    Unit(usize),
    /// A frame: where it stood, and the bytes of its record.
    Frame {
        /// As a value.
        frame: Value,
        /// Where it stood.
        place: Place,
        /// Bytes of its record.
        bytes: usize,
    },
    /// A stream and its header.
    Opened {
        /// Its number, kind and lane.
        place: Place,
        /// It came as early data.
        early: bool,
    },
    /// A stream is over.
    StreamEnded {
        /// Its number.
        number: u64,
        /// The client reset it.
        reset: bool,
    },
    /// The client broke this rule of the framing.
    Broken(&'static str, String),
    /// The connection is over, with this code.
    Closed(u16),
}

/// A connection of the client under test.
pub struct Conn {
    /// What carries it.
    pub transport: Transport,
    /// Head of the request that opened it, where there is one.
    pub head: String,
    /// When it was open.
    pub opened: Instant,
    /// Answers pings by itself.
    pub answers_pings: bool,
    /// Hello, once it came.
    pub hello: Value,
    /// Places of the streams that the client opened.
    pub streams: Vec<Place>,
    /// Bytes of the longest WebSocket message.
    pub unit_bytes_max: usize,
    /// Something was sent as early data.
    pub early: bool,
    /// The code with which it ended.
    pub ended: Option<u16>,
    /// Streams that the client reset.
    pub reset: Vec<u64>,
    link: Link,
    heard: mpsc::Receiver<Heard>,
    backlog: VecDeque<(Instant, Value, Place, usize)>,
    unanswered: HashSet<u64>,
    /// The urgent publishes that came, by room and number, and whether one came on a message stream.
    urgent: HashMap<(String, u64), bool>,
    log: WireLog,
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    /// When it came.
    pub at: Instant,
    /// Its id.
    pub id: u64,
    /// What it holds, without the kind.
    pub body: Value,
    /// Where it stood.
    pub place: Place,
    /// Bytes of its record.
    pub bytes: usize,
}

/// Lays one value over another: fields of objects one by one, everything else as a whole.
pub(crate) fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

impl Conn {
    pub(super) fn new(
        link: Link,
        heard: mpsc::Receiver<Heard>,
        transport: Transport,
        head: String,
        log: WireLog,
    ) -> Self {
        Self {
            transport,
            head,
            opened: Instant::now(),
            answers_pings: true,
            hello: Value::Null,
            streams: Vec::new(),
            unit_bytes_max: 0,
            early: false,
            ended: None,
            reset: Vec::new(),
            link,
            heard,
            backlog: VecDeque::new(),
            unanswered: HashSet::new(),
            urgent: HashMap::new(),
            log,
        }
    }

    /// Whether frames of different lanes may overtake each other.
    pub fn has_streams(&self) -> bool {
        self.transport != Transport::Websocket
    }

    /// Takes the next thing that the client did; false: nothing until the deadline, or the connection is over.
    async fn hear(&mut self, deadline: Instant) -> Outcome<bool> {
        if self.ended.is_some() {
            return Ok(false);
        }
        let Ok(heard) = timeout_at(deadline, self.heard.recv()).await else { return Ok(false) };
        let Some(Heard { at, what }) = heard else { return Ok(false) };
        match what {
            What::Unit(bytes) => self.unit_bytes_max = self.unit_bytes_max.max(bytes),
            What::Opened { place, early } => {
                self.early |= early;
                self.streams.push(place);
            }
            What::StreamEnded { number, reset } => self.reset.extend(reset.then_some(number)),
            What::Broken(rule, text) => return Err(Stop::Fail(text, Some(rule))),
            What::Closed(code) => {
                self.log.add("peer", "←", &format!("closed with {code}"));
                self.ended = Some(code);
            }
            What::Frame { frame, place, bytes } => {
                self.log.add("peer", "←", &short(&frame));
                self.check(&frame)?;
                if self.answers_pings && frame.get("ping").is_some() {
                    let pong = json!({"stamp": frame["ping"]["stamp"], "serverTimeMs": now_ms()});
                    self.send(&json!({"id": frame["id"], "pong": pong})).await?;
                    return Ok(true);
                }
                if !self.is_second(&frame, place) {
                    self.backlog.push_back((at, frame, place, bytes));
                }
            }
        }
        Ok(true)
    }

    /// What holds for every frame of every client.
    fn check(&mut self, frame: &Value) -> Outcome {
        let id = frame["id"].as_u64().unwrap_or(0);
        let name = body_name(frame).unwrap_or("nothing");
        let first = self.hello.is_null() && self.backlog.iter().all(|(_, frame, ..)| frame.get("hello").is_none());
        if first && !self.has_streams() && name != "hello" {
            return Err(Stop::Fail(format!("the first frame is {name}"), Some("LC-HS-001")));
        }
        let request = id != 0 && !matches!(name, "pong" | "error" | "done");
        if request && !self.unanswered.insert(id) {
            return Err(Stop::Fail(format!("{name} has the id {id} of a request without answer"), Some("LC-FRM-016")));
        }
        Ok(())
    }

    /// Whether an urgent publish is there already, one of the two on a message stream: on a machine that is busy enough to lose
    /// packets any client may send it twice (LC-QUIC-015), and cases are about the first to come.
    fn is_second(&mut self, frame: &Value, place: Place) -> bool {
        let publish = &frame["publish"];
        let number = publish["number"].as_u64().unwrap_or(0);
        if !self.has_streams() || number == 0 || publish["lane"] != "LANE_URGENT" {
            return false;
        }
        let alone = matches!(place, Place::Stream { kind, .. } if kind == schema::v1::StreamKind::Message as i32);
        let key = (publish["room"].as_str().unwrap_or("").to_owned(), number);
        self.urgent.insert(key, alone).is_some_and(|before| alone || before)
    }

    /// The next frame of a kind, among those that came and were not taken and those to come; `None`: none in time.
    pub async fn find(&mut self, name: &str, within: Duration) -> Outcome<Option<Frame>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(place) = self.backlog.iter().position(|(_, frame, ..)| frame.get(name).is_some()) {
                return Ok(self.backlog.remove(place).map(|parts| self.taken(parts)));
            }
            if !self.hear(deadline).await? {
                return Ok(None);
            }
        }
    }

    fn taken(&self, (at, mut frame, place, bytes): (Instant, Value, Place, usize)) -> Frame {
        let id = frame["id"].as_u64().unwrap_or(0);
        let name = body_name(&frame).unwrap_or("id").to_owned();
        Frame { at, id, body: frame[name].take(), place, bytes }
    }

    /// The next frame of a kind, which has to come.
    pub async fn frame(&mut self, name: &str) -> Outcome<Frame> {
        self.frame_within(name, PATIENCE).await
    }

    /// The next frame of a kind, which has to come in time.
    pub async fn frame_within(&mut self, name: &str, within: Duration) -> Outcome<Frame> {
        let found = self.find(name, within).await?;
        found.ok_or_else(|| {
            let over = self.ended.map_or_else(String::new, |code| format!("; the connection ended with {code}"));
            Stop::fail(format!("no {name} within {} ms{over}", within.as_millis()))
        })
    }

    /// The next frame of any kind but Credit; `None`: none in time.
    pub async fn any(&mut self, within: Duration) -> Outcome<Option<(String, Frame)>> {
        let deadline = Instant::now() + within;
        loop {
            while let Some(parts) = self.backlog.pop_front() {
                let name = body_name(&parts.1).unwrap_or("nothing").to_owned();
                if name != "credit" {
                    return Ok(Some((name, self.taken(parts))));
                }
            }
            if !self.hear(deadline).await? {
                return Ok(None);
            }
        }
    }

    /// Fails if a frame of that kind comes within the time.
    pub async fn none(&mut self, name: &str, within: Duration) -> Outcome {
        match self.find(name, within).await? {
            None => Ok(()),
            Some(frame) => Err(Stop::fail(format!("{name} came, which must not: {}", short(&frame.body)))),
        }
    }

    /// Waits until the connection is over and returns the code.
    pub async fn closed(&mut self) -> Outcome<u16> {
        self.closed_within(PATIENCE).await
    }

    /// Waits until the connection is over, within the time, and returns the code.
    pub async fn closed_within(&mut self, within: Duration) -> Outcome<u16> {
        let deadline = Instant::now() + within;
        while self.hear(deadline).await? {}
        self.ended.ok_or_else(|| Stop::fail(format!("the client did not close within {} ms", within.as_millis())))
    }

    /// Waits until the client closed with this code. A page cannot be seen to: its sessions close without one.
    pub async fn closed_with(&mut self, code: u16) -> Outcome {
        let found = self.closed().await?;
        let unseen = self.transport == Transport::Webtransport;
        check(found == code || unseen, || format!("closed with {found} instead of {code}"))
    }

    /// Listens for so long.
    pub async fn listen(&mut self, time: Duration) -> Outcome {
        let deadline = Instant::now() + time;
        while self.hear(deadline).await? {}
        Ok(())
    }

    /// Sends a frame on its lane.
    pub async fn send(&mut self, frame: &Value) -> Outcome {
        self.answers(frame);
        self.log.add("peer", "→", &short(frame));
        let lane = Lane::of(frame);
        self.link.send(lane, schema::frame_record(frame)?).await;
        Ok(())
    }

    fn answers(&mut self, frame: &Value) {
        let name = body_name(frame).unwrap_or("nothing");
        if let Some(id) = frame["id"].as_u64().filter(|_| name != "ping") {
            self.unanswered.remove(&id);
        }
    }

    /// Sends frames of one lane in one unit.
    pub async fn send_together(&mut self, frames: &[Value]) -> Outcome {
        let mut records = Vec::new();
        for frame in frames {
            self.answers(frame);
            self.log.add("peer", "→", &format!("together: {}", short(frame)));
            records.extend(schema::frame_record(frame)?);
        }
        let lane = frames.first().map_or(Lane::Control, Lane::of);
        self.link.send(lane, records).await;
        Ok(())
    }

    /// Sends bytes as a unit of a lane, whatever they are.
    pub async fn send_bytes(&mut self, lane: Lane, bytes: Vec<u8>) {
        self.log.add("peer", "→", &format!("{} bytes on {}", bytes.len(), lane.name()));
        self.link.send(lane, bytes).await;
    }

    /// Sends bytes on a stream of the case's own, or on `control`.
    pub async fn send_on(&mut self, stream: &str, bytes: &[u8], end: StreamEnd) -> Outcome {
        self.log.add("peer", "→", &format!("{} bytes on stream {stream}, then {end:?}", bytes.len()));
        self.link.send_named(stream, bytes, end).await
    }

    /// Sends a datagram.
    pub fn send_datagram(&mut self, bytes: &[u8]) {
        self.log.add("peer", "→", &format!("a datagram of {} bytes", bytes.len()));
        self.link.send_datagram(bytes);
    }

    /// Whether the client stops a stream of the case's own.
    pub async fn stopped(&mut self, stream: &str) -> Outcome<bool> {
        let stopped = tokio::time::timeout(PATIENCE, self.link.stopped(stream)).await;
        stopped.map_err(|_| Stop::fail(format!("stream {stream} is neither stopped nor read")))?
    }

    /// Reads on, or stops reading.
    pub fn set_reading(&self, reading: bool) {
        self.link.set_reading(reading);
    }

    /// Says why in an Error frame, then closes with the code.
    pub async fn refuse(&mut self, code: u16) -> Outcome {
        self.send(&json!({"error": {"code": code, "closing": true}})).await?;
        self.close(code).await;
        Ok(())
    }

    /// Closes with a code.
    pub async fn close(&mut self, code: u16) {
        self.log.add("peer", "→", &format!("close with {code}"));
        if self.has_streams() {
            // What was sent before has to be there first, and closing forgets it.
            let left = self.closed_within(Duration::from_millis(200)).await;
            drop(left);
        }
        self.link.close(code).await;
    }

    /// Breaks the connection without a word.
    pub fn cut(self) {
        self.log.add("peer", "→", "cut");
    }

    /// Takes Hello.
    pub async fn take_hello(&mut self) -> Outcome<Value> {
        let hello = self.frame("hello").await?;
        check(hello.id != 0, || "Hello has id 0".to_owned())?;
        self.hello = hello.body.clone();
        self.hello["id"] = json!(hello.id);
        Ok(hello.body)
    }

    /// Answers Hello with Welcome, into which `over` is laid.
    pub async fn welcome(&mut self, over: Value) -> Outcome {
        let capabilities = CAPABILITIES.map(|name| format!("CAPABILITY_{name}"));
        let mut welcome = json!({
            "version": 1, "capabilities": capabilities, "connectionId": "c", "user": "alice", "node": "peer",
            "instance": self.hello["instance"], "serverTimeMs": now_ms(),
            "heartbeat": {"pingAfterMs": 20_000, "pongWithinMs": 10_000, "idleCloseMs": 60_000},
            "limits": {"recordBytes": 262_144, "messageBytes": 65_536, "rooms": 100, "publishesInFlight": 256,
                "signalsPerSecond": 10, "historyPage": 200},
            "reconnect": {"minMs": 20, "maxMs": 60},
        });
        lay_over(&mut welcome, &over);
        let id = self.hello["id"].clone();
        self.send(&json!({"id": id, "welcome": welcome})).await
    }

    /// Answers a Subscribe, or with id 0 an entry of Hello, by Subscribed at a position, into which `over` is laid.
    pub async fn subscribed(&mut self, id: u64, room: &str, handle: u64, at: &str, over: Value) -> Outcome {
        let mut subscribed = json!({"room": room, "handle": handle, "position": position(at), "head": position(at),
            "recovered": true});
        lay_over(&mut subscribed, &over);
        self.send(&json!({"id": id, "subscribed": subscribed})).await
    }

    /// Answers a Publish as stored.
    pub async fn published(&mut self, publish: &Frame, seq: u64) -> Outcome {
        let lane = &publish.body["lane"];
        let published = json!({"epoch": 7, "lane": lane, "seq": seq, "order": seq});
        self.send(&json!({"id": publish.id, "published": published})).await
    }

    /// Refuses a request.
    pub async fn error(&mut self, id: u64, code: u16, retry_after_ms: u32) -> Outcome {
        let error = json!({"code": code, "retryAfterMs": retry_after_ms, "detail": "as the case wants it"});
        self.send(&json!({"id": id, "error": error})).await
    }
}

/// A position by its text form.
pub fn position(text: &str) -> Value {
    let mut numbers = text.split('-').map(|number| number.parse::<u64>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    json!({"epoch": next(), "urgent": next(), "normal": next(), "bulk": next()})
}

fn lane_name(lane: &str) -> String {
    format!("LANE_{}", lane.to_uppercase())
}

/// An event whose text is its seq; seq 0: transient.
pub fn event(handle: u64, lane: &str, seq: u64) -> Value {
    json!({"event": {"handle": handle, "lane": lane_name(lane), "seq": seq, "order": seq, "timeMs": now_ms(),
        "from": {"user": "bob", "instance": "b"}, "envelope": {"type": "msg", "text": seq.to_string()}}})
}

/// A gap of seqs.
pub fn gap(handle: u64, lane: &str, epoch: u64, from: u64, to: u64, why: &str) -> Value {
    json!({"gap": {"handle": handle, "lane": lane_name(lane), "epoch": epoch, "from": from, "to": to, "cause": cause(why)}})
}

/// The value of the schema of a cause.
pub fn cause(name: &str) -> String {
    format!("GAP_CAUSE_{}", name.to_uppercase())
}
