//! How long a node needs to follow many rooms again after its subscriber connection broke, and what other traffic
//! notices of it. A program, not a test: machines differ.
//!
//! ```text
//! cargo run --release -p lanecast-server --example resubscribe -- [ROOMS] [redis://127.0.0.1:6379]
//! ```
//!
//! Without an address it starts a `redis-server` of its own. The Redis is written to, under a prefix of its own.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lanecast_protocol::log::{Append, Origin, Record, Retention, Start};
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::v1;
use lanecast_server::clock::Clock;
use lanecast_server::engine::{Engine, EngineSink, RedisEngine, RedisOptions, Signal, Transient};
use tokio::sync::Notify;

const ROUNDS: usize = 5;
const KEEP: Retention = Retention { events_max: 100, age_ms_max: 3_600_000 };

/// Wakes whoever waits for an event.
#[derive(Default)]
struct Sink(Notify);

impl EngineSink for Sink {
    fn appended(&self, _: &Arc<str>, _: u64, _: &Record) {
        self.0.notify_one();
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

fn own_redis() -> Result<(Server, String), Box<dyn std::error::Error>> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("sh")
        .args(["-c", "redis-server \"$@\" > /dev/null & read _; kill -9 $!; wait", "redis"])
        .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .stdin(Stdio::piped())
        .spawn()?;
    let server = Server(child);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((server, format!("redis://127.0.0.1:{port}")))
}

fn event() -> Append {
    Append {
        lane: DurableLane::Normal,
        origin: Origin::Unmarked,
        time_ms: 0,
        expires_at_ms: 0,
        event_type: "t".into(),
        tail: Bytes::from_static(&[0; 256]),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().unwrap_or_else(|| "50000".into()).parse()?;
    let (_server, url) = match args.next() {
        Some(url) => (None, url),
        None => own_redis().map(|(server, url)| (Some(server), url))?,
    };
    let prefix = format!("bench{:08x}", rand::random::<u32>());
    let options = RedisOptions {
        url: url.as_str().into(),
        prefix: prefix.into(),
        beside_others: true,
        ..RedisOptions::default()
    };
    let clock = Clock::system();
    let node = RedisEngine::start(options.clone(), clock.clone(), Arc::new(Sink::default())).await?;
    let sink = Arc::new(Sink::default());
    let other = Arc::new(RedisEngine::start(options, clock.clone(), sink.clone()).await?);

    let rooms: Vec<String> = (0..count).map(|at| format!("room.{at}")).collect();
    let begin = clock.elapsed();
    for batch in rooms.chunks(2_000) {
        let subscribed = futures_util::future::join_all(batch.iter().map(|room| node.subscribe(room))).await;
        subscribed.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    println!("{count} rooms followed for the first time in {:?}", clock.elapsed() - begin);
    wait_for_all(&node, &rooms).await;

    // Other traffic: an event every 5 ms through another node, from its publish to its arrival.
    let (stop, busy) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let traffic = tokio::spawn(traffic(other, sink, clock.clone(), (stop.clone(), busy.clone())));
    let client = redis::Client::open(url.as_str())?;
    let mut operator = client.get_multiplexed_async_connection().await?;
    let mut worst = Duration::ZERO;
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        busy.store(true, Ordering::Relaxed);
        let begin = clock.elapsed();
        let name = "lanecast-events";
        let list: String =
            redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("pubsub").query_async(&mut operator).await?;
        // The connection of the node with the many rooms: the one with the most subscriptions.
        let subscriptions = |line: &&str| field(line, "sub=").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        let busiest = list.lines().filter(|line| line.contains(name)).max_by_key(subscriptions).unwrap_or_default();
        let id = field(busiest, "id=").unwrap_or_default();
        let _: () = redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut operator).await?;
        while rooms.iter().step_by(997).any(|room| node.glance(room).is_some()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        wait_for_all(&node, &rooms).await;
        let took = clock.elapsed() - begin;
        busy.store(false, Ordering::Relaxed);
        worst = worst.max(took);
        println!("{count} rooms subscribed again and their heads checked in {took:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let (mut quiet, mut loaded) = traffic.await?;
    for (name, latencies) in [("meanwhile", &mut loaded), ("otherwise", &mut quiet)] {
        latencies.sort_unstable();
        let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or_default();
        let most = latencies.last().copied().unwrap_or_default();
        println!(
            "publish to arrival {name}: p50 {:?}, p99 {:?}, most {most:?}, {} events",
            at(50),
            at(99),
            latencies.len()
        );
    }
    println!("worst of {ROUNDS} rounds: {worst:?}");
    Ok(())
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(name))
}

async fn wait_for_all(node: &RedisEngine, rooms: &[String]) {
    let mut from = 0;
    while let Some(at) = rooms.iter().skip(from).position(|room| node.glance(room).is_none()) {
        from += at;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

type Flags = (Arc<AtomicBool>, Arc<AtomicBool>);

async fn traffic(
    engine: Arc<RedisEngine>,
    sink: Arc<Sink>,
    clock: Clock,
    (stop, busy): Flags,
) -> (Vec<Duration>, Vec<Duration>) {
    let (mut quiet, mut loaded) = (Vec::new(), Vec::new());
    let room = "traffic";
    if engine.subscribe(room).await.is_err() || engine.open(room, Start::Live, None).await.is_err() {
        return (quiet, loaded);
    }
    while !stop.load(Ordering::Relaxed) {
        let begin = clock.elapsed();
        engine.append(room, KEEP, vec![event()]).await;
        sink.0.notified().await;
        let latency = clock.elapsed() - begin;
        if busy.load(Ordering::Relaxed) {
            loaded.push(latency)
        } else {
            quiet.push(latency)
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (quiet, loaded)
}
