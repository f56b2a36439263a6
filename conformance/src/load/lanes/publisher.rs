//! The side that publishes: a connection for each lane, so that none waits for another here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use v1::frame::Body;

use super::super::link::{Link, record};
use super::super::{now_us, table};
use super::{DONE, Flow, GO, Lanes, Place, REPLAYED_BYTES, Rooms, payload};
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::Target;
use crate::verdict::{Outcome, Stop, check};

/// Publishes of a connection that wait for their answer, below the 256 that a server lets wait by default.
const IN_FLIGHT: u64 = 128;
/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(1);
/// From `go` to the first message.
const AHEAD: Duration = Duration::from_millis(200);
/// Keeps a connection that only reads from being idle.
const BETWEEN_PINGS: Duration = Duration::from_secs(5);

pub(super) async fn run(target: &Target, transport: Transport, plan: &Lanes, rooms: &Rooms) -> Outcome<String> {
    let everything = vec![whole(&rooms.at(Place::Meeting))];
    let (mut meeting, came) = Link::join_with(target, transport, &rooms.client("meeting"), everything, &[]).await?;
    if plan.replay > 0 {
        store(target, transport, plan, rooms).await?;
    }
    let mut sources = Vec::new();
    for flow in plan.flows() {
        for number in 0..connections(plan, flow) {
            let name = rooms.client(&format!("{}-{number}", flow.name));
            let link = Link::join(target, transport, &name, &[]).await?;
            sources.push(Source::new(link, flow, plan, rooms, number));
        }
    }
    let mut words: Vec<String> = came.into_iter().filter_map(word).collect();
    hear(&mut meeting, &mut words, GO).await?;
    let begin_us = now_us() + AHEAD.as_micros() as u64;
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for source in sources {
        tasks.spawn(source.run(begin_us, over.clone()));
    }
    let heard = hear(&mut meeting, &mut words, DONE).await;
    over.store(true, Ordering::Relaxed);
    let mut rows = Vec::new();
    while let Some(task) = tasks.join_next().await {
        rows.push(task.map_err(Stop::harness)??);
    }
    heard?;
    rows.sort_by_key(|(name, _)| plan.flows().iter().position(|flow| flow.name == *name));
    Ok(table(&rows))
}

fn connections(plan: &Lanes, flow: Flow) -> u32 {
    if flow.lane == Lane::Signal { plan.signal_connections.max(1) } else { 1 }
}

/// Publishes what is to be replayed.
async fn store(target: &Target, transport: Transport, plan: &Lanes, rooms: &Rooms) -> Outcome {
    let flow = Flow { name: "replay", place: Place::Replay, lane: Lane::Normal, rate: 0.0, bytes: REPLAYED_BYTES };
    let link = Link::join(target, transport, &rooms.client(flow.name), &[]).await?;
    let mut source = Source::new(link, flow, &Lanes { transient: false, ..plan.clone() }, rooms, 0);
    while source.answered < plan.replay {
        while source.sent < plan.replay && source.sent - source.answered < IN_FLIGHT {
            source.publish(now_us()).await;
        }
        source.answers(Instant::now() + TICK).await?;
    }
    check(source.refused == 0, || format!("{} events were refused", source.refused))
}

/// A subscription from the beginning: what was said before counts too.
pub(super) fn whole(room: &str) -> v1::Subscribe {
    let start = v1::Start { at: Some(v1::start::At::Beginning(v1::StartBeginning {})) };
    v1::Subscribe { room: room.to_owned(), start: Some(start), ..v1::Subscribe::default() }
}

/// The word of an event in the meeting room.
fn word(frame: v1::Frame) -> Option<String> {
    match frame.body {
        Some(Body::Event(event)) => v1::Envelope::decode(event.envelope).ok().map(|envelope| envelope.r#type),
        _ => None,
    }
}

/// Waits until the subscriber says a word.
async fn hear(meeting: &mut Link, words: &mut Vec<String>, awaited: &str) -> Outcome {
    while !words.iter().any(|word| word == awaited) {
        match meeting.packet(Instant::now() + BETWEEN_PINGS).await? {
            Some((packet, _)) => words.extend(super::super::link::frames(&packet)?.into_iter().filter_map(word)),
            None => meeting.send(Lane::Control, record(3, Body::Ping(v1::Ping { stamp: 1 }))).await,
        }
    }
    Ok(())
}

/// What publishes in one lane.
struct Source {
    link: Link,
    flow: Flow,
    /// Numbers go up by that much, since others publish those between.
    step: u64,
    room: String,
    transient: bool,
    ttl_ms: u32,
    signal_keys: u64,
    number: u64,
    sent: u64,
    answered: u64,
    refused: u64,
}

impl Source {
    fn new(link: Link, flow: Flow, plan: &Lanes, rooms: &Rooms, first: u32) -> Self {
        Self {
            link,
            flow,
            step: u64::from(connections(plan, flow)),
            room: rooms.at(flow.place),
            transient: plan.transient && flow.lane != Lane::Bulk,
            ttl_ms: if flow.lane == Lane::Bulk { 0 } else { plan.ttl_ms },
            signal_keys: plan.signal_keys,
            number: u64::from(first),
            sent: 0,
            answered: 0,
            refused: 0,
        }
    }

    /// Publishes until it is over. Returns its name and what became of its messages.
    async fn run(mut self, begin_us: u64, over: Arc<AtomicBool>) -> Outcome<(&'static str, String)> {
        let mut ticks = tokio::time::interval(TICK);
        while !over.load(Ordering::Relaxed) {
            ticks.tick().await;
            self.answers(Instant::now()).await?;
            while let Some(due_us) = self.next_due(begin_us) {
                self.publish(due_us).await;
                while self.sent - self.answered >= IN_FLIGHT && !over.load(Ordering::Relaxed) {
                    self.answers(Instant::now() + TICK).await?;
                }
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Ok((self.flow.name, format!("{} published, {} refused", self.sent, self.refused)))
    }

    /// When the next message was due, if that time has come.
    fn next_due(&self, begin_us: u64) -> Option<u64> {
        let (due_us, now) = (begin_us + self.flow.due_us(self.number), now_us());
        if now < begin_us {
            return None;
        }
        if self.flow.rate > 0.0 { (due_us <= now).then_some(due_us) } else { Some(now) }
    }

    async fn publish(&mut self, due_us: u64) {
        let body = Some(payload(due_us, self.number, self.flow.bytes));
        let mut envelope = v1::Envelope { r#type: "load".into(), body, ..v1::Envelope::default() };
        self.sent += 1;
        if self.flow.lane == Lane::Signal {
            let key = if self.signal_keys > 0 { self.number % self.signal_keys } else { self.number };
            envelope.key = key.to_string();
            let signal = v1::Signal {
                room: self.room.clone(),
                counter: self.sent,
                ttl_ms: self.ttl_ms,
                envelope: envelope.encode_to_vec().into(),
                ..v1::Signal::default()
            };
            // Without an id only a refusal is answered.
            self.answered += 1;
            self.link.send(Lane::Signal, record(0, Body::Signal(signal))).await;
        } else {
            let delivery = if self.transient { v1::Delivery::Transient } else { v1::Delivery::Durable };
            let publish = v1::Publish {
                room: self.room.clone(),
                lane: self.flow.lane.to_wire(),
                delivery: delivery as i32,
                number: if self.transient { 0 } else { self.sent },
                ttl_ms: self.ttl_ms,
                envelope: envelope.encode_to_vec().into(),
                ..v1::Publish::default()
            };
            let id = (self.sent % u64::from(u32::MAX - 1)) as u32 + 1;
            self.link.send(self.flow.lane, record(id, Body::Publish(publish))).await;
        }
        self.number += self.step;
    }

    /// Takes the answers that come until then.
    async fn answers(&mut self, deadline: Instant) -> Outcome {
        while let Some((packet, _)) = self.link.packet(deadline).await? {
            for frame in super::super::link::frames(&packet)? {
                match frame.body {
                    Some(Body::Published(_)) => self.answered += 1,
                    Some(Body::Error(_)) => {
                        self.answered += u64::from(frame.id != 0);
                        self.refused += 1;
                    }
                    _ => {}
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(())
    }
}
