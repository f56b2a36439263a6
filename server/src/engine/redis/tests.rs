//! The engine on a real Redis: the contract suite, and what a shared store adds to it.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use DurableLane::Normal;
use bytes::BytesMut;
use futures_util::StreamExt;
use lanecast_protocol::log::{Numbers, Origin, Publisher, RolledBack};
use lanecast_protocol::lossy::SignalKey;
use lanecast_protocol::position::{PerLane, Position};
use parking_lot::Mutex;
use redis_protocol::codec::Resp3;
use redis_protocol::resp3::types::BytesFrame;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Encoder, FramedRead};

use super::*;
use crate::engine::MemoryOptions;
use crate::engine::contract::recorder::{Recorder, Told};
use crate::engine::contract::{Started, Subject};

/// A Redis that ends with this process: the shell waits for the end of its input, which this process holds open.
pub(crate) struct Server {
    process: Child,
    port: u16,
    options: Vec<String>,
    pub(crate) url: String,
}

impl Server {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If redis-server is not installed or does not answer: `./test` installs it.
    pub(crate) fn start(options: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let server =
            Self { process: Self::spawn(port, &options), port, options, url: format!("redis://127.0.0.1:{port}") };
        server.wait();
        server
    }

    fn spawn(port: u16, options: &[String]) -> Child {
        Command::new("sh")
            .args(["-c", "redis-server \"$@\" > /dev/null & read _; kill -9 $!; wait", "redis"])
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(options)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts")
    }

    fn wait(&self) {
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no redis-server answers: install Debian's package redis-server");
    }

    /// Kills it.
    fn kill(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }

    /// Starts it again where it was.
    fn start_again(&mut self) {
        self.process = Self::spawn(self.port, &self.options);
        self.wait();
    }

    /// The one that tests share, each with a prefix of its own.
    pub(crate) fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(&["--appendonly", "no", "--dir", "/tmp"]))
    }

    /// Options for a store of its own in this Redis.
    pub(crate) fn options(&self) -> RedisOptions {
        let prefix = format!("t{:08x}", rand::random::<u32>());
        RedisOptions {
            url: self.url.as_str().into(),
            prefix: prefix.into(),
            beside_others: true,
            ..RedisOptions::default()
        }
    }

    /// Deletes the revocations of a store, as a Redis that lost its data has none.
    pub(crate) async fn forget(&self, options: &RedisOptions) {
        let keys = Keys::new(&options.prefix, options.partitions).revocations();
        let words: Vec<&str> = ["DEL"].into_iter().chain(keys.iter().map(String::as_str)).collect();
        self.command(&words).await;
    }

    /// A command of an operator.
    pub(crate) async fn command(&self, words: &[&str]) -> Value {
        let client = redis::Client::open(&*self.url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query_async(&mut connection).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory for a Redis that keeps its data, gone with the test.
struct Data(std::path::PathBuf);

impl Data {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("lanecast-redis-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An engine and what it told.
struct Node {
    engine: RedisEngine,
    sink: Arc<Recorder>,
}

impl Node {
    async fn start(options: &RedisOptions) -> Self {
        let sink = Arc::new(Recorder::default());
        let engine = RedisEngine::start(options.clone(), Clock::system(), sink.clone()).await.unwrap();
        let node = Self { engine, sink };
        node.ready().await;
        node
    }

    /// Waits until all connections are there.
    async fn ready(&self) {
        let inner = &self.engine.inner;
        until(|| inner.link.is_up() && inner.events.is_settled() && inner.signals.is_settled()).await;
    }

    async fn settle(&self) {
        self.engine.inner.settled().await;
    }

    /// Stores events of a lane one by one.
    async fn store(&self, room: &str, count: usize) -> Vec<Numbers> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            match self.engine.append(room, KEEP, vec![item()]).await.remove(0) {
                Ok(Outcome::Stored(stored)) => numbers.push(stored),
                other => panic!("{other:?}"),
            }
        }
        numbers
    }

    async fn follow(&self, room: &str) -> Position {
        self.engine.subscribe(room).await.unwrap();
        self.engine.open(room, Start::Live, None).await.unwrap().log.position
    }

    async fn resume(&self, room: &str, position: Position) -> lanecast_protocol::log::Opened {
        self.engine.open(room, Start::Position(position), None).await.unwrap().log
    }

    /// The seqs that were told since the last call, and what else.
    fn told(&self) -> (Vec<u64>, Vec<Told>) {
        let (mut seqs, mut others) = (Vec::new(), Vec::new());
        for told in self.sink.take() {
            match told {
                Told::Appended { record, .. } => seqs.push(record.seq),
                other => others.push(other),
            }
        }
        (seqs, others)
    }
}

const KEEP: Retention = Retention { events_max: 10_000, age_ms_max: 3_600_000 };
const ROOM: &str = "room";

fn item() -> Append {
    Append {
        lane: Normal,
        origin: Origin::Unmarked,
        time_ms: 1,
        expires_at_ms: 0,
        event_type: "t".into(),
        tail: Bytes::from("tail"),
    }
}

fn transient() -> Transient {
    Transient { lane: Normal, expires_at_ms: 0, event_type: "t".into(), tail: Bytes::from("tail") }
}

fn lost(epoch: u64, from: u64, to: u64) -> RolledBack {
    RolledBack { epoch, lane: Normal, from, to: Some(to) }
}

/// Waits for something that other tasks bring about; a test that hangs has failed.
async fn until(mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it comes about within 20 s");
}

#[tokio::test]
async fn what_one_node_stores_the_other_tells() {
    let options = Server::shared().options();
    let (one, other) = (Node::start(&options).await, Node::start(&options).await);
    other.follow(ROOM).await;
    one.store(ROOM, 20).await;
    one.engine.publish_transient(ROOM, transient()).await.unwrap();
    other.settle().await;
    let (seqs, others) = other.told();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    assert!(matches!(others[..], [Told::Transient { .. }]), "{others:?}");
    assert_eq!(other.engine.glance(ROOM).unwrap().head.normal, 20);
}

#[tokio::test]
async fn waiting_publishes_are_one_group() {
    let node = Node::start(&Server::shared().options()).await;
    let items = |count| (0..count).map(|_| node.engine.append(ROOM, KEEP, vec![item()]));
    let outcomes = futures_util::future::join_all(items(100)).await;
    assert!(outcomes.iter().flatten().all(|outcome| matches!(outcome, Ok(Outcome::Stored(_)))));
    let calls = node.engine.inner.append_calls.load(Ordering::Relaxed);
    assert!(calls <= 6, "100 publishes in groups of 32 took {calls} calls");
    assert_eq!(node.engine.head(ROOM).await.unwrap().position.normal, 100);
}

#[tokio::test]
async fn a_subscriber_that_is_killed_again_and_again_loses_nothing() {
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    let node = Node::start(&server.options()).await;
    node.follow(ROOM).await;
    for round in 0..8 {
        node.store(ROOM, 5).await;
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        node.store(ROOM, 5).await;
        node.engine.publish_transient(ROOM, transient()).await.unwrap();
        if round % 2 == 0 {
            node.ready().await;
        }
    }
    node.ready().await;
    node.settle().await;
    let (seqs, others) = node.told();
    assert_eq!(seqs, (1..=80).collect::<Vec<_>>());
    let transients = others.iter().map(|told| match told {
        Told::Transient { .. } => 1,
        Told::Missed { count: Some(count), .. } => *count,
        other => panic!("{other:?}"),
    });
    assert_eq!(transients.sum::<u64>(), 8, "told or counted");
}

/// An event with so many bytes.
fn sized(lane: DurableLane, bytes: usize) -> Append {
    Append { lane, tail: Bytes::from(vec![b'x'; bytes]), ..item() }
}

#[tokio::test]
async fn large_payloads_are_published_by_position_and_reach_other_nodes_once() {
    let options = Server::shared().options();
    let (one, other) = (Node::start(&options).await, Node::start(&options).await);
    other.follow(ROOM).await;
    let client = redis::Client::open(&*options.url).unwrap();
    let mut listener = client.get_async_pubsub().await.unwrap();
    listener.subscribe(one.engine.inner.keys.channel(Kind::Events, ROOM)).await.unwrap();
    let sizes = [10, 9_000, 20, 200_000, 30, 8_000, 64_000, 40];
    for bytes in sizes {
        let stored = one.engine.append(ROOM, KEEP, vec![sized(Normal, bytes)]).await.remove(0);
        assert!(matches!(stored, Ok(Outcome::Stored(_))), "{stored:?}");
    }
    // In one group: what follows a large one is announced with it.
    let group = sizes.map(|bytes| sized(DurableLane::Bulk, bytes)).to_vec();
    assert!(one.engine.append(ROOM, KEEP, group).await.iter().all(|outcome| matches!(outcome, Ok(Outcome::Stored(_)))));
    other.settle().await;
    let (mut told, mut others) = (PerLane::<Vec<(u64, usize)>>::default(), 0);
    for item in other.sink.take() {
        match item {
            Told::Appended { record, .. } => told[record.lane].push((record.seq, record.tail.len())),
            _ => others += 1,
        }
    }
    let expected: Vec<(u64, usize)> = (1..).zip(sizes).collect();
    assert_eq!((&told[Normal], &told[DurableLane::Bulk], others), (&expected, &expected, 0));
    let mut messages = listener.on_message();
    for _ in 0..=sizes.len() {
        let payload = messages.next().await.unwrap().get_payload_bytes().to_vec();
        assert!(payload.len() <= INLINE_RECORD_BYTES_MAX + 128, "{} bytes were published", payload.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_import_does_not_delay_urgent_publishes_of_the_same_node() {
    const ROOMS: usize = 20;
    const EVENTS: usize = 2_000;
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    let node = Arc::new(Node::start(&server.options()).await);
    let keep = Retention { events_max: 20, age_ms_max: 3_600_000 };
    let stored = Arc::new(AtomicU64::new(0));
    let began = Clock::system();
    let import = (0..EVENTS).map(|at| {
        let (node, stored) = (Arc::clone(&node), Arc::clone(&stored));
        tokio::spawn(async move {
            let room = format!("import {}", at % ROOMS);
            let outcome = node.engine.append(&room, keep, vec![sized(DurableLane::Bulk, 32 * 1024)]).await.remove(0);
            assert!(matches!(outcome, Ok(Outcome::Stored(_))), "{outcome:?}");
            stored.fetch_add(1, Ordering::Relaxed);
        })
    });
    let import: Vec<_> = import.collect();
    // How much of the import was stored, and how long it took, while each urgent event was.
    let (mut ahead, mut waits) = (Vec::new(), Vec::new());
    while stored.load(Ordering::Relaxed) < EVENTS as u64 {
        let (before, at) = (stored.load(Ordering::Relaxed), began.elapsed());
        let outcome = node.engine.append("calls", keep, vec![sized(DurableLane::Urgent, 200)]).await.remove(0);
        assert!(matches!(outcome, Ok(Outcome::Stored(_))), "{outcome:?}");
        ahead.push(stored.load(Ordering::Relaxed) - before);
        waits.push(began.elapsed() - at);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for task in import {
        task.await.unwrap();
    }
    let whole = began.elapsed();
    ahead.sort_unstable();
    waits.sort_unstable();
    let (ahead, wait) = (ahead[ahead.len() / 2], waits[waits.len() / 2]);
    eprintln!("{} urgent events: {wait:?} of {whole:?}, {ahead} of {EVENTS} before each", waits.len());
    assert!(ahead <= 40, "an urgent event waited for {ahead} of the import");
    assert!(wait * 10 <= whole, "an urgent event took {wait:?}, the whole import {whole:?}");
}

/// Passes bytes between an engine and its Redis, and takes single messages out.
struct Proxy {
    url: String,
    /// What must be in a message that is taken out, and how many were.
    filter: Arc<Mutex<(String, usize)>>,
}

impl Proxy {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let filter = Arc::new(Mutex::new((String::new(), 0)));
        let (of_task, port) = (Arc::clone(&filter), server.port);
        drop(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let redis = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (from_client, mut to_client) = client.into_split();
                let (from_redis, mut to_redis) = redis.into_split();
                let filter = Arc::clone(&of_task);
                drop(tokio::spawn(async move {
                    let mut from_client = from_client;
                    tokio::io::copy(&mut from_client, &mut to_redis).await
                }));
                drop(tokio::spawn(async move {
                    let mut from_redis = FramedRead::new(from_redis, Resp3::default());
                    let mut encoder = Resp3::default();
                    while let Some(Ok(frame)) = from_redis.next().await {
                        if takes_out(&filter, &frame) {
                            continue;
                        }
                        let mut bytes = BytesMut::new();
                        encoder.encode(frame, &mut bytes).unwrap();
                        if to_client.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                }));
            }
        }));
        Self { url, filter }
    }

    fn take_out(&self, what: &str) {
        *self.filter.lock() = (what.to_owned(), 0);
    }

    fn taken(&self) -> usize {
        self.filter.lock().1
    }
}

fn takes_out(filter: &Mutex<(String, usize)>, frame: &BytesFrame) -> bool {
    let BytesFrame::Push { data, .. } = frame else { return false };
    let [_, BytesFrame::BlobString { data: channel, .. }, BytesFrame::BlobString { .. }] = &data[..] else {
        return false;
    };
    let mut filter = filter.lock();
    let takes = !filter.0.is_empty() && String::from_utf8_lossy(channel).ends_with(&filter.0);
    filter.1 += usize::from(takes);
    takes
}

#[tokio::test]
async fn messages_lost_on_one_channel_are_found_though_the_room_is_idle() {
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    let proxy = Proxy::start(&server).await;
    let options = server.options();
    let node = Node::start(&RedisOptions { url: proxy.url.as_str().into(), ..options.clone() }).await;
    let other = Node::start(&options).await;
    node.follow(ROOM).await;
    let now_ms = Clock::system().now_ms();
    let key = SignalKey { sender: "ann".into(), kind: "typing".into(), key: "k".into() };
    let signal = Signal { key, start: 0, counter: 1, expires_at_ms: now_ms + 60_000, clear: false, tail: Bytes::new() };
    proxy.take_out(&format!(":{ROOM}"));
    other.store(ROOM, 1).await;
    other.engine.publish_transient(ROOM, transient()).await.unwrap();
    other.engine.signal(ROOM, signal).await.unwrap();
    until(|| proxy.taken() == 3).await;
    proxy.take_out("");
    assert_eq!(node.told(), (vec![], vec![]));
    // Nothing else happens in the room: only the audit can find them.
    let mut all = (Vec::new(), Vec::new());
    until(|| {
        let (seqs, others) = node.told();
        all.0.extend(seqs);
        all.1.extend(others);
        all.0.len() + all.1.len() == 3
    })
    .await;
    assert_eq!(all.0, [1]);
    let missed = Told::Missed { room: ROOM.into(), lane: Normal, count: Some(1) };
    assert!(all.1.contains(&missed), "{:?}", all.1);
    assert!(all.1.iter().any(|told| matches!(told, Told::Signal { .. })), "{:?}", all.1);
}

#[tokio::test]
async fn a_restart_that_lost_nothing_is_noticed_by_nobody() {
    let data = Data::new();
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always", "--dir", data.path()]);
    let node = Node::start(&server.options()).await;
    node.follow(ROOM).await;
    let before = node.store(ROOM, 10).await[0].epoch;
    node.settle().await;
    server.kill();
    until(|| !node.engine.inner.link.is_up()).await;
    assert!(matches!(node.engine.append(ROOM, KEEP, vec![item()]).await[..], [Err(EngineError::Unavailable { .. })]));
    server.start_again();
    node.ready().await;
    let after = node.store(ROOM, 5).await;
    node.settle().await;
    assert!(after[0].epoch > before && after[0].seq == 11);
    let (seqs, others) = node.told();
    assert_eq!(seqs, (1..=15).collect::<Vec<_>>());
    assert_eq!(others, [Told::Epoch { room: ROOM.into(), epoch: after[0].epoch }]);
    let resumed = node.resume(ROOM, Position { epoch: before, normal: 7, ..Position::default() }).await;
    assert!(resumed.recovered && resumed.rolled_back.is_empty());
    assert_eq!(resumed.position, Position { epoch: after[0].epoch, normal: 7, ..Position::default() });
}

/// Ten events survive in a dump, fifteen were seen.
async fn roll_back(server: &mut Server, data: &Data, node: &Node) -> u64 {
    let epoch = node.store(ROOM, 10).await[0].epoch;
    server.command(&["SAVE"]).await;
    std::fs::copy(data.0.join("dump.rdb"), data.0.join("older.rdb")).unwrap();
    node.store(ROOM, 5).await;
    node.settle().await;
    server.kill();
    std::fs::rename(data.0.join("older.rdb"), data.0.join("dump.rdb")).unwrap();
    until(|| !node.engine.inner.link.is_up()).await;
    server.start_again();
    node.ready().await;
    epoch
}

#[tokio::test]
async fn an_older_dump_takes_back_exactly_what_it_lacks() {
    let data = Data::new();
    let mut server = Server::start(&["--appendonly", "no", "--dir", data.path()]);
    let options = server.options();
    let node = Node::start(&options).await;
    node.follow(ROOM).await;
    let before = roll_back(&mut server, &data, &node).await;
    until(|| node.engine.glance(ROOM).is_some()).await;
    let (seqs, others) = node.told();
    let [Told::Epoch { epoch, .. }] = others[..] else { panic!("{others:?}") };
    assert_eq!((seqs.len(), node.engine.glance(ROOM).unwrap().head.normal), (15, 10));
    let at = |normal| Position { epoch: before, normal, ..Position::default() };
    for (asked, to) in [(12, 15), (15, 15), (10, 15), (3, 15), (19, 19)] {
        let resumed = node.resume(ROOM, at(asked)).await;
        assert_eq!(resumed.rolled_back, [lost(before, 11, to)], "at {asked}");
        assert_eq!(resumed.position, Position { epoch, normal: asked.min(10), ..Position::default() });
    }
    assert_eq!(node.store(ROOM, 1).await[0].seq, 11);
}

#[tokio::test]
async fn what_another_node_saw_is_lost_too() {
    let data = Data::new();
    let mut server = Server::start(&["--appendonly", "no", "--dir", data.path()]);
    let options = server.options();
    // It follows nothing, and was acknowledged what it stored: 15 events, of which 10 survive.
    let writer = Node::start(&options).await;
    let before = roll_back(&mut server, &data, &writer).await;
    let newcomer = Node::start(&options).await;
    let at = Position { epoch: before, normal: 10, ..Position::default() };
    assert_eq!(newcomer.resume(ROOM, at).await.rolled_back, [lost(before, 11, 15)]);
    // One who saw more and comes later is heard too.
    let (room, _) = newcomer.engine.inner.rooms.enter(ROOM);
    room.told.lock().pretend(Seen { epoch: before, first: PerLane([1; 3]), heads: PerLane([0, 17, 0]) });
    assert_eq!(newcomer.resume(ROOM, at).await.rolled_back, [lost(before, 11, 17)]);
}

#[tokio::test]
async fn nodes_wait_for_one_another_before_they_go_on_after_a_restart() {
    let data = Data::new();
    let mut server = Server::start(&["--appendonly", "no", "--dir", data.path()]);
    let options = server.options();
    let (writer, reader) = (Node::start(&options).await, Node::start(&options).await);
    for (node, name) in [(&writer, "writer"), (&reader, "reader"), (&writer, "writer")] {
        node.engine.announce(Lease { node: name.into(), ..Lease::default() }).await.unwrap();
    }
    reader.follow(ROOM).await;
    let before = writer.store(ROOM, 10).await[0].epoch;
    reader.settle().await;
    server.command(&["SAVE"]).await;
    // The reader does not hear of the last five: its connection is gone, and Redis before it is back.
    reader.engine.inner.events.release(&reader.engine.inner.keys.channel(Kind::Events, ROOM));
    until(|| reader.engine.inner.events.is_settled()).await;
    writer.store(ROOM, 5).await;
    server.kill();
    until(|| !reader.engine.inner.link.is_up() && !writer.engine.inner.link.is_up()).await;
    server.start_again();
    until(|| reader.engine.inner.link.is_up()).await;
    let at = Position { epoch: before, normal: 10, ..Position::default() };
    assert_eq!(reader.resume(ROOM, at).await.rolled_back, [lost(before, 11, 15)]);
}

#[tokio::test]
async fn after_flushall_everything_that_was_seen_is_taken_back() {
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    let node = Node::start(&server.options()).await;
    let idle = node.follow("idle").await;
    node.follow(ROOM).await;
    let before = node.store(ROOM, 10).await[0].epoch;
    node.settle().await;
    server.command(&["FLUSHALL"]).await;
    // Another node, that knows nothing, is the first to store again.
    let other = Node::start(&node.engine.inner.options).await;
    let after = other.store(ROOM, 2).await;
    assert!(after[0].epoch > before && after[0].seq == 1);
    node.settle().await;
    until(|| node.engine.glance(ROOM).is_some_and(|glance| glance.head.epoch == after[0].epoch)).await;
    let at = Position { epoch: before, normal: 7, ..Position::default() };
    let resumed = node.resume(ROOM, at).await;
    assert_eq!(resumed.rolled_back, [lost(before, 1, 10)]);
    assert_eq!(resumed.position, Position { epoch: after[0].epoch, ..Position::default() });
    let resumed = node.resume("idle", idle).await;
    assert!(resumed.rolled_back.is_empty() && resumed.recovered, "a room in which nothing was lost");
}

#[tokio::test]
async fn a_rollback_under_the_same_replication_id_is_seen() {
    let options = Server::shared().options();
    let node = Node::start(&options).await;
    node.follow(ROOM).await;
    let before = node.store(ROOM, 10).await[0].epoch;
    node.settle().await;
    let inner = &node.engine.inner;
    let server = Server::shared();
    server.command(&["XTRIM", &inner.keys.log(ROOM, Normal), "MAXLEN", "0"]).await;
    server.command(&["HSET", &inner.keys.meta(ROOM), "n", "4", "o", "4"]).await;
    // The stream remembers its last id, but an older dump would not.
    server.command(&["DEL", &inner.keys.log(ROOM, Normal)]).await;
    let after = node.store(ROOM, 1).await;
    assert!(after[0].epoch > before && after[0].seq == 5);
    let at = Position { epoch: before, normal: 10, ..Position::default() };
    assert_eq!(node.resume(ROOM, at).await.rolled_back, [lost(before, 5, 10)]);
}

#[tokio::test]
async fn an_evicted_record_of_the_room_loses_no_events() {
    let options = Server::shared().options();
    let node = Node::start(&options).await;
    node.follow(ROOM).await;
    let before = node.store(ROOM, 10).await[0].epoch;
    node.settle().await;
    Server::shared().command(&["DEL", &node.engine.inner.keys.meta(ROOM)]).await;
    let after = node.store(ROOM, 1).await;
    assert_eq!((after[0].seq, after[0].order), (11, 11));
    let resumed = node.resume(ROOM, Position { epoch: before, normal: 4, ..Position::default() }).await;
    assert!(resumed.recovered, "{resumed:?}");
}

#[tokio::test]
async fn an_evicted_log_is_a_gap_and_the_numbers_go_on() {
    let options = Server::shared().options();
    let node = Node::start(&options).await;
    node.follow(ROOM).await;
    let epoch = node.store(ROOM, 10).await[0].epoch;
    node.settle().await;
    Server::shared().command(&["DEL", &node.engine.inner.keys.log(ROOM, Normal)]).await;
    let after = node.store(ROOM, 1).await;
    assert_eq!((after[0].epoch, after[0].seq), (epoch, 11));
    let read = node.engine.read(ROOM, Normal, 3, 99, 9999).await.unwrap();
    assert_eq!((read.first, read.head, read.records.len()), (11, 11, 1));
    let resumed = node.resume(ROOM, Position { epoch, normal: 4, ..Position::default() }).await;
    assert!(!resumed.recovered && resumed.rolled_back.is_empty());
}

#[tokio::test]
async fn while_redis_is_away_the_nodes_own_clients_get_transients_and_signals() {
    let data = Data::new();
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always", "--dir", data.path()]);
    let options = server.options();
    let (node, other) = (Node::start(&options).await, Node::start(&options).await);
    node.follow(ROOM).await;
    other.follow(ROOM).await;
    server.kill();
    until(|| !node.engine.inner.link.is_up() && !other.engine.inner.link.is_up()).await;
    for _ in 0..3 {
        node.engine.publish_transient(ROOM, transient()).await.unwrap();
    }
    assert_eq!(node.told().1.len(), 3);
    // One that reaches nobody, and that no count could make up for, is not acknowledged.
    assert!(node.engine.publish_transient("unfollowed", transient()).await.is_err());
    assert!(node.engine.open(ROOM, Start::Live, None).await.is_err());
    server.start_again();
    node.ready().await;
    other.ready().await;
    // The clients of the other node learn that they missed them, as soon as this one has said so.
    let mut missed = 0;
    until(|| {
        missed += other.told().1.iter().fold(0, |sum, told| match told {
            Told::Missed { count: Some(count), .. } => sum + count,
            _ => sum,
        });
        missed == 3
    })
    .await;
    node.settle().await;
    let others: Vec<_> = node.told().1.into_iter().filter(|told| matches!(told, Told::Missed { .. })).collect();
    assert_eq!(others, [], "its own got them");
}

#[tokio::test]
async fn a_full_memory_refuses_what_is_new_and_nothing_else() {
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    let node = Node::start(&server.options()).await;
    node.follow(ROOM).await;
    node.store(ROOM, 3).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = node.engine.append(ROOM, KEEP, vec![item()]).await.remove(0);
    assert!(matches!(refused, Err(EngineError::Full { .. })), "{refused:?}");
    assert_eq!(node.engine.read(ROOM, Normal, 0, 99, 9999).await.unwrap().records.len(), 3);
    assert_eq!(node.engine.open(ROOM, Start::Beginning, None).await.unwrap().log.head.normal, 3);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(node.store(ROOM, 1).await[0].seq, 4);
}

#[tokio::test]
async fn a_replicated_publish_waits_for_the_replica() {
    // LC-PUB-030
    let primary = Server::start(&["--appendonly", "no", "--dir", "/tmp", "--repl-diskless-sync-delay", "0"]);
    let data = Data::new();
    let port = primary.port.to_string();
    let replica = ["--appendonly", "no", "--dir", data.path(), "--replicaof", "127.0.0.1", &port];
    let mut replica = Server::start(&replica);
    let node = Node::start(&RedisOptions { replicas: 1, ..primary.options() }).await;
    let numbered = || {
        let publisher = Publisher { user: "ann".into(), instance: "i".into() };
        Append { origin: Origin::Numbered { publisher, number: 1, after: 0 }, ..item() }
    };
    replica.kill();
    let refused = node.engine.append_replicated(ROOM, KEEP, vec![numbered()]).await;
    assert!(matches!(refused[..], [Err(EngineError::Unavailable { .. })]), "nobody confirmed: {refused:?}");
    replica.start_again();
    // The retry is a duplicate, and as good as its answer says: the replica has the first one now.
    let mut answer = refused;
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while answer[0].is_err() {
            answer = node.engine.append_replicated(ROOM, KEEP, vec![numbered()]).await;
        }
    });
    waited.await.unwrap();
    assert!(matches!(answer[..], [Ok(Outcome::Duplicate { first: Some(Numbers { seq: 1, .. }) })]), "{answer:?}");
    let on_replica = replica.command(&["XLEN", &node.engine.inner.keys.log(ROOM, Normal)]).await;
    assert_eq!(on_replica, Value::Int(1));
    assert_eq!(node.store(ROOM, 1).await[0].seq, 2, "others are not held up");
}

#[tokio::test]
async fn many_rooms_are_subscribed_again_and_looked_at() {
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    let options = server.options();
    let (node, other) = (Node::start(&options).await, Node::start(&options).await);
    let rooms: Vec<String> = (0..3_000).map(|at| format!("room.{at}")).collect();
    let subscribe = async |room: &String| {
        // On a machine that is busy it takes longer than a node lets its clients wait; who asks again finds it nearer.
        while node.engine.subscribe(room).await.is_err() {}
    };
    futures_util::future::join_all(rooms.iter().map(subscribe)).await;
    until(|| rooms.iter().all(|room| node.engine.glance(room).is_some())).await;
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    until(|| node.engine.glance(&rooms[0]).is_none()).await;
    for room in rooms.iter().step_by(100) {
        other.store(room, 2).await;
    }
    until(|| rooms.iter().all(|room| node.engine.glance(room).is_some())).await;
    // The last of them may be on their way to a room that was looked at before.
    let heads = || rooms.iter().map(|room| node.engine.glance(room).unwrap().head.normal).sum::<u64>();
    until(|| heads() >= 60).await;
    assert_eq!((heads(), node.told().0.len()), (60, 60));
}

pub(in crate::engine) struct RedisSubject;

#[async_trait]
impl Subject for RedisSubject {
    async fn start(&self, options: MemoryOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Started {
        let options = RedisOptions {
            room_signals_max: options.room_signals_max,
            revocations_max: options.revocations_max,
            ..Server::shared().options()
        };
        let engine = RedisEngine::start(options, clock, sink).await.unwrap();
        while !(engine.inner.events.is_settled() && engine.inner.signals.is_settled()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let inner = Arc::clone(&engine.inner);
        let settle = Box::new(move || {
            let inner = Arc::clone(&inner);
            Box::pin(async move { inner.settled().await }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        });
        Started { engine: Arc::new(engine), settle }
    }

    fn holds_rooms(&self) -> bool {
        false
    }
}
