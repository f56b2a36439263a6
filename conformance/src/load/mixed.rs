//! Everything at once, from one client to another, and whether it arrived as it must: durable events exactly once and
//! in the order of their lane, transient events or gaps that count them, signals at most once.
//!
//! Made for bad links: `netlab --loss 2% --jitter 20ms`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use v1::frame::Body;

use super::fanout::envelope;
use super::link::{Link, frames, record};
use super::table;
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::Target;
use crate::verdict::{Outcome, Stop, check};

/// Publishes of a lane that wait for their answer.
const WINDOW: usize = 60;
/// Nothing new for this long: what is missing does not come.
const SILENCE: Duration = Duration::from_secs(30);
/// Keeps the receiver from being idle.
const BETWEEN_PINGS: Duration = Duration::from_secs(5);
/// Time for what comes twice to come.
const LAST: Duration = Duration::from_millis(1_500);
/// Below every server's rate for signals, since those beyond it are refused.
const SIGNALS_PER_S: u64 = 8;

/// The lanes of events.
const LANES: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];

/// What one event is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Durable(usize),
    Transient(usize),
}

/// What is published in all, in that mix: of ten events three urgent, three normal, two bulk, and two transient ones.
fn kind_of(number: u64) -> Kind {
    match number % 10 {
        0 | 3 | 6 => Kind::Durable(0),
        1 | 4 | 7 => Kind::Durable(1),
        2 | 5 => Kind::Durable(2),
        8 => Kind::Transient(1),
        _ => Kind::Transient(if number % 20 == 9 { 0 } else { 2 }),
    }
}

pub(super) async fn run(target: Arc<Target>, transport: Transport, events: u64) -> Outcome<String> {
    let started = Instant::now();
    let run = crate::target::now_ms();
    let room = format!("conform.load.{run}");
    let subscribe = v1::Subscribe { room: room.clone(), signals: true, ..v1::Subscribe::default() };
    let (receiver, _) = Link::join_with(&target, transport, &format!("to-{run}"), vec![subscribe], &[]).await?;
    let publisher = Link::join(&target, transport, &format!("from-{run}"), &[]).await?;
    let mut expected = Expected::default();
    for number in 0..events {
        match kind_of(number) {
            Kind::Durable(lane) => expected.durable[lane] += 1,
            Kind::Transient(lane) => expected.transient[lane] += 1,
        }
    }
    let publishing = Publisher { link: publisher, room, events }.run();
    let receiving = Receiver::new(receiver, transport, expected).run();
    let (signals, received) = tokio::try_join!(publishing, receiving)?;
    let gaps: u64 = received.counted.iter().sum();
    Ok(table(&[
        ("transport", transport.name().to_owned()),
        ("events published", events.to_string()),
        ("durable received", format!("{:?} urgent, normal, bulk", expected.durable)),
        ("urgent that overtook others", received.overtaken.to_string()),
        ("transient received", received.transients.iter().sum::<u64>().to_string()),
        ("transient counted in gaps", gaps.to_string()),
        ("signals sent, received", format!("{signals}, {}", received.signals.len())),
        ("seconds", format!("{:.1}", started.elapsed().as_secs_f64())),
    ]))
}

/// Events by lane.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    durable: [u64; 3],
    transient: [u64; 3],
}

/// The client that publishes.
struct Publisher {
    link: Link,
    room: String,
    events: u64,
}

impl Publisher {
    /// Publishes all and returns how many signals it sent among them.
    async fn run(mut self) -> Outcome<u64> {
        let mut numbers = [0u64; 3];
        let mut seqs = [0u64; 3];
        let mut waiting: HashMap<u32, Kind> = HashMap::new();
        let (started, mut signals) = (Instant::now(), 0);
        for number in 0..self.events {
            while waiting.len() >= WINDOW {
                self.answers(&mut waiting, &mut seqs).await?;
            }
            let id = number as u32 + 10;
            let kind = kind_of(number);
            self.publish(id, number, kind, &mut numbers).await;
            waiting.insert(id, kind);
            if signals < started.elapsed().as_secs() * SIGNALS_PER_S {
                signals += 1;
                self.signal(signals).await;
            }
        }
        while !waiting.is_empty() {
            self.answers(&mut waiting, &mut seqs).await?;
        }
        check(seqs == numbers, || format!("the last seqs are {seqs:?}, {numbers:?} were published"))?;
        Ok(signals)
    }

    async fn publish(&mut self, id: u32, number: u64, kind: Kind, numbers: &mut [u64; 3]) {
        let (lane, delivery) = match kind {
            Kind::Durable(lane) => (lane, v1::Delivery::Durable),
            Kind::Transient(lane) => (lane, v1::Delivery::Transient),
        };
        let mut publish = v1::Publish {
            room: self.room.clone(),
            lane: LANES[lane].to_wire(),
            delivery: delivery as i32,
            envelope: envelope(&format!("{number} {}", "x".repeat((number % 7) as usize * 100))),
            ..v1::Publish::default()
        };
        if delivery == v1::Delivery::Durable {
            numbers[lane] += 1;
            publish.number = numbers[lane];
            publish.after = numbers[lane] - 1;
        }
        self.link.send(LANES[lane], record(id, Body::Publish(publish))).await;
    }

    async fn signal(&mut self, counter: u64) {
        let signal = v1::Envelope { r#type: "load".into(), key: "k".into(), ..v1::Envelope::default() };
        let envelope = signal.encode_to_vec().into();
        let signal = v1::Signal { room: self.room.clone(), counter, envelope, ..v1::Signal::default() };
        self.link.send(Lane::Signal, record(0, Body::Signal(signal))).await;
    }

    /// Takes answers: all are stored, in the order of their lane.
    async fn answers(&mut self, waiting: &mut HashMap<u32, Kind>, seqs: &mut [u64; 3]) -> Outcome {
        for frame in self.link.next().await? {
            match (frame.body, waiting.remove(&frame.id)) {
                (Some(Body::Published(published)), Some(Kind::Durable(lane))) => {
                    seqs[lane] += 1;
                    let fits = published.seq == seqs[lane] && !published.duplicate;
                    check(fits, || format!("{published:?} instead of seq {}", seqs[lane]))?;
                }
                (Some(Body::Published(_)), Some(Kind::Transient(_))) => {}
                (Some(Body::Error(error)), _) => return Err(Stop::fail(format!("a publish was refused: {error:?}"))),
                (other, _) => return Err(Stop::fail(format!("{other:?} came to the publisher"))),
            }
        }
        Ok(())
    }
}

/// The client that receives.
struct Receiver {
    link: Link,
    /// Urgent events may overtake each other.
    overtaking: bool,
    expected: Expected,
    received: Received,
}

/// What came.
#[derive(Default)]
struct Received {
    /// By lane: all seqs up to here came, and those above it that did.
    below: [u64; 3],
    above: [BTreeSet<u64>; 3],
    /// By lane the number of the last event, by which content and seq belong together.
    contents: [BTreeSet<u64>; 3],
    transients: [u64; 3],
    counted: [u64; 3],
    signals: HashSet<u64>,
    overtaken: u64,
}

impl Receiver {
    fn new(link: Link, transport: Transport, expected: Expected) -> Self {
        Self { link, overtaking: transport != Transport::Websocket, expected, received: Received::default() }
    }

    async fn run(mut self) -> Outcome<Received> {
        let mut news = Instant::now();
        let mut pinged = Instant::now();
        let mut complete: Option<Instant> = None;
        loop {
            if complete.is_some_and(|complete| complete.elapsed() > LAST) {
                return Ok(self.received);
            }
            check(news.elapsed() < SILENCE, || {
                format!("nothing came for {} s; {}", SILENCE.as_secs(), self.missing())
            })?;
            if pinged.elapsed() > BETWEEN_PINGS {
                self.link.send(Lane::Control, record(0, Body::Ping(v1::Ping { stamp: 1 }))).await;
                pinged = Instant::now();
            }
            let Some((packet, _)) = self.link.packet(Instant::now() + LAST / 3).await? else { continue };
            for frame in frames(&packet)? {
                if self.take(frame)? {
                    news = Instant::now();
                }
            }
            if self.is_complete() {
                complete.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Takes a frame; true: it was one of those that are waited for.
    fn take(&mut self, frame: v1::Frame) -> Outcome<bool> {
        match frame.body {
            Some(Body::Event(event)) if event.seq == 0 => {
                self.received.transients[lane_place(event.lane)?] += 1;
                self.check_transients()?;
            }
            Some(Body::Event(event)) => self.durable(&event)?,
            Some(Body::Gap(gap)) if gap.from == 0 => {
                check(gap.count > 0, || format!("a gap of unknown count: {gap:?}"))?;
                self.received.counted[lane_place(gap.lane)?] += gap.count;
                self.check_transients()?;
            }
            Some(Body::Gap(gap)) => return Err(Stop::fail(format!("a gap in what is stored: {gap:?}"))),
            Some(Body::Signal(signal)) => {
                let fresh = self.received.signals.insert(signal.counter);
                check(fresh, || format!("signal {} came twice", signal.counter))?;
            }
            Some(Body::Pong(_)) => return Ok(false),
            other => return Err(Stop::fail(format!("{other:?} came to the receiver"))),
        }
        Ok(true)
    }

    fn durable(&mut self, event: &v1::Event) -> Outcome {
        let lane = lane_place(event.lane)?;
        let received = &mut self.received;
        let known = event.seq <= received.below[lane] || received.above[lane].contains(&event.seq);
        check(!known, || format!("seq {} of lane {} came twice", event.seq, event.lane))?;
        let next = received.below[lane] + 1;
        let ordered = event.seq == next || lane == 0 && self.overtaking;
        check(ordered, || format!("seq {} of lane {} came, {next} follows", event.seq, event.lane))?;
        received.overtaken += u64::from(event.seq != next);
        received.above[lane].insert(event.seq);
        while received.above[lane].remove(&(received.below[lane] + 1)) {
            received.below[lane] += 1;
        }
        let envelope = v1::Envelope::decode(event.envelope.clone()).map_err(Stop::harness)?;
        let number = match &envelope.body {
            Some(v1::envelope::Body::Text(text)) => text.split(' ').next().and_then(|number| number.parse().ok()),
            _ => None,
        };
        let number: u64 = number.ok_or_else(|| Stop::fail(format!("seq {} has another content", event.seq)))?;
        let fits = kind_of(number) == Kind::Durable(lane) && received.contents[lane].insert(number);
        check(fits, || format!("the content of event {number} came again, or on another lane"))?;
        // Published in this order, and so stored.
        let place = (0..=number).filter(|number| kind_of(*number) == Kind::Durable(lane)).count() as u64;
        check(place == event.seq, || format!("event {number} is the {place}. of its lane and has seq {}", event.seq))
    }

    fn check_transients(&self) -> Outcome {
        for (lane, expected) in self.expected.transient.iter().enumerate() {
            let sum = self.received.transients[lane] + self.received.counted[lane];
            check(sum <= *expected, || {
                format!("{sum} transient events came or were counted, {expected} were published")
            })?;
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let received = &self.received;
        let transients = (0..3).map(|lane| received.transients[lane] + received.counted[lane]);
        received.below == self.expected.durable && transients.eq(self.expected.transient)
    }

    fn missing(&self) -> String {
        format!(
            "durable {:?} of {:?}, transient {:?} and {:?} counted of {:?}",
            self.received.below,
            self.expected.durable,
            self.received.transients,
            self.received.counted,
            self.expected.transient
        )
    }
}

fn lane_place(lane: i32) -> Outcome<usize> {
    let lane = Lane::from_wire(lane);
    let place = LANES.iter().position(|known| Some(*known) == lane);
    place.ok_or_else(|| Stop::fail(format!("an event has lane {lane:?}")))
}
