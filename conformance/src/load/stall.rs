//! What others notice of one subscriber that stops reading, and what it costs the server: latency in turns with and
//! without, memory, and whether the one gets everything afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use v1::frame::Body;

use super::link::{Link, frames, record};
use super::process::anonymous_kib;
use super::{now_us, quantile, table};
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::Target;
use crate::verdict::{Outcome, Stop, check};

/// Stops one of many subscribers for a while, and measures the others, the server's memory, and how the one catches up.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Stall {
    /// Connections subscribed to the room, the one that stops among them.
    #[arg(long, default_value_t = 100)]
    pub subscribers: usize,
    /// Durable events per second.
    #[arg(long, default_value_t = 300)]
    pub rate: u64,
    /// Bytes of an event's body.
    #[arg(long, default_value_t = 1_000)]
    pub bytes: usize,
    /// Seconds of a turn: first all read, then one does not.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Turns of each.
    #[arg(long, default_value_t = 3)]
    pub turns: usize,
    /// Process of the server, for its memory; known if the suite started it.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// What everybody does now.
const WARM_UP: u64 = 0;
const QUIET: u64 = 1;
const STALLED: u64 = 2;
/// The one that stopped catches up, and nobody measures.
const AFTER: u64 = 3;
const OVER: u64 = 4;

/// Bytes that the transport takes for the one that does not read, so that the server notices.
const RECEIVE_BUFFER: u32 = 64 * 1024;
/// Time before the first turn, and before each: connections are open and caches warm.
const CHANGE: Duration = Duration::from_secs(3);
/// Until the one that stopped has everything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keeps who only reads from being idle.
const BETWEEN_PINGS: Duration = Duration::from_secs(10);
/// Between two looks at the memory of the server.
const LOOK: Duration = Duration::from_millis(200);

struct Shared {
    phase: AtomicU64,
    /// The seq of the last event that was stored.
    stored: AtomicU64,
    /// The last seq that the one which stops has read.
    read: AtomicU64,
}

impl Shared {
    fn phase(&self) -> u64 {
        self.phase.load(Ordering::Relaxed)
    }
}

/// What one kind of turns showed.
#[derive(Default)]
struct Turns {
    micros: Vec<u64>,
    growth_kib: Vec<u64>,
}

pub(super) async fn run(target: Arc<Target>, transport: Transport, plan: Stall) -> Outcome<String> {
    let run = crate::target::now_ms();
    let room = format!("conform.load.{run}");
    let shared =
        Arc::new(Shared { phase: AtomicU64::new(WARM_UP), stored: AtomicU64::new(0), read: AtomicU64::new(0) });
    let mut readers: JoinSet<Outcome<[Vec<u64>; 2]>> = JoinSet::new();
    for number in 1..plan.subscribers.max(2) {
        let link = Link::join(&target, transport, &format!("sub-{run}-{number}"), std::slice::from_ref(&room)).await?;
        readers.spawn(read(link, shared.clone()));
    }
    let slow = Link::join_slow(&target, transport, &format!("slow-{run}"), &room, RECEIVE_BUFFER).await?;
    let mut others: JoinSet<Outcome> = JoinSet::new();
    others.spawn(stop_and_go(slow, shared.clone()));
    let publisher = Link::join(&target, transport, &format!("pub-{run}"), &[]).await?;
    others.spawn(publish(publisher, room, plan.clone(), shared.clone()));

    let (mut quiet, mut stalled, mut caught_up) = (Turns::default(), Turns::default(), Vec::new());
    for _ in 0..plan.turns {
        tokio::time::sleep(CHANGE).await;
        quiet.growth_kib.push(turn(&plan, &shared, QUIET, &mut others).await?);
        stalled.growth_kib.push(turn(&plan, &shared, STALLED, &mut others).await?);
        caught_up.push(catch_up(&shared, &mut others).await?);
    }
    shared.phase.store(OVER, Ordering::Relaxed);
    while let Some(other) = others.join_next().await {
        other.map_err(Stop::harness)??;
    }
    while let Some(reader) = readers.join_next().await {
        let [without, with] = reader.map_err(Stop::harness)??;
        quiet.micros.extend(without);
        stalled.micros.extend(with);
    }
    quiet.micros.sort_unstable();
    stalled.micros.sort_unstable();
    let ms = |turns: &Turns, part| format!("{:.3}", quantile(&turns.micros, part) as f64 / 1e3);
    let both = |part| format!("{}, {} ms", ms(&quiet, part), ms(&stalled, part));
    let growth = |turns: &Turns| turns.growth_kib.iter().map(|kib| format!("{kib}")).collect::<Vec<_>>().join(", ");
    Ok(table(&[
        ("transport", transport.name().to_owned()),
        ("subscribers, events per second", format!("{}, {}", plan.subscribers, plan.rate)),
        ("turns of each", format!("{} of {} s", plan.turns, plan.seconds)),
        ("latency of the others p50 without, with", both(0.5)),
        ("latency of the others p99 without, with", both(0.99)),
        ("latency of the others max without, with", both(1.0)),
        ("growth of the server without", format!("{} KiB", growth(&quiet))),
        ("growth of the server with", format!("{} KiB", growth(&stalled))),
        ("missed by the one that stopped", "none".into()),
        ("it caught up after", format!("{} ms", caught_up.join(", "))),
    ]))
}

/// Lets a phase last and returns by how much the server grew in it, KiB.
async fn turn(plan: &Stall, shared: &Shared, phase: u64, others: &mut JoinSet<Outcome>) -> Outcome<u64> {
    let memory = || plan.pid.and_then(anonymous_kib).unwrap_or(0);
    let before = memory();
    let mut most = before;
    shared.phase.store(phase, Ordering::Relaxed);
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        most = most.max(memory());
        failed(others)?;
    }
    Ok(most - before)
}

/// An error of a task that should go on.
fn failed(others: &mut JoinSet<Outcome>) -> Outcome {
    match others.try_join_next() {
        Some(ended) => ended.map_err(Stop::harness)?,
        None => Ok(()),
    }
}

/// Waits until the one that stopped has all that was stored when it went on. Returns the ms that it took.
async fn catch_up(shared: &Shared, others: &mut JoinSet<Outcome>) -> Outcome<String> {
    shared.phase.store(AFTER, Ordering::Relaxed);
    let (began, stored) = (Instant::now(), shared.stored.load(Ordering::Relaxed));
    while shared.read.load(Ordering::Relaxed) < stored {
        failed(others)?;
        check(began.elapsed() < PATIENCE, || "the one that stopped did not catch up".into())?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(began.elapsed().as_millis().to_string())
}

fn envelope(bytes: usize) -> Vec<u8> {
    let mut data = vec![b'x'; bytes.max(8)];
    data[..8].copy_from_slice(&now_us().to_le_bytes());
    let body = Some(v1::envelope::Body::Data(data.into()));
    v1::Envelope { r#type: "load".into(), body, ..v1::Envelope::default() }.encode_to_vec()
}

/// When the publisher sent an event.
fn sent_us(event: &v1::Event) -> Option<u64> {
    match v1::Envelope::decode(event.envelope.clone()).ok()?.body? {
        v1::envelope::Body::Data(data) => Some(u64::from_le_bytes(data.get(..8)?.try_into().ok()?)),
        v1::envelope::Body::Text(_) => None,
    }
}

async fn publish(mut link: Link, room: String, plan: Stall, shared: Arc<Shared>) -> Outcome {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / plan.rate.max(1) as f64));
    for number in 1.. {
        if shared.phase() == OVER {
            break;
        }
        ticks.tick().await;
        let publish =
            v1::Publish { room: room.clone(), number, envelope: envelope(plan.bytes).into(), ..Default::default() };
        link.send(Lane::Normal, record(number as u32 + 1, Body::Publish(publish))).await;
        while let Some((packet, _)) = link.packet(Instant::now()).await? {
            for frame in frames(&packet)? {
                match frame.body {
                    Some(Body::Published(published)) => shared.stored.store(published.seq, Ordering::Relaxed),
                    other => return Err(Stop::fail(format!("a publish was answered with {other:?}"))),
                }
            }
        }
    }
    Ok(())
}

/// A subscriber that reads all the time. Returns latencies in µs, of quiet turns and of the others.
async fn read(mut link: Link, shared: Arc<Shared>) -> Outcome<[Vec<u64>; 2]> {
    let mut micros = [Vec::new(), Vec::new()];
    let mut pinged = Instant::now();
    while shared.phase() != OVER {
        if pinged.elapsed() > BETWEEN_PINGS {
            link.send(Lane::Control, record(0, Body::Ping(v1::Ping { stamp: 1 }))).await;
            pinged = Instant::now();
        }
        let Some((packet, _)) = link.packet(Instant::now() + LOOK).await? else { continue };
        let (now, phase) = (now_us(), shared.phase());
        for frame in frames(&packet)? {
            let Some(Body::Event(event)) = frame.body else { continue };
            let place = match phase {
                QUIET => 0,
                STALLED => 1,
                _ => continue,
            };
            micros[place].extend(sent_us(&event).map(|sent| now.saturating_sub(sent)));
        }
    }
    Ok(micros)
}

/// The subscriber that does not read while it is stalled. It must get every event all the same.
async fn stop_and_go(mut link: Link, shared: Arc<Shared>) -> Outcome {
    let mut last = None;
    let mut pinged = Instant::now();
    while shared.phase() != OVER {
        if pinged.elapsed() > BETWEEN_PINGS {
            link.send(Lane::Control, record(0, Body::Ping(v1::Ping { stamp: 1 }))).await;
            pinged = Instant::now();
        }
        if shared.phase() == STALLED {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let Some((packet, _)) = link.packet(Instant::now() + LOOK).await? else { continue };
        for frame in frames(&packet)? {
            match frame.body {
                Some(Body::Event(event)) => {
                    let next = last.map_or(event.seq, |last: u64| last + 1);
                    check(event.seq == next, || {
                        format!("seq {} came to the one that stopped, {next} follows", event.seq)
                    })?;
                    last = Some(event.seq);
                    shared.read.store(event.seq, Ordering::Relaxed);
                }
                Some(Body::Gap(gap)) => return Err(Stop::fail(format!("a gap for the one that stopped: {gap:?}"))),
                _ => {}
            }
        }
    }
    Ok(())
}
