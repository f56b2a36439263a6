//! A connection that a case drives frame by frame, whatever carries it.

use std::collections::VecDeque;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fragments::Assembler;
use super::lane::Lane;
use super::ledger::{Handles, Ledger, Taken, body_name};
use super::link::{ABNORMAL, Arrival, Link, NO_CODE, Open, Place, Refused};
use super::streams::{DATAGRAM_BYTES_MAX, StreamEnd, Streams};
use super::{Encoding, Transport, WireLog};
use crate::schema::{self, v1};
use crate::target::Target;
use crate::verdict::{Outcome, Stop};

/// How long a frame may wait for the Subscribed that names its handle. Frames of other streams overtake it, but not
/// by that much.
const HELD_MAX: Duration = Duration::from_secs(5);

/// Bytes of the longest frame that comes in fragments.
const TOTAL_MAX: u64 = 64 << 20;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The frame, plain fields present.
    pub value: Value,
    /// The bytes of the frame; empty on JSON.
    pub bytes: Bytes,
    /// Number of the packet that it came in, from 1.
    pub message: u64,
    /// Where it stood.
    pub place: Place,
    /// When it was read.
    pub at: Instant,
}

/// What reading brought.
#[derive(Debug)]
pub enum Incoming {
    /// Frames were added to the pending ones.
    Frames,
    /// The connection is closed, with this code.
    Closed(u16),
    /// Nothing until the deadline.
    Quiet,
}

/// One connection.
pub struct Conn {
    /// Name in the wire log.
    pub name: String,
    /// What carries it.
    pub transport: Transport,
    /// How packets are written.
    pub encoding: Encoding,
    /// Headers of the handshake's answer, names in lower case.
    pub handshake: Vec<(String, String)>,
    /// Checks of every frame.
    pub ledger: Ledger,
    /// User that the connection said to be, once it joined.
    pub user: String,
    /// Instance that the connection said to be, once it joined.
    pub instance: String,
    link: Link,
    pending: VecDeque<Received>,
    assembler: Assembler,
    /// Frames whose Subscribed is still on its way on another stream.
    held: VecDeque<Received>,
    closed: Option<u16>,
    messages: u64,
    ids: u32,
    log: WireLog,
}

impl Conn {
    /// Makes the handshake.
    pub async fn open(target: &Target, open: Open, log: &WireLog, handles: &Handles) -> Outcome<Result<Self, Refused>> {
        let (link, handshake) = match Link::open(target, &open, log).await? {
            Ok(opened) => opened,
            Err(refused) => return Ok(Err(refused)),
        };
        Ok(Ok(Self::on(link, handshake, open, log, handles)))
    }

    /// A connection on raw QUIC whose handshake may still be under way.
    pub(crate) async fn early(connection: quinn::Connection, open: Open, log: &WireLog) -> Outcome<Self> {
        let streams = Streams::begin(connection, None).await.map_err(Stop::harness)?;
        Ok(Self::on(Link::Streams(Box::new(streams)), Vec::new(), open, log, &Handles::default()))
    }

    fn on(link: Link, handshake: Vec<(String, String)>, open: Open, log: &WireLog, handles: &Handles) -> Self {
        Self {
            name: open.name,
            transport: open.transport,
            encoding: open.encoding,
            handshake,
            ledger: Ledger::new(handles.clone(), link.has_streams()),
            user: String::new(),
            instance: String::new(),
            link,
            pending: VecDeque::new(),
            held: VecDeque::new(),
            assembler: Assembler::new(TOTAL_MAX),
            closed: None,
            messages: 0,
            ids: 1000,
            log: log.clone(),
        }
    }

    /// A request id that no case writes by hand.
    pub fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    /// The value of a header of the handshake's answer.
    pub fn handshake_header(&self, name: &str) -> Option<&str> {
        self.handshake.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sends frames: in one packet, or each on the stream of its lane. That the server closed before is no fault here;
    /// reading shows it.
    pub async fn send(&mut self, frames: &[Value]) -> Outcome {
        for frame in frames {
            self.ledger.sent(frame);
            self.log.add(&self.name, "→", &short(frame));
        }
        if self.encoding == Encoding::Json {
            self.link.send_text(schema::packet_text(frames)?).await;
            return Ok(());
        }
        if !self.link.has_streams() {
            let mut packet = Vec::new();
            for frame in frames {
                packet.extend_from_slice(&schema::frame_record(frame)?);
            }
            self.link.send(Lane::Control, packet.into()).await;
            return Ok(());
        }
        for (lane, records) in by_lane(frames)? {
            self.link.send(lane, records.into()).await;
        }
        Ok(())
    }

    /// Sends bytes as they are: as one message, or on the stream of that lane. Answers can then not be matched to
    /// requests any more.
    pub async fn send_bytes(&mut self, lane: Lane, bytes: Vec<u8>) {
        let shown = hex(&bytes[..bytes.len().min(64)]);
        self.log.add(&self.name, "→", &format!("raw {} bytes {shown}", bytes.len()));
        self.send_bytes_quietly(lane, bytes).await;
    }

    /// As [`send_bytes`](Self::send_bytes), for one of a flood: the wire log leaves it out.
    pub async fn send_bytes_quietly(&mut self, lane: Lane, bytes: Vec<u8>) {
        self.ledger.raw_sent();
        self.link.send(lane, bytes.into()).await;
    }

    /// Sends a text message, whatever it is.
    pub async fn send_text(&mut self, text: String) {
        self.ledger.raw_sent();
        self.log.add(&self.name, "→", &format!("raw text {text}"));
        self.link.send_text(text).await;
    }

    /// Sends a ping of the transport, where that is not the transport's own affair.
    pub async fn ping_transport(&mut self) {
        self.link.ping().await;
    }

    /// The streams below, for cases about them.
    pub(crate) fn streams(&mut self) -> Outcome<&mut Streams> {
        match &mut self.link {
            Link::Streams(streams) => Ok(streams),
            Link::WebSocket(_) => Err(Stop::harness("a WebSocket has no streams")),
        }
    }

    /// Sends bytes on a stream that the case names; the first ones open it.
    pub async fn send_stream(&mut self, stream: &str, bidi: bool, bytes: &[u8], end: StreamEnd) -> Outcome {
        self.ledger.raw_sent();
        let shown = hex(&bytes[..bytes.len().min(64)]);
        self.log.add(&self.name, "→", &format!("stream {stream}: {} bytes {shown} {end:?}", bytes.len()));
        self.streams()?.send_named(stream, bidi, bytes, end).await
    }

    /// As [`send_stream`](Self::send_stream), for one of a flood: the wire log leaves it out, and a server that takes no
    /// more streams is no fault.
    pub async fn send_stream_quietly(&mut self, stream: &str, bytes: &[u8], end: StreamEnd) {
        self.ledger.raw_sent();
        if let Ok(streams) = self.streams() {
            let _ = streams.send_named(stream, false, bytes, end).await;
        }
    }

    /// Sends one datagram, whatever it holds.
    pub fn send_datagram(&mut self, bytes: &[u8]) -> Outcome {
        self.ledger.raw_sent();
        self.log.add(&self.name, "→", &format!("datagram {}", hex(&bytes[..bytes.len().min(64)])));
        if self.streams()?.send_datagram(bytes) { Ok(()) } else { Err(Stop::fail("datagrams are not taken")) }
    }

    /// Sends a request under a fresh id and returns the answer's frame.
    pub async fn ask(&mut self, mut frame: Value, within: Duration) -> Outcome<Value> {
        let id = self.next_id();
        frame["id"] = json!(id);
        self.send(std::slice::from_ref(&frame)).await?;
        let what = format!("an answer to {}", short(&frame));
        let found = self.wait_for(within, &what, |received| received.value["id"] == id).await?;
        Ok(found.value)
    }

    /// Reads until a pending frame fits, and takes it out. Frames before it stay pending.
    pub async fn wait_for(
        &mut self,
        within: Duration,
        what: &str,
        mut fits: impl FnMut(&Received) -> bool,
    ) -> Outcome<Received> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        loop {
            while seen < self.pending.len() {
                if fits(&self.pending[seen]) {
                    return self.pending.remove(seen).ok_or_else(|| Stop::harness("pending frame vanished"));
                }
                seen += 1;
            }
            match self.read(deadline).await? {
                Incoming::Frames => {}
                Incoming::Closed(code) => {
                    return Err(Stop::fail(format!(
                        "{}: closed with {code} instead of {what}{}",
                        self.name,
                        self.pending_text()
                    )));
                }
                Incoming::Quiet => {
                    return Err(Stop::fail(format!(
                        "{}: {what} did not come within {} ms{}",
                        self.name,
                        within.as_millis(),
                        self.pending_text()
                    )));
                }
            }
        }
    }

    /// Reads until the connection is closed and returns the code.
    pub async fn wait_closed(&mut self, within: Duration) -> Outcome<u16> {
        let deadline = Instant::now() + within;
        loop {
            match self.read(deadline).await? {
                Incoming::Frames => {}
                Incoming::Closed(code) => return Ok(code),
                Incoming::Quiet => {
                    return Err(Stop::fail(format!(
                        "{}: not closed within {} ms{}",
                        self.name,
                        within.as_millis(),
                        self.pending_text()
                    )));
                }
            }
        }
    }

    /// Reads what comes in that time, or until the connection closes.
    pub async fn settle(&mut self, time: Duration) -> Outcome {
        let deadline = Instant::now() + time;
        while let Incoming::Frames = self.read(deadline).await? {}
        Ok(())
    }

    /// Ping and Pong: what the server sent before is now pending.
    pub async fn barrier(&mut self, within: Duration) -> Outcome {
        let stamp = u64::from(self.next_id());
        let answer = self.ask(json!({"ping": {"stamp": stamp}}), within).await?;
        if answer["pong"]["stamp"] != stamp {
            return Err(Stop::Fail(format!("Ping with stamp {stamp} was answered with {answer}"), Some("LC-LIFE-002")));
        }
        Ok(())
    }

    /// The frames that came and were not taken.
    pub fn pending(&self) -> &VecDeque<Received> {
        &self.pending
    }

    /// Takes all pending frames.
    pub fn take_pending(&mut self) -> Vec<Received> {
        self.pending.drain(..).collect()
    }

    /// The code with which the connection was closed, if it is.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Closes with a code.
    pub async fn close(&mut self, code: u16) {
        self.log.add(&self.name, "→", &format!("close {code}"));
        self.ledger.client_closes();
        self.link.close(code).await;
    }

    /// Ends the connection of the transport without a word of the protocol.
    pub fn cut(self) {
        self.log.add(&self.name, "→", "cut");
    }

    /// Reads what comes next without judging it: answers to broken requests fit no request.
    pub async fn read_unjudged(&mut self, deadline: Instant) -> Incoming {
        self.read_unchecked(deadline).await
    }

    /// Reads what comes next. A violation that the ledger sees stops the case.
    pub async fn read(&mut self, deadline: Instant) -> Outcome<Incoming> {
        let incoming = self.read_unchecked(deadline).await;
        if let Some(held) = self.held.front()
            && held.at.elapsed() > HELD_MAX
        {
            self.ledger.note("LC-SUB-013", format!("no Subscribed names the handle of {}", short(&held.value)));
        }
        match self.ledger.violation() {
            Some(violation) => {
                Err(Stop::Fail(format!("{}: {}: {}", self.name, violation.rule, violation.text), Some(violation.rule)))
            }
            None => Ok(incoming),
        }
    }

    async fn read_unchecked(&mut self, deadline: Instant) -> Incoming {
        if let Some(code) = self.closed {
            return Incoming::Closed(code);
        }
        match self.link.next(deadline).await {
            None => return Incoming::Quiet,
            Some(Arrival::Packet(bytes, place)) if self.encoding == Encoding::Binary => {
                self.packet(&bytes, place).await
            }
            Some(Arrival::Text(text)) if self.encoding == Encoding::Json => self.text(&text).await,
            Some(Arrival::Packet(..) | Arrival::Text(_)) => {
                self.ledger.note("LC-WS-002", format!("a message of the wrong type on {}", self.encoding.subprotocol()))
            }
            Some(Arrival::Nothing) => {}
            Some(Arrival::Broken(rule, text)) => {
                self.log.add(&self.name, "!", &text);
                self.ledger.note(rule, text);
            }
            Some(Arrival::Closed(code)) => return self.end(code),
        }
        Incoming::Frames
    }

    fn end(&mut self, code: u16) -> Incoming {
        self.log.add(&self.name, "←", &format!("closed {code}"));
        // Close codes of sessions may not reach a client; the Error says it (LC-WT-004).
        let said = self.ledger.closing().and_then(|code| u16::try_from(code).ok());
        let code = match said {
            Some(said) if self.transport == Transport::Webtransport && matches!(code, ABNORMAL | NO_CODE) => said,
            _ => code,
        };
        self.ledger.closed(code);
        self.closed = Some(code);
        Incoming::Closed(code)
    }

    async fn packet(&mut self, bytes: &Bytes, place: Place) {
        if place == Place::Message {
            self.ledger.message(bytes.len());
        }
        self.messages += 1;
        let frames = match schema::split_records(bytes) {
            Ok(frames) => frames,
            Err(error) => return self.ledger.note("LC-FRM-001", error.0),
        };
        for frame in frames {
            match schema::decode("Frame", frame) {
                Ok(value) => {
                    let record_bytes = schema::record(frame).len();
                    if let Some((rule, text)) = misplaced(&value, record_bytes, place) {
                        self.ledger.note(rule, text);
                    }
                    self.frame(value, bytes.slice_ref(frame), record_bytes, place).await;
                }
                Err(error) => self.ledger.note("LC-FRM-001", error.0),
            }
        }
    }

    async fn text(&mut self, text: &str) {
        self.ledger.message(text.len());
        self.messages += 1;
        match schema::parse_packet_text(text) {
            Ok(frames) => {
                for frame in frames {
                    self.frame(frame, Bytes::new(), 0, Place::Message).await;
                }
            }
            Err(error) => self.ledger.note("LC-JSON-001", error.0),
        }
    }

    async fn frame(&mut self, value: Value, bytes: Bytes, record_bytes: usize, place: Place) {
        self.log.add(&self.name, "←", &short(&value));
        let received = Received { value, bytes, message: self.messages, place, at: Instant::now() };
        if self.ledger.received(&received.value, record_bytes) == Taken::Later {
            return self.held.push_back(received);
        }
        if body_name(&received.value) == Some("ping") {
            let pong = json!({"id": received.value["id"], "pong": {"stamp": received.value["ping"]["stamp"]}});
            // Nobody asks for the outcome: a connection that is gone shows at reading.
            let _ = self.send(&[pong]).await;
            return;
        }
        let releases = matches!(body_name(&received.value), Some("subscribed" | "welcome"));
        let whole = self.assemble(&received);
        self.pending.push_back(received);
        self.pending.extend(whole);
        if releases {
            self.release();
        }
    }

    /// Takes a fragment. `Some`: with it a frame is whole, whose place is that of its last fragment.
    fn assemble(&mut self, received: &Received) -> Option<Received> {
        let name = body_name(&received.value)?;
        let body = &received.value[name];
        let transfer = body["transfer"].as_u64().unwrap_or(0);
        if name == "fragmentAbort" {
            self.assembler.abort(transfer);
        }
        if name != "fragment" {
            return None;
        }
        let data = STANDARD.decode(body["data"].as_str().unwrap_or("")).unwrap_or_default().into();
        let (lane, total) = (Lane::of(&received.value), body["total"].as_u64().unwrap_or(0));
        let taken = self.assembler.take(v1::Fragment { transfer, lane: lane.to_wire(), total, data });
        let whole = taken.map_err(|(rule, text)| self.ledger.note(rule, text)).ok().flatten()?;
        let value = schema::decode("Frame", &whole).map_err(|error| self.ledger.note("LC-FRM-030", error.0)).ok()?;
        if Lane::of(&value) != lane {
            self.ledger.note("LC-FRM-030", format!("{} came in fragments of {lane:?}", short(&value)));
        }
        self.log.add(&self.name, "←", &format!("whole: {}", short(&value)));
        let received = Received { value, bytes: whole, ..received.clone() };
        match self.ledger.received(&received.value, 0) {
            Taken::Now => Some(received),
            Taken::Later => {
                self.held.push_back(received);
                None
            }
        }
    }

    /// Looks again at the frames that waited.
    fn release(&mut self) {
        for received in std::mem::take(&mut self.held) {
            match self.ledger.received(&received.value, received.bytes.len()) {
                Taken::Now => {
                    let whole = self.assemble(&received);
                    self.pending.push_back(received);
                    self.pending.extend(whole);
                }
                Taken::Later => self.held.push_back(received),
            }
        }
    }

    fn pending_text(&self) -> String {
        if self.pending.is_empty() {
            return "; nothing else came".into();
        }
        let shown: Vec<String> = self.pending.iter().take(8).map(|received| short(&received.value)).collect();
        let more = self.pending.len().saturating_sub(shown.len());
        format!("; {} came{}", shown.join(" "), if more > 0 { format!(" and {more} more") } else { String::new() })
    }
}

/// Frames by lane, in runs: neighbours of one lane leave together, and each signal by itself.
fn by_lane(frames: &[Value]) -> Outcome<Vec<(Lane, Vec<u8>)>> {
    let mut runs: Vec<(Lane, Vec<u8>)> = Vec::new();
    for frame in frames {
        let (lane, record) = (Lane::of(frame), schema::frame_record(frame)?);
        match runs.last_mut() {
            Some((last, records)) if *last == lane && lane != Lane::Signal => records.extend(record),
            _ => runs.push((lane, record)),
        }
    }
    Ok(runs)
}

/// The rule that a frame breaks by where it stands.
fn misplaced(frame: &Value, record_bytes: usize, place: Place) -> Option<(&'static str, String)> {
    let lane = Lane::of(frame);
    match place {
        Place::Message => None,
        Place::Datagram if lane != Lane::Signal => Some(("LC-QUIC-003", format!("{} in a datagram", short(frame)))),
        Place::Datagram if record_bytes > DATAGRAM_BYTES_MAX => {
            Some(("LC-QUIC-009", format!("a signal of {record_bytes} bytes in a datagram")))
        }
        Place::Datagram => None,
        Place::Stream { kind, lane: named, .. } => {
            let fits = match v1::StreamKind::try_from(kind).unwrap_or_default() {
                v1::StreamKind::Control => lane == Lane::Control,
                v1::StreamKind::Lane => !matches!(lane, Lane::Control | Lane::Signal) && named == Some(lane),
                v1::StreamKind::Message => lane == Lane::Urgent && named == Some(lane),
                v1::StreamKind::Transfer => lane == Lane::Bulk && named == Some(lane),
                v1::StreamKind::Signal => lane == Lane::Signal,
                v1::StreamKind::Unspecified => false,
            };
            if !fits {
                let text = format!("{} on a stream of kind {kind} and lane {named:?}", short(frame));
                return Some(("LC-QUIC-003", text));
            }
            let small = lane == Lane::Signal && record_bytes <= DATAGRAM_BYTES_MAX;
            small.then(|| ("LC-QUIC-009", format!("a signal of {record_bytes} bytes on a stream")))
        }
    }
}

/// Characters of a text that people are shown.
const SHOWN_MAX: usize = 100;

/// A frame without its default values, its texts cut, for people.
pub fn short(value: &Value) -> String {
    fn strip(value: &Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(name, value)| (name.clone(), strip(value)))
                    .filter(|(_, value)| match value {
                        Value::Number(number) => number.as_u64() != Some(0),
                        Value::String(text) => !text.is_empty() && !text.ends_with("_UNSPECIFIED"),
                        Value::Bool(flag) => *flag,
                        Value::Array(items) => !items.is_empty(),
                        _ => true,
                    })
                    .collect(),
            ),
            Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
            Value::String(text) if text.len() > SHOWN_MAX => {
                let head: String = text.chars().take(SHOWN_MAX).collect();
                Value::String(format!("{head}… ({} bytes)", text.len()))
            }
            other => other.clone(),
        }
    }
    strip(value).to_string()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
