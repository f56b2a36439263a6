//! What waits for what while the node's driver takes its time: openings, publishes, reads.

use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::place::{Batch, Stored};
use lanecast_protocol::position::DurableLane::{Normal, Urgent};
use lanecast_protocol::position::{PerLane, Position};
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::client::RoomState;
use lanecast_protocol::session::server::{Opened, Request};
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::{codec, v1};
use prost::Message as _;

use crate::raw::Raw;
use crate::support::over_both;

fn subscribe(room: &str) -> Body {
    Body::Subscribe(v1::Subscribe { room: room.into(), ..Default::default() })
}

fn publish(room: &str, number: u64) -> Body {
    let envelope = v1::Envelope { r#type: "t".into(), ..Default::default() }.encode_to_vec().into();
    Body::Publish(v1::Publish { room: room.into(), number, after: number - 1, envelope, ..Default::default() })
}

/// What the driver was asked and did not answer, in short.
fn asked(raw: &mut Raw) -> Vec<String> {
    raw.requests
        .drain(..)
        .map(|request| match request {
            Request::Subscribe { subscribe, .. } => format!("subscribe {}", subscribe.room),
            Request::Publish { publish, .. } => format!("publish {} {}", publish.room, publish.number),
            Request::History { history, .. } => format!("history {}", history.room),
            Request::Unsubscribed { .. } => "unsubscribed".to_owned(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn answered(raw: &mut Raw) -> Vec<(u32, String)> {
    let name = |body: Body| match body {
        Body::Subscribed(frame) => format!("subscribed {}", frame.room),
        Body::Unsubscribed(frame) => format!("unsubscribed {}", frame.room),
        Body::Published(_) => "published".to_owned(),
        other => panic!("{other:?}"),
    };
    raw.received().into_iter().map(|frame| (frame.id, name(frame.body.unwrap()))).collect()
}

#[test]
fn requests_about_a_room_wait_for_its_opening_and_others_pass() {
    // LC-FRM-015
    let mut raw = Raw::open();
    raw.opens = false;
    raw.send(1, subscribe("a"));
    raw.send(2, publish("a", 1));
    raw.send(3, Body::Unsubscribe(v1::Unsubscribe { room: "a".into() }));
    raw.send(4, subscribe("b"));
    raw.send(5, publish("b", 1));
    raw.send(6, publish("c", 1));
    assert_eq!(asked(&mut raw), ["subscribe a", "subscribe b", "publish c 1"]);
    let opened = raw.opened("a");
    raw.session.subscribed(1, opened, v1::SubscribedCause::Unspecified);
    raw.handle_requests();
    assert_eq!(asked(&mut raw), ["publish a 1"], "what was subscribed hears it");
    raw.session.published(2, "a", v1::Published::default());
    raw.handle_requests();
    assert_eq!(asked(&mut raw), ["unsubscribed"]);
    raw.session.refuse_subscribe(
        lanecast_protocol::session::server::Asked::Frame(4),
        Refusal::new(Code::Unavailable, "no").in_room("b"),
    );
    raw.handle_requests();
    assert_eq!(asked(&mut raw), ["publish b 1"]);
}

#[test]
fn entries_of_hello_are_answered_in_their_order_and_before_what_follows() {
    // LC-HS-012, LC-HS-013
    let mut raw = Raw::new();
    raw.opens = false;
    let room = |room: &str| v1::Subscribe { room: room.into(), ..Default::default() };
    let hello = v1::Hello {
        version_min: 1,
        version_max: 1,
        token: "t".into(),
        instance: "i".into(),
        subscriptions: vec![room("a"), room("bad..name"), room("b")],
        ..Default::default()
    };
    raw.send(1, Body::Hello(hello));
    raw.send(2, Body::Ping(v1::Ping { stamp: 3 }));
    raw.send(3, subscribe("c"));
    for (asked_for, next) in [("subscribe a", "a"), ("subscribe b", "b")] {
        assert_eq!(asked(&mut raw), [asked_for]);
        let opened = Opened { handle: 40 + next.len() as u64, ..raw.opened(next) };
        raw.session.subscribed(0, opened, v1::SubscribedCause::Unspecified);
        raw.handle_requests();
    }
    assert_eq!(asked(&mut raw), ["subscribe c"]);
    let answers: Vec<_> = raw
        .received()
        .into_iter()
        .filter_map(|frame| match frame.body? {
            Body::Subscribed(frame) => Some(frame.room),
            Body::Unsubscribed(frame) => Some(frame.room),
            Body::Pong(_) => Some("pong".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(answers, ["a", "bad..name", "b", "pong"]);
}

#[test]
fn what_looks_at_a_room_waits_for_the_publishes_before_it() {
    // LC-FRM-015
    let mut raw = Raw::open();
    for (id, number) in [(1, 1), (2, 2)] {
        raw.send(id, publish("a", number));
    }
    raw.send(3, subscribe("a"));
    raw.send(4, publish("a", 3));
    raw.send(5, Body::History(v1::History { room: "a".into(), ..Default::default() }));
    assert_eq!(asked(&mut raw), ["publish a 1", "publish a 2"]);
    raw.session.published(1, "a", v1::Published::default());
    raw.handle_requests();
    assert_eq!(asked(&mut raw), [""; 0], "one is not judged yet");
    raw.session.refuse_publish(2, Refusal::new(Code::Unavailable, "no").in_room("a"));
    raw.handle_requests();
    assert_eq!(asked(&mut raw), ["publish a 3"]);
    raw.session.published(4, "a", v1::Published::default());
    raw.handle_requests();
    assert_eq!(asked(&mut raw), ["history a"]);
    raw.received();
}

#[test]
fn rooms_count_while_they_are_opened() {
    // LC-SUB-005
    let mut raw = Raw::open();
    raw.opens = false;
    let rooms = crate::support::node::config().limits.rooms;
    for room in 0..=rooms {
        raw.send(room + 1, subscribe(&format!("r{room}")));
        for request in std::mem::take(&mut raw.requests) {
            let Request::Subscribe { asked, subscribe } = request else { panic!() };
            if room % 4 != 0 {
                let opened = Opened { handle: 1000 + u64::from(room), ..raw.opened(&subscribe.room) };
                raw.session.subscribed(asked.id(), opened, v1::SubscribedCause::Unspecified);
            }
        }
    }
    let refused = raw.received().into_iter().find_map(|frame| match frame.body {
        Some(Body::Error(error)) => Some((frame.id, error.code)),
        _ => None,
    });
    assert_eq!(refused, Some((rooms + 1, Code::TooManyRooms.number().into())));
}

fn stored(seq: u64) -> Stored {
    let event = v1::Event { handle: 2, lane: v1::Lane::Normal.into(), seq, ..Default::default() };
    Stored { seq, expires_at_ms: 0, event_type: "t".into(), record: codec::encode_body(0, Body::Event(event)) }
}

/// The record of an event of lane normal with so many bytes.
fn event_of(handle: u64, seq: u64, bytes: usize) -> Bytes {
    let envelope = vec![0; bytes].into();
    codec::encode_body(
        0,
        Body::Event(v1::Event { handle, lane: v1::Lane::Normal.into(), seq, envelope, ..Default::default() }),
    )
}

fn seqs(raw: &mut Raw) -> Vec<u64> {
    let seq = |frame: v1::Frame| match frame.body {
        Some(Body::Event(event)) => Some(event.seq),
        _ => None,
    };
    raw.received().into_iter().filter_map(seq).collect()
}

#[test]
fn a_mark_while_a_lane_is_read_is_not_slept_through() {
    // LC-SUB-010
    let mut raw = Raw::open();
    raw.send(1, subscribe("r"));
    raw.session.mark_ready(2, Normal);
    let read = raw.session.next_read().unwrap();
    assert!(raw.session.next_read().is_none(), "it is being read");
    raw.session.mark_ready(2, Normal);
    raw.session.mark_ready(2, Urgent);
    let urgent = raw.session.next_read().unwrap();
    assert_eq!(urgent.lane, Urgent, "the other lanes go on");
    raw.session.deliver(raw.now, &read, Batch { first: 1, events: vec![stored(1)] }, false, |_| true);
    let again = raw.session.next_read().unwrap();
    assert_eq!((again.lane, again.after), (Normal, 1));
    raw.session.read_again(&again);
    let again = raw.session.next_read().unwrap();
    assert_eq!((again.lane, again.after), (Normal, 1), "a failure costs nothing");
    raw.session.deliver(raw.now, &again, Batch { first: 1, events: vec![stored(2)] }, false, |_| true);
    assert!(raw.session.next_read().is_none());
    assert_eq!(seqs(&mut raw), [1, 2]);
}

#[test]
fn a_room_without_a_backlog_passes_one_with_a_backlog_unless_it_is_lowered() {
    let level = |lowered| if lowered { v1::FocusLevel::Background } else { v1::FocusLevel::Default };
    for lowered in [false, true] {
        let mut raw = Raw::open();
        for (id, room) in [(1, "replay"), (2, "live")] {
            raw.send(id, subscribe(room));
        }
        raw.send(3, Body::Focus(v1::Focus { room: "live".into(), level: level(lowered).into() }));
        raw.received();
        let [replay, live] = ["replay", "live"].map(|room| raw.session.handle_of(room).unwrap());
        raw.session.mark_ready(replay, Normal);
        let read = raw.session.next_read().unwrap();
        // More than half of what the lane holds, and the log has more.
        let long = |seq| Stored { record: event_of(replay, seq, 1_000), ..stored(seq) };
        let batch = Batch { first: 1, events: (1..=12).map(long).collect() };
        raw.session.deliver(raw.now, &read, batch, true, |_| true);
        assert!(raw.session.next_read().is_none());
        raw.session.mark_ready(live, Normal);
        let read = raw.session.next_read();
        assert_eq!(read.as_ref().map(|read| read.handle), (!lowered).then_some(live));
        if let Some(read) = read {
            let batch = Batch { first: 1, events: vec![Stored { record: event_of(live, 99, 100), ..stored(1) }] };
            raw.session.deliver(raw.now, &read, batch, false, |_| true);
        }
        // What is not in the log: after what is of its room, and before the backlog of another.
        for (handle, seq) in [(replay, 100), (live, 101)] {
            raw.session.send(Normal.into(), handle, event_of(handle, seq, 100), None);
        }
        let seqs = seqs(&mut raw);
        match lowered {
            false => assert_eq!((&seqs[..3], seqs.last()), (&[99, 101, 1][..], Some(&100))),
            true => assert_eq!((&seqs[..2], &seqs[12..]), (&[1, 2][..], &[100, 101][..])),
        }
    }
}

#[test]
fn what_was_read_for_a_former_place_is_not_delivered() {
    // LC-SUB-008: the same seq, and the same handle, and yet another subscription.
    let mut raw = Raw::open();
    raw.send(1, subscribe("r"));
    raw.session.mark_ready(2, Normal);
    let former = raw.session.next_read().unwrap();
    raw.send(2, subscribe("r"));
    raw.session.mark_ready(2, Normal);
    let present = raw.session.next_read().unwrap();
    assert_eq!((former.after, former.handle), (present.after, present.handle));
    raw.session.deliver(raw.now, &former, Batch { first: 1, events: vec![stored(1)] }, false, |_| true);
    raw.session.deliver(raw.now, &present, Batch { first: 1, events: vec![stored(1), stored(2)] }, false, |_| true);
    assert_eq!(seqs(&mut raw), [1, 2]);
}

#[test]
fn a_place_stands_still_until_its_room_is_opened_again() {
    // LC-RES-010
    let mut raw = Raw::open();
    raw.send(1, subscribe("r"));
    raw.session.mark_ready(2, Normal);
    let read = raw.session.next_read().unwrap();
    let place = raw.session.suspend(2).unwrap();
    assert_eq!(place, Position::new(7, PerLane([0; 3])));
    raw.session.deliver(raw.now, &read, Batch { first: 1, events: vec![stored(1)] }, true, |_| true);
    raw.session.read_again(&read);
    raw.session.mark_ready(2, Normal);
    assert!(raw.session.next_read().is_none());
    assert_eq!(raw.session.position(2), Some(place));
    assert_eq!(seqs(&mut raw), [0; 0]);
}

#[test]
fn the_loss_of_the_log_is_told_once_and_moves_nothing() {
    // LC-SUB-018
    let mut raw = Raw::open();
    raw.send(1, subscribe("r"));
    raw.session.mark_ready(2, Normal);
    let read = raw.session.next_read().unwrap();
    raw.session.deliver(raw.now, &read, Batch { first: 1, events: vec![stored(1)] }, false, |_| true);
    raw.received();
    for degraded in [false, true, true, false] {
        raw.session.tell_degraded(degraded);
    }
    let told: Vec<_> = raw.received().into_iter().filter_map(|frame| frame.body).collect();
    let expected = |degraded| {
        let at = v1::Position { epoch: 7, normal: 1, ..Default::default() };
        Body::Subscribed(v1::Subscribed {
            room: "r".into(),
            handle: 2,
            position: Some(at),
            head: Some(at),
            cause: v1::SubscribedCause::Degraded.into(),
            degraded,
            ..Default::default()
        })
    };
    assert_eq!(told, [expected(true), expected(false)]);
}

#[test]
fn rooms_are_told_as_control_drains() {
    // LC-SUB-018, LC-FLOW-004
    let mut raw = Raw::open();
    let rooms = crate::support::node::config().limits.rooms;
    for number in 0..rooms {
        let room = format!("{number}{}", "x".repeat(200));
        let opened = Opened { handle: 10 + u64::from(number), ..raw.opened(&room) };
        raw.session.subscribed(number + 1, opened, v1::SubscribedCause::Unspecified);
        raw.received();
    }
    let (mut told, mut rounds) = (0, 0);
    for _ in 0..rooms {
        // Answers that wait leave it little room.
        while raw.session.queued_bytes(lanecast_protocol::lane::Lane::Control) < 31 * 1024 {
            raw.session.refuse(9, Refusal::new(Code::RateLimited, "x".repeat(900)));
        }
        raw.session.tell_degraded(true);
        let subscribed = |frame: &v1::Frame| matches!(frame.body, Some(Body::Subscribed(_)));
        let now = raw.received().iter().filter(|frame| subscribed(frame)).count();
        rounds += usize::from(now > 0);
        told += now;
    }
    assert_eq!(raw.closed(), None);
    assert_eq!(told, rooms as usize);
    assert!(rounds > 1, "all at once");
}

#[test]
fn a_degraded_room_keeps_its_place_and_is_live_again() {
    // LC-SUB-024
    over_both(10, |mut pair| {
        let at = pair.member("ann", "chat.a");
        pair.node.publish(pair.now, "chat.a", Normal, "one", 0);
        pair.settle();
        let (before, position) =
            (pair.peers[at].client.room_state("chat.a").cloned().unwrap(), pair.peers[at].client.position("chat.a"));
        pair.node.tell_degraded(true);
        pair.advance(2_000);
        assert_eq!(pair.peers[at].client.room_state("chat.a"), Some(&RoomState::Degraded));
        assert_eq!(pair.peers[at].client.position("chat.a"), position);
        pair.node.publish(pair.now, "chat.a", Normal, "two", 0);
        pair.node.tell_degraded(false);
        pair.settle();
        assert_eq!(pair.peers[at].client.room_state("chat.a"), Some(&before));
        pair.check(at, "chat.a");
    });
}
