//! Hello and Welcome, and every way in which they fail.

use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::position::DurableLane::Normal;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::client::{ClientState, RoomState};
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::{codec, v1};

use crate::raw::Raw;
use crate::support::{Pair, beginning, over_both};

fn hello() -> v1::Hello {
    let subscriptions = Vec::new();
    v1::Hello {
        version_min: 1,
        version_max: 1,
        token: "ann".into(),
        instance: "i".into(),
        subscriptions,
        ..Default::default()
    }
}

fn refused(hello: v1::Hello) -> Option<Code> {
    let mut raw = Raw::new();
    raw.send(1, Body::Hello(hello));
    raw.closed()
}

#[test]
fn a_client_is_welcomed_with_its_rooms_in_one_round_trip() {
    // LC-HS-001, LC-HS-010, LC-HS-011, LC-HS-012
    over_both(3, |mut pair| {
        let at = pair.client("ann");
        for room in ["a", "b", "c"] {
            pair.subscribe(at, room, beginning());
        }
        pair.node.publish(pair.now, "b", Normal, "before", 0);
        pair.settle();
        assert_eq!(pair.peers[at].ledger("b").lanes[Normal].texts(), ["before"]);
        let states: Vec<_> = pair.peers[at].states.iter().map(|(_, state)| state.clone()).collect();
        assert_eq!(states, [ClientState::Connecting, ClientState::Connected]);
        assert!(!pair.peers[at].client.connection_id().is_empty());
        let round_trip = pair.peers[at].states[1].0 - pair.peers[at].states[0].0;
        assert!(round_trip <= 3 * pair.net.latency_ms.1, "open, Hello and Welcome: {round_trip} ms");
    });
}

#[test]
fn what_is_wrong_with_hello_decides_the_code() {
    // LC-HS-004, LC-HS-005, LC-HS-007
    assert_eq!(refused(hello()), None);
    assert_eq!(refused(v1::Hello { version_min: 2, version_max: 3, ..hello() }), Some(Code::Version));
    assert_eq!(refused(v1::Hello { version_min: 0, version_max: 0, ..hello() }), Some(Code::Version));
    assert_eq!(refused(v1::Hello { version_min: 2, version_max: 1, ..hello() }), Some(Code::Version));
    assert_eq!(refused(v1::Hello { version_min: 1, version_max: 99, ..hello() }), None);
    for instance in [String::new(), "ä".into(), "a b".into(), "x".repeat(65)] {
        assert_eq!(refused(v1::Hello { instance, ..hello() }), Some(Code::BadHello));
    }
    assert_eq!(refused(v1::Hello { instance: "x".repeat(64), ..hello() }), None);
    assert_eq!(refused(v1::Hello { device: "d".repeat(129), ..hello() }), Some(Code::BadHello));
    assert_eq!(refused(v1::Hello { token: "t".repeat(8193), ..hello() }), Some(Code::BadHello));
    let several = v1::Hello { version_max: 0, instance: String::new(), ..hello() };
    assert_eq!(refused(several), Some(Code::Version), "the first failure decides");
}

#[test]
fn the_first_frame_is_hello_and_the_second_is_not() {
    // LC-HS-002, LC-HS-003, LC-LIFE-011
    for body in [Body::Ping(v1::Ping::default()), Body::Subscribe(v1::Subscribe::default()), Body::Done(v1::Done {})] {
        let mut raw = Raw::new();
        raw.send(1, body);
        assert_eq!(raw.closed(), Some(Code::ExpectedHello));
        assert!(matches!(&raw.received()[..], [v1::Frame { id: 0, body: Some(Body::Error(error)) }] if error.closing));
    }
    let mut raw = Raw::new();
    raw.send_frame(v1::Frame::default());
    assert_eq!(raw.closed(), Some(Code::ExpectedHello));
    let mut raw = Raw::open();
    raw.send(2, Body::Hello(hello()));
    assert_eq!(raw.closed(), Some(Code::SecondHello));
    raw.send(3, Body::Ping(v1::Ping::default()));
    assert_eq!(raw.received().len(), 1, "after the Error nothing is carried out");
}

#[test]
fn a_hello_that_does_not_come_ends_in_a_time_out() {
    // LC-HS-006
    let mut raw = Raw::new();
    raw.advance(9_999);
    assert_eq!(raw.closed(), None);
    raw.advance(1);
    assert_eq!(raw.closed(), Some(Code::HandshakeTimeout));
}

#[test]
fn a_record_above_the_limit_or_no_packet_closes() {
    // LC-FRM-002, LC-FRM-004
    let mut raw = Raw::open();
    raw.send_bytes(vec![0x0a, 0x05, 0x01]);
    assert_eq!(raw.closed(), Some(Code::Protocol));
    let mut raw = Raw::open();
    raw.send_bytes(vec![0x0a, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(raw.closed(), Some(Code::TooLarge));
}

#[test]
fn requests_in_the_flight_of_hello_wait_for_welcome() {
    // LC-HS-013
    let mut raw = Raw::new();
    let subscriptions = vec![v1::Subscribe { room: "r".into(), ..Default::default() }];
    let subscribe = v1::Subscribe { room: "s".into(), ..Default::default() };
    let packet = [
        codec::encode_body(1, Body::Hello(v1::Hello { subscriptions, ..hello() })),
        codec::encode_body(2, Body::Subscribe(subscribe)),
        codec::encode_body(3, Body::Unsubscribe(v1::Unsubscribe { room: "s".into() })),
    ];
    raw.send_bytes(packet.concat());
    let ids: Vec<_> = raw.received().iter().map(|frame| frame.id).collect();
    assert_eq!(ids, [1, 0, 2, 3]);
}

#[test]
fn frames_before_welcome_are_bounded() {
    // LC-FLOW-004, LC-SEC-009
    let mut raw = Raw::new();
    raw.authenticates = false;
    raw.send(1, Body::Hello(hello()));
    for _ in 0..20 {
        let room = "x".repeat(100 * 1024);
        raw.send(2, Body::Subscribe(v1::Subscribe { room, ..Default::default() }));
    }
    assert_eq!(raw.closed(), Some(Code::ControlOverflow));
}

#[test]
fn a_room_that_is_refused_in_hello_leaves_the_others() {
    // LC-HS-012, LC-SUB-005
    over_both(2, |mut pair| {
        pair.node.configure(|config| config.limits.rooms = 2);
        let at = pair.client("ann");
        for room in ["a", "b", "c"] {
            pair.subscribe(at, room, beginning());
        }
        pair.drive_until("c ends", |pair| {
            let code = Some(Code::TooManyRooms.number().into());
            pair.peers[at].client.room_state("c") == Some(&RoomState::Ended { code })
        });
        pair.drive_until("the others are live", |pair| ["a", "b"].iter().all(|room| pair.peers[at].is_live(room)));
    });
}

#[test]
fn a_room_that_is_refused_for_now_is_asked_for_again() {
    // LC-FLOW-008, LC-ERR-003
    over_both(2, |mut pair| {
        pair.node.refuse_subscribe = Some(Refusal::new(Code::Unavailable, "no log").retry_after(200));
        let at = pair.client("ann");
        pair.subscribe(at, "in.hello", beginning());
        pair.drive_until("connected", |pair| pair.peers[at].is_connected());
        pair.subscribe(at, "by.frame", beginning());
        pair.advance(5_000);
        for room in ["in.hello", "by.frame"] {
            assert_eq!(pair.peers[at].client.room_state(room), Some(&RoomState::Subscribing), "{room}");
        }
        pair.node.refuse_subscribe = None;
        pair.settle();
    });
}

#[test]
fn a_refused_token_is_not_sent_again_and_new_ones_are_asked_for_in_bounds() {
    // LC-AUTH-001, LC-AUTH-022
    over_both(2, |mut pair| {
        pair.node.accept = Box::new(|hello| match hello.token.as_str() {
            "good" => Ok(lanecast_protocol::session::server::Accepted { user: "ann".into(), ..Default::default() }),
            "old" => Err(Refusal::new(Code::TokenExpired, "expired")),
            _ => Err(Refusal::new(Code::BadToken, "bad")),
        });
        let at = pair.client("old");
        pair.peers[at].new_tokens = vec!["worse".into(), "good".into()];
        pair.assert_closed(at, Code::TokenExpired);
        pair.drive_until("connected", |pair| pair.peers[at].is_connected());
        let asked: Vec<_> = pair.peers[at].connects.iter().map(|(_, refused)| *refused).collect();
        let codes = [Code::TokenExpired, Code::BadToken].map(|code| u32::from(code.number()));
        assert_eq!(asked, [0, codes[0], codes[1]]);
        let never = pair.client("bad");
        pair.drive_until("closed", |pair| matches!(pair.peers[never].client.state(), ClientState::Closed { .. }));
        assert_eq!(pair.peers[never].client.state(), ClientState::Closed { code: Code::BadToken.number().into() });
        assert!(pair.peers[never].connects.len() <= 5, "new tokens are asked for in bounds");
    });
}

#[test]
fn a_code_that_says_stop_stops() {
    // LC-ERR-003, LC-LIFE-013
    over_both(2, |mut pair| {
        for code in [Code::Replaced, Code::Disconnected, Code::BadHello, Code::Origin] {
            pair.node.accept = Box::new(move |_| Err(Refusal::new(code, "go")));
            let at = pair.client("ann");
            pair.assert_closed(at, code);
            pair.advance(60_000);
            assert_eq!(pair.peers[at].client.state(), ClientState::Closed { code: code.number().into() });
            assert_eq!(pair.peers[at].connects.len(), 1);
        }
    });
}

#[test]
fn a_node_that_speaks_another_version_is_left() {
    // LC-FRM-020, LC-HS-004
    let mut pair = Pair::new(1, crate::support::Kind::Pipe);
    let at = pair.client("ann");
    pair.drive_until("a link is open", |pair| pair.peers[at].link.is_some());
    let welcome = v1::Welcome { version: 2, ..Default::default() };
    pair.receive_raw(at, &[v1::Frame { id: 1, body: Some(Body::Welcome(welcome)) }]);
    pair.advance(1);
    assert_eq!(pair.peers[at].disconnects, [Code::Version]);
    assert_eq!(Lane::of(&Body::Hello(hello())), Lane::Control);
}
