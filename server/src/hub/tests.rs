//! The hub before an engine that is slow, counted and sometimes away.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use lanecast_protocol::log::{Append, Origin, Retention, Start};
use lanecast_protocol::position::{DurableLane, PerLane, Position};

use super::*;
use crate::engine::probe::Probe;
use crate::engine::{Engine, EngineError};
use crate::telemetry::labels::Source;
use crate::trace::Traces;

const NORMAL: DurableLane = DurableLane::Normal;

struct Bench {
    hub: Arc<Hub>,
    engine: Arc<Probe>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Bench {
    /// A hub whose engine takes 5 ms for every call.
    fn new() -> Self {
        Self::with(Policies::default())
    }

    fn with(policies: Policies) -> Self {
        let (clock, metrics) = (Clock::manual(1_800_000_000_000), Arc::new(Metrics::new()));
        let traces = Arc::new(Traces::new(clock.clone(), false));
        let hub = Arc::new(Hub::new(clock.clone(), Arc::clone(&metrics), Arc::default(), policies, traces));
        let engine = Arc::new(Probe::new(clock.clone(), Arc::clone(&hub) as Arc<dyn EngineSink>));
        hub.connect(Arc::clone(&engine) as Arc<dyn Engine>);
        engine.dials.delay_ms.store(5, Relaxed);
        Self { hub, engine, clock, metrics }
    }

    async fn append(&self, count: usize, bytes: usize) {
        let item = |_| Append {
            lane: NORMAL,
            origin: Origin::Unmarked,
            time_ms: self.clock.now_ms(),
            expires_at_ms: 0,
            event_type: "t".into(),
            tail: Bytes::from(vec![0x42; bytes]),
        };
        let keep = Retention { events_max: 10_000, age_ms_max: 86_400_000 };
        for outcome in self.engine.append("r", keep, (0..count).map(item).collect()).await {
            outcome.unwrap();
        }
    }

    async fn epoch(&self) -> u64 {
        self.engine.head("r").await.unwrap().position.epoch
    }

    async fn at(&self, seq: u64) -> Start {
        Start::Position(Position::new(self.epoch().await, PerLane([0, seq, 0])))
    }

    async fn subscribe(&self, start: Start) -> Result<Subscription, EngineError> {
        let interest = Interest { start, transients: None, signals: false, types: TypeFilter::All, live: false };
        // The mailbox is forgotten, not left: the room keeps it.
        self.hub.subscribe("r", interest, &Arc::default()).await
    }

    /// Subscribes and reads to the head, as sessions do; returns the seqs.
    fn resume(self: &Arc<Self>, start: Start) -> tokio::task::JoinHandle<(bool, Vec<u64>)> {
        let bench = Arc::clone(self);
        tokio::spawn(async move {
            let Subscription { room, handle, opened } = bench.subscribe(start).await.unwrap();
            let mut after = opened.log.position.normal;
            let mut seqs = Vec::new();
            while after < opened.log.head.normal {
                let out = bench.hub.read(&room, handle, NORMAL, after, 4 * 1024).await.unwrap();
                seqs.extend(out.batch.events.iter().map(|event| event.seq));
                let last = seqs.last().copied().unwrap_or(after);
                assert!(last > after, "nothing came after {after}");
                after = last;
            }
            (opened.log.recovered, seqs)
        })
    }

    /// 100 subscribers resume at once, each from its place; checks that each gets all of it.
    async fn resume_all(self: &Arc<Self>, head: u64, place: impl Fn(u64) -> u64) {
        let epoch = self.epoch().await;
        let at = |from| Start::Position(Position::new(epoch, PerLane([0, from, 0])));
        let tasks: Vec<_> = (0..100).map(place).map(|from| (from, self.resume(at(from)))).collect();
        for (from, task) in tasks {
            let (recovered, seqs) = task.await.unwrap();
            assert!(recovered, "from {from}");
            assert_eq!(seqs, (from + 1..=head).collect::<Vec<_>>());
        }
    }

    fn calls(&self) -> (u64, u64) {
        (self.engine.dials.opens.load(Relaxed), self.engine.dials.reads.load(Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_inside_the_cache_asks_nobody() {
    // LC-RES-002
    let bench = Arc::new(Bench::new());
    bench.subscribe(Start::Live).await.unwrap();
    bench.append(400, 10).await;
    bench.resume_all(400, |number| number * 4).await;
    assert_eq!(bench.calls(), (1, 0), "the one who was there before");
    assert_eq!(bench.engine.dials.follows.load(Relaxed), 1);
    assert_eq!(bench.metrics.room_opens.of(Source::Cache).get(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_resume_beyond_the_cache_read_the_log_once() {
    let bench = Arc::new(Bench::new());
    bench.subscribe(Start::Live).await.unwrap();
    bench.append(1_500, 10).await;
    // The cache has the newest 512: they miss 988 of the log, from one place.
    bench.resume_all(1_500, |_| 0).await;
    let (opens, reads) = bench.calls();
    assert!(opens <= 1 + 2 && reads <= 5, "{opens} opens, {reads} reads");
    // And now each from another place.
    bench.clock.advance(Duration::from_secs(3));
    bench.resume_all(1_500, |number| number * 7 + 13).await;
    let (all_opens, all_reads) = bench.calls();
    assert!(all_opens - opens <= 100 && all_reads - reads <= 5, "{} reads", all_reads - reads);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_knows_nothing_of_a_room_reads_its_tail_once() {
    // After a restart the clients of the former node come, all a little behind.
    let bench = Arc::new(Bench::new());
    bench.append(1_100, 10).await;
    bench.engine.dials.blind.store(true, Relaxed);
    bench.resume_all(1_100, |number| 1_099 - number).await;
    let (opens, reads) = bench.calls();
    assert!(opens <= 100 && reads <= 2, "{opens} opens, {reads} reads");
    assert!(bench.metrics.room_reads.of(Source::Shared).get() >= 98);
}

#[tokio::test(start_paused = true)]
async fn large_events_are_read_from_where_a_reader_is() {
    let bench = Arc::new(Bench::new());
    bench.append(190, 60_000).await;
    bench.engine.dials.blind.store(true, Relaxed);
    bench.resume_all(190, |_| 150).await;
    let (_, reads) = bench.calls();
    // Two fit into a page: 20 pages, and one that showed how large they are.
    assert!(reads <= 22, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn a_page_is_read_ahead_and_the_one_before_serves_meanwhile() {
    // LC-LANE-007
    let bench = Arc::new(Bench::new());
    bench.append(1_000, 100).await;
    let sub = bench.subscribe(Start::Beginning).await.unwrap();
    bench.engine.dials.blind.store(true, Relaxed);
    let read = async |after| bench.hub.read(&sub.room, sub.handle, NORMAL, after, 1_000).await.unwrap();
    assert_eq!(read(0).await.ahead, None, "most of the page is left, and nobody came back for it");
    let ahead = read(10).await.ahead;
    assert_eq!((ahead, bench.calls().1), (Some(200), 1));
    let reading = {
        let (bench, room) = (Arc::clone(&bench), Arc::clone(&sub.room));
        tokio::spawn(async move { bench.hub.read_ahead(&room, sub.handle, NORMAL, 200).await })
    };
    tokio::task::yield_now().await;
    let from_page = bench.hub.read_log(&sub.room, sub.handle, NORMAL, 160, 1_000).now_or_never();
    assert_eq!(from_page.expect("nobody waits for it").unwrap().batch.events[0].seq, 161);
    reading.await.unwrap();
    let next = bench.hub.read_log(&sub.room, sub.handle, NORMAL, 200, 1_000).now_or_never();
    assert_eq!(next.expect("it was read ahead").unwrap().batch.events[0].seq, 201);
    bench.hub.read_ahead(&sub.room, sub.handle, NORMAL, 200).await;
    assert_eq!(bench.calls().1, 2, "what is there is not read again");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_trimmed_is_not_served_from_a_page() {
    // LC-RES-003
    let text = "[[policies]]\nrooms = \"**\"\nretention_events = 1000\n";
    let bench = Arc::new(Bench::with(crate::config::Config::parse("test", text).unwrap().policies));
    bench.append(1_000, 10).await;
    let sub = bench.subscribe(Start::Beginning).await.unwrap();
    let read = async || bench.hub.read(&sub.room, sub.handle, NORMAL, 0, 100).await.unwrap().batch;
    assert_eq!(read().await.events[0].seq, 1);
    bench.append(1, 10).await;
    read().await;
    assert_eq!(bench.calls().1, 2, "the page has seq 1, which the log need not have any more");
}

#[tokio::test(start_paused = true)]
async fn an_epoch_ends_what_was_read_before_it() {
    // LC-RES-010
    let bench = Arc::new(Bench::new());
    bench.append(1_000, 10).await;
    let former = bench.subscribe(bench.at(0).await).await.unwrap();
    bench.hub.read(&former.room, former.handle, NORMAL, 0, 100).await.unwrap();
    let place = bench.at(0).await;
    bench.engine.renew("r").await;
    let nothing = bench.hub.read(&former.room, former.handle, NORMAL, 0, 100).await.unwrap();
    assert_eq!((nothing.batch.events.len(), nothing.more), (0, false));
    // All who are at one place cost one opening, and a second for those who came while it was under way.
    let (opens, _) = bench.calls();
    let tasks: Vec<_> = (0..100).map(|_| bench.resume(place)).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().1.len(), 1_000);
    }
    assert!(bench.calls().0 - opens <= 2, "{} opens", bench.calls().0 - opens);
}

#[tokio::test(start_paused = true)]
async fn a_glance_of_another_epoch_serves_nobody() {
    // LC-RES-002
    let bench = Arc::new(Bench::new());
    bench.subscribe(Start::Live).await.unwrap();
    bench.append(10, 10).await;
    let place = bench.at(5).await;
    bench.engine.renew("r").await;
    let opened = bench.subscribe(place).await.unwrap().opened;
    assert_eq!(opened.log.position.epoch, bench.epoch().await);
    assert_eq!(bench.calls().0, 2, "the engine was asked");
}

#[tokio::test(start_paused = true)]
async fn a_position_beyond_the_head_is_the_engines_to_judge() {
    // LC-RES-012
    let bench = Arc::new(Bench::new());
    bench.subscribe(Start::Live).await.unwrap();
    bench.append(10, 10).await;
    let opened = bench.subscribe(bench.at(12).await).await.unwrap().opened;
    assert!(!opened.log.recovered);
    assert_eq!(opened.log.rolled_back.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hung_engine_fails_all_who_wait_at_once() {
    let bench = Arc::new(Bench::new());
    bench.append(1_000, 10).await;
    let sub = bench.subscribe(Start::Beginning).await.unwrap();
    bench.engine.dials.blind.store(true, Relaxed);
    bench.engine.dials.hang("r");
    let tasks: Vec<_> = (0..100_u64)
        .map(|number| {
            let (hub, room, handle) = (Arc::clone(&bench.hub), Arc::clone(&sub.room), sub.handle);
            tokio::spawn(async move { hub.read(&room, handle, NORMAL, number, 100).await.is_err() })
        })
        .collect();
    let all = async {
        for task in tasks {
            assert!(task.await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.expect("one after the other they would take 200 s");
}

#[tokio::test(start_paused = true)]
async fn a_room_that_is_let_go_is_followed_again_for_who_comes_meanwhile() {
    let bench = Arc::new(Bench::new());
    let mailbox = Arc::new(Mailbox::default());
    let interest =
        || Interest { start: Start::Live, transients: None, signals: false, types: TypeFilter::All, live: false };
    let sub = bench.hub.subscribe("r", interest(), &mailbox).await.unwrap();
    bench.hub.leave(&sub.room, &mailbox);
    bench.clock.advance(Duration::from_millis(LINGER_MS));
    let sweeping = {
        let hub = Arc::clone(&bench.hub);
        tokio::spawn(async move { hub.sweep().await })
    };
    tokio::task::yield_now().await;
    // The engine is letting the room go.
    bench.hub.subscribe("r", interest(), &mailbox).await.unwrap();
    sweeping.await.unwrap();
    bench.append(1, 10).await;
    assert_eq!(mailbox.take_marks().len(), 1, "it hears of the event");
    assert_eq!(bench.hub.rooms(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_dropped_leaves_the_room() {
    let bench = Arc::new(Bench::new());
    bench.engine.dials.hang("r");
    let waits = tokio::time::timeout(Duration::from_millis(100), bench.subscribe(Start::Live)).await;
    assert!(waits.is_err());
    let room = bench.hub.find("r").unwrap();
    assert!(room.is_empty());
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_of_a_store_that_is_away_for_longer_than_a_moment() {
    // LC-SUB-018
    let bench = Arc::new(Bench::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let watching = {
        let (hub, told) = (Arc::clone(&bench.hub), Arc::clone(&told));
        tokio::spawn(async move { hub.watch_store(|| told.lock().push(hub.is_degraded())).await })
    };
    let wait = async |ms| tokio::time::sleep(Duration::from_millis(ms)).await;
    wait(10).await;
    for _ in 0..5 {
        bench.engine.set_away(true);
        wait(900).await;
        bench.engine.set_away(false);
        wait(100).await;
    }
    assert_eq!(*told.lock(), [false; 0], "a moment");
    bench.engine.set_away(true);
    wait(1_100).await;
    assert_eq!((told.lock().clone(), bench.metrics.degraded.get()), (vec![true], 1));
    bench.engine.set_away(false);
    wait(10).await;
    assert_eq!((told.lock().clone(), bench.metrics.degraded.get()), (vec![true, false], 0));
    watching.abort();
}
