//! Overload: what a subscriber got, and what it was told that it will not get, are together what was published.
//!
//! Connections of a whole node over transports that take as little as a seed says, with queues of 2 KB. Time stands still
//! while they run and moves between the steps, so nothing here depends on how fast the machine is.

use std::collections::BTreeMap;

use lanecast_protocol::lossy::SignalKey;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::config::PolicyOptions;
use crate::engine::redis::tests::Server;
use crate::engine::{RedisEngine, Signal, Transient};

const ROOMS: [&str; 2] = ["a", "b"];
/// What the node keeps of a lane: less than a run publishes.
const KEEP: Retention = Retention { events_max: 12, age_ms_max: u64::MAX };
/// Bytes of each lane that wait in a session.
const LANE_BYTES: usize = 2_000;

#[derive(Default)]
struct WireState {
    /// Bytes that the peer still takes.
    allowance: usize,
    /// Something was handed over and is not written.
    busy: bool,
    waker: Option<Waker>,
    frames: Vec<v1::Frame>,
    /// Frames that were handed over after their time to live.
    late: usize,
}

/// A transport that takes what the test allows.
struct Wire {
    records: mpsc::UnboundedReceiver<Bytes>,
    state: Arc<Mutex<WireState>>,
    clock: Clock,
}

impl Transport for Wire {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        self.records.poll_recv(cx).map(received)
    }

    fn takes(&self) -> Lanes {
        if self.is_busy() { Lanes::NONE } else { Lanes::ALL }
    }

    fn is_busy(&self) -> bool {
        self.state.lock().busy
    }

    fn send(&mut self, bytes_max: usize, next: &mut Source<'_>) -> usize {
        let (mut state, mut bytes) = (self.state.lock(), 0);
        if state.busy {
            return 0;
        }
        while bytes < bytes_max
            && state.allowance > 0
            && let Some(output) = next(Lanes::ALL)
        {
            bytes += output.record.len();
            state.allowance = state.allowance.saturating_sub(output.record.len());
            state.busy = true;
            for frame in frames_of(output.record) {
                let expires_at_ms = match &frame.body {
                    Some(Body::Event(event)) => event.expires_at_ms,
                    Some(Body::Signal(signal)) => signal.expires_at_ms,
                    _ => 0,
                };
                state.late += usize::from(expires_at_ms != 0 && expires_at_ms <= self.clock.now_ms());
                state.frames.push(frame);
            }
        }
        bytes
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.state.lock();
        if state.allowance > 0 {
            state.busy = false;
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn start_close(&mut self, _: Code) {}
}

/// A subscriber, and how much it takes: nothing, or up to so many bytes at a time.
struct Subscriber {
    packets: mpsc::UnboundedSender<Bytes>,
    state: Arc<Mutex<WireState>>,
    bytes_max: usize,
}

impl Subscriber {
    fn allow(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.allowance = state.allowance.saturating_add(bytes);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn send(&self, id: u32, body: Body) {
        self.packets.send(codec::encode(&v1::Frame { id, body: Some(body) })).unwrap();
    }

    /// The rooms by handle, as it was told.
    fn rooms(&self) -> BTreeMap<u64, String> {
        let state = self.state.lock();
        let subscribed = state.frames.iter().filter_map(|frame| match &frame.body {
            Some(Body::Subscribed(frame)) => Some((frame.handle, frame.room.clone())),
            _ => None,
        });
        subscribed.collect()
    }
}

/// What was published to a lane of a room, or what of it reached a subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Account {
    /// Every seq that was delivered or covered, in the order in which it came.
    seqs: Vec<u64>,
    /// Transients that were delivered or counted.
    transients: u64,
}

type Accounts = BTreeMap<(String, DurableLane), Account>;

/// What a subscriber was told of: accounts, signals, and gaps by lane and cause.
#[derive(Default)]
struct Told {
    accounts: Accounts,
    signals: u64,
    gaps: BTreeMap<(i32, i32), u64>,
}

impl Told {
    fn of(subscriber: &Subscriber) -> Self {
        let (rooms, mut told) = (subscriber.rooms(), Self::default());
        for frame in &subscriber.state.lock().frames {
            match &frame.body {
                Some(Body::Event(event)) => {
                    let lane = DurableLane::from_wire(event.lane).unwrap();
                    let account = told.accounts.entry((rooms[&event.handle].clone(), lane)).or_default();
                    match event.seq {
                        0 => account.transients += 1,
                        seq => account.seqs.push(seq),
                    }
                }
                Some(Body::Gap(gap)) => {
                    *told.gaps.entry((gap.lane, gap.cause)).or_default() += 1;
                    let lane = DurableLane::from_wire(gap.lane).unwrap();
                    let account = told.accounts.entry((rooms[&gap.handle].clone(), lane)).or_default();
                    match gap.from {
                        0 => account.transients += gap.count,
                        from => account.seqs.extend(from..=gap.to),
                    }
                }
                Some(Body::Signal(_)) => told.signals += 1,
                _ => {}
            }
        }
        told
    }

    fn gaps_of(&self, cause: v1::GapCause) -> u64 {
        self.gaps.iter().filter(|((_, of), _)| *of == i32::from(cause)).map(|(_, count)| count).sum()
    }
}

/// How a run publishes.
#[derive(Clone, Copy)]
struct Load {
    steps: usize,
    /// Whether everything has a time to live, or a third of it.
    always_expires: bool,
}

/// A node, its subscribers, and what was published.
struct World {
    rng: SmallRng,
    clock: Clock,
    node: Arc<Node>,
    /// Where publishers are: this node, or another one on the same store.
    publisher: Arc<dyn Engine>,
    subscribers: Vec<Subscriber>,
    published: Accounts,
    signals: u64,
    expiring: u64,
}

impl World {
    fn config() -> Config {
        let mut config = Config { dev: true, ..Config::default() };
        config.heartbeat.idle_close_ms = 3_600_000;
        config.heartbeat.no_progress_ms = 3_600_000;
        let kept = PolicyOptions { retention_events: KEEP.events_max as u64, ..PolicyOptions::default() };
        config.policies = Policies::new(vec![(Pattern::new("**").unwrap(), kept)]);
        config
    }

    fn small(mut node: Node) -> Arc<Node> {
        node.session =
            Arc::new(lanecast_protocol::session::server::Config { lane_bytes: LANE_BYTES, ..(*node.session).clone() });
        Arc::new(node)
    }

    async fn in_memory(seed: u64) -> Self {
        let clock = Clock::manual(START_MS);
        let node = Self::small(Node::new(Self::config(), clock.clone()));
        let publisher = Arc::clone(node.hub.engine());
        Self::subscribed(seed, clock, node, publisher).await
    }

    /// Two nodes on a Redis: one for the subscribers, one for the publishers.
    async fn on_redis(seed: u64, server: &Server) -> Self {
        let (clock, options) = (Clock::manual(START_MS), server.options());
        let nodes = [(); 2].map(|()| Self::small(Node::without_engine(Self::config(), clock.clone())));
        for node in &nodes {
            let sink = Arc::clone(&node.hub) as Arc<dyn EngineSink>;
            let engine = RedisEngine::start(options.clone(), clock.clone(), sink).await.unwrap();
            node.hub.connect(Arc::new(engine));
        }
        let [node, other] = nodes;
        for room in ROOMS {
            // Connections to a busy Redis take a while; clients would be refused and ask again.
            while node.hub.engine().subscribe(room).await.is_err() {}
            while other.hub.engine().head(room).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let publisher = Arc::clone(other.hub.engine());
        Self::subscribed(seed, clock, node, publisher).await
    }

    async fn subscribed(seed: u64, clock: Clock, node: Arc<Node>, publisher: Arc<dyn Engine>) -> Self {
        let mut subscribers = Vec::new();
        for bytes_max in [usize::MAX, 6_000, 600] {
            let (packets, records) = mpsc::unbounded_channel();
            let state = Arc::new(Mutex::new(WireState { allowance: usize::MAX, ..WireState::default() }));
            let wire = Wire { records, state: Arc::clone(&state), clock: clock.clone() };
            let labels = (labels::Transport::WebSocket, labels::Encoding::Binary);
            let connection = Connection::new(Arc::clone(&node), wire, labels, ([127, 0, 0, 1], 0).into());
            drop(tokio::spawn(Box::new(connection).run()));
            let subscriber = Subscriber { packets, state, bytes_max };
            let (token, instance) = ("dev:ann".into(), "i".into());
            let hello = v1::Hello { version_min: 1, version_max: 1, token, instance, ..Default::default() };
            subscriber.send(1, Body::Hello(hello));
            for (id, room) in (2..).zip(ROOMS) {
                let subscribe = v1::Subscribe { room: room.into(), signals: true, ..Default::default() };
                subscriber.send(id, Body::Subscribe(subscribe));
            }
            subscribers.push(subscriber);
        }
        let rng = SmallRng::seed_from_u64(seed);
        let (published, signals, expiring) = (Accounts::new(), 0, 0);
        let world = Self { rng, clock, node, publisher, subscribers, published, signals, expiring };
        world.until(|| world.subscribers.iter().all(|subscriber| subscriber.rooms().len() == ROOMS.len())).await;
        for slow in &world.subscribers[1..] {
            let mut state = slow.state.lock();
            (state.allowance, state.busy) = (0, true);
        }
        world
    }

    /// Lets the tasks run until something holds, or nothing helps.
    async fn until(&self, holds: impl Fn() -> bool) {
        for _ in 0..20_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn expires_at_ms(&mut self, load: Load) -> u64 {
        if !load.always_expires && self.rng.random_ratio(2, 3) {
            return 0;
        }
        self.expiring += 1;
        self.clock.now_ms() + self.rng.random_range(1..600)
    }

    fn tail(&mut self, expires_at_ms: u64) -> Bytes {
        let key = "x".repeat(self.rng.random_range(0..4_000));
        let envelope = v1::Envelope { r#type: "t".into(), key, ..Default::default() }.encode_to_vec().into();
        codec::event_tail(v1::Sender::default(), self.clock.now_ms(), expires_at_ms, envelope)
    }

    /// Publishes something: an event, a transient or a signal.
    async fn publish(&mut self, load: Load) {
        let room = *ROOMS.choose(&mut self.rng).unwrap();
        let lane = *DurableLane::ALL.choose(&mut self.rng).unwrap();
        let expires_at_ms = self.expires_at_ms(load);
        let (tail, event_type, time_ms) = (self.tail(expires_at_ms), Arc::from("t"), self.clock.now_ms());
        match self.rng.random_range(0..10) {
            0..5 => {
                let append = Append { lane, origin: Origin::Unmarked, time_ms, expires_at_ms, event_type, tail };
                match self.publisher.append(room, KEEP, vec![append]).await.remove(0) {
                    Ok(lanecast_protocol::log::Outcome::Stored(numbers)) => {
                        self.published.entry((room.into(), lane)).or_default().seqs.push(numbers.seq);
                    }
                    other => panic!("{other:?}"),
                }
            }
            5..8 => {
                let event = Transient { lane, expires_at_ms, event_type, tail };
                self.publisher.publish_transient(room, event).await.unwrap();
                self.published.entry((room.into(), lane)).or_default().transients += 1;
            }
            _ => {
                self.signals += 1;
                let expires_at_ms = self.clock.now_ms() + self.rng.random_range(1..600);
                let (start, counter) = (0, self.signals);
                let frame = v1::Signal { start, counter, expires_at_ms, ..Default::default() };
                let key = SignalKey {
                    sender: "s".into(),
                    kind: "t".into(),
                    key: self.rng.random_range(0..4).to_string().into(),
                };
                let tail = codec::signal_tail(&frame);
                let signal = Signal { key, start, counter, expires_at_ms, clear: false, tail };
                self.publisher.signal(room, signal).await.unwrap();
            }
        }
    }

    /// Publishes while the subscribers take what they like, and time passes now and then.
    async fn run(&mut self, load: Load) {
        for _ in 0..load.steps {
            self.publish(load).await;
            if self.rng.random_ratio(1, 4) {
                let bytes: Vec<usize> =
                    self.subscribers[1..].iter().map(|slow| self.rng.random_range(0..=slow.bytes_max)).collect();
                self.subscribers[1..].iter().zip(bytes).for_each(|(slow, bytes)| slow.allow(bytes));
            }
            if self.rng.random_ratio(1, 3) {
                self.clock.advance(Duration::from_millis(self.rng.random_range(0..120)));
            }
            if self.rng.random_ratio(1, 2) {
                // The tasks run until they have nothing more to do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Everybody takes everything; returns what each was told once it adds up.
    async fn drain(&self) -> Vec<Told> {
        self.subscribers.iter().for_each(|subscriber| subscriber.allow(usize::MAX));
        let added_up = || self.subscribers.iter().all(|subscriber| Told::of(subscriber).accounts == self.expected());
        self.until(added_up).await;
        // What is still on its way would be too much.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.subscribers.iter().map(Told::of).collect()
    }

    fn expected(&self) -> Accounts {
        self.published
            .iter()
            .filter(|(_, account)| **account != Account::default())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn late(&self) -> usize {
        self.subscribers.iter().map(|subscriber| subscriber.state.lock().late).sum()
    }

    /// That each got each seq once and in order, as event or gap, and each transient as event or in a count.
    fn check(&self, told: &[Told], seed: u64) {
        for (subscriber, told) in told.iter().enumerate() {
            assert_eq!(told.accounts, self.expected(), "seed {seed}, subscriber {subscriber}");
        }
        assert_eq!(self.late(), 0, "seed {seed}");
    }

    /// That the metrics say the same as the subscribers: every gap by lane and cause, and every signal.
    fn check_metrics(&self, told: &[Told], seed: u64) {
        let metrics = &self.node.metrics;
        for lane in DurableLane::ALL {
            for cause in [v1::GapCause::Trimmed, v1::GapCause::Expired, v1::GapCause::Dropped, v1::GapCause::Unknown] {
                let wire = (v1::Lane::from(lane).into(), cause.into());
                let sent: u64 = told.iter().filter_map(|told| told.gaps.get(&wire)).sum();
                let counted = metrics.gaps.of((labels::GapCause::of(cause), lane.into())).get();
                assert_eq!(counted, sent, "seed {seed}: gaps {cause:?} of {lane:?}");
            }
        }
        let lost: u64 = [labels::DropReason::Conflated, labels::DropReason::Expired, labels::DropReason::QueueFull]
            .into_iter()
            .map(|reason| metrics.drops.of((Lane::Signal, reason)).get())
            .sum();
        let delivered: u64 = told.iter().map(|told| told.signals).sum();
        assert_eq!(delivered + lost, self.signals * self.subscribers.len() as u64, "seed {seed}: signals");
    }
}

#[tokio::test(start_paused = true)]
async fn delivered_and_gaps_are_what_was_published_in_a_hundred_overloads() {
    // LC-SUB-010, LC-SUB-020, LC-FLOW-002, LC-FLOW-003
    let (mut trimmed, mut dropped, mut expired, mut conflated) = (0, 0, 0, 0);
    for seed in 0..100 {
        let mut world = World::in_memory(seed).await;
        world.run(Load { steps: 400, always_expires: false }).await;
        let told = world.drain().await;
        world.check(&told, seed);
        world.check_metrics(&told, seed);
        assert!(told.iter().all(|told| told.gaps_of(v1::GapCause::Unknown) == 0), "seed {seed}: nothing broke");
        trimmed += told.iter().map(|told| told.gaps_of(v1::GapCause::Trimmed)).sum::<u64>();
        dropped += told.iter().map(|told| told.gaps_of(v1::GapCause::Dropped)).sum::<u64>();
        expired += told.iter().map(|told| told.gaps_of(v1::GapCause::Expired)).sum::<u64>();
        conflated += world.node.metrics.drops.of((Lane::Signal, labels::DropReason::Conflated)).get();
    }
    // It was an overload.
    assert!(
        trimmed > 100 && dropped > 100 && expired > 100 && conflated > 100,
        "{trimmed} {dropped} {expired} {conflated}"
    );
}

#[tokio::test(start_paused = true)]
async fn of_ten_thousand_events_with_a_time_to_live_none_is_sent_late() {
    // LC-PUB-014
    let (mut expiring, mut expired) = (0, 0);
    for seed in 0..10 {
        let mut world = World::in_memory(seed).await;
        world.run(Load { steps: 1_000, always_expires: true }).await;
        let told = world.drain().await;
        world.check(&told, seed);
        expiring += world.expiring;
        expired += told.iter().map(|told| told.gaps_of(v1::GapCause::Expired)).sum::<u64>();
    }
    assert_eq!(expiring, 10_000);
    assert!(expired > 1_000, "what was late is a gap: {expired}");
}

#[tokio::test]
async fn over_redis_delivered_and_gaps_are_what_was_published_also_when_subscriptions_are_killed() {
    // LC-SUB-010, LC-SUB-020, LC-PUB-014
    let server = Server::start(&["--appendonly", "no", "--dir", "/tmp"]);
    for seed in 0..6 {
        let mut world = World::on_redis(seed, &server).await;
        let kills = if seed % 2 == 0 { 0 } else { 3 };
        for round in 0..4 {
            world.run(Load { steps: 60, always_expires: false }).await;
            if round < kills {
                server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            }
        }
        let told = world.drain().await;
        world.check(&told, seed);
        if kills == 0 {
            assert!(told.iter().all(|told| told.gaps_of(v1::GapCause::Unknown) == 0), "seed {seed}: nothing broke");
        }
    }
}
