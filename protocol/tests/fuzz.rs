//! Whatever a peer sends: no panic, bounded memory, and every close has a code of the table (LC-SEC-006, LC-SEC-009).
//!
//! Packets are the golden vectors, mutated by a seed: bits flipped, ends cut, two spliced. A failing run names the
//! packet's number; the same number makes the same packet.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "vectors are files")]

use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::CONTROL_BYTES_MAX;
use lanecast_protocol::place::{Batch, Stored};
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::publisher::Bounds;
use lanecast_protocol::session::client::{Action, Client, ClientState, Options, SubscribeOptions};
use lanecast_protocol::session::server::{Accepted, Config, Opened, Request, Session};
use lanecast_protocol::session::{Now, Refusal};
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::v1::{self, start};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const PACKETS: u64 = 100_000;

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut corpus = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        for vector in vectors {
            let hex = vector["hex"].as_str().unwrap();
            corpus
                .push((0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect());
        }
    }
    corpus
}

fn mutated(rng: &mut SmallRng, corpus: &[Vec<u8>]) -> Bytes {
    let mut packet = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(0..3) {
        match rng.random_range(0..5) {
            0 if !packet.is_empty() => {
                for _ in 0..rng.random_range(1..8) {
                    let at = rng.random_range(0..packet.len());
                    packet[at] ^= 1 << rng.random_range(0..8);
                }
            }
            1 => packet.truncate(rng.random_range(0..=packet.len())),
            2 => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                packet.truncate(rng.random_range(0..=packet.len()));
                packet.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
            3 => packet.extend_from_slice(&corpus[rng.random_range(0..corpus.len())]),
            _ => {
                let at = rng.random_range(0..=packet.len());
                packet.splice(at..at, (0..rng.random_range(0..10)).map(|_| rng.random::<u8>()).collect::<Vec<_>>());
            }
        }
    }
    packet.into()
}

/// Names the packet if the test fails at it.
struct Running(u64);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at packet {}", self.0);
        }
    }
}

fn now(ms: u64) -> Now {
    Now { monotonic_ms: ms, wall_ms: 1_700_000_000_000 + ms }
}

fn config() -> Config {
    Config {
        node: "fuzz".into(),
        capabilities: vec![v1::Capability::History, v1::Capability::Fragments],
        limits: v1::Limits {
            record_bytes: 64 * 1024,
            message_bytes: 16 * 1024,
            rooms: 3,
            publishes_in_flight: 16,
            signals_per_second: 10,
            history_page: 100,
        },
        heartbeat: v1::Heartbeat { ping_after_ms: 25_000, pong_within_ms: 10_000, idle_close_ms: 60_000 },
        reconnect: v1::ReconnectWindow { min_ms: 100, max_ms: 5_000 },
        hello_within_ms: 10_000,
        no_progress_ms: 30_000,
        lane_bytes: 4 * 1024,
        bulk_bytes_per_second: 0,
    }
}

/// A session in one of its states: 0 waits for Hello, 1 authenticates, 2 is open, 3 is open and leaving.
fn session(state: u64, at: Now) -> Session {
    let mut session = Session::new(Arc::new(config()), at);
    if state == 0 {
        return session;
    }
    let hello =
        v1::Hello { version_min: 1, version_max: 1, token: "t".into(), instance: "i".into(), ..Default::default() };
    session.handle_frame(at, v1::Frame { id: 1, body: Some(Body::Hello(hello)) });
    assert!(matches!(session.poll_request(), Some(Request::Authenticate(_))));
    if state >= 2 {
        session.accept(at, Accepted::default());
        let subscribe = v1::Subscribe { room: "chat.a".into(), ..Default::default() };
        session.handle_frame(at, v1::Frame { id: 2, body: Some(Body::Subscribe(subscribe)) });
    }
    if state == 3 {
        session.go_away(at, v1::GoAway { closes_in_ms: 20_000, ..Default::default() });
    }
    session
}

/// Answers what the session asks, in every way that a node may.
fn answer(rng: &mut SmallRng, session: &mut Session, at: Now, handle: &mut u64) {
    while let Some(request) = session.poll_request() {
        let refusal = Refusal::new(Code::Unavailable, "no").retry_after(10);
        let refuses = rng.random_bool(0.2);
        match request {
            Request::Authenticate(_) if refuses => session.close(Refusal::new(Code::BadToken, "no")),
            Request::Authenticate(_) => session.accept(at, Accepted::default()),
            Request::RefreshToken { id, .. } if refuses => session.refuse_refresh(id, refusal),
            Request::RefreshToken { id, .. } => session.refreshed(at, id, at.wall_ms + 60_000, 0),
            Request::Subscribe { asked, subscribe } if refuses => {
                session.refuse_subscribe(asked, refusal.in_room(subscribe.room));
            }
            Request::Subscribe { asked, subscribe } => {
                *handle += 1;
                let position = match subscribe.start.and_then(|start| start.at) {
                    Some(start::At::Position(position)) => Position::try_from(&position).unwrap(),
                    _ => Position::new(1, PerLane([0; 3])),
                };
                let opened = Opened {
                    room: subscribe.room.into(),
                    handle: *handle,
                    position,
                    head: position.with_seq(DurableLane::Normal, position.normal.saturating_add(3)),
                    head_order: 3,
                    recovered: true,
                    rolled_back: Vec::new(),
                    missed_transients: None,
                    transients: subscribe.transients,
                    degraded: false,
                };
                session.subscribed(asked.id(), opened, v1::SubscribedCause::Unspecified);
            }
            Request::Unsubscribed { .. } => {}
            Request::Publish { id, publish, .. } if refuses => {
                session.refuse_publish(id, refusal.in_room(publish.room));
            }
            // Some stay unanswered.
            Request::Publish { id, publish, .. } if rng.random_bool(0.8) => {
                session.published(id, &publish.room, v1::Published::default());
            }
            Request::Publish { .. } => {}
            Request::Signal { id, .. } => session.done(id),
            Request::History { id, .. } => session.history_page(id, v1::HistoryPage::default()),
        }
    }
    while let Some(read) = session.next_read() {
        let next = read.after + 1 + rng.random_range(0..2);
        let record = Bytes::from_static(&[0x0a, 0x00]);
        let events = vec![Stored { seq: next, expires_at_ms: 0, event_type: "t".into(), record }];
        session.deliver(at, &read, Batch { first: 1, events }, false, |_| true);
    }
}

#[test]
fn a_node_survives_whatever_a_client_sends() {
    let corpus = corpus();
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut time, mut handle, mut closes) = (1_000, 0, std::collections::BTreeMap::new());
    let mut sessions: Vec<Session> = (0..4).map(|state| session(state, now(time))).collect();
    let mut running = Running(0);
    for number in 0..PACKETS {
        running.0 = number;
        time += rng.random_range(0..20);
        let state = rng.random_range(0..4);
        let subject = &mut sessions[state as usize];
        for record in codec::records(mutated(&mut rng, &corpus), config().limits.record_bytes as usize) {
            match record {
                Ok(record) => drop(subject.handle_record(now(time), None, record)),
                Err(fault) => subject.handle_fault(fault),
            }
        }
        if subject.poll_timeout().is_some_and(|due| due <= time) {
            subject.handle_timeout(now(time));
        }
        if state != 1 || rng.random_bool(0.05) {
            answer(&mut rng, subject, now(time), &mut handle);
        }
        assert!(subject.queued_bytes(Lane::Control) <= CONTROL_BYTES_MAX);
        let queued: usize = Lane::ALL.into_iter().map(|lane| subject.queued_bytes(lane)).sum();
        assert!(queued <= CONTROL_BYTES_MAX + 4 * 8 * 1024, "{queued} bytes");
        if let Some(code) = subject.closing() {
            assert!(Code::from_number(code.number().into()).is_some());
            *closes.entry(code).or_insert(0u64) += 1;
            let last = std::iter::from_fn(|| subject.poll_output(now(time), Lanes::ALL)).last().unwrap();
            let record = codec::records(last.record, usize::MAX).next().unwrap().unwrap();
            let Some(Body::Error(error)) = codec::decode(record).unwrap().body else { panic!("no Error") };
            assert_eq!((error.code, error.closing), (code.number().into(), true));
            subject.transport_closed();
            sessions[state as usize] = session(state, now(time));
        } else if rng.random_bool(0.1) {
            while subject.poll_output(now(time), Lanes::ALL).is_some() {}
        }
    }
    assert!(closes.len() >= 4, "{closes:?}");
}

fn client(seed: u64, at: Now) -> Client {
    let options = Options {
        instance: "i".into(),
        info: v1::ClientInfo::default(),
        device: String::new(),
        outbox: Bounds { items_max: 100, bytes_max: 100_000 },
        outbox_ttl_ms: 60_000,
        renews_tokens: true,
        seed,
    };
    let mut client = Client::new(options);
    for room in ["chat.a", "room"] {
        client.subscribe(room, SubscribeOptions { start: None, signals: true }).unwrap();
    }
    client.connect(at);
    client
}

/// Plays the driver: a transport is there whenever one is asked for. Returns whether one was closed.
fn drive(rng: &mut SmallRng, client: &mut Client, at: Now, ordered: bool) -> Option<Code> {
    let mut closed = None;
    while let Some(action) = client.poll_action() {
        match action {
            Action::Connect { .. } => client.opened(at, "t".into(), ordered),
            Action::Disconnect(code) => closed = Some(code),
            Action::RenewToken { .. } => client.renewed(at, "t".into()),
        }
    }
    if client.state() == ClientState::Connecting && rng.random_bool(0.9) {
        let limits = Some(v1::Limits { publishes_in_flight: 4, signals_per_second: 5, ..Default::default() });
        let welcome = v1::Welcome { version: 1, limits, ..Default::default() };
        let frame = v1::Frame { id: 1, body: Some(Body::Welcome(welcome)) };
        client.handle_record(at, None, codec::records(codec::encode(&frame), 1 << 20).next().unwrap().unwrap());
    }
    closed
}

/// Answers of a node, so that the mutated frames meet rooms that are subscribed.
fn subscribed(client: &mut Client, at: Now, record: Bytes) {
    for frame in codec::records(record, 1 << 20).map(|frame| codec::decode(frame.unwrap()).unwrap()) {
        let asked = match frame.body {
            Some(Body::Hello(hello)) => hello.subscriptions.into_iter().map(|subscribe| (0, subscribe)).collect(),
            Some(Body::Subscribe(subscribe)) => vec![(frame.id, subscribe)],
            _ => Vec::new(),
        };
        for (id, subscribe) in asked {
            let position = match subscribe.start.and_then(|start| start.at) {
                Some(start::At::Position(position)) => position,
                _ => v1::Position { epoch: 45, ..Default::default() },
            };
            // The handles that the vectors use.
            let handle = if subscribe.room == "room" { 41 } else { 42 };
            let frame = v1::Subscribed {
                room: subscribe.room,
                handle,
                position: Some(position),
                head: Some(position),
                ..Default::default()
            };
            let frame = codec::encode_body(id, Body::Subscribed(frame));
            client.handle_record(at, None, codec::records(frame, 1 << 20).next().unwrap().unwrap());
        }
    }
}

/// A frame that could come next in a room, so that mutations reach what lies behind the handle.
fn fitting(rng: &mut SmallRng, client: &Client) -> Vec<u8> {
    let (room, handle) = [("chat.a", 42), ("room", 41)][rng.random_range(0..2)];
    let lane = DurableLane::ALL[rng.random_range(0..3)];
    let taken = client.position(room).map_or(0, |position| position.seq(lane));
    let (from, to) = (taken + rng.random_range(0..3), taken + rng.random_range(1..70));
    let lane = v1::Lane::from(lane).into();
    let envelope = Bytes::from_static(b"\n\x01t");
    let cause = v1::GapCause::Trimmed.into();
    let body = match rng.random_range(0..4) {
        0 => Body::Gap(v1::Gap { handle, lane, epoch: 45, from, to, cause, ..Default::default() }),
        1 => Body::Subscribed(v1::Subscribed {
            room: room.into(),
            handle,
            position: Some(v1::Position { epoch: 45 + rng.random_range(0..2), normal: from, ..Default::default() }),
            rolled_back: vec![v1::Gap { lane, epoch: 45, from, to, cause: 5, ..Default::default() }],
            cause: rng.random_range(0..2),
            ..Default::default()
        }),
        _ => Body::Event(v1::Event { handle, lane, seq: taken + 1, order: from, envelope, ..Default::default() }),
    };
    codec::encode_body(0, body).to_vec()
}

#[test]
fn a_client_survives_whatever_a_node_sends() {
    let corpus = corpus();
    for ordered in [true, false] {
        let mut rng = SmallRng::seed_from_u64(2);
        let (mut time, mut closes, mut delivered) = (1_000, 0, 0);
        let mut subject = client(0, now(time));
        let mut running = Running(0);
        for number in 0..PACKETS / 2 {
            running.0 = number;
            time += rng.random_range(0..20);
            let at = now(time);
            closes += u64::from(drive(&mut rng, &mut subject, at, ordered).is_some());
            let fitting = vec![fitting(&mut rng, &subject)];
            let packet = mutated(&mut rng, if number % 4 == 0 { &fitting } else { &corpus });
            for record in codec::records(packet, 1 << 20) {
                let Ok(record) = record else { break };
                subject.handle_record(at, None, record);
            }
            if rng.random_bool(0.05) {
                let _ = subject.publish(at, "chat.a", DurableLane::Normal, Bytes::from_static(b"\n\x01t"), 0);
            }
            let mut written = 0;
            let mut asked = Vec::new();
            while let Some(output) = subject.poll_output(at, Lanes::ALL) {
                written += output.record.len();
                asked.push(output.record);
            }
            assert!(written < 512 * 1024, "{written} bytes at once");
            asked.into_iter().for_each(|record| subscribed(&mut subject, at, record));
            while subject.poll_event().is_some() {}
            if rng.random_bool(0.1) {
                delivered += subject.next_batch("chat.a", 100).len() + subject.next_batch("room", 100).len();
            }
            if subject.poll_timeout(at).is_some_and(|due| due <= time) {
                subject.handle_timeout(at);
            }
            // Waiting to connect again is no test of anything.
            if matches!(subject.state(), ClientState::Suspended { .. }) || rng.random_bool(0.001) {
                time += 6_000;
                subject.handle_timeout(now(time));
            }
            if rng.random_bool(0.002) {
                subject.handle_closed(now(time), Some(rng.random()));
            }
            if matches!(subject.state(), ClientState::Closed { .. }) {
                subject = client(number, now(time));
            }
        }
        assert!(closes > 1_000 && delivered > 500, "{closes} closes, {delivered} items");
    }
}
