//! Connections over a transport of the test's own.

mod overload;
mod replay;

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use lanecast_protocol::codec;
use lanecast_protocol::lane::Lanes;
use lanecast_protocol::log::{Append, Origin, Retention};
use lanecast_protocol::publisher::Bounds;
use lanecast_protocol::room::Pattern;
use lanecast_protocol::session::client::{Action, Client, Options};
use lanecast_protocol::v1::frame::Body;
use prost::Message as _;
use tokio::sync::mpsc;

use super::*;
use crate::auth::keys::{Algorithm, Key};
use crate::auth::token::{Claims, mint};
use crate::clock::Clock;
use crate::cluster::revocations::learn;
use crate::config::{Config, Secret};
use crate::engine::probe::Probe;
use crate::engine::{Engine, EngineSink, Revocation, Subject};
use crate::history;
use crate::policy::{Policies, Policy};
use crate::transport::Source;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const START_MS: u64 = 1_800_000_000_000;

struct Silent;

impl Transport for Silent {
    fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Received> {
        Poll::Pending
    }
    fn takes(&self) -> Lanes {
        Lanes::ALL
    }
    fn send(&mut self, _: usize, _: &mut Source<'_>) -> usize {
        0
    }
    fn is_busy(&self) -> bool {
        false
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Ok(()))
    }
    fn start_close(&mut self, _: Code) {}
}

#[test]
fn an_idle_connection_is_small() {
    let node = Arc::new(Node::new(Config::default(), Clock::manual(0)));
    let labels = (labels::Transport::WebSocket, labels::Encoding::Binary);
    let connection = Connection::new(node, Silent, labels, ([127, 0, 0, 1], 0).into());
    let (state, future) = (size_of_val(&connection), size_of_val(&Box::new(connection).run()));
    assert!(state <= 1152 && future <= 1536, "the connection has {state} bytes, its task {future}");
}

/// What came through a channel in place of a link.
fn received(packet: Option<Bytes>) -> Received {
    packet.map_or(Received::Closed, |packet| Received::Records(codec::records(packet, usize::MAX), None))
}

/// The frames that a node sends as one record.
fn frames_of(packet: Bytes) -> impl Iterator<Item = v1::Frame> {
    codec::records(packet, usize::MAX).map(|record| codec::decode(record.unwrap()).unwrap())
}

/// A pipe to a client that the test plays.
struct Pipe {
    records: mpsc::UnboundedReceiver<Bytes>,
    frames: mpsc::UnboundedSender<v1::Frame>,
}

impl Transport for Pipe {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        self.records.poll_recv(cx).map(received)
    }

    fn takes(&self) -> Lanes {
        Lanes::ALL
    }

    fn is_busy(&self) -> bool {
        false
    }

    fn send(&mut self, _: usize, next: &mut Source<'_>) -> usize {
        let mut bytes = 0;
        while let Some(output) = next(Lanes::ALL) {
            bytes += output.record.len();
            for frame in frames_of(output.record) {
                let _ = self.frames.send(frame);
            }
        }
        bytes
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Ok(()))
    }

    fn start_close(&mut self, _: Code) {}
}

/// A client of a node whose engine the test turns.
struct Peer {
    node: Arc<Node>,
    engine: Arc<Probe>,
    clock: Clock,
    packets: mpsc::UnboundedSender<Bytes>,
    frames: mpsc::UnboundedReceiver<v1::Frame>,
}

impl Peer {
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    async fn open_with(change: impl FnOnce(&mut Config)) -> Self {
        let clock = Clock::manual(START_MS);
        let mut config = Config { dev: true, ..Config::default() };
        config.token_keys = vec![Key::from_secret(None, Secret::new(SECRET)).unwrap()];
        config.tokens.leeway_ms = 0;
        change(&mut config);
        let node = Arc::new(Node::without_engine(config, clock.clone()));
        let engine = Arc::new(Probe::new(clock.clone(), Arc::clone(&node.hub) as Arc<dyn EngineSink>));
        node.hub.connect(Arc::clone(&engine) as Arc<dyn Engine>);
        let watching = Arc::clone(&node);
        drop(tokio::spawn(async move { watching.watch_store().await }));
        let mut peer = Self::connect(node, engine, clock);
        peer.welcome("ann", "").await;
        peer
    }

    /// Another connection to the same node, without Hello.
    fn beside(&self) -> Self {
        Self::connect(Arc::clone(&self.node), Arc::clone(&self.engine), self.clock.clone())
    }

    fn connect(node: Arc<Node>, engine: Arc<Probe>, clock: Clock) -> Self {
        let (packets, records) = mpsc::unbounded_channel();
        let (sent, frames) = mpsc::unbounded_channel();
        let labels = (labels::Transport::WebSocket, labels::Encoding::Binary);
        let pipe = Pipe { records, frames: sent };
        let connection = Connection::new(Arc::clone(&node), pipe, labels, ([127, 0, 0, 1], 0).into());
        drop(tokio::spawn(Box::new(connection).run()));
        Self { node, engine, clock, packets, frames }
    }

    fn hello(&self, user: &str, replaces: &str) {
        let hello = v1::Hello {
            version_min: 1,
            version_max: 1,
            token: format!("dev:{user}"),
            instance: "i".into(),
            replaces: replaces.into(),
            ..Default::default()
        };
        self.send(1, Body::Hello(hello));
    }

    /// Says Hello and is welcomed; the id of the connection.
    async fn welcome(&mut self, user: &str, replaces: &str) -> String {
        self.hello(user, replaces);
        match self.next(10).await {
            Some((1, Body::Welcome(welcome))) => welcome.connection_id,
            other => panic!("{other:?}"),
        }
    }

    fn send(&self, id: u32, body: Body) {
        let frame = v1::Frame { id, body: Some(body) };
        self.packets.send(codec::encode(&frame)).unwrap();
    }

    /// Asks to go on with a token whose claims are these and a life of a minute.
    fn refresh(&self, id: u32, mut claims: serde_json::Value) {
        let now = self.clock.now_ms() / 1_000;
        for (name, at) in [("iat", now), ("exp", now + 60)] {
            if claims[name].is_null() {
                claims[name] = at.into();
            }
        }
        let claims: Claims = serde_json::from_value(claims).unwrap();
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
        let token = mint(&claims, Algorithm::Hs256, None, &key).unwrap();
        self.send(id, Body::RefreshToken(v1::RefreshToken { token }));
    }

    /// The code of the next frame, which must be the Error that answers a request.
    async fn refused(&mut self, id: u32) -> Code {
        match self.next(100).await {
            Some((answered, Body::Error(error))) if answered == id && !error.closing => {
                Code::from_number(error.code).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    fn publish_typed(&self, id: u32, room: &str, number: u64, kind: &str) {
        let envelope = v1::Envelope { r#type: kind.into(), ..Default::default() }.encode_to_vec().into();
        let publish = v1::Publish { room: room.into(), number, after: number - 1, envelope, ..Default::default() };
        self.send(id, Body::Publish(publish));
    }

    fn subscribe(&self, id: u32, room: &str, at: Option<v1::start::At>) {
        let start = at.map(|at| v1::Start { at: Some(at) });
        self.send(id, Body::Subscribe(v1::Subscribe { room: room.into(), start, ..Default::default() }));
    }

    fn publish(&self, id: u32, room: &str, number: u64) {
        let envelope = v1::Envelope { r#type: "t".into(), ..Default::default() }.encode_to_vec().into();
        let publish = v1::Publish { room: room.into(), number, after: number - 1, envelope, ..Default::default() };
        self.send(id, Body::Publish(publish));
    }

    /// Lets time pass, that of the runtime and that of the node.
    async fn pass(&self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.clock.advance(Duration::from_millis(10));
        }
    }

    /// The next frame, if one comes within so many ms.
    async fn next(&mut self, ms: u64) -> Option<(u32, Body)> {
        for _ in 0..=ms.div_ceil(10) {
            if let Ok(frame) = self.frames.try_recv() {
                return Some((frame.id, frame.body.unwrap()));
            }
            self.pass(10).await;
        }
        None
    }

    /// The next frame must be Subscribed.
    async fn subscribed(&mut self, ms: u64) -> v1::Subscribed {
        match self.next(ms).await {
            Some((_, Body::Subscribed(frame))) => frame,
            other => panic!("{other:?}"),
        }
    }

    /// The seq of the next frame, which must be an Event.
    async fn event(&mut self, ms: u64) -> u64 {
        match self.next(ms).await {
            Some((_, Body::Event(event))) => event.seq,
            other => panic!("{other:?}"),
        }
    }

    async fn store(&self, room: &str, count: usize) {
        let item = |_| Append {
            lane: DurableLane::Normal,
            origin: Origin::Unmarked,
            time_ms: self.clock.now_ms(),
            expires_at_ms: 0,
            event_type: "t".into(),
            tail: Bytes::new(),
        };
        let keep = Retention { events_max: 1_000, age_ms_max: u64::MAX };
        self.engine.inner.append(room, keep, (0..count).map(item).collect()).await;
    }
}

const BEGINNING: v1::start::At = v1::start::At::Beginning(v1::StartBeginning {});

#[tokio::test(start_paused = true)]
async fn a_room_whose_log_hangs_delays_nothing_else() {
    // LC-LANE-004, LC-FRM-015
    let mut peer = Peer::open().await;
    peer.store("hung", 5).await;
    peer.subscribe(2, "other", None);
    peer.subscribed(10).await;
    peer.engine.dials.hang("hung");
    peer.subscribe(3, "hung", Some(BEGINNING));
    peer.send(4, Body::History(v1::History { room: "hung".into(), ..Default::default() }));
    peer.send(5, Body::Ping(v1::Ping { stamp: 7 }));
    peer.publish(6, "other", 1);
    let mut got = Vec::new();
    while let Some((id, body)) = peer.next(100).await {
        got.push(match body {
            Body::Pong(_) => format!("{id} pong"),
            Body::Published(published) => format!("{id} published {}", published.seq),
            Body::Event(event) => format!("{id} event {}", event.seq),
            other => panic!("{other:?}"),
        });
    }
    got.sort();
    assert_eq!(got, ["0 event 1", "5 pong", "6 published 1"]);
    // What was asked of the hung room is answered, in the order of the requests.
    let mut refused = Vec::new();
    while let Some((id, body)) = peer.next(5_000).await {
        let Body::Error(error) = body else { panic!("{body:?}") };
        refused.push((id, Code::from_number(error.code)));
    }
    assert_eq!(refused, [(3, Some(Code::Unavailable)), (4, Some(Code::Unavailable))]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_read_fails_is_read_again_and_others_go_on() {
    // LC-FLOW-003
    let mut peer = Peer::open().await;
    peer.store("r", 3).await;
    peer.engine.dials.blind.store(true, Relaxed);
    peer.subscribe(2, "other", None);
    peer.subscribed(10).await;
    peer.engine.dials.delay_ms.store(20, Relaxed);
    peer.subscribe(3, "r", Some(BEGINNING));
    peer.subscribed(100).await;
    // The read is under way: it fails, and so does the next one.
    peer.engine.dials.failures.store(2, Relaxed);
    assert!(peer.next(200).await.is_none());
    peer.engine.dials.delay_ms.store(0, Relaxed);
    peer.store("other", 1).await;
    assert_eq!(peer.event(50).await, 1, "of the other room");
    for seq in 1..=3 {
        assert_eq!(peer.event(2_100).await, seq, "no mark came since");
    }
    assert_eq!(peer.node.metrics.retries.of(labels::EngineCall::Read).get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_cannot_be_opened_in_its_new_epoch_keeps_its_place() {
    // LC-RES-010
    let mut peer = Peer::open().await;
    peer.subscribe(2, "r", None);
    let first = peer.subscribed(10).await;
    peer.store("r", 2).await;
    assert_eq!((peer.event(10).await, peer.event(10).await), (1, 2));
    peer.engine.dials.failures.store(3, Relaxed);
    peer.engine.renew("r").await;
    peer.store("r", 1).await;
    let again = peer.subscribed(5_000).await;
    assert_eq!(again.cause(), v1::SubscribedCause::Epoch);
    assert_ne!(again.handle, first.handle);
    assert_eq!(again.position.unwrap().normal, 2, "where it stood");
    peer.engine.dials.failures.store(0, Relaxed);
    peer.store("r", 1).await;
    assert_eq!(peer.event(10).await, 3);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_the_store_is_told_once_for_each_room() {
    // LC-SUB-018
    let mut peer = Peer::open().await;
    for (id, room) in [(2, "a"), (3, "b")] {
        peer.subscribe(id, room, None);
        peer.subscribed(10).await;
    }
    peer.store("a", 1).await;
    peer.event(10).await;
    peer.engine.set_away(true);
    assert!(peer.next(900).await.is_none(), "a moment");
    for degraded in [true, false] {
        let mut told = [peer.subscribed(300).await, peer.subscribed(300).await];
        told.sort_by(|one, other| one.room.cmp(&other.room));
        for frame in &told {
            assert_eq!((frame.cause(), frame.degraded), (v1::SubscribedCause::Degraded, degraded));
        }
        assert_eq!(told.map(|frame| frame.position.unwrap().normal), [1, 0]);
        assert!(peer.next(3_000).await.is_none(), "once");
        if degraded {
            peer.subscribe(9, "c", None);
            let Some((9, Body::Error(error))) = peer.next(100).await else { panic!() };
            assert_eq!(Code::from_number(error.code), Some(Code::Unavailable));
            peer.send(10, Body::Ping(v1::Ping { stamp: 7 }));
            assert!(matches!(peer.next(10).await, Some((10, Body::Pong(_)))), "the connection stays");
            peer.engine.set_away(false);
        }
    }
    peer.store("a", 1).await;
    assert_eq!(peer.event(10).await, 2, "the place stood");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_a_room_opens_leaves_it() {
    let peer = Peer::open().await;
    peer.engine.dials.hang("r");
    peer.subscribe(2, "r", None);
    peer.pass(50).await;
    let Peer { node, packets, engine, .. } = peer;
    drop(packets);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let room = node.hub.find("r").unwrap();
    engine.dials.let_go("r");
    assert!(room.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_user_with_too_many_connections_is_refused_until_one_ends() {
    // LC-SEC-011
    let ann = Peer::open_with(|config| config.limits.connections_per_user = 2).await;
    let mut second = ann.beside();
    let id = second.welcome("ann", "").await;
    let mut third = ann.beside();
    third.hello("ann", "");
    let Some((_, Body::Error(error))) = third.next(10).await else { panic!("it was welcomed") };
    assert_eq!((error.code, error.closing), (Code::TooManyConnections.number().into(), true));
    assert!(error.retry_after_ms > 0);
    ann.beside().welcome("ben", "").await;
    // Who replaces an own connection takes its place, and leaves none free.
    let mut anew = ann.beside();
    anew.welcome("ann", &id).await;
    let Some((_, Body::Error(error))) = second.next(10).await else { panic!("it was not replaced") };
    assert_eq!(error.code, u32::from(Code::Replaced.number()));
    drop(second);
    ann.pass(2_000).await;
    let mut fourth = ann.beside();
    fourth.hello("ann", "");
    assert!(matches!(fourth.next(10).await, Some((_, Body::Error(_)))), "the place is taken");
    drop(anew);
    ann.pass(20).await;
    ann.beside().welcome("ann", "").await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_beyond_the_rate_is_stored_in_order_each_once() {
    // LC-FLOW-001, LC-PUB-021, LC-PUB-027
    let mut driver =
        Driver::start(|policy| (policy.user_events_per_minute, policy.user_events_burst) = (600, 20)).await;
    let envelope = |text: String| v1::Envelope {
        r#type: "t".into(),
        body: Some(v1::envelope::Body::Text(text)),
        ..Default::default()
    };
    for number in 0..200 {
        let envelope = envelope(number.to_string()).encode_to_vec().into();
        driver.client.publish(driver.now(), "chat", DurableLane::Normal, envelope, 0).unwrap();
    }
    let rounds = driver.run_until_settled().await;
    // 20 at once, and 180 at 10/s; each time that the bucket is full again it is emptied.
    let elapsed_ms = driver.now().monotonic_ms;
    assert!((18_000..19_500).contains(&elapsed_ms), "{elapsed_ms} ms");
    assert!(rounds < 2_000, "{rounds} publishes were sent for 200");
    let ann = driver.pipe.node.auth.user("dev:ann", "", [127, 0, 0, 1].into()).await.unwrap();
    let asked = v1::History {
        room: "chat".into(),
        direction: v1::HistoryDirection::Forward.into(),
        limit: 200,
        ..Default::default()
    };
    let page = history::read(&driver.pipe.node, &ann, asked).await.unwrap();
    let text = |event: &v1::Event| match v1::Envelope::decode(event.envelope.clone()).unwrap().body {
        Some(v1::envelope::Body::Text(text)) => text,
        other => panic!("{other:?}"),
    };
    let texts: Vec<String> = page.events.iter().map(text).collect();
    assert_eq!(texts, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// A client's own state machine at the other end of the pipe.
struct Driver {
    pipe: Peer,
    client: Client,
}

impl Driver {
    async fn start(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::default();
        change(&mut policy);
        let policies = Policies::new(vec![(Pattern::new("**").unwrap(), policy)]);
        let pipe = Peer::open_with(|config| config.policies = policies).await.beside();
        let client = Client::new(Options {
            instance: "i".into(),
            info: v1::ClientInfo::default(),
            device: String::new(),
            outbox: Bounds { items_max: 1_000, bytes_max: 1_000_000 },
            outbox_ttl_ms: 600_000,
            seed: 1,
            renews_tokens: false,
        });
        Self { pipe, client }
    }

    fn now(&self) -> Now {
        now(&self.pipe.node)
    }

    /// Drives both sides until no publish is unsettled; how many were sent.
    async fn run_until_settled(&mut self) -> usize {
        let mut sent = 0;
        self.client.connect(self.now());
        while self.client.unsettled() > 0 {
            while let Some(action) = self.client.poll_action() {
                assert_eq!(action, Action::Connect { refused: 0, address: String::new() });
                self.client.opened(self.now(), "dev:ann".into(), true);
            }
            while let Some(output) = self.client.poll_output(self.now(), Lanes::ALL) {
                sent += usize::from(output.lane == Lane::Normal);
                self.pipe.packets.send(output.record).unwrap();
            }
            self.pipe.pass(10).await;
            while let Ok(frame) = self.pipe.frames.try_recv() {
                self.client.handle_record(self.now(), None, frame.encode_to_vec().into());
            }
            self.client.handle_timeout(self.now());
        }
        sent
    }
}

#[tokio::test(start_paused = true)]
async fn the_rights_of_a_newer_token_hold_from_then_on() {
    // LC-AUTH-020
    let mut peer = Peer::open().await;
    for (id, room) in [(2, "kept"), (3, "typed"), (4, "lost")] {
        peer.subscribe(id, room, None);
        peer.subscribed(10).await;
    }
    let rights = serde_json::json!([
        {"allow": ["subscribe"], "rooms": ["kept"]},
        {"allow": ["subscribe", "publish"], "rooms": ["typed"], "types": ["msg.*"]},
    ]);
    peer.refresh(5, serde_json::json!({"sub": "ann", "lanecast": {"rights": rights}}));
    // In the same flight: judged by the rights of the newer token.
    peer.publish_typed(6, "kept", 1, "msg.a");
    peer.subscribe(7, "lost", None);
    let Some((5, Body::TokenRefreshed(refreshed))) = peer.next(100).await else { panic!() };
    assert_eq!(refreshed.expires_at_ms, peer.clock.now_ms() / 1_000 * 1_000 + 60_000);
    let Some((0, Body::Unsubscribed(ended))) = peer.next(10).await else { panic!() };
    assert_eq!((ended.room.as_str(), ended.cause()), ("lost", v1::UnsubscribedCause::Revoked));
    assert_eq!(Code::from_number(ended.code), Some(Code::Forbidden));
    assert_eq!((peer.refused(6).await, peer.refused(7).await), (Code::Forbidden, Code::Forbidden));
    // Types follow, for events that are stored and for those that are not.
    peer.publish_typed(8, "typed", 1, "msg.a");
    assert_eq!(peer.next(10).await.map(|(id, _)| id), Some(8));
    assert_eq!(peer.event(10).await, 1);
    peer.store("typed", 1).await;
    let Some((0, Body::Gap(gap))) = peer.next(10).await else { panic!() };
    assert_eq!((gap.from, gap.to, gap.cause()), (2, 2, v1::GapCause::Filtered));
    peer.store("lost", 1).await;
    peer.store("kept", 1).await;
    assert_eq!(peer.event(10).await, 1, "of the room that was kept");
    assert!(peer.next(100).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_room_that_opens_while_its_right_is_lost_is_refused() {
    // LC-AUTH-020
    let mut peer = Peer::open().await;
    peer.engine.dials.delay_ms.store(200, Relaxed);
    peer.subscribe(2, "lost", None);
    peer.subscribe(3, "typed", None);
    peer.pass(20).await;
    let rights = serde_json::json!([{"allow": ["subscribe"], "rooms": ["typed"], "types": ["msg.*"]}]);
    peer.refresh(4, serde_json::json!({"sub": "ann", "lanecast": {"rights": rights}}));
    assert!(matches!(peer.next(50).await, Some((4, Body::TokenRefreshed(_)))));
    let mut answers = Vec::new();
    while let Some((id, body)) = peer.next(500).await {
        answers.push(match body {
            Body::Error(error) => (id, Code::from_number(error.code)),
            Body::Subscribed(_) => (id, None),
            other => panic!("{other:?}"),
        });
    }
    answers.sort();
    assert_eq!(answers, [(2, Some(Code::Forbidden)), (3, None)]);
    assert!(peer.node.hub.find("lost").is_none_or(|room| room.is_empty()));
    peer.engine.dials.delay_ms.store(0, Relaxed);
    peer.store("typed", 1).await;
    assert!(matches!(peer.next(100).await, Some((0, Body::Gap(gap))) if gap.cause() == v1::GapCause::Filtered));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_newer_token_of_the_user_leaves_the_former_one() {
    // LC-AUTH-021, LC-AUTH-023
    let mut peer = Peer::open().await;
    for (claims, code) in [
        (serde_json::json!({"sub": "bob"}), Code::UserMismatch),
        (serde_json::json!({"sub": "ann", "device": "phone"}), Code::UserMismatch),
        (serde_json::json!({"sub": "ann", "exp": 1}), Code::TokenExpired),
        (serde_json::json!({"sub": "*"}), Code::BadToken),
    ] {
        peer.refresh(2, claims.clone());
        assert_eq!(peer.refused(2).await, code, "{claims}");
    }
    for token in ["nonsense".to_owned(), "dev:bob".to_owned(), "x".repeat(8_193)] {
        peer.send(3, Body::RefreshToken(v1::RefreshToken { token: token.clone() }));
        let expected = if token == "dev:bob" { Code::UserMismatch } else { Code::BadToken };
        assert_eq!(peer.refused(3).await, expected, "{token:.20}");
    }
    peer.publish(4, "r", 1);
    assert!(matches!(peer.next(10).await, Some((4, Body::Published(_)))), "the rights of the former one hold");
}

#[tokio::test(start_paused = true)]
async fn a_connection_lives_until_its_newest_token_expires() {
    // LC-AUTH-004, LC-AUTH-020
    let mut peer = Peer::open().await;
    peer.refresh(2, serde_json::json!({"sub": "ann"}));
    assert!(matches!(peer.next(10).await, Some((2, Body::TokenRefreshed(_)))));
    for stamp in 0..2 {
        peer.pass(25_000).await;
        peer.send(3, Body::Ping(v1::Ping { stamp }));
        assert!(matches!(peer.next(10).await, Some((3, Body::Pong(_)))));
    }
    peer.refresh(4, serde_json::json!({"sub": "ann"}));
    assert!(matches!(peer.next(10).await, Some((4, Body::TokenRefreshed(_)))));
    peer.pass(30_000).await;
    peer.send(5, Body::Ping(v1::Ping { stamp: 9 }));
    assert!(matches!(peer.next(10).await, Some((5, Body::Pong(_)))), "the first one has expired");
    let Some((0, Body::Error(error))) = peer.next(40_000).await else { panic!() };
    assert_eq!((Code::from_number(error.code), error.closing), (Some(Code::TokenExpired), true));
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_outlives_the_revocation_of_the_former_one() {
    // LC-AUTH-003
    let mut peer = Peer::open().await;
    let revoke = |peer: &Peer, issued_through_ms, changed_ms| {
        let (subject, until_ms) = (Subject::User("ann".into()), START_MS + 3_600_000);
        learn(&peer.node, vec![Revocation { subject, issued_through_ms, until_ms, changed_ms, lifted: false }])
    };
    peer.pass(5_000).await;
    peer.refresh(2, serde_json::json!({"sub": "ann", "iat": START_MS / 1_000 + 5}));
    assert!(matches!(peer.next(10).await, Some((2, Body::TokenRefreshed(_)))));
    assert_eq!(revoke(&peer, START_MS + 4_999, 1), 0, "it is newer");
    peer.refresh(3, serde_json::json!({"sub": "ann", "iat": START_MS / 1_000 + 4}));
    assert_eq!(peer.refused(3).await, Code::TokenRevoked);
    assert_eq!(revoke(&peer, START_MS + 5_000, 2), 1);
    let Some((0, Body::Error(error))) = peer.next(100).await else { panic!() };
    assert_eq!((Code::from_number(error.code), error.closing), (Some(Code::TokenRevoked), true));
}
