//! What a durable publish costs Redis: with group commit, without it, and as a bare script. A program, not a test: its
//! ratios hold across machines, its figures do not.
//!
//! ```text
//! cargo run --release -p lanecast-server --example group_commit
//! ```
//!
//! It starts a `redis-server` of its own, on core 0 where there is `taskset`. The three ways take turns on that one Redis;
//! another node follows the rooms, so that every publish is delivered once. At the end all rooms are read: every
//! acknowledged publish must be there once, and no seq may be missing.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use lanecast_protocol::log::{Append, Origin, Outcome, Publisher, Record, Retention};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use lanecast_server::clock::Clock;
use lanecast_server::engine::{Engine, EngineSink, RedisEngine, RedisOptions, Signal, Transient};
use redis::aio::MultiplexedConnection;

type Failed = Box<dyn std::error::Error + Send + Sync>;

const ROOMS: usize = 64;
/// Publishers of a room, each with one publish under way: what a group can be made of.
const PUBLISHERS: usize = 48;
/// Publishes of one turn.
const PUBLISHES: usize = 60_000;
const TURNS: usize = 5;
const ALONE: usize = 2_000;
const KEEP: Retention = Retention { events_max: 1_000_000, age_ms_max: 86_400_000 };

/// What a broker needs at the least: an idempotency key, an offset without holes, the log, and the publish.
const BARE: &str = "local seen = redis.call('GET', KEYS[2]) if seen then return seen end \
    local seq = redis.call('HINCRBY', KEYS[3], 'seq', 1) \
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', 1000000, seq .. '-0', 'd', ARGV[2]) \
    redis.call('SET', KEYS[2], seq, 'EX', 60) redis.call('PUBLISH', ARGV[1], seq .. ':' .. ARGV[2]) return seq";

#[derive(Default)]
struct Sink(AtomicU64);

impl EngineSink for Sink {
    fn appended(&self, _: &Arc<str>, _: u64, _: &Record) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn transient(&self, _: &Arc<str>, _: &Transient, _: &v1::TransientMark) {}
    fn signal(&self, _: &Arc<str>, _: &Signal) {}
    fn epoch_changed(&self, _: &Arc<str>, _: u64) {}
    fn jumped(&self, _: &Arc<str>, _: DurableLane) {}
    fn transients_missed(&self, _: &Arc<str>, _: DurableLane, _: Option<u64>) {}
    fn reachable(&self, _: bool) {}
    fn following(&self, _: bool) {}
    fn told(&self, _: &Bytes) {}
}

/// A Redis that ends with this process.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn own_redis() -> Result<(Server, String), Failed> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let pinned = "pin=; command -v taskset > /dev/null && pin='taskset -c 0'; \
        $pin redis-server \"$@\" > /dev/null & read _; kill -9 $!; wait";
    let child = Command::new("sh")
        .args(["-c", pinned, "redis", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .args(["--client-output-buffer-limit", "pubsub 512mb 0 0"])
        .stdin(Stdio::piped())
        .spawn()?;
    let server = Server(child);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((server, format!("redis://127.0.0.1:{port}")))
}

/// One way to publish: an engine that publishes, and another one that follows.
struct Way {
    engine: Arc<RedisEngine>,
    follower: RedisEngine,
    heard: Arc<Sink>,
    numbers: Vec<Arc<AtomicU64>>,
    acknowledged: u64,
}

fn room(at: usize) -> String {
    format!("room.{at}")
}

fn event(publisher: usize, number: u64) -> Append {
    let publisher = Publisher { user: "bench".into(), instance: format!("instance-{publisher}") };
    let mut tail = vec![0; 256];
    tail[..8].copy_from_slice(&number.to_be_bytes());
    Append {
        lane: DurableLane::Normal,
        origin: Origin::Numbered { publisher, number, after: number - 1 },
        time_ms: 0,
        expires_at_ms: 0,
        event_type: "t".into(),
        tail: tail.into(),
    }
}

impl Way {
    async fn new(url: &str, prefix: &str, group_events_max: usize) -> Result<Self, Failed> {
        let options = RedisOptions {
            url: url.into(),
            prefix: prefix.into(),
            beside_others: true,
            group_events_max,
            ..RedisOptions::default()
        };
        let heard = Arc::new(Sink::default());
        let clock = Clock::system();
        let engine = RedisEngine::start(options.clone(), clock.clone(), Arc::new(Sink::default())).await?;
        let follower = RedisEngine::start(options, clock, heard.clone()).await?;
        for at in 0..ROOMS {
            follower.subscribe(&room(at)).await?;
        }
        let numbers = (0..ROOMS * PUBLISHERS).map(|_| Arc::default()).collect();
        Ok(Self { engine: Arc::new(engine), follower, heard, numbers, acknowledged: 0 })
    }

    async fn load(&mut self) -> Result<u64, Failed> {
        let left = Arc::new(AtomicU64::new(PUBLISHES as u64));
        let tasks: Vec<_> = (0..ROOMS * PUBLISHERS)
            .map(|at| {
                let (engine, left) = (Arc::clone(&self.engine), Arc::clone(&left));
                let number = Arc::clone(&self.numbers[at]);
                tokio::spawn(async move {
                    let (room, mut stored) = (room(at % ROOMS), 0_u64);
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let number = number.fetch_add(1, Ordering::Relaxed) + 1;
                        match engine.append(&room, KEEP, vec![event(at / ROOMS, number)]).await.pop() {
                            Some(Ok(Outcome::Stored(_))) => stored += 1,
                            other => return Err(format!("{room}: {other:?}")),
                        }
                    }
                    Ok(stored)
                })
            })
            .collect();
        let mut stored = 0;
        for task in join_all(tasks).await {
            stored += task??;
        }
        self.acknowledged += stored;
        // What it costs to deliver belongs to it.
        while self.heard.0.load(Ordering::Relaxed) < self.acknowledged {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(stored)
    }

    /// One publish at a time; µs.
    async fn alone(&mut self, clock: &Clock) -> Result<Vec<u64>, Failed> {
        let mut latencies = Vec::new();
        for _ in 0..ALONE {
            let number = self.numbers[0].fetch_add(1, Ordering::Relaxed) + 1;
            let begin = clock.elapsed();
            let outcome = self.engine.append(&room(0), KEEP, vec![event(0, number)]).await.pop();
            let Some(Ok(Outcome::Stored(_))) = outcome else { return Err(format!("{outcome:?}").into()) };
            latencies.push((clock.elapsed() - begin).as_micros() as u64);
            self.acknowledged += 1;
        }
        Ok(latencies)
    }

    /// Acknowledged publishes that are in the log more than once, and seqs that are missing.
    async fn faults(&self) -> Result<(u64, u64), Failed> {
        let (mut doubles, mut holes, mut stored) = (0, 0, 0);
        for at in 0..ROOMS {
            let mut after = 0;
            let mut found = std::collections::HashMap::new();
            loop {
                let read = self.follower.read(&room(at), DurableLane::Normal, after, 1_000, usize::MAX).await?;
                for record in &read.records {
                    holes += record.seq - after - 1;
                    after = record.seq;
                    *found.entry(record.tail.slice(..8)).or_insert(0_u64) += 1;
                }
                stored += read.records.len() as u64;
                if after >= read.head {
                    break;
                }
            }
            // Every publisher counts from 1, so no number may be there more often than there are publishers.
            doubles += found.values().map(|times| times.saturating_sub(PUBLISHERS as u64)).sum::<u64>();
        }
        doubles += stored.saturating_sub(self.acknowledged);
        holes += self.acknowledged.saturating_sub(stored);
        Ok((doubles, holes))
    }
}

async fn bare(connection: &MultiplexedConnection, script: &str, turn: usize) -> Result<u64, Failed> {
    let left = Arc::new(AtomicU64::new(PUBLISHES as u64));
    // As many calls under way as the engine without groups has: one for each room.
    let tasks: Vec<_> = (0..ROOMS)
        .map(|at| {
            let (mut connection, left, script) = (connection.clone(), Arc::clone(&left), script.to_owned());
            tokio::spawn(async move {
                let (body, mut done) = (vec![0_u8; 256], 0_u64);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let mut cmd = redis::cmd("EVALSHA");
                    cmd.arg(&script).arg(3).arg(format!("bare:{at}")).arg(format!("bare:{at}:i:{turn}:{done}"));
                    cmd.arg(format!("bare:{at}:m")).arg(format!("bare:channel:{at}")).arg(&body);
                    cmd.query_async::<redis::Value>(&mut connection).await?;
                    done += 1;
                }
                Ok::<u64, redis::RedisError>(done)
            })
        })
        .collect();
    let mut done = 0;
    for task in join_all(tasks).await {
        done += task??;
    }
    Ok(done)
}

/// CPU time of the Redis so far, µs, and calls of scripts.
async fn spent(connection: &mut MultiplexedConnection) -> Result<(f64, f64), Failed> {
    let mut info = String::new();
    for section in ["cpu", "commandstats"] {
        info += &redis::cmd("INFO").arg(section).query_async::<String>(connection).await?;
    }
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().to_owned()
    };
    let seconds = |name: &str| field(name).trim().parse::<f64>().unwrap_or_default();
    let calls = field("cmdstat_evalsha");
    let calls = calls.strip_prefix("calls=").and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or_default();
    Ok(((seconds("used_cpu_user") + seconds("used_cpu_sys")) * 1e6, calls))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let (_server, url) = own_redis()?;
    let clock = Clock::system();
    let mut operator = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let script: String = redis::cmd("SCRIPT").arg("LOAD").arg(BARE).query_async(&mut operator).await?;
    let connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let mut drain = redis::Client::open(url.as_str())?.get_async_pubsub().await?;
    for at in 0..ROOMS {
        drain.subscribe(format!("bare:channel:{at}")).await?;
    }
    let drained = tokio::spawn(async move {
        use futures_util::StreamExt as _;
        drain.into_on_message().for_each(|_| std::future::ready(())).await;
    });
    let mut ways = [Way::new(&url, "grouped", 32).await?, Way::new(&url, "single", 1).await?];
    let names = ["grouped", "one by one", "bare script"];
    let (mut cpu, mut sizes) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for turn in 0..=TURNS {
        for which in 0..3 {
            let before = spent(&mut operator).await?;
            let published = match ways.get_mut(which) {
                Some(way) => way.load().await?,
                None => bare(&connection, &script, turn).await?,
            } as f64;
            let after = spent(&mut operator).await?;
            // The first turn warms up.
            if turn > 0 {
                cpu[which].push((after.0 - before.0) / published);
                sizes[which].push(published / (after.1 - before.1).max(1.0));
            }
        }
    }
    drained.abort();
    println!("{:<12} {:>22} {:>14} {:>11}", "", "Redis µs per publish", "publishes/call", "least..most");
    let mut medians = [0.0; 3];
    for which in 0..3 {
        medians[which] = median(&mut cpu[which]);
        let ends = (cpu[which].first().copied().unwrap_or_default(), cpu[which].last().copied().unwrap_or_default());
        println!(
            "{:<12} {:>22.2} {:>14.1} {:>5.2}..{:.2}",
            names[which],
            medians[which],
            median(&mut sizes[which]),
            ends.0,
            ends.1
        );
    }
    println!("one by one / grouped: {:.2} (at least 1.8)", medians[1] / medians[0]);
    println!("one by one / bare script: {:.2} (at most 1.15)", medians[1] / medians[2]);
    let mut latencies = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (way, latencies) in ways.iter_mut().zip(&mut latencies) {
            latencies.extend(way.alone(&clock).await?);
        }
    }
    for (name, latencies) in names.iter().zip(&mut latencies) {
        latencies.sort_unstable();
        let at = |share: usize| latencies[latencies.len() * share / 100];
        println!("alone, {name}: p50 {} µs, p99 {} µs", at(50), at(99));
    }
    for (name, way) in names.iter().zip(&ways) {
        let (doubles, holes) = way.faults().await?;
        println!("{name}: {} acknowledged, {doubles} doubles, {holes} holes", way.acknowledged);
    }
    Ok(())
}
