//! Credit, focus, limits that change, and the cap of lane bulk.

use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::focus::Focus;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::place::Batch;
use lanecast_protocol::position::DurableLane::{Bulk, Normal, Urgent};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;

use crate::raw::Raw;
use crate::support::{Kind, Pair, beginning, over_both};

const ROOM: &str = "chat.a";

/// A connection that names CREDIT, and for which 90 kB of lane normal wait.
fn waiting() -> Raw {
    let mut raw = Raw::new().welcomed(&[v1::Capability::Credit]);
    for _ in 0..90 {
        raw.session.send(Lane::Normal, 1, Bytes::from(vec![0; 1_000]), None);
    }
    raw
}

/// Takes what there is of these lanes, as a transport does that has room for them.
fn take(raw: &mut Raw, lanes: Lanes) -> usize {
    let outputs = std::iter::from_fn(|| raw.session.poll_output(raw.now, lanes));
    let bytes = outputs.filter(|output| output.lane == Lane::Normal).map(|output| output.record.len()).sum();
    raw.session.progress(raw.now, Lanes::NONE, false);
    bytes
}

fn credit(consumed: u64, window: u64) -> Body {
    Body::Credit(v1::Credit { lane: v1::Lane::Normal.into(), consumed, window })
}

#[test]
fn what_is_under_way_stays_within_the_newest_window() {
    // LC-FLOW-010
    let mut raw = waiting();
    assert_eq!(take(&mut raw, Lanes::ALL), 65_000);
    raw.send(0, credit(65_000, 10_000));
    assert_eq!(take(&mut raw, Lanes::ALL), 10_000);
    raw.send(0, credit(65_000, 5_000));
    assert_eq!(take(&mut raw, Lanes::ALL), 0);
    raw.send(0, credit(71_001, 0));
    // Next to nothing is under way.
    assert_eq!(take(&mut raw, Lanes::ALL), 1_000);
    raw.send(0, credit(70_000, 0));
    assert_eq!(raw.closed(), Some(Code::Protocol));
}

#[test]
fn credit_is_not_counted_for_a_client_that_did_not_name_it() {
    // LC-FRM-011
    let mut raw = Raw::open();
    for _ in 0..90 {
        raw.session.send(Lane::Normal, 1, Bytes::from(vec![0; 1_000]), None);
    }
    raw.send(7, credit(1 << 40, 0));
    assert_eq!((take(&mut raw, Lanes::ALL), raw.closed()), (90_000, None));
}

/// Lets 29 s pass in which pings are answered, and checks that the connection lives.
fn pass(raw: &mut Raw, lanes: Lanes) {
    for stamp in 0..29 {
        raw.advance(1_000);
        raw.send(1, Body::Ping(v1::Ping { stamp }));
        take(raw, lanes);
        assert_eq!(raw.closed(), None, "after {stamp} s");
    }
}

#[test]
fn without_credit_there_is_no_progress_whatever_the_transport_takes() {
    // LC-FLOW-005
    let mut raw = waiting();
    take(&mut raw, Lanes::ALL);
    pass(&mut raw, Lanes::ALL);
    raw.send(0, credit(1_000, 1 << 20));
    take(&mut raw, Lanes::ALL);
    pass(&mut raw, Lanes::ALL);
    raw.advance(1_000);
    assert_eq!(raw.closed(), Some(Code::NoProgress));
}

#[test]
fn answers_that_are_taken_are_no_progress_of_events_that_are_not() {
    // LC-FLOW-005
    let mut raw = Raw::open();
    raw.session.send(Lane::Normal, 1, Bytes::from(vec![0; 1_000]), None);
    let lanes = Lanes::ALL.without(Lane::Normal);
    take(&mut raw, lanes);
    pass(&mut raw, lanes);
    raw.advance(900);
    raw.session.progress(raw.now, Lanes::NONE.with(Lane::Normal), true);
    pass(&mut raw, lanes);
    assert_eq!(raw.closed(), None, "a part of a record is progress");
    raw.advance(1_000);
    assert_eq!(raw.closed(), Some(Code::NoProgress));
}

#[test]
fn a_client_tells_what_it_took() {
    // LC-FLOW-010
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        for number in 0..300 {
            pair.node.publish(pair.now, ROOM, Normal, &format!("{number}-{}", "x".repeat(2_000)), 0);
        }
        pair.settle();
        pair.advance(1_000);
        pair.check(at, ROOM);
        let conn = pair.peers[at].link.as_ref().unwrap().conn;
        let gate = pair.node.conns[&conn].session.gate();
        assert!(gate.under_way(Lane::Normal) < 4_096, "{} bytes are not counted", gate.under_way(Lane::Normal));
        let bytes = pair.peers[at].link.as_ref().unwrap().down.written;
        assert!(bytes > 600_000, "{bytes} bytes went by");
    });
}

#[test]
fn bulk_that_waits_for_credit_holds_up_nothing_else() {
    // LC-FLOW-010
    over_both(2, |mut pair| {
        pair.net.latency_ms = (100, 100);
        let at = pair.member("ann", ROOM);
        for number in 0..200 {
            pair.node.publish(pair.now, ROOM, Bulk, &format!("{number}-{}", "x".repeat(2_000)), 0);
        }
        pair.advance(50);
        pair.node.publish(pair.now, ROOM, Urgent, "now", 0);
        pair.advance(200);
        let lanes = &pair.peers[at].ledger(ROOM).lanes;
        assert_eq!(lanes[Urgent].delivered(), 1);
        assert!(lanes[Bulk].delivered() < 200, "bulk takes more than a round trip");
        pair.settle();
        pair.check(at, ROOM);
    });
}

// Focus.

fn focus_of(pair: &Pair, peer: usize, room: &str) -> Focus {
    let session = &pair.node.conns[&pair.peers[peer].link.as_ref().unwrap().conn].session;
    session.focus_of(session.handle_of(room).unwrap())
}

#[test]
fn focus_is_answered_and_unknown_levels_are_the_default() {
    // LC-FLOW-020, LC-FRM-003
    let mut raw = Raw::open();
    let focus = |level| Body::Focus(v1::Focus { room: "r".into(), level });
    raw.send(2, focus(v1::FocusLevel::Foreground.into()));
    assert_eq!(raw.refused(), Some(Code::NotSubscribed));
    raw.send(3, Body::Subscribe(v1::Subscribe { room: "r".into(), ..Default::default() }));
    raw.received();
    let handle = raw.session.handle_of("r").unwrap();
    let levels = [
        (3, Focus::Foreground),
        (1, Focus::Background),
        (0, Focus::Default),
        (3, Focus::Foreground),
        (99, Focus::Default),
    ];
    for (level, expected) in levels {
        raw.send(4, focus(level));
        assert!(matches!(&raw.received()[..], [v1::Frame { id: 4, body: Some(Body::Done(_)) }]));
        assert_eq!(raw.session.focus_of(handle), expected);
    }
    raw.send(5, Body::Focus(v1::Focus { room: "a..b".into(), level: 3 }));
    assert_eq!(raw.refused(), Some(Code::RoomName));
}

#[test]
fn a_lowered_room_is_not_read_while_one_above_it_is() {
    // LC-FLOW-020
    let mut raw = Raw::open();
    for (id, room) in [(1, "back"), (2, "r")] {
        raw.send(id, Body::Subscribe(v1::Subscribe { room: room.into(), ..Default::default() }));
    }
    raw.received();
    raw.send(4, Body::Focus(v1::Focus { room: "back".into(), level: v1::FocusLevel::Background.into() }));
    let handles = ["back", "r"].map(|room| raw.session.handle_of(room).unwrap());
    for handle in handles {
        raw.session.mark_ready(handle, Normal);
    }
    raw.session.mark_ready(handles[0], Bulk);
    let reads: Vec<_> = std::iter::from_fn(|| raw.session.next_read()).collect();
    let rooms: Vec<_> = reads.iter().map(|read| (&*read.room, read.lane)).collect();
    assert_eq!(rooms, [("r", Normal), ("back", Bulk)]);
    raw.session.deliver(raw.now, &reads[0], Batch::default(), false, |_| true);
    assert_eq!(raw.session.next_read().map(|read| read.handle), Some(handles[0]));
}

#[test]
fn focus_outlives_connections_and_ends_with_the_subscription() {
    // LC-FLOW-020
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.peers[at].client.focus(ROOM, Focus::Background);
        pair.advance(1_000);
        assert_eq!(focus_of(&pair, at, ROOM), Focus::Background);
        pair.cut(at);
        pair.settle();
        pair.advance(1_000);
        assert_eq!(focus_of(&pair, at, ROOM), Focus::Background);
        let snapshot = pair.snapshot(ROOM);
        pair.node.publish(pair.now, ROOM, Normal, "lost", 0);
        pair.settle();
        pair.roll_back(ROOM, snapshot);
        pair.settle();
        assert_eq!(focus_of(&pair, at, ROOM), Focus::Background, "in a new epoch too");
        pair.peers[at].client.unsubscribe(ROOM);
        pair.subscribe(at, ROOM, beginning());
        pair.settle();
        pair.advance(1_000);
        assert_eq!(focus_of(&pair, at, ROOM), Focus::Default);
    });
}

/// Bursts of three rooms over a link that they fill by three quarters; the time after which half of the events of each room
/// are there, and all but one of a hundred.
fn delays_ms(lowered: Option<&str>) -> [Vec<u64>; 2] {
    const ROOMS: [&str; 3] = ["chat.a", "chat.b", "chat.c"];
    let mut pair = Pair::new(5, Kind::Pipe);
    (pair.net.latency_ms, pair.net.rate, pair.net.capacity) = ((1, 1), 100, 1_000);
    pair.node.configure(|config| config.lane_bytes = 1_000);
    let at = pair.client("ann");
    ROOMS.iter().for_each(|room| pair.subscribe(at, room, beginning()));
    pair.settle();
    if let Some(room) = lowered {
        pair.peers[at].client.focus(room, Focus::Background);
        pair.settle();
    }
    let (mut delays, mut seen) = (vec![Vec::new(); 3], [0; 3]);
    for burst in 1..=50_u64 {
        for number in 0..10 {
            for room in ROOMS {
                pair.node.publish(pair.now, room, Normal, &format!("{number}-{}", "x".repeat(450)), 0);
            }
        }
        for ms in 1..=220 {
            pair.advance(1);
            for ((room, seen), delays) in ROOMS.iter().zip(&mut seen).zip(&mut delays) {
                let delivered = pair.peers[at].ledger(room).lanes[Normal].delivered();
                delays.extend((*seen..delivered).map(|_| ms));
                *seen = delivered;
            }
        }
        assert_eq!(seen, [burst * 10; 3], "every burst has come");
    }
    delays.iter_mut().for_each(|delays| delays.sort_unstable());
    let at = |percent: usize| delays.iter().map(|delays| delays[delays.len() * percent / 100]).collect();
    [at(50), at(99)]
}

#[test]
fn lowering_a_room_moves_its_delay_and_no_other() {
    // LC-FLOW-020
    let (alike, lowered) = (delays_ms(None), delays_ms(Some("chat.b")));
    let both = format!("medians and 99 % {alike:?}, then {lowered:?}");
    assert!(lowered[0][1] > alike[0][1] + 30, "{both}");
    assert!(lowered[1][1] >= alike[1][1], "{both}");
    for other in [0, 2] {
        assert!(lowered[0][other] <= alike[0][other] && lowered[1][other] <= alike[1][other], "{both}");
    }
}

#[test]
fn a_room_in_the_background_comes_late_and_it_comes() {
    // LC-FLOW-020
    let mut pair = Pair::new(5, Kind::Pipe);
    (pair.net.rate, pair.net.capacity) = (100, 500);
    pair.node.configure(|config| config.lane_bytes = 1_000);
    let at = pair.member("ann", "chat.a");
    pair.subscribe(at, "chat.b", beginning());
    pair.settle();
    pair.peers[at].client.focus("chat.b", Focus::Background);
    pair.advance(1_000);
    for number in 0..2_000 {
        for room in ["chat.a", "chat.b"] {
            pair.node.publish(pair.now, room, Normal, &format!("{number}-{}", "x".repeat(450)), 0);
        }
    }
    pair.drive_until("the room in front has 1,500", |pair| {
        pair.peers[at].ledger("chat.a").lanes[Normal].delivered() >= 1_500
    });
    let behind = pair.peers[at].ledger("chat.b").lanes[Normal].delivered();
    assert!((50..300).contains(&behind), "{behind}");
    pair.settle();
    pair.check(at, "chat.b");
}

// Limits.

#[test]
fn a_token_may_change_the_rate_of_signals() {
    // LC-FLOW-007
    let mut raw = Raw::open();
    let refreshed = |raw: &mut Raw, signals_per_second| {
        raw.send(2, Body::RefreshToken(v1::RefreshToken { token: "t".into() }));
        raw.requests.clear();
        raw.session.refreshed(raw.now, 2, 0, signals_per_second);
        let frames = raw.received();
        assert!(matches!(frames[0], v1::Frame { id: 2, body: Some(Body::TokenRefreshed(_)) }));
        frames.get(1).map(|frame| match frame {
            v1::Frame { id: 0, body: Some(Body::Limits(limits)) } => limits.signals_per_second,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(refreshed(&mut raw, 0), None, "nothing changed");
    assert_eq!(refreshed(&mut raw, 30), Some(30));
    assert_eq!(raw.session.signals_per_second(raw.now), 30, "at once");
    assert_eq!(refreshed(&mut raw, 0), Some(10));
    assert_eq!(raw.session.signals_per_second(raw.now), 30);
    raw.advance(10_000);
    assert_eq!(raw.session.signals_per_second(raw.now), 10);
}

#[test]
fn a_client_keeps_to_limits_that_changed() {
    // LC-FLOW-007, LC-FLOW-008
    let mut pair = Pair::new(5, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    let limits = v1::Limits { signals_per_second: 2, ..pair.node.config.limits };
    pair.receive_raw(at, &[v1::Frame { id: 0, body: Some(Body::Limits(limits)) }]);
    let before = pair.peers[at].link.as_ref().unwrap().up.written;
    for key in 0..100 {
        pair.signal(at, ROOM, &format!("{key}"), "x", 60_000);
    }
    pair.advance(5_000);
    let bytes = pair.peers[at].link.as_ref().unwrap().up.written - before;
    // A burst of two, and two each second.
    let each = 50;
    assert!((8 * each / 2..=13 * each * 2).contains(&bytes), "{bytes} bytes of signals in 5 s");
}

#[test]
fn a_cap_holds_bulk_and_nothing_else() {
    // LC-FLOW-005
    let mut pair = Pair::new(5, Kind::Pipe);
    pair.node.configure(|config| (config.bulk_bytes_per_second, config.no_progress_ms) = (20_000, 1_000));
    let at = pair.member("ann", ROOM);
    for number in 0..5 {
        pair.node.publish(pair.now, ROOM, Bulk, &format!("{number}-{}", "x".repeat(40_000)), 0);
    }
    pair.node.publish(pair.now, ROOM, Normal, "passes", 0);
    pair.advance(500);
    assert_eq!(pair.peers[at].ledger(ROOM).lanes[Normal].delivered(), 1);
    let since = pair.now.monotonic_ms;
    pair.settle();
    let took_ms = pair.now.monotonic_ms - since;
    // 160 kB behind the first record, less what may leave at once.
    assert!((6_500..9_000).contains(&took_ms), "{took_ms} ms");
    assert_eq!(pair.peers[at].connects.len(), 1, "what the cap holds back is not the client's fault");
    pair.check(at, ROOM);
}
