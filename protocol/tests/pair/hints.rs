//! What the application says of the device: another network, the background, the foreground.

use lanecast_protocol::codes::Code;
use lanecast_protocol::position::DurableLane::Normal;
use lanecast_protocol::publisher::Settled;
use lanecast_protocol::session::client::ClientState;
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;

use crate::support::{Pair, over_both};

const ROOM: &str = "chat.a";
const HOUR_MS: u64 = 3_600_000;

fn background(pair: &mut Pair, at: usize) {
    pair.peers[at].client.entered_background(pair.now);
    pair.drain();
}

fn foreground(pair: &mut Pair, at: usize) {
    pair.peers[at].client.entered_foreground(pair.now);
    pair.drain();
}

fn attempts(pair: &Pair, at: usize) -> usize {
    pair.peers[at].connects.len()
}

fn is_suspended(pair: &Pair, at: usize) -> bool {
    matches!(pair.peers[at].client.state(), ClientState::Suspended { .. })
}

#[test]
fn in_the_background_a_connection_stays_and_none_is_opened() {
    // LC-SDK-023
    over_both(4, |mut pair| {
        let at = pair.member("ann", ROOM);
        background(&mut pair, at);
        pair.node.publish(pair.now, ROOM, Normal, "here", 0);
        pair.advance(10 * 60_000);
        assert!(pair.peers[at].is_connected(), "it stands while the system lets it");
        pair.cut(at);
        pair.advance(HOUR_MS);
        assert!(is_suspended(&pair, at));
        assert_eq!(attempts(&pair, at), 1);
        pair.node.publish(pair.now, ROOM, Normal, "missed", 0);
        foreground(&mut pair, at);
        assert_eq!(pair.peers[at].connects.last(), Some(&(pair.now.monotonic_ms, 0)), "at once");
        pair.settle();
        pair.check(at, ROOM);
    });
}

#[test]
fn what_waits_in_the_background_is_sent() {
    // LC-SDK-023
    over_both(4, |mut pair| {
        let at = pair.member("ann", ROOM);
        background(&mut pair, at);
        pair.cut(at);
        pair.advance(HOUR_MS);
        let ticket = pair.publish(at, ROOM, Normal, "waits");
        pair.drive_until("it is stored", |pair| pair.peers[at].settled.contains_key(&ticket));
        assert!(matches!(pair.peers[at].settled[&ticket], Settled::Stored(_)));
        assert_eq!(attempts(&pair, at), 2);
        pair.cut(at);
        pair.advance(HOUR_MS);
        assert_eq!(attempts(&pair, at), 2, "nothing waits any more");
    });
}

#[test]
fn attempts_in_the_background_are_bounded_and_begin_anew() {
    // LC-SDK-023
    over_both(4, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.reachable = false;
        background(&mut pair, at);
        pair.cut(at);
        pair.publish(at, ROOM, Normal, "1");
        pair.advance(HOUR_MS);
        assert_eq!(attempts(&pair, at), 1 + 8);
        pair.publish(at, ROOM, Normal, "2");
        pair.advance(HOUR_MS);
        assert_eq!(attempts(&pair, at), 1 + 16);
        pair.peers[at].client.network_changed(pair.now);
        pair.advance(HOUR_MS);
        assert_eq!(attempts(&pair, at), 1 + 24);
        pair.reachable = true;
        pair.publish(at, ROOM, Normal, "3");
        pair.settle();
        pair.check_stored(ROOM, Normal, &["1".into(), "2".into(), "3".into()]);
    });
}

#[test]
fn who_is_sent_away_in_the_background_comes_back_in_the_foreground() {
    // LC-SDK-023, LC-LIFE-022
    over_both(4, |mut pair| {
        let at = pair.member("ann", ROOM);
        background(&mut pair, at);
        let go_away = v1::GoAway { retry_after_ms: 10, closes_in_ms: 10_000, ..Default::default() };
        pair.receive_raw(at, &[v1::Frame { id: 0, body: Some(Body::GoAway(go_away)) }]);
        pair.advance(HOUR_MS);
        let code = Code::GoingAway.number().into();
        assert_eq!(pair.peers[at].client.state(), ClientState::Suspended { code });
        assert_eq!(attempts(&pair, at), 1);
        foreground(&mut pair, at);
        pair.settle();
    });
}

#[test]
fn a_connection_that_does_not_answer_a_hint_is_replaced_at_once() {
    // LC-QUIC-012, LC-LIFE-004, LC-SDK-022
    type Hint = fn(&mut Pair, usize);
    let hints: [Hint; 2] = [foreground, |pair, at| {
        pair.peers[at].client.network_changed(pair.now);
        pair.drain();
    }];
    for hint in hints {
        over_both(4, |mut pair| {
            let at = pair.member("ann", ROOM);
            pair.advance(1_000);
            hint(&mut pair, at);
            pair.advance(10_000);
            assert_eq!(attempts(&pair, at), 1, "it answered");

            pair.peers[at].link.as_mut().unwrap().down.stalled = true;
            let since = pair.now.monotonic_ms;
            hint(&mut pair, at);
            pair.drive_until("it connects anew", |pair| attempts(pair, at) == 2);
            assert_eq!(pair.now.monotonic_ms - since, 2_000);
            assert_eq!(pair.peers[at].disconnects, [Code::IdleTimeout]);
            pair.settle();
        });
    }
}

#[test]
fn hints_that_follow_one_another_give_no_more_time() {
    // LC-SDK-022
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.peers[at].link.as_mut().unwrap().down.stalled = true;
        for _ in 0..5 {
            foreground(&mut pair, at);
            pair.advance(450);
        }
        assert_eq!(attempts(&pair, at), 2);
    });
}

#[test]
fn the_answer_to_an_earlier_ping_proves_nothing() {
    // LC-SDK-022: it may have lain in a buffer while the process was frozen.
    over_both(2, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.peers[at].link.as_mut().unwrap().down.stalled = true;
        pair.advance(30_000);
        let stamp = pair.now.monotonic_ms - 5_000;
        foreground(&mut pair, at);
        let pong = v1::Pong { stamp, server_time_ms: 0 };
        pair.receive_raw(at, &[v1::Frame { id: 1, body: Some(Body::Pong(pong)) }]);
        pair.advance(2_000);
        assert_eq!(attempts(&pair, at), 2);
    });
}

#[test]
fn an_address_that_is_gone_takes_its_connection_along() {
    // LC-SDK-022
    over_both(4, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.advance(1_000);
        pair.peers[at].client.path_lost(pair.now);
        pair.drain();
        assert_eq!(pair.peers[at].connects.last(), Some(&(pair.now.monotonic_ms, 0)), "at once");
        pair.settle();
    });
}

#[test]
fn a_hint_ends_the_wait_and_its_growth() {
    // LC-LIFE-023, LC-SDK-022
    over_both(10, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.reachable = false;
        pair.cut(at);
        pair.drive_until("a row of failures", |pair| attempts(pair, at) == 10);
        pair.drive_until("it waits", |pair| is_suspended(pair, at));
        foreground(&mut pair, at);
        assert_eq!(attempts(&pair, at), 11, "at once");
        pair.drive_until("it fails too", |pair| is_suspended(pair, at));
        let since = pair.now.monotonic_ms;
        pair.drive_until("the next", |pair| attempts(pair, at) == 12);
        assert!(pair.now.monotonic_ms - since <= 100, "the window is the first one again");
    });
}
