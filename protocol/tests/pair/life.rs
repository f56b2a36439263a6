//! Heartbeat, time-outs, leaving and coming back.

use std::collections::BTreeSet;

use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::position::DurableLane::Normal;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::client::ClientState;
use lanecast_protocol::session::server::{Accepted, Request};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;

use crate::raw::Raw;
use crate::support::{Kind, Pair, over_both};

const ROOM: &str = "chat.a";

#[test]
fn an_idle_connection_pings_and_lives() {
    // LC-LIFE-001, LC-LIFE-002, LC-LIFE-003
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.advance(10 * 60_000);
        assert_eq!(pair.peers[at].connects.len(), 1);
        assert!(pair.peers[at].is_connected());
    });
}

#[test]
fn a_node_that_falls_silent_is_given_up() {
    // LC-LIFE-004
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        let since = pair.now.monotonic_ms;
        pair.peers[at].link.as_mut().unwrap().down.stalled = true;
        pair.drive_until("it connects anew", |pair| pair.peers[at].connects.len() == 2);
        let took = pair.now.monotonic_ms - since;
        assert!((34_000..=36_000).contains(&took), "ping after 25 s, 10 s for the answer: {took} ms");
        assert_eq!(pair.peers[at].disconnects, [Code::IdleTimeout]);
        pair.settle();
    });
}

#[test]
fn a_client_that_falls_silent_is_closed_and_not_before() {
    // LC-LIFE-003
    let mut raw = Raw::open();
    raw.advance(59_999);
    assert_eq!(raw.closed(), None);
    raw.send(0, Body::Ping(v1::Ping { stamp: 1 }));
    raw.advance(59_999);
    assert_eq!(raw.closed(), None);
    raw.advance(1);
    assert_eq!(raw.closed(), Some(Code::IdleTimeout));
}

#[test]
fn a_ping_is_answered_by_either_side() {
    // LC-LIFE-002, LC-LIFE-005
    let mut raw = Raw::open();
    raw.send(9, Body::Ping(v1::Ping { stamp: 77 }));
    let pong = v1::Pong { stamp: 77, server_time_ms: raw.now.wall_ms };
    assert_eq!(raw.received(), [v1::Frame { id: 9, body: Some(Body::Pong(pong)) }]);
    let mut pair = Pair::new(1, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    pair.receive_raw(at, &[v1::Frame { id: 4, body: Some(Body::Ping(v1::Ping { stamp: 5 })) }]);
    let mut answers = Vec::new();
    let now = pair.now;
    while let Some(output) = pair.peers[at].client.poll_output(now, Lanes::ALL) {
        let record = lanecast_protocol::codec::records(output.record, 1000).next().unwrap().unwrap();
        answers.push(lanecast_protocol::codec::decode(record).unwrap());
    }
    assert_eq!(answers, [v1::Frame { id: 4, body: Some(Body::Pong(v1::Pong { stamp: 5, server_time_ms: 0 })) }]);
}

#[test]
fn go_away_moves_the_client_without_loss() {
    // LC-LIFE-020, LC-LIFE-022
    over_both(5, |mut pair| {
        let at = pair.member("ann", ROOM);
        let conn = pair.peers[at].link.as_ref().unwrap().conn;
        let go_away = v1::GoAway {
            retry_after_ms: 2_000,
            reason: v1::GoAwayReason::Draining.into(),
            closes_in_ms: 10_000,
            ..Default::default()
        };
        pair.node.conns.get_mut(&conn).unwrap().session.go_away(pair.now, go_away);
        let since = pair.now.monotonic_ms;
        for number in 0..50 {
            pair.node.publish(pair.now, ROOM, Normal, &number.to_string(), 0);
            pair.publish(at, ROOM, Normal, &format!("own-{number}"));
            pair.advance(100);
        }
        pair.settle();
        pair.check(at, ROOM);
        assert_eq!(pair.peers[at].connects.len(), 2);
        assert!(pair.peers[at].connects[1].0 - since >= 2_000, "not before the time that it was given");
        assert_eq!(pair.node.head(ROOM).normal, 100);
    });
}

#[test]
fn a_client_that_stays_is_closed_when_the_time_of_go_away_is_over() {
    // LC-LIFE-020
    let mut raw = Raw::open();
    let go_away = v1::GoAway { retry_after_ms: 60_000, closes_in_ms: 5_000, ..Default::default() };
    raw.session.go_away(raw.now, go_away);
    raw.advance(4_999);
    assert_eq!(raw.closed(), None);
    raw.advance(1);
    assert_eq!(raw.closed(), Some(Code::GoingAway));
}

#[test]
fn a_token_that_expires_ends_the_connection_and_a_new_one_is_asked_for() {
    // LC-AUTH-004, LC-AUTH-022
    let mut pair = Pair::new(1, Kind::Pipe);
    let expires = pair.now.wall_ms + 20_000;
    pair.node.accept = Box::new(move |hello| {
        let token_expires_at_ms = if hello.token == "first" { expires } else { 0 };
        Ok(Accepted { user: "ann".into(), token_expires_at_ms, ..Accepted::default() })
    });
    let at = pair.member("first", ROOM);
    pair.peers[at].new_tokens = vec!["second".into()];
    pair.assert_closed(at, Code::TokenExpired);
    assert!(pair.now.wall_ms >= expires && pair.now.wall_ms <= expires + 5_000);
    pair.settle();
    let asked: Vec<_> = pair.peers[at].connects.iter().map(|(_, refused)| *refused).collect();
    assert_eq!(asked, [0, Code::TokenExpired.number().into()]);
}

#[test]
fn a_newer_token_moves_the_expiry_and_holds_back_what_follows_it() {
    // LC-AUTH-004, LC-AUTH-020
    let mut raw = Raw::open();
    let refresh = |token: &str| Body::RefreshToken(v1::RefreshToken { token: token.into() });
    raw.session.refreshed(raw.now, 9, raw.now.wall_ms + 5_000, 0);
    raw.received();
    raw.send(2, refresh("newer"));
    raw.send(3, Body::Subscribe(v1::Subscribe { room: "r".into(), ..Default::default() }));
    raw.send(4, Body::History(v1::History { room: "h".into(), ..Default::default() }));
    raw.send(5, Body::Ping(v1::Ping { stamp: 1 }));
    let ids = |raw: &mut Raw| raw.received().iter().map(|frame| frame.id).collect::<Vec<_>>();
    assert_eq!(ids(&mut raw), [5], "what depends on rights waits");
    assert!(matches!(&raw.requests[..], [Request::RefreshToken { id: 2, token }] if token == "newer"));
    raw.session.refreshed(raw.now, 2, raw.now.wall_ms + 30_000, 0);
    raw.handle_requests();
    assert_eq!(ids(&mut raw), [2, 3]);
    assert!(matches!(&raw.requests[..], [_, Request::History { id: 4, .. }]));
    raw.advance(29_999);
    assert_eq!(raw.closed(), None);
    raw.send(6, refresh(&"x".repeat(8_193)));
    assert_eq!(raw.refused(), Some(Code::BadToken));
    raw.advance(1);
    assert_eq!(raw.closed(), Some(Code::TokenExpired));
}

#[test]
fn a_refused_token_changes_nothing_and_what_waited_goes_on() {
    // LC-AUTH-021, LC-AUTH-023
    let mut raw = Raw::open();
    raw.session.refreshed(raw.now, 9, raw.now.wall_ms + 5_000, 0);
    raw.send(2, Body::RefreshToken(v1::RefreshToken { token: "bob".into() }));
    raw.send(3, Body::Subscribe(v1::Subscribe { room: "r".into(), ..Default::default() }));
    raw.received();
    raw.session.refuse_refresh(2, Refusal::new(Code::UserMismatch, "another user"));
    raw.handle_requests();
    let ids: Vec<_> = raw.received().iter().map(|frame| frame.id).collect();
    assert_eq!(ids, [2, 3]);
    raw.advance(5_000);
    assert_eq!(raw.closed(), Some(Code::TokenExpired));
}

#[test]
fn a_machine_that_slept_counts_the_time() {
    // LC-AUTH-004
    let mut raw = Raw::open();
    raw.session.refreshed(raw.now, 9, raw.now.wall_ms + 5_000, 0);
    raw.now.wall_ms += 5_000;
    raw.send(2, Body::Ping(v1::Ping { stamp: 1 }));
    assert_eq!(raw.closed(), Some(Code::TokenExpired));
}

#[test]
fn attempts_are_spread_over_a_window_that_grows_and_starts_again_after_a_life() {
    // LC-LIFE-023
    let mut waits: Vec<Vec<u64>> = vec![Vec::new(); 12];
    for seed in 0..60 {
        let mut pair = Pair::new(seed, Kind::Pipe);
        pair.net.latency_ms = (1, 1);
        let at = pair.member("ann", ROOM);
        pair.advance(10_000);
        pair.reachable = false;
        pair.cut(at);
        pair.drive_until("12 attempts", |pair| pair.peers[at].connects.len() >= 13);
        let suspended =
            pair.peers[at].states.iter().filter(|(_, state)| matches!(state, ClientState::Suspended { .. }));
        let begins: Vec<u64> = suspended.map(|(at, _)| *at).collect();
        for (attempt, (begin, (connect, _))) in begins.iter().zip(&pair.peers[at].connects[1..13]).enumerate() {
            waits[attempt].push(connect - begin);
        }
    }
    for (attempt, waits) in waits.iter().enumerate() {
        let window = (100u64 << attempt).min(5_000);
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*most <= window, "attempt {attempt}: {most} of {window} ms");
        assert!(*least <= window / 4 && *most >= window * 3 / 4, "attempt {attempt}: {least} to {most} of {window} ms");
        assert!(waits.iter().collect::<BTreeSet<_>>().len() > 10, "attempt {attempt} is spread");
    }
}

#[test]
fn the_row_of_failures_ends_only_with_a_life_as_long_as_the_window() {
    // LC-LIFE-023
    let last_wait = |lives_ms: u64, leaves: bool| {
        let mut most = 0;
        for seed in 0..40 {
            let mut pair = Pair::new(seed, Kind::Pipe);
            pair.net.latency_ms = (1, 1);
            let at = pair.client("ann");
            pair.reachable = false;
            pair.drive_until("8 attempts", |pair| pair.peers[at].connects.len() >= 8);
            pair.reachable = true;
            pair.drive_until("connected", |pair| pair.peers[at].is_connected());
            pair.advance(lives_ms);
            let connects = pair.peers[at].connects.len();
            if leaves {
                let go_away = v1::GoAway { retry_after_ms: 10, closes_in_ms: 10_000, ..Default::default() };
                pair.receive_raw(at, &[v1::Frame { id: 0, body: Some(Body::GoAway(go_away)) }]);
                pair.reachable = false;
                pair.drive_until("the move fails", |pair| {
                    matches!(pair.peers[at].client.state(), ClientState::Suspended { .. })
                });
            } else {
                pair.cut(at);
            }
            let since = pair.now.monotonic_ms;
            let connects = connects + usize::from(leaves);
            pair.drive_until("the next attempt", |pair| pair.peers[at].connects.len() > connects);
            most = most.max(pair.now.monotonic_ms - since);
        }
        most
    };
    assert!(last_wait(4_000, false) > 1_000, "a short life does not count");
    assert!(last_wait(6_000, false) <= 100, "a long one does");
    assert!(last_wait(6_000, true) <= 100, "also when it ended with GoAway");
}

#[test]
fn a_client_that_does_not_take_its_answers_is_closed() {
    // LC-FLOW-004
    let mut raw = Raw::open();
    for stamp in 0..20_000 {
        raw.send(0, Body::Ping(v1::Ping { stamp }));
        if raw.closed().is_some() {
            break;
        }
        assert!(raw.session.queued_bytes(Lane::Control) <= 64 * 1024);
    }
    assert_eq!(raw.closed(), Some(Code::ControlOverflow));
    assert_eq!(raw.received().len(), 1, "only the Error is left");
}

#[test]
fn requests_that_wait_are_bounded() {
    // LC-FLOW-004
    let mut raw = Raw::open();
    let history = v1::History { room: "r".into(), ..Default::default() };
    raw.session.history_page(1, v1::HistoryPage { room: "x".repeat(20_000), ..Default::default() });
    for id in 0..256 {
        raw.send(id, Body::History(history.clone()));
        assert_eq!(raw.closed(), None, "at least 256 are held");
    }
    assert!(raw.requests.is_empty(), "no page is made while bulk is full");
    raw.send(300, Body::History(history));
    assert_eq!(raw.closed(), Some(Code::ControlOverflow));
}

#[test]
fn a_client_without_any_progress_is_closed_and_a_slow_one_is_not() {
    // LC-FLOW-005, L7
    over_both(2, |mut pair| {
        pair.net.capacity = 1_000;
        let stuck = pair.member("ann", ROOM);
        pair.peers[stuck].link.as_mut().unwrap().down.stalled = true;
        let conn = pair.peers[stuck].link.as_ref().unwrap().conn;
        pair.net.rate = 1;
        let slow = pair.member("bob", ROOM);
        let since = pair.now.monotonic_ms;
        for number in 0..200 {
            pair.node.publish(pair.now, ROOM, Normal, &format!("{number}-{}", "x".repeat(300)), 0);
        }
        pair.drive_until("the stuck one is closed", |pair| !pair.node.conns.contains_key(&conn));
        let took = pair.now.monotonic_ms - since;
        assert!((30_000..=30_100).contains(&took), "{took} ms");
        pair.drive_until("the slow one has all", |pair| pair.peers[slow].ledger(ROOM).lanes[Normal].delivered() == 200);
        assert_eq!(pair.peers[slow].connects.len(), 1);
    });
}

#[test]
fn a_number_out_of_bounds_ends_the_connection_and_nothing_else() {
    // LC-FRM-020
    let event = |seq| v1::Event { handle: 1, lane: v1::Lane::Normal.into(), seq, ..Default::default() };
    for body in [
        Body::Event(event(1 << 53)),
        Body::Pong(v1::Pong { stamp: 0, server_time_ms: u64::MAX }),
        Body::Published(v1::Published { seq: u64::MAX, ..Default::default() }),
        Body::HistoryPage(v1::HistoryPage { events: vec![event(1 << 60)], ..Default::default() }),
        Body::Gap(v1::Gap { handle: 1, lane: 3, from: 1, to: 1 << 53, ..Default::default() }),
    ] {
        let mut pair = Pair::new(1, Kind::Pipe);
        let at = pair.member("ann", ROOM);
        pair.receive_raw(at, &[v1::Frame { id: 0, body: Some(body) }]);
        pair.advance(1);
        assert_eq!(pair.peers[at].disconnects, [Code::Protocol]);
        pair.settle();
        pair.check(at, ROOM);
    }
}

#[test]
fn on_streams_the_client_closes_when_it_is_told_to() {
    // LC-QUIC-006
    let mut pair = Pair::new(1, Kind::Streams);
    let at = pair.member("ann", ROOM);
    let code = Code::TooManyConnections;
    let error = v1::Error { code: code.number().into(), closing: true, ..Default::default() };
    pair.receive_raw(at, &[v1::Frame { id: 0, body: Some(Body::Error(error)) }]);
    assert_eq!(pair.peers[at].client.state(), ClientState::Suspended { code: code.number().into() });
    pair.advance(1);
    assert_eq!(pair.peers[at].disconnects, [code]);
    pair.settle();
    pair.check(at, ROOM);
}

#[test]
fn closing_is_for_good() {
    // LC-LIFE-010, LC-LIFE-013
    let mut pair = Pair::new(1, Kind::Pipe);
    let at = pair.member("ann", ROOM);
    let now = pair.now;
    pair.peers[at].client.close(now);
    pair.advance(60_000);
    assert_eq!(pair.peers[at].client.state(), ClientState::Closed { code: Code::Normal.number().into() });
    assert_eq!(pair.peers[at].disconnects, [Code::Normal]);
    assert!(pair.node.conns.is_empty());
}

#[test]
fn the_state_says_the_code_that_the_event_said() {
    // LC-SDK-013
    let mut pair = Pair::new(1, Kind::Pipe);
    pair.node.configure(|config| config.reconnect.min_ms = 5_000);
    let at = pair.member("ann", ROOM);
    let conn = pair.peers[at].link.as_ref().unwrap().conn;
    let refusal = Refusal::new(Code::TooManyConnections, "full");
    pair.node.conns.get_mut(&conn).unwrap().session.close(refusal);
    pair.assert_closed(at, Code::TooManyConnections);
    let (_, last) = pair.peers[at].states.last().unwrap().clone();
    assert_eq!(pair.peers[at].client.state(), last);
}
