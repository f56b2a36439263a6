//! Transients, which are counted, and signals, of which the newest wins.

use lanecast_protocol::position::DurableLane::{self, Normal, Urgent};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use rand::Rng;

use crate::support::{Kind, Pair, app, over_both, with_signals};

const ROOM: &str = "chat.a";

#[test]
fn transients_that_are_not_delivered_are_counted() {
    // LC-SUB-020, LC-SUB-021, LC-FLOW-002
    over_both(10, |mut pair| {
        pair.net.capacity = 4_000;
        pair.net.rate = 20;
        let at = pair.member("ann", ROOM);
        for number in 0..2_000 {
            let lane = [Urgent, Normal][number % 2];
            let ttl_ms = [0, 30][pair.rng.random_range(0..2)];
            pair.node.transient(pair.now, ROOM, lane, &format!("{number}-{}", "x".repeat(100)), ttl_ms);
            if number % 10 == 0 {
                pair.advance(2);
            }
        }
        pair.settle();
        for lane in [Urgent, Normal] {
            let ledger = &pair.peers[at].ledger(ROOM).lanes[lane];
            let published = pair.node.passed_on[&(ROOM.to_owned(), lane)];
            assert_eq!(ledger.transients + ledger.transients_lost, published, "{lane}");
            assert!(ledger.transients_lost > 0, "nothing was dropped");
        }
    });
}

#[test]
fn transients_missed_while_away_are_counted_from_the_mark() {
    // LC-RES-020, LC-RES-021, LC-SDK-007
    for seed in 0..10 {
        let mut pair = Pair::new(seed, Kind::Pipe);
        let at = pair.member("ann", ROOM);
        for number in 0..20 {
            pair.node.transient(pair.now, ROOM, Normal, &number.to_string(), 0);
            if number == 9 {
                // Whatever of them was under way is lost, and counted as missed.
                pair.drain();
                pair.cut(at);
            }
            let ms = pair.rng.random_range(0..100);
            pair.advance(ms);
        }
        pair.settle();
        let ledger = pair.peers[at].ledger(ROOM);
        assert_eq!(ledger.lanes[Normal].transients + ledger.missed_while_away, 20);
        assert_eq!(ledger.missed_unknown, 0);
    }
}

#[test]
fn another_life_of_the_node_makes_the_missed_unknown() {
    // LC-RES-020
    let mut pair = Pair::new(1, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    pair.node.transient(pair.now, ROOM, Normal, "t", 0);
    pair.settle();
    pair.restart_node();
    pair.settle();
    assert_eq!(pair.peers[at].ledger(ROOM).missed_unknown, 1);
}

#[test]
fn transients_and_durable_events_share_the_lane() {
    // LC-LANE-003
    let mut pair = Pair::new(1, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    for number in 0..20 {
        pair.node.transient(pair.now, ROOM, Normal, &format!("t{number}"), 0);
        pair.node.publish(pair.now, ROOM, Normal, &format!("d{number}"), 0);
        pair.advance(1);
    }
    pair.settle();
    pair.check(at, ROOM);
    let ledger = &pair.peers[at].ledger(ROOM).lanes[Normal];
    assert_eq!(ledger.transient_texts, Pair::texts("t", 20).iter().map(|t| t.replace('-', "")).collect::<Vec<_>>());
}

#[test]
fn the_newest_signal_wins_over_any_transport() {
    // LC-SIG-001, LC-SIG-003, LC-SIG-009, LC-SIG-011, LC-SIG-012
    over_both(20, |mut pair| {
        pair.node.configure(|config| config.limits.signals_per_second = 1000);
        let (sender, reader) = (pair.client("ann"), pair.client("bob"));
        for peer in [sender, reader] {
            pair.subscribe(peer, ROOM, with_signals());
        }
        pair.settle();
        for number in 0..100 {
            pair.signal(sender, ROOM, ["x", "y"][number % 2], &number.to_string(), 5_000);
            let ms = pair.rng.random_range(0..20);
            pair.advance(ms);
        }
        pair.advance(1_000);
        for key in ["x", "y"] {
            let seen: Vec<u64> = pair.peers[reader]
                .signals
                .iter()
                .filter(|(_, signal)| key_of(signal) == key)
                .map(|(_, signal)| signal.counter)
                .collect();
            assert!(!seen.is_empty());
            assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "each is newer than the one before: {seen:?}");
        }
    });
}

#[test]
fn ten_times_more_signals_than_fit_are_conflated() {
    // LC-SIG-009, LC-FLOW-002, L6, L8, L9
    const KEYS: u64 = 100;
    const TTL_MS: u64 = 3_000;
    let mut pair = Pair::new(1, Kind::Pipe);
    pair.node.configure(|config| config.limits.signals_per_second = 100_000);
    let sender = pair.client("ann");
    pair.subscribe(sender, ROOM, with_signals());
    pair.settle();
    // A tenth of what is sent fits through: a signal has about 100 bytes.
    (pair.net.rate, pair.net.capacity) = (10, 500);
    let reader = pair.client("bob");
    pair.subscribe(reader, ROOM, with_signals());
    pair.settle();
    let conn = pair.peers[reader].link.as_ref().unwrap().conn;
    let (mut sent, mut came) = (std::collections::BTreeMap::new(), 0);
    for round in 0..20_000_u64 {
        let (key, ms) = (format!("k{}", round * 7 % KEYS), pair.now.monotonic_ms);
        if round < 15_000 {
            pair.signal(sender, ROOM, &key, &ms.to_string(), TTL_MS as u32);
            sent.insert(key, ms);
        }
        pair.advance(1);
        let waiting = &pair.node.conns[&conn];
        let (signals, bytes) = (waiting.waiting_signals() as u64, waiting.queued_bytes());
        assert!(signals <= KEYS && bytes <= 5_000, "{signals} signals wait, and {bytes} bytes");
        for (_, signal) in &pair.peers[reader].signals[came..] {
            let age_ms = pair.now.monotonic_ms - app::text_of(&signal.envelope).parse::<u64>().unwrap();
            // To the node and from it, with what the transport holds.
            assert!(age_ms <= TTL_MS + 2 * 30 + 100, "a signal came after {age_ms} ms");
        }
        came = pair.peers[reader].signals.len();
    }
    assert!((1_000..=3_000).contains(&came), "{came} of 15,000 came");
    for (key, ms) in sent {
        let mut of_key = pair.peers[reader].signals.iter().filter(|(_, signal)| key_of(signal) == key);
        let newest = of_key.next_back().map(|(_, signal)| app::text_of(&signal.envelope));
        assert_eq!(newest, Some(ms.to_string()), "the newest of {key}");
    }
}

fn key_of(signal: &v1::Signal) -> String {
    use prost::Message;
    v1::Envelope::decode(signal.envelope.clone()).unwrap().key
}

#[test]
fn signals_expire_on_their_way_and_are_there_on_entry_while_they_live() {
    // LC-SIG-004, LC-SIG-006, L8
    let mut pair = Pair::new(2, Kind::Pipe);
    let sender = pair.client("ann");
    pair.subscribe(sender, ROOM, with_signals());
    pair.settle();
    pair.signal(sender, ROOM, "short", "s", 500);
    pair.signal(sender, ROOM, "long", "l", 60_000);
    pair.advance(1_000);
    let late = pair.client("bob");
    pair.subscribe(late, ROOM, with_signals());
    pair.settle();
    pair.advance(500);
    let keys: Vec<_> = pair.peers[late].signals.iter().map(|(_, signal)| key_of(signal)).collect();
    assert_eq!(keys, ["long"]);
    // One whose transport does not take them in time gets none later.
    pair.peers[late].link.as_mut().unwrap().down.stalled = true;
    pair.signal(sender, ROOM, "typing", "t", 500);
    pair.advance(2_000);
    pair.peers[late].link.as_mut().unwrap().down.stalled = false;
    pair.advance(2_000);
    assert_eq!(pair.peers[late].signals.len(), 1);
}

#[test]
fn signals_that_wait_are_conflated_by_key() {
    // LC-SIG-009, LC-FLOW-008
    let mut pair = Pair::new(2, Kind::Pipe);
    let (sender, reader) = (pair.client("ann"), pair.client("bob"));
    for peer in [sender, reader] {
        pair.subscribe(peer, ROOM, with_signals());
    }
    pair.settle();
    for number in 0..1_000 {
        pair.signal(sender, ROOM, "cursor", &number.to_string(), 0);
    }
    pair.advance(1_000);
    let texts: Vec<_> = pair.peers[reader].signals.iter().map(|(_, signal)| app::text_of(&signal.envelope)).collect();
    assert_eq!(texts, ["999"]);
}

#[test]
fn a_signal_that_came_late_or_twice_is_dropped_by_the_client() {
    // LC-SIG-011
    let mut pair = Pair::new(2, Kind::Pipe);
    let at = pair.client("ann");
    pair.subscribe(at, ROOM, with_signals());
    pair.settle();
    let signal = |start, counter, lives_ms: u64, now_ms: u64| {
        let from = Some(v1::Sender { user: "bob".into(), instance: "i".into(), ..Default::default() });
        let expires_at_ms = now_ms + lives_ms;
        let envelope = app::keyed("k", "v");
        let signal = v1::Signal { handle: 1, start, counter, expires_at_ms, from, envelope, ..Default::default() };
        v1::Frame { id: 0, body: Some(Body::Signal(signal)) }
    };
    // The client knows the node's clock to half a round trip.
    let now = pair.now.wall_ms - 1_000;
    let frames = [(0, 5, 2000), (0, 4, 2000), (0, 5, 2000), (1, 1, 2000), (0, 9, 2000), (1, 2, 0)];
    let frames: Vec<_> = frames.iter().map(|(start, counter, lives)| signal(*start, *counter, *lives, now)).collect();
    pair.receive_raw(at, &frames);
    let ages: Vec<_> = pair.peers[at].signals.iter().map(|(_, signal)| (signal.start, signal.counter)).collect();
    assert_eq!(ages, [(0, 5), (1, 1)]);
}

#[test]
fn a_clear_outlives_the_value_that_it_ends() {
    // LC-SIG-005
    let mut pair = Pair::new(2, Kind::Pipe);
    let sender = pair.client("ann");
    pair.subscribe(sender, ROOM, with_signals());
    pair.settle();
    pair.signal(sender, ROOM, "typing", "t", 10_000);
    pair.advance(300);
    let kind = ("test".to_owned(), "typing".to_owned());
    let envelope = app::keyed("typing", "");
    let clear =
        lanecast_protocol::session::client::Outgoing { room: ROOM.into(), kind, envelope, ttl_ms: 10_000, clear: true };
    let now = pair.now;
    pair.peers[sender].client.signal(now, clear);
    pair.advance(300);
    let late = pair.client("bob");
    pair.subscribe(late, ROOM, with_signals());
    pair.settle();
    assert!(pair.peers[late].signals.is_empty());
    assert!(pair.peers[sender].signals.last().unwrap().1.clear);
    assert_eq!(DurableLane::ALL.len(), 3);
}
