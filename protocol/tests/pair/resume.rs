//! Connections break, logs are trimmed, rolled back and lost: nothing is missed and nothing comes twice.

use lanecast_protocol::position::DurableLane::{self, Bulk, Normal, Urgent};
use lanecast_protocol::v1::GapCause;
use rand::Rng;

use crate::support::{Pair, over_both};

const ROOM: &str = "chat.a";

/// 20 cuts at random bytes while 10,000 events are published, in parts of the run by the very client that is cut, in
/// others by another one while that is away.
fn twenty_cuts(mut pair: Pair) {
    let (reader, writer) = (pair.member("ann", ROOM), pair.member("bob", ROOM));
    let mut texts: [Vec<String>; 2] = Default::default();
    let (mut in_replay, mut unacknowledged) = (0, 0);
    for round in 0..20 {
        for at in 0..500 {
            let lane = [Urgent, Normal][pair.rng.random_range(0..2)];
            let text = format!("{round}-{at}");
            pair.publish(writer, ROOM, lane, &text);
            texts[lane.index()].push(text);
        }
        // Long enough for something to be under way, short enough for most of it to be.
        let ms = pair.rng.random_range(1..150);
        pair.advance(ms);
        let victim = [reader, writer][round % 2];
        in_replay += u32::from(!pair.peers[victim].is_live(ROOM));
        unacknowledged += u32::from(pair.peers[victim].client.unsettled() > 0);
        pair.cut(victim);
    }
    pair.settle();
    assert!(in_replay >= 5, "cut {in_replay} times during a replay");
    assert!(unacknowledged >= 5, "cut {unacknowledged} times with unacknowledged publishes");
    for (lane, texts) in [Urgent, Normal].into_iter().zip(&texts) {
        pair.check_stored(ROOM, lane, texts);
        for peer in [reader, writer] {
            pair.check(peer, ROOM);
            let mut seen = pair.peers[peer].ledger(ROOM).lanes[lane].texts();
            seen.sort_unstable();
            let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            texts.sort_unstable();
            assert_eq!(seen, texts);
        }
    }
    assert_eq!(pair.peers[writer].settled.len(), 10_000);
}

#[test]
fn twenty_cuts_at_random_bytes_lose_and_double_nothing() {
    // LC-SUB-010, LC-RES-001, LC-PUB-020, LC-PUB-027, LC-SDK-001, LC-SDK-005
    over_both(20, twenty_cuts);
}

#[test]
fn a_cut_between_an_overtaking_urgent_event_and_the_normal_ones_before_it() {
    // LC-RES-001, LC-LANE-003, LC-LANE-005, L2
    over_both(20, |mut pair| {
        // A narrow transport, so that the normal events wait in the node while the urgent one passes them.
        pair.net.capacity = 2_000;
        let at = pair.member("ann", ROOM);
        for number in 0..100 {
            pair.node.publish(pair.now, ROOM, Normal, &format!("n{number}-{}", "x".repeat(200)), 0);
        }
        pair.drain();
        pair.node.publish(pair.now, ROOM, Urgent, "u", 0);
        let arrived = |pair: &Pair| !pair.peers[at].ledger(ROOM).lanes[Urgent].seen.is_empty();
        pair.drive_until("the urgent event arrives", arrived);
        assert!(pair.peers[at].ledger(ROOM).lanes[Normal].seen.len() < 100, "it overtook some of the normal ones");
        pair.cut(at);
        pair.settle();
        pair.check(at, ROOM);
    });
}

#[test]
fn a_log_trimmed_past_the_position_yields_one_gap_and_then_the_rest() {
    // LC-RES-003, LC-SUB-015
    over_both(5, |mut pair| {
        pair.node.retention.events_max = 10;
        let at = pair.member("ann", ROOM);
        for number in 0..5 {
            pair.node.publish(pair.now, ROOM, Normal, &format!("seen-{number}"), 0);
        }
        pair.settle();
        pair.reachable = false;
        pair.cut(at);
        for number in 0..40 {
            pair.node.publish(pair.now, ROOM, Normal, &format!("away-{number}"), 0);
        }
        pair.reachable = true;
        pair.settle();
        pair.check(at, ROOM);
        let ledger = pair.peers[at].ledger(ROOM);
        let gaps: Vec<_> = ledger.gaps().map(|gap| (gap.lane, gap.from, gap.to, gap.cause)).collect();
        assert_eq!(gaps, [(Normal, 6, Some(35), GapCause::Trimmed)]);
        assert_eq!(ledger.lanes[Normal].delivered(), 15);
    });
}

/// One subscriber or more under everything at once: trimming, expiry and cuts.
fn everything_is_delivered_or_a_gap(mut pair: Pair) {
    pair.node.retention.events_max = pair.rng.random_range(5..60);
    let peers = [pair.member("ann", ROOM), pair.member("bob", ROOM)];
    for _ in 0..pair.rng.random_range(4..10) {
        for number in 0..pair.rng.random_range(0..60) {
            let lane = DurableLane::ALL[pair.rng.random_range(0..3)];
            let ttl_ms = [0, 0, 20, 200][pair.rng.random_range(0..4)];
            pair.node.publish(pair.now, ROOM, lane, &number.to_string(), ttl_ms);
        }
        let ms = pair.rng.random_range(0..300);
        pair.advance(ms);
        let victim = peers[pair.rng.random_range(0..2)];
        if pair.rng.random_bool(0.7) {
            pair.cut(victim);
        }
    }
    pair.settle();
    let published = pair.node.head(ROOM);
    for peer in peers {
        pair.check(peer, ROOM);
        for (lane, ledger) in pair.peers[peer].ledger(ROOM).lanes.iter() {
            assert_eq!(ledger.delivered() + ledger.missing(), published.seq(lane), "{lane}");
        }
    }
}

#[test]
fn delivered_and_gaps_add_up_to_what_was_published() {
    // LC-SUB-010, LC-SUB-015, LC-SUB-016, LC-SUB-017, L1
    over_both(100, everything_is_delivered_or_a_gap);
}

#[test]
fn the_application_resumes_after_a_restart_from_what_it_took() {
    // LC-RES-004, LC-SDK-005
    over_both(5, |mut pair| {
        let at = pair.member("ann", ROOM);
        pair.peers[at].reading = false;
        for number in 0..20 {
            pair.node.publish(pair.now, ROOM, Bulk, &number.to_string(), 0);
        }
        pair.drive_until("they arrived", |pair| pair.peers[at].is_live(ROOM) && pair.node.rooms.len() == 1);
        pair.advance(2_000);
        let first = pair.peers[at].client.next_batch(ROOM, 7);
        assert_eq!(first.len(), 7);
        assert_eq!(pair.peers[at].client.position(ROOM).unwrap().bulk, 0, "nothing was taken yet");
        pair.peers[at].client.take(ROOM);
        let position = pair.peers[at].client.position(ROOM).unwrap();
        assert_eq!(position.bulk, 7);
        let now = pair.now;
        pair.peers[at].client.close(now);
        let again = pair.client("ann");
        pair.subscribe(again, ROOM, crate::support::after(position));
        pair.drive_until("live", |pair| pair.peers[again].client.position(ROOM).is_some_and(|at| at.bulk == 20));
        assert_eq!(pair.peers[again].ledger(ROOM).lanes[Bulk].delivered(), 13);
        assert_eq!(pair.peers[again].ledger(ROOM).lanes[Bulk].base, 7);
    });
}
