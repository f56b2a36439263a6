//! Whether lanes hold on a link: urgent, signal and normal messages that leave at their times beside saturating bulk, and
//! the one-way latency of each.
//!
//! Publisher and subscriber may be two processes, one on each side of the link: each message carries when it was due,
//! by the wall clock of the machine, which both share. They find each other through the server itself: the subscriber
//! publishes `go` when it is subscribed and `done` when it has measured, in a room that the publisher reads. So a
//! publisher that is no part of this suite can take its place.

mod publisher;
mod report;
mod subscriber;

use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use prost::Message as _;
use v1::frame::Body;

use super::link::{Link, record};
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::Target;
use crate::verdict::{Outcome, Stop};

/// Bytes of a payload that say when it was due and which one it is.
const HEAD_BYTES: usize = 16;
/// What the subscriber publishes.
const GO: &str = "go";
const DONE: &str = "done";

/// Which part of the measurement a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Publishes until the subscriber has measured.
    Publisher,
    /// Subscribes, measures and prints.
    Subscriber,
    /// Both, where there is no link between them.
    Both,
}

/// What the subscriber may leave out, to see what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// It names the capability and gives credit.
    Credit,
    /// It names the capability and puts fragments together.
    Fragments,
}

/// What the subscriber says of one of its rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Focus {
    /// Nothing.
    Default,
    /// It is in the background.
    Background,
}

/// Publishes urgent, signal, normal and bulk messages at their times, and measures by lane how late they arrive.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Lanes {
    /// Part of the measurement that this process is.
    #[arg(long, value_enum, default_value_t = Role::Both)]
    pub role: Role,
    /// Room in which to meet; two processes need to be told the same.
    #[arg(long)]
    pub room: Option<String>,
    /// How long to measure.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// How long everything flows before that.
    #[arg(long, default_value_t = 3)]
    pub warm_up: u64,
    /// How long to wait afterwards for what was published meanwhile.
    #[arg(long, default_value_t = 10)]
    pub grace: u64,
    /// Urgent durable events per second.
    #[arg(long, default_value_t = 50.0)]
    pub urgent_rate: f64,
    /// Bytes of an urgent event.
    #[arg(long, default_value_t = 200)]
    pub urgent_bytes: usize,
    /// Signals per second.
    #[arg(long, default_value_t = 62.5)]
    pub signal_rate: f64,
    /// Bytes of a signal.
    #[arg(long, default_value_t = 100)]
    pub signal_bytes: usize,
    /// Keys of signals; 0: each has its own.
    #[arg(long, default_value_t = 0)]
    pub signal_keys: u64,
    /// Connections that share the signals, since servers limit those of one.
    #[arg(long, default_value_t = 1)]
    pub signal_connections: u32,
    /// Normal durable events per second.
    #[arg(long, default_value_t = 20.0)]
    pub normal_rate: f64,
    /// Bytes of a normal event.
    #[arg(long, default_value_t = 500)]
    pub normal_bytes: usize,
    /// Bulk durable events, as kbit/s that are published; 0: as many as the server takes.
    #[arg(long, default_value_t = 20_000)]
    pub bulk_kbit: u64,
    /// Bytes of a bulk event.
    #[arg(long, default_value_t = 16 * 1024)]
    pub bulk_bytes: usize,
    /// No bulk.
    #[arg(long)]
    pub no_bulk: bool,
    /// Bulk goes to a room that the subscriber does not have: an import through the same node.
    #[arg(long)]
    pub import: bool,
    /// Events of another room that are replayed while it is measured: the publisher stores them first.
    #[arg(long, default_value_t = 0)]
    pub replay: u64,
    /// Two rooms more in lane normal: one with as many events as the first, whose focus is then this, and one that fills
    /// the link.
    #[arg(long, value_enum)]
    pub focus: Option<Focus>,
    /// Normal events of the room that fills the link, as kbit/s.
    #[arg(long, default_value_t = 20_000)]
    pub heavy_kbit: u64,
    /// Urgent and normal events are transient.
    #[arg(long)]
    pub transient: bool,
    /// Time to live of urgent, normal and signal messages, ms; 0: none, and the server's default for signals.
    #[arg(long, default_value_t = 0)]
    pub ttl_ms: u32,
    /// What the subscriber leaves out.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub without: Vec<Part>,
    /// Process of the server, for its memory; known if the suite started it.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Prints JSON in one line.
    #[arg(long)]
    pub json: bool,
}

/// What is published by one source.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Name in reports.
    name: &'static str,
    place: Place,
    lane: Lane,
    /// Messages per second; 0: as many as the server takes.
    rate: f64,
    bytes: usize,
}

/// Which room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The one in which urgent, signal and normal messages are measured.
    Main,
    Bulk,
    /// The one whose focus is lowered.
    Background,
    /// The one that fills the link in lane normal.
    Heavy,
    /// The one that is replayed.
    Replay,
    /// Where subscriber and publisher meet.
    Meeting,
}

/// Bytes of an event that is replayed, and of one of the room that fills the link.
const REPLAYED_BYTES: usize = 100;
const HEAVY_BYTES: usize = 1_000;

impl Flow {
    /// When a message is due, µs after the first.
    fn due_us(&self, number: u64) -> u64 {
        if self.rate > 0.0 { (number as f64 * 1e6 / self.rate) as u64 } else { 0 }
    }

    /// Messages that are due in that time.
    fn count(&self, seconds: u64) -> u64 {
        (self.rate * seconds as f64) as u64
    }
}

/// Messages per second that make so many kbit/s.
fn per_second(kbit: u64, bytes: usize) -> f64 {
    kbit as f64 * 1e3 / 8.0 / bytes as f64
}

impl Lanes {
    /// What is published, in the order in which it is printed.
    fn flows(&self) -> Vec<Flow> {
        let flow = |name, place, lane, rate, bytes| Flow { name, place, lane, rate, bytes };
        let mut flows = vec![
            flow("urgent", Place::Main, Lane::Urgent, self.urgent_rate, self.urgent_bytes),
            flow("signal", Place::Main, Lane::Signal, self.signal_rate, self.signal_bytes),
            flow("normal", Place::Main, Lane::Normal, self.normal_rate, self.normal_bytes),
        ];
        flows.retain(|flow| flow.rate > 0.0);
        if self.focus.is_some() {
            let heavy = per_second(self.heavy_kbit, HEAVY_BYTES);
            flows.push(flow("background", Place::Background, Lane::Normal, self.normal_rate, self.normal_bytes));
            flows.push(flow("heavy", Place::Heavy, Lane::Normal, heavy, HEAVY_BYTES));
        }
        if !self.no_bulk {
            let rate = per_second(self.bulk_kbit, self.bulk_bytes);
            flows.push(flow("bulk", Place::Bulk, Lane::Bulk, rate, self.bulk_bytes));
        }
        flows
    }

    fn rooms(&self) -> Rooms {
        Rooms(self.room.clone().unwrap_or_else(|| format!("conform.load.{}", crate::target::now_ms())))
    }
}

/// The rooms of a run.
#[derive(Clone, Debug)]
struct Rooms(String);

impl Rooms {
    fn at(&self, place: Place) -> String {
        let part = match place {
            Place::Main => return self.0.clone(),
            Place::Bulk => "bulk",
            Place::Background => "background",
            Place::Heavy => "heavy",
            Place::Replay => "replay",
            Place::Meeting => "meeting",
        };
        format!("{}.{part}", self.0)
    }

    /// The name of a client of the run, user and instance.
    fn client(&self, part: &str) -> String {
        format!("{part}-{}", self.0.replace('.', "-"))
    }
}

pub(super) async fn run(target: Arc<Target>, transport: Transport, plan: Lanes) -> Outcome<String> {
    let rooms = plan.rooms();
    match plan.role {
        Role::Publisher => publisher::run(&target, transport, &plan, &rooms).await,
        Role::Subscriber => measure(&target, transport, &plan, &rooms).await,
        Role::Both => {
            let (published, measured) = tokio::try_join!(
                publisher::run(&target, transport, &plan, &rooms),
                measure(&target, transport, &plan, &rooms)
            )?;
            Ok(if plan.json { measured } else { format!("{published}\n\n{measured}") })
        }
    }
}

async fn measure(target: &Target, transport: Transport, plan: &Lanes, rooms: &Rooms) -> Outcome<String> {
    let report = subscriber::run(target, transport, plan, rooms).await?;
    if plan.json { serde_json::to_string(&report).map_err(Stop::harness) } else { Ok(report.text()) }
}

/// The body of a message: when it was due, which one it is, and as many bytes as it shall have.
fn payload(due_us: u64, number: u64, bytes: usize) -> v1::envelope::Body {
    let mut data = vec![b'x'; bytes.max(HEAD_BYTES)];
    data[..8].copy_from_slice(&due_us.to_le_bytes());
    data[8..HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
    v1::envelope::Body::Data(data.into())
}

/// What a message is, as its payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    due_us: u64,
    number: u64,
    bytes: usize,
}

/// The key and stamp of an envelope.
fn stamp(envelope: Bytes) -> Outcome<(String, Stamp)> {
    let envelope = v1::Envelope::decode(envelope).map_err(Stop::harness)?;
    let Some(v1::envelope::Body::Data(data)) = envelope.body else {
        return Err(Stop::harness("a message of somebody else is in the room"));
    };
    let word = |at: usize| data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    match (word(0), word(8)) {
        (Some(due_us), Some(number)) => Ok((envelope.key, Stamp { due_us, number, bytes: data.len() })),
        _ => Err(Stop::harness("a message of somebody else is in the room")),
    }
}

/// Publishes a word to the publisher, on a connection of its own.
async fn tell(target: &Target, transport: Transport, rooms: &Rooms, word: &str) -> Outcome {
    let mut link = Link::join(target, transport, &rooms.client(word), &[]).await?;
    let envelope = v1::Envelope { r#type: word.into(), ..v1::Envelope::default() }.encode_to_vec();
    let publish =
        v1::Publish { room: rooms.at(Place::Meeting), number: 1, envelope: envelope.into(), ..v1::Publish::default() };
    link.send(Lane::Normal, record(2, Body::Publish(publish))).await;
    let answer = link.next().await?;
    match answer.into_iter().find_map(|frame| frame.body) {
        Some(Body::Published(_)) => Ok(()),
        other => Err(Stop::fail(format!("{word} was answered with {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_say_what_they_are() {
        let envelope = v1::Envelope { key: "k".into(), body: Some(payload(7, 9, 200)), ..v1::Envelope::default() };
        let read = stamp(envelope.encode_to_vec().into()).unwrap();
        assert_eq!(read, ("k".into(), Stamp { due_us: 7, number: 9, bytes: 200 }));
        let foreign = v1::Envelope { body: Some(v1::envelope::Body::Text("x".into())), ..v1::Envelope::default() };
        assert!(stamp(foreign.encode_to_vec().into()).is_err());
    }

    #[test]
    fn messages_are_due_at_their_rate() {
        let flow = Flow { name: "signal", place: Place::Main, lane: Lane::Signal, rate: 62.5, bytes: 100 };
        assert_eq!((flow.due_us(0), flow.due_us(1), flow.due_us(125), flow.count(20)), (0, 16_000, 2_000_000, 1_250));
    }
}
