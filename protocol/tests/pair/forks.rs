//! Epochs: the log loses its newest part, or everything.

use lanecast_protocol::position::DurableLane::{self, Normal, Urgent};
use lanecast_protocol::v1::{self, GapCause};
use rand::Rng;

use crate::support::{Pair, over_both};

const ROOM: &str = "chat.a";

fn publish(pair: &mut Pair, lane: DurableLane, count: usize, name: &str) {
    for number in 0..count {
        pair.node.publish(pair.now, ROOM, lane, &format!("{name}-{number}"), 0);
    }
}

#[test]
fn a_restart_of_the_node_rolls_back_with_open_end_and_delivery_goes_on() {
    // LC-RES-011, LC-RES-014, LC-SDK-006
    over_both(10, |mut pair| {
        let at = pair.member("ann", ROOM);
        publish(&mut pair, Normal, 5, "former");
        publish(&mut pair, Urgent, 3, "former");
        pair.settle();
        pair.restart_node();
        publish(&mut pair, Normal, 2, "later");
        pair.settle();
        publish(&mut pair, Normal, 2, "last");
        pair.settle();
        pair.check(at, ROOM);
        let ledger = pair.peers[at].ledger(ROOM);
        let gaps: Vec<_> = ledger.gaps().map(|gap| (gap.lane, gap.epoch, gap.from, gap.to, gap.cause)).collect();
        let open = |lane, from| (lane, 1000, from, None, GapCause::RolledBack);
        assert_eq!(gaps, [open(Urgent, 4), open(Normal, 6), open(DurableLane::Bulk, 1)]);
        assert_eq!(ledger.lanes[Normal].texts(), ["later-0", "later-1", "last-0", "last-1"]);
        assert_eq!(pair.peers[at].client.position(ROOM).unwrap().epoch, 2000);
    });
}

/// The log forks while frames of the former handle are in flight, and with them what the fork revokes.
fn fork_in_flight(mut pair: Pair) {
    let (at, other) = (pair.member("ann", ROOM), pair.member("bob", ROOM));
    for _ in 0..4 {
        for lane in [Urgent, Normal] {
            let count = pair.rng.random_range(0..30);
            publish(&mut pair, lane, count, "before");
        }
        let ms = pair.rng.random_range(0..100);
        pair.advance(ms);
        let snapshot = pair.snapshot(ROOM);
        for lane in [Urgent, Normal] {
            let count = pair.rng.random_range(0..30);
            publish(&mut pair, lane, count, "lost");
        }
        let ms = pair.rng.random_range(0..60);
        pair.advance(ms);
        if pair.rng.random_bool(0.3) {
            pair.cut(other);
        }
        pair.roll_back(ROOM, snapshot);
        let count = pair.rng.random_range(0..20);
        publish(&mut pair, Normal, count, "after");
        publish(&mut pair, Urgent, count, "after");
        if pair.rng.random_bool(0.3) {
            pair.cut(at);
        }
    }
    pair.settle();
    pair.check(at, ROOM);
    pair.check(other, ROOM);
}

#[test]
fn a_fork_while_frames_of_the_former_handle_are_in_flight() {
    // LC-RES-010, LC-RES-013, LC-RES-014
    over_both(100, fork_in_flight);
}

#[test]
fn an_epoch_without_loss_passes_in_silence() {
    // LC-RES-013
    over_both(10, |mut pair| {
        let at = pair.member("ann", ROOM);
        publish(&mut pair, Normal, 9, "kept");
        pair.settle();
        let snapshot = pair.snapshot(ROOM);
        pair.roll_back(ROOM, snapshot);
        publish(&mut pair, Normal, 1, "next");
        pair.settle();
        pair.check(at, ROOM);
        assert_eq!(pair.peers[at].ledger(ROOM).gaps().count(), 0);
        assert_eq!(pair.peers[at].ledger(ROOM).lanes[Normal].delivered(), 10);
        assert_eq!(pair.peers[at].client.position(ROOM).unwrap().epoch, 1001);
    });
}

#[test]
fn a_position_that_was_made_up_changes_nothing_in_the_log() {
    // LC-RES-012
    over_both(3, |mut pair| {
        publish(&mut pair, Normal, 3, "real");
        let mut claim = pair.node.head(ROOM);
        claim.normal = 1_000;
        let at = pair.client("liar");
        pair.subscribe(at, ROOM, crate::support::after(claim));
        pair.drive_until("live", |pair| pair.peers[at].is_live(ROOM));
        pair.advance(1_000);
        assert_eq!(pair.node.head(ROOM).to_string(), "1000-0-3-0");
        let gaps: Vec<_> = pair.peers[at].ledger(ROOM).gaps().map(|gap| (gap.from, gap.to, gap.cause)).collect();
        assert_eq!(gaps, [(4, Some(1_000), GapCause::RolledBack)]);
        assert!(matches!(
            pair.peers[at].room_states.last(),
            Some((_, lanecast_protocol::session::client::RoomState::Live { recovered: false, .. }))
        ));
    });
}

#[test]
fn a_queued_gap_that_crosses_the_fork_is_cut_at_it() {
    // LC-RES-010, LC-SUB-010
    use lanecast_protocol::place::Batch;
    use lanecast_protocol::position::{PerLane, Position};
    use lanecast_protocol::session::server::Opened;
    let mut raw = crate::raw::Raw::open();
    let position = |epoch, normal| Position::new(epoch, PerLane([0, normal, 0]));
    let opened = |handle, position, head| Opened {
        room: "r".into(),
        handle,
        position,
        head,
        head_order: 0,
        recovered: false,
        rolled_back: Vec::new(),
        missed_transients: None,
        transients: None,
        degraded: false,
    };
    raw.session.subscribed(2, opened(1, position(7, 4), position(7, 10)), v1::SubscribedCause::Unspecified);
    let read = raw.session.next_read().unwrap();
    assert_eq!((read.lane, read.after), (Normal, 4));
    raw.session.deliver(raw.now, &read, Batch { first: 11, events: Vec::new() }, false, |_| true);
    raw.session.subscribed(0, opened(2, position(8, 7), position(8, 7)), v1::SubscribedCause::Epoch);
    let gaps: Vec<_> = raw
        .received()
        .into_iter()
        .filter_map(|frame| match frame.body {
            Some(v1::frame::Body::Gap(gap)) => Some((gap.handle, gap.from, gap.to)),
            _ => None,
        })
        .collect();
    assert_eq!(gaps, [(1, 5, 7)]);
}
