//! Publishing: stored once, in order, and answered.

use lanecast_protocol::codes::Code;
use lanecast_protocol::position::DurableLane::{Normal, Urgent};
use lanecast_protocol::publisher::Settled;
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::{lane::Lane, v1};

use crate::raw::Raw;
use crate::support::{Kind, Pair, envelope, over_both};

const ROOM: &str = "chat.a";

#[test]
fn a_publish_is_stored_answered_and_delivered_to_its_publisher_too() {
    // LC-PUB-001, LC-SUB-011
    over_both(3, |mut pair| {
        let at = pair.member("ann", ROOM);
        let ticket = pair.publish(at, ROOM, Normal, "hi");
        pair.settle();
        let Some(Settled::Stored(published)) = pair.peers[at].settled.get(&ticket) else { panic!("not stored") };
        assert_eq!((published.epoch, published.seq, published.order, published.duplicate), (1000, 1, 1, false));
        assert_eq!(published.lane, v1::Lane::Normal as i32);
        pair.check(at, ROOM);
        assert_eq!(pair.peers[at].ledger(ROOM).lanes[Normal].texts(), ["hi"]);
    });
}

#[test]
fn a_publish_whose_answer_was_lost_is_stored_once() {
    // LC-PUB-020, LC-PUB-022, LC-PUB-028
    let mut duplicates = 0;
    for seed in 0..30 {
        let mut pair = Pair::new(seed, Kind::Pipe);
        let at = pair.member("ann", ROOM);
        let ticket = pair.publish(at, ROOM, Normal, "once");
        let stored = |pair: &Pair| pair.node.stored.contains_key(&(ROOM.to_owned(), Normal));
        pair.drive_until("it is stored", stored);
        pair.cut(at);
        pair.settle();
        pair.check_stored(ROOM, Normal, &["once".to_owned()]);
        let Some(Settled::Stored(published)) = pair.peers[at].settled.get(&ticket) else { panic!("not stored") };
        assert_eq!((published.seq, published.order), (1, 1), "also where it is a duplicate");
        duplicates += u32::from(published.duplicate);
        pair.check(at, ROOM);
    }
    assert!(duplicates > 0, "no answer was lost");
}

#[test]
fn a_refusal_in_the_middle_of_a_pipeline_keeps_the_order() {
    // LC-PUB-021, LC-PUB-023, LC-PUB-026, LC-PUB-027
    over_both(3, |mut pair| {
        let at = pair.member("ann", ROOM);
        let first = pair.publish(at, ROOM, Normal, "1");
        let large = pair.publish(at, ROOM, Normal, &"x".repeat(70_000));
        let third = pair.publish(at, ROOM, Normal, "3");
        pair.settle();
        pair.check_stored(ROOM, Normal, &["1".to_owned(), "3".to_owned()]);
        let code = u32::from(Code::MessageTooLarge.number());
        assert!(matches!(&pair.peers[at].settled[&large], Settled::Refused { code: with, .. } if *with == code));
        assert!([first, third].iter().all(|at_ticket| matches!(pair.peers[at].settled[at_ticket], Settled::Stored(_))));
    });
}

#[test]
fn pipelined_urgent_publishes_need_no_second_try_on_any_transport() {
    // LC-PUB-027: streams that overtake would have them refused as OUT_OF_ORDER, again and again.
    over_both(5, |mut pair| {
        let at = pair.member("ann", ROOM);
        let texts = Pair::texts("u", 200);
        pair.publish_all(at, ROOM, Urgent, &texts);
        let since = pair.now.monotonic_ms;
        pair.settle();
        pair.check_stored(ROOM, Urgent, &texts);
        assert!(pair.now.monotonic_ms - since <= 6 * pair.net.latency_ms.1, "{} ms", pair.now.monotonic_ms - since);
    });
}

#[test]
fn no_more_publishes_are_in_flight_than_the_node_takes() {
    // LC-PUB-006, LC-HS-020
    over_both(2, |mut pair| {
        pair.node.configure(|config| config.limits.publishes_in_flight = 4);
        let at = pair.member("ann", ROOM);
        pair.node.answers_publishes = false;
        let texts = Pair::texts("t", 40);
        pair.publish_all(at, ROOM, Normal, &texts);
        pair.advance(5_000);
        assert_eq!(pair.peers[at].client.unsettled(), 40);
        pair.node.answer_publishes(pair.now);
        pair.settle();
        pair.check_stored(ROOM, Normal, &texts);
    });
    let mut raw = Raw::open();
    let publish = |number| v1::Publish { room: "r".into(), number, envelope: envelope("x"), ..Default::default() };
    for number in 1..=257 {
        raw.send(number, Body::Publish(publish(u64::from(number))));
    }
    assert_eq!(raw.requests.len(), 256);
    assert!(matches!(&raw.received()[..], [v1::Frame { id: 257, body: Some(Body::Error(error)) }]
        if error.code == u32::from(Code::TooManyInFlight.number()) && error.retry_after_ms > 0));
}

#[test]
fn what_is_wrong_with_a_publish_decides_the_code() {
    // LC-PUB-003, LC-PUB-005, LC-PUB-008, LC-PUB-031, LC-ROOM-001
    let good = || v1::Publish { room: "r".into(), number: 1, envelope: envelope("x"), ..Default::default() };
    let refused = |publish| {
        let mut raw = Raw::open();
        raw.send(2, Body::Publish(publish));
        assert_eq!(raw.closed(), None);
        raw.refused()
    };
    assert_eq!(refused(good()), None);
    assert_eq!(refused(v1::Publish { room: "a..b".into(), ..good() }), Some(Code::RoomName));
    for lane in [Lane::Control, Lane::Signal] {
        assert_eq!(refused(v1::Publish { lane: lane.to_wire().into(), ..good() }), Some(Code::Invalid));
    }
    assert_eq!(refused(v1::Publish { lane: 77, ..good() }), None, "a later lane counts as unspecified");
    assert_eq!(refused(v1::Publish { number: 1 << 53, ..good() }), Some(Code::Invalid));
    assert_eq!(refused(v1::Publish { envelope: Default::default(), ..good() }), Some(Code::Invalid));
    assert_eq!(refused(v1::Publish { envelope: vec![0xff].into(), ..good() }), Some(Code::Invalid));
    let replicated = v1::AckLevel::Replicated.into();
    assert_eq!(refused(v1::Publish { ack: replicated, ..good() }), Some(Code::Unimplemented));
    let exactly = envelope(&"x".repeat(64 * 1024));
    assert_eq!(refused(v1::Publish { envelope: exactly, ..good() }), None);
    let above = envelope(&"x".repeat(64 * 1024 + 1));
    assert_eq!(refused(v1::Publish { envelope: above, ..good() }), Some(Code::MessageTooLarge));
}

#[test]
fn an_absurd_room_name_is_refused_and_nothing_more() {
    // LC-ROOM-001, LC-ERR-001: an Error that repeated it whole would overflow lane control.
    for body in [
        Body::Subscribe(v1::Subscribe { room: "x".repeat(200_000), ..Default::default() }),
        Body::Unsubscribe(v1::Unsubscribe { room: "x".repeat(200_000) }),
        Body::History(v1::History { room: "x".repeat(200_000), ..Default::default() }),
    ] {
        let mut raw = Raw::open();
        raw.send(2, body);
        assert_eq!(raw.closed(), None);
        assert_eq!(raw.refused(), Some(Code::RoomName));
    }
}

#[test]
fn a_publish_that_waited_too_long_is_given_up_and_the_next_still_goes() {
    // LC-SDK-010
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.reachable = false;
        pair.cut(at);
        let late = pair.peers[at].client.publish(pair.now, ROOM, Normal, envelope("late"), 1_000).unwrap();
        let kept = pair.publish(at, ROOM, Normal, "kept");
        pair.advance(2_000);
        assert_eq!(pair.peers[at].settled.get(&late), Some(&Settled::GivenUp));
        pair.reachable = true;
        pair.settle();
        assert!(matches!(pair.peers[at].settled[&kept], Settled::Stored(_)));
        pair.check_stored(ROOM, Normal, &["kept".to_owned()]);
    });
}
