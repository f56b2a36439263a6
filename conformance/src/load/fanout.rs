//! One room, many subscribers.
//!
//! With a rate the loop is open: events leave at their times whatever the server does, and their latency counts from
//! that time. Without one each publisher keeps a window of publishes unanswered, which finds the most that the server
//! can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;
use v1::frame::Body;

use super::link::{Link, frames};
use super::process::cpu_ticks;
use super::{Fanout, quantile, table};
use crate::client::{Lane, Transport};
use crate::schema::{self, v1};
use crate::target::Target;
use crate::verdict::{Outcome, Stop};

/// Publishes that wait at saturation, below the 256 that a server lets wait by default.
const WINDOW: u64 = 128;
/// Between two looks of an open-loop publisher at its clock.
const TICK: Duration = Duration::from_millis(1);
/// Time before the measurement, in which connections and caches warm up.
const WARM_UP: Duration = Duration::from_secs(1);
/// Time for the last events to arrive.
const LAST: Duration = Duration::from_secs(2);

/// What all tasks share.
struct Shared {
    started: Instant,
    measuring: AtomicBool,
    stopping: AtomicBool,
    published: AtomicU64,
    refused: AtomicU64,
    events: AtomicU64,
    messages: AtomicU64,
}

/// The encoding of an envelope with that text.
pub(super) fn envelope(text: &str) -> Bytes {
    let body = Some(v1::envelope::Body::Text(text.to_owned()));
    v1::Envelope { r#type: "load".into(), body, ..v1::Envelope::default() }.encode_to_vec().into()
}

pub(super) async fn run(target: Arc<Target>, transport: Transport, plan: &Fanout, pid: Option<u32>) -> Outcome<String> {
    let run = crate::target::now_ms();
    let room = format!("conform.load.{run}");
    let shared = Arc::new(Shared {
        started: Instant::now(),
        measuring: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
        published: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        events: AtomicU64::new(0),
        messages: AtomicU64::new(0),
    });
    let mut readers: JoinSet<Outcome<Vec<u64>>> = JoinSet::new();
    for number in 0..plan.subscribers {
        let link = Link::join(&target, transport, &format!("sub-{run}-{number}"), std::slice::from_ref(&room)).await?;
        readers.spawn(read(link, shared.clone(), plan.rate > 0));
    }
    let mut writers: JoinSet<Outcome> = JoinSet::new();
    for number in 0..plan.publishers.max(1) {
        let link = Link::join(&target, transport, &format!("pub-{run}-{number}"), &[]).await?;
        let source = Source { link, room: room.clone(), bytes: plan.bytes, transient: plan.transient, number: 0 };
        let share = plan.rate as f64 / plan.publishers.max(1) as f64;
        if plan.rate > 0 {
            writers.spawn(source.at_rate(shared.clone(), share));
        } else {
            writers.spawn(source.at_saturation(shared.clone()));
        }
    }
    tokio::time::sleep(WARM_UP).await;
    let cpu = |pid: Option<u32>| pid.and_then(cpu_ticks).unwrap_or(0);
    let (server_before, own_before) = (cpu(pid), cpu(Some(std::process::id())));
    let began = Instant::now();
    shared.measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    shared.measuring.store(false, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let (server, own) = (cpu(pid) - server_before, cpu(Some(std::process::id())) - own_before);
    shared.stopping.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.map_err(Stop::harness)??;
    }
    let mut latencies = Vec::new();
    while let Some(reader) = readers.join_next().await {
        latencies.extend(reader.map_err(Stop::harness)??);
    }
    latencies.sort_unstable();
    let events = shared.events.load(Ordering::Relaxed);
    let messages = shared.messages.load(Ordering::Relaxed).max(1);
    let percent = |ticks: u64| format!("{:.0} % of a core", ticks as f64 / seconds);
    let mut rows = vec![
        ("subscribers, publishers", format!("{}, {}", plan.subscribers, plan.publishers.max(1))),
        ("body", format!("{} bytes, {}", plan.bytes, if plan.transient { "transient" } else { "durable" })),
        ("published per second", format!("{:.0}", shared.published.load(Ordering::Relaxed) as f64 / seconds)),
        ("refused", shared.refused.load(Ordering::Relaxed).to_string()),
        ("deliveries per second", format!("{:.0}", events as f64 / seconds)),
        ("events per message", format!("{:.2}", events as f64 / messages as f64)),
    ];
    if plan.rate > 0 {
        for (name, part) in [("latency p50", 0.5), ("latency p95", 0.95), ("latency p99", 0.99), ("latency max", 1.0)] {
            rows.push((name, format!("{:.3} ms", quantile(&latencies, part) as f64 / 1e3)));
        }
    }
    if pid.is_some() {
        rows.push(("CPU of the server", percent(server)));
        rows.push(("CPU of it per delivery", format!("{:.2} µs", server as f64 * 1e4 / events.max(1) as f64)));
    }
    rows.push(("CPU of this generator", percent(own)));
    Ok(table(&rows))
}

/// Reads until the end; returns latencies in µs.
async fn read(mut link: Link, shared: Arc<Shared>, timed: bool) -> Outcome<Vec<u64>> {
    let mut latencies = Vec::new();
    loop {
        let limit = if shared.stopping.load(Ordering::Relaxed) { LAST } else { Duration::from_secs(1) };
        let bytes = match link.packet(tokio::time::Instant::now() + limit).await? {
            Some((bytes, _)) => bytes,
            None if shared.stopping.load(Ordering::Relaxed) => return Ok(latencies),
            None => continue,
        };
        let now = shared.started.elapsed().as_micros() as u64;
        if !shared.measuring.load(Ordering::Relaxed) {
            continue;
        }
        shared.messages.fetch_add(1, Ordering::Relaxed);
        if !timed {
            // An event's frame begins with the tag of field 13.
            let records = schema::split_records(&bytes).map_err(|error| Stop::fail(error.0))?;
            let events = records.iter().filter(|record| record.first() == Some(&0x6a)).count();
            shared.events.fetch_add(events as u64, Ordering::Relaxed);
            continue;
        }
        for frame in frames(&bytes)? {
            let Some(Body::Event(event)) = frame.body else { continue };
            shared.events.fetch_add(1, Ordering::Relaxed);
            let envelope = v1::Envelope::decode(event.envelope).map_err(Stop::harness)?;
            if let Some(v1::envelope::Body::Text(text)) = envelope.body
                && let Some(sent) = text.split(' ').next().and_then(|sent| sent.parse::<u64>().ok())
            {
                latencies.push(now.saturating_sub(sent));
            }
        }
    }
}

/// A publisher.
struct Source {
    link: Link,
    room: String,
    bytes: usize,
    transient: bool,
    number: u64,
}

impl Source {
    /// The record of the next event, sent at that time.
    fn next_record(&mut self, at_micros: u64) -> Vec<u8> {
        self.number += 1;
        let mut text = format!("{at_micros} ");
        while text.len() < self.bytes {
            text.push('x');
        }
        let publish = v1::Publish {
            room: self.room.clone(),
            delivery: if self.transient { v1::Delivery::Transient } else { v1::Delivery::Durable } as i32,
            number: self.number,
            envelope: envelope(&text),
            ..v1::Publish::default()
        };
        let id = (self.number % u64::from(u32::MAX - 1)) as u32 + 1;
        schema::record(&v1::Frame { id, body: Some(Body::Publish(publish)) }.encode_to_vec())
    }

    fn count(shared: &Shared, frames: &[v1::Frame]) -> u64 {
        let stored = frames.iter().filter(|frame| matches!(frame.body, Some(Body::Published(_)))).count() as u64;
        let refused = frames.iter().filter(|frame| matches!(frame.body, Some(Body::Error(_)))).count() as u64;
        if shared.measuring.load(Ordering::Relaxed) {
            shared.published.fetch_add(stored, Ordering::Relaxed);
            shared.refused.fetch_add(refused, Ordering::Relaxed);
        }
        stored + refused
    }

    async fn at_rate(mut self, shared: Arc<Shared>, per_second: f64) -> Outcome {
        let begin = shared.started.elapsed().as_micros() as u64;
        let mut ticks = tokio::time::interval(TICK);
        while !shared.stopping.load(Ordering::Relaxed) {
            tokio::select! {
                frames = self.link.next() => {
                    Self::count(&shared, &frames?);
                }
                _ = ticks.tick() => {
                    let now = shared.started.elapsed().as_micros() as u64;
                    let mut packet = Vec::new();
                    loop {
                        let due = begin + (self.number as f64 * 1e6 / per_second) as u64;
                        if due > now {
                            break;
                        }
                        packet.extend(self.next_record(due));
                    }
                    if !packet.is_empty() {
                        self.link.send(Lane::Normal, packet).await;
                    }
                }
            }
        }
        Ok(())
    }

    async fn at_saturation(mut self, shared: Arc<Shared>) -> Outcome {
        let mut waiting = 0;
        while !shared.stopping.load(Ordering::Relaxed) {
            let mut packet = Vec::new();
            while waiting < WINDOW {
                packet.extend(self.next_record(0));
                waiting += 1;
            }
            if !packet.is_empty() {
                self.link.send(Lane::Normal, packet).await;
            }
            let frames = self.link.next().await?;
            waiting -= Self::count(&shared, &frames);
        }
        Ok(())
    }
}
