//! Subscriptions that move and end, applications that do not read, history, and the order of the lanes.

use lanecast_protocol::codes::Code;
use lanecast_protocol::inbox::Item;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::position::DurableLane::{self, Bulk, Normal, Urgent};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;

use crate::raw::Raw;
use crate::support::{Kind, Pair, after, beginning, over_both};

const ROOM: &str = "chat.a";

fn publish(pair: &mut Pair, room: &str, lane: DurableLane, count: usize, bytes: usize) {
    for number in 0..count {
        pair.node.publish(pair.now, room, lane, &format!("{number}-{}", "x".repeat(bytes)), 0);
    }
}

#[test]
fn nothing_of_a_room_follows_its_unsubscribed() {
    // LC-SUB-007
    let mut pair = Pair::new(3, Kind::Pipe);
    pair.net.capacity = 1_000;
    let at = pair.member("ann", ROOM);
    publish(&mut pair, ROOM, Normal, 200, 100);
    pair.drain();
    let conn = pair.peers[at].link.as_ref().unwrap().conn;
    assert!(pair.node.conns[&conn].session.queued_bytes(Lane::Normal) > 0, "something waits in the node");
    let unsubscribe = Body::Unsubscribe(v1::Unsubscribe { room: ROOM.into() });
    pair.send_raw(at, &[v1::Frame { id: 900, body: Some(unsubscribe) }]);
    assert_eq!(pair.node.conns[&conn].session.queued_bytes(Lane::Normal), 0);
}

#[test]
fn a_place_that_moves_takes_its_queue_along() {
    // LC-SUB-008, LC-SUB-010
    let mut pair = Pair::new(3, Kind::Pipe);
    pair.net.capacity = 1_000;
    let at = pair.member("ann", ROOM);
    publish(&mut pair, ROOM, Normal, 200, 100);
    pair.advance(5);
    pair.subscribe(at, ROOM, beginning());
    pair.settle();
    pair.check(at, ROOM);
    // A client that came upon a hole would have asked once more, a second later.
    assert_eq!(pair.peers[at].ledger(ROOM).lanes[Normal].delivered(), 200);
}

#[test]
fn starts_begin_where_they_say() {
    // LC-SUB-002, LC-SUB-003, LC-SUB-004
    over_both(2, |mut pair| {
        publish(&mut pair, ROOM, Normal, 6, 1);
        publish(&mut pair, ROOM, Urgent, 4, 1);
        pair.advance(10_000);
        publish(&mut pair, ROOM, Normal, 3, 1);
        let start = |at| lanecast_protocol::session::client::SubscribeOptions { start: at, signals: false };
        let cases = [
            (None, 0),
            (Some(v1::start::At::Beginning(v1::StartBeginning {})), 13),
            (Some(v1::start::At::Count(5)), 5),
            (Some(v1::start::At::Count(0)), 0),
            (Some(v1::start::At::DurationMs(5_000)), 3),
        ];
        for (at, expected) in cases {
            let peer = pair.client("ann");
            pair.subscribe(peer, ROOM, start(at.clone()));
            pair.drive_until("live", |pair| pair.peers[peer].is_live(ROOM));
            pair.settle();
            let ledger = pair.peers[peer].ledger(ROOM);
            let delivered: u64 = ledger.lanes.iter().map(|(_, lane)| lane.delivered()).sum();
            assert_eq!(delivered, expected, "{at:?}");
            pair.check(peer, ROOM);
        }
    });
}

#[test]
fn an_application_that_does_not_read_costs_no_memory_and_delays_no_other_room() {
    // LC-SDK-015, LC-FLOW-003, L7, L9
    over_both(3, |mut pair| {
        let at = pair.member("ann", "idle");
        pair.subscribe(at, "busy", beginning());
        pair.settle();
        pair.peers[at].reading = false;
        publish(&mut pair, "idle", Normal, 5_000, 300);
        pair.advance(60_000);
        // The application reads the other room only.
        publish(&mut pair, "busy", Normal, 10, 10);
        pair.advance(2_000);
        let items = pair.peers[at].client.next_batch("busy", 100);
        assert_eq!(items.len(), 10, "the other room is not delayed");
        let ledger = pair.peers[at].rooms.get_mut("busy").unwrap();
        items.into_iter().for_each(|item| ledger.take(item, false));
        let conn = pair.peers[at].link.as_ref().unwrap().conn;
        assert!(pair.node.conns[&conn].queued_bytes() < 64 * 1024, "the node holds little of it");
        let mut waiting = 0;
        let first = pair.peers[at].client.next_batch("idle", 5_000);
        waiting += first.len();
        assert!(waiting <= 1024, "the client holds {waiting}");
        let ledger = pair.peers[at].rooms.get_mut("idle").unwrap();
        first.into_iter().for_each(|item| ledger.take(item, false));
        pair.peers[at].reading = true;
        pair.settle();
        pair.check(at, "idle");
        pair.check(at, "busy");
        assert_eq!(pair.peers[at].ledger("idle").lanes[Normal].delivered(), 5_000);
        assert_eq!(pair.peers[at].connects.len(), 1, "slow is no offence");
    });
}

#[test]
fn rooms_of_a_lane_take_turns_urgent_passes_and_bulk_has_its_share() {
    // LC-LANE-003, LC-LANE-004, LC-LANE-005, LC-LANE-007
    let mut pair = Pair::new(5, Kind::Pipe);
    pair.net.capacity = 2_000;
    pair.net.rate = 10;
    let at = pair.member("ann", "long");
    pair.subscribe(at, "short", beginning());
    pair.settle();
    publish(&mut pair, "long", Normal, 2_000, 200);
    publish(&mut pair, "long", Bulk, 500, 200);
    pair.advance(500);
    publish(&mut pair, "short", Normal, 1, 1);
    publish(&mut pair, "short", Urgent, 1, 1);
    let since = pair.now.monotonic_ms;
    pair.drive_until("urgent", |pair| pair.peers[at].ledger("short").lanes[Urgent].delivered() == 1);
    let urgent = pair.now.monotonic_ms - since;
    pair.drive_until("normal", |pair| pair.peers[at].ledger("short").lanes[Normal].delivered() == 1);
    let normal = pair.now.monotonic_ms - since;
    let long = pair.peers[at].ledger("long");
    assert!(long.lanes[Normal].delivered() < 2_000, "the long replay still goes on");
    let (shared, bulk) = (long.lanes[Normal].delivered(), long.lanes[Bulk].delivered());
    assert!((3 * bulk..=5 * bulk + 10).contains(&shared), "{shared} normal and {bulk} bulk events came");
    // 2,000 bytes are with the transport, 16 KiB in the lane's queue, of 10 bytes that leave per ms normal has 8.
    assert!(urgent <= 500, "urgent took {urgent} ms");
    assert!(normal <= 2 * 16_384 / 8 + 500, "normal took {normal} ms");
    pair.settle();
    pair.check(at, "long");
}

/// How long events of a lane take to a subscriber at 10 Mbit/s and 30 ms, with or without a replay of another room: the
/// longest of 50, ms.
fn longest_beside(replay: usize, lane: DurableLane) -> u64 {
    let mut pair = Pair::new(9, Kind::Pipe);
    (pair.net.rate, pair.net.capacity, pair.net.latency_ms) = (1_250, 1_250 * 55, (30, 30));
    pair.node.configure(|config| config.lane_bytes = 8 * 1024);
    publish(&mut pair, "long", Normal, replay, 100);
    let at = pair.member("ann", "calls");
    pair.subscribe(at, "long", beginning());
    pair.advance(200);
    let mut longest = 0;
    for count in 1..=50 {
        let since = pair.now.monotonic_ms;
        publish(&mut pair, "calls", lane, 1, 100);
        pair.drive_until("it arrives", |pair| pair.peers[at].ledger("calls").lanes[lane].delivered() == count);
        longest = longest.max(pair.now.monotonic_ms - since);
        pair.advance(10);
    }
    let came = pair.peers[at].ledger("long").lanes[Normal].delivered();
    assert!(replay == 0 || came < replay as u64, "the replay still goes on");
    longest
}

#[test]
fn a_long_replay_hardly_delays_another_room() {
    // LC-LANE-004, LC-LANE-005
    for lane in [Urgent, Normal] {
        let (alone, beside) = (longest_beside(0, lane), longest_beside(60_000, lane));
        // The window of the pipe holds 55 ms, which is not ours; the lane's budget is 8 KiB, and a packet 4 KiB.
        let ours_ms = if lane == Urgent { 4 } else { 12 };
        assert!(beside <= alone + 55 + ours_ms, "{lane}: {beside} ms beside a replay, {alone} ms without");
    }
}

#[test]
fn a_history_page_is_answered_and_pages_wait_for_room_in_bulk() {
    // LC-HIST-001, LC-FLOW-003, L9
    let mut pair = Pair::new(1, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    publish(&mut pair, ROOM, Normal, 300, 400);
    pair.settle();
    let ask = || v1::History { room: ROOM.into(), ..Default::default() };
    let ticket = pair.peers[at].client.history(ask()).unwrap();
    pair.settle();
    let page = pair.peers[at].pages[&ticket].as_ref().unwrap();
    assert_eq!((page.events.len(), page.head_order, page.next.is_some()), (200, 300, true));
    // A client that asks for pages and takes none.
    pair.peers[at].link.as_mut().unwrap().down.stalled = true;
    for id in 0..200 {
        pair.send_raw(at, &[v1::Frame { id: 1000 + id, body: Some(Body::History(ask())) }]);
    }
    pair.drain();
    let conn = pair.peers[at].link.as_ref().unwrap().conn;
    let queued = pair.node.conns[&conn].queued_bytes();
    assert!(queued < 512 * 1024, "200 pages would be 20 MB; queued are {queued} bytes");
}

#[test]
fn items_know_the_position_after_them() {
    // LC-RES-004
    let mut pair = Pair::new(1, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    pair.peers[at].reading = false;
    publish(&mut pair, ROOM, Normal, 3, 1);
    pair.advance(1_000);
    let placed = pair.peers[at].client.next_placed(ROOM, 10);
    let positions: Vec<_> = placed.iter().map(|placed| placed.after.normal).collect();
    assert_eq!(positions, [1, 2, 3]);
    assert!(placed.iter().all(|placed| matches!(placed.item, Item::Event(_))));
    assert_eq!(pair.peers[at].client.position(ROOM).unwrap().normal, 0);
}

#[test]
fn unsubscribing_what_is_not_subscribed_is_refused() {
    // LC-SUB-006, LC-ERR-007
    let mut raw = Raw::open();
    raw.send(5, Body::Unsubscribe(v1::Unsubscribe { room: "r".into() }));
    let frames = raw.received();
    let [v1::Frame { id: 5, body: Some(Body::Error(error)) }] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((error.code, error.room.as_str()), (Code::NotSubscribed.number().into(), "r"));
}

#[test]
fn subscribe_checks_its_fields() {
    // LC-RES-006, LC-SUB-023, LC-TYPE-001, LC-ROOM-001
    let refused = |subscribe| {
        let mut raw = Raw::open();
        raw.send(2, Body::Subscribe(subscribe));
        raw.refused()
    };
    let at = |at| v1::Subscribe { room: "r".into(), start: Some(v1::Start { at: Some(at) }), ..Default::default() };
    let position = |epoch, normal| v1::start::At::Position(v1::Position { epoch, normal, ..Default::default() });
    assert_eq!(refused(at(position(1, 5))), None);
    assert_eq!(refused(at(position(0, 5))), Some(Code::Invalid));
    assert_eq!(refused(at(position(1, 1 << 53))), Some(Code::Invalid));
    assert_eq!(refused(at(v1::start::At::Marker(Default::default()))), Some(Code::Unimplemented));
    for room in ["", ".", "a..b", "a.", "*", "a\u{7}"] {
        assert_eq!(
            refused(v1::Subscribe { room: room.into(), ..Default::default() }),
            Some(Code::RoomName),
            "{room:?}"
        );
    }
    let members = v1::Subscribe { room: "r".into(), members: true, ..Default::default() };
    assert_eq!(refused(members), Some(Code::Unimplemented));
}

#[test]
fn a_handle_that_is_not_known_yet_is_held_and_then_asked_for_again() {
    // LC-QUIC-010, LC-RES-005
    let mut pair = Pair::new(7, Kind::Streams);
    let at = pair.client("ann");
    pair.drive_until("connected", |pair| pair.peers[at].is_connected());
    let frame = |seq| {
        let envelope = crate::support::envelope("e");
        let event =
            v1::Event { handle: 1, lane: v1::Lane::Normal.into(), seq, order: seq, envelope, ..Default::default() };
        v1::Frame { id: 0, body: Some(Body::Event(event)) }
    };
    publish(&mut pair, ROOM, Normal, 3, 1);
    // The node's answer is held up; its events are not.
    pair.node.refuse_subscribe = None;
    pair.subscribe(at, ROOM, beginning());
    pair.receive_raw(at, &[frame(1), frame(2)]);
    assert!(pair.peers[at].ledger(ROOM).lanes[Normal].seen.is_empty(), "held");
    pair.settle();
    assert_eq!(pair.peers[at].ledger(ROOM).lanes[Normal].delivered(), 3);
    // Nothing says what the handle 99 is: it is dropped in the end, and an ordered lane takes nothing beyond a hole.
    let strange = v1::Event { handle: 99, lane: v1::Lane::Normal.into(), seq: 1, ..Default::default() };
    pair.receive_raw(at, &[v1::Frame { id: 0, body: Some(Body::Event(strange)) }, frame(5)]);
    pair.advance(5_000);
    assert_eq!(pair.peers[at].ledger(ROOM).lanes[Normal].delivered(), 3);
    let position = pair.node.head(ROOM);
    let other = pair.client("bob");
    pair.subscribe(other, ROOM, after(position));
    pair.settle();
}

#[test]
fn a_room_that_was_left_for_a_while_misses_nothing_that_overtakes_the_answer() {
    // LC-QUIC-010
    for seed in 0..20 {
        let mut pair = Pair::new(seed, Kind::Streams);
        let at = pair.member("ann", ROOM);
        pair.peers[at].reading = false;
        publish(&mut pair, ROOM, Normal, 1_200, 1);
        pair.advance(5_000);
        // The room was left, since nobody reads. What comes now is all there is in its lane, so no later seq tells of it.
        publish(&mut pair, ROOM, Urgent, 1, 1);
        pair.advance(1_000);
        pair.peers[at].reading = true;
        pair.settle();
        let lanes = &pair.peers[at].ledger(ROOM).lanes;
        assert_eq!((lanes[Normal].delivered(), lanes[Urgent].delivered()), (1_200, 1), "seed {seed}");
    }
}
