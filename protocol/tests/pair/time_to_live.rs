//! Late is not sent (L8): what a client holds back counts against the time to live.

use std::collections::BTreeMap;

use lanecast_protocol::position::DurableLane::{self, Bulk, Normal, Urgent};
use lanecast_protocol::publisher::Settled;
use lanecast_protocol::session::client::{Kept, OldOutbox};
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::{codec, v1};
use prost::Message;
use rand::Rng;

use crate::support::{Kind, Pair, app};

const ROOM: &str = "chat.a";

/// The frames that a peer's transport was handed, fragments put together, and when: first and last byte.
fn handed_over(pair: &Pair, peer: usize) -> Vec<(u64, u64, v1::Frame)> {
    let (mut frames, mut parts) = (Vec::new(), BTreeMap::<(u64, i32), (u64, u64, Vec<u8>)>::new());
    for (at_ms, output) in pair.peers[peer].handed_over.as_ref().unwrap() {
        let frame = codec::records(output.record.clone(), usize::MAX).next().unwrap().unwrap();
        let frame = codec::decode(frame).unwrap();
        match frame.body {
            Some(Body::Fragment(fragment)) => {
                let key = (fragment.transfer, fragment.lane);
                if fragment.total > 0 {
                    parts.insert(key, (*at_ms, fragment.total, Vec::new()));
                }
                let (first_ms, total, bytes) = parts.get_mut(&key).unwrap();
                bytes.extend_from_slice(&fragment.data);
                if bytes.len() as u64 == *total {
                    frames.push((*first_ms, *at_ms, v1::Frame::decode(&bytes[..]).unwrap()));
                }
            }
            _ => frames.push((*at_ms, *at_ms, frame)),
        }
    }
    frames
}

fn text(envelope: &[u8]) -> String {
    match v1::Envelope::decode(envelope).unwrap().body {
        Some(v1::envelope::Body::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

/// Checks that each of these left in time and said how much time it had; returns how many left.
fn check_in_time(pair: &Pair, peer: usize, deadlines: &BTreeMap<String, u64>) -> usize {
    let mut left = 0;
    for (first_ms, last_ms, frame) in handed_over(pair, peer) {
        let (envelope, ttl_ms) = match frame.body {
            Some(Body::Publish(publish)) => (publish.envelope, publish.ttl_ms),
            Some(Body::Signal(signal)) => (signal.envelope, signal.ttl_ms),
            _ => continue,
        };
        let Some(deadline_ms) = deadlines.get(&text(&envelope)) else { continue };
        assert!(last_ms < *deadline_ms, "handed over at {last_ms} ms, {} ms late", last_ms - deadline_ms);
        assert_eq!(first_ms + u64::from(ttl_ms), *deadline_ms, "what it says is what is left");
        left += 1;
    }
    left
}

#[test]
fn of_ten_thousand_messages_none_is_handed_over_late() {
    // L8, LC-PUB-015
    for (seed, kind) in [(1, Kind::Pipe), (2, Kind::Streams), (3, Kind::Pipe), (4, Kind::Streams)] {
        let mut pair = Pair::new(seed, kind);
        (pair.net.capacity, pair.net.rate) = (16_000, 100);
        let at = pair.member("ann", ROOM);
        pair.peers[at].handed_over = Some(Vec::new());
        let (mut deadlines, mut tickets) = (BTreeMap::new(), Vec::new());
        for number in 0..2_500 {
            let large = number % 100 == 0;
            let text = format!("{number}-{}", "x".repeat(pair.rng.random_range(0..if large { 40_000 } else { 600 })));
            let ttl_ms = pair.rng.random_range(1..3_000_u32);
            deadlines.insert(text.clone(), pair.now.monotonic_ms + u64::from(ttl_ms));
            let lane = DurableLane::ALL[pair.rng.random_range(0..3)];
            let now = pair.now;
            let client = &mut pair.peers[at].client;
            match number % 4 {
                0 => pair.signal(at, ROOM, &format!("{}", number % 32), &text, ttl_ms),
                1 => tickets.extend(client.publish_transient(now, ROOM, lane, app::envelope(&text), ttl_ms).ok()),
                _ => tickets.push(client.publish(now, ROOM, lane, app::envelope(&text), ttl_ms).unwrap()),
            }
            let pause_ms = pair.rng.random_range(0..8);
            pair.advance(pause_ms);
            if number % 500 == 499 {
                pair.cut(at);
            }
        }
        pair.advance(10_000);
        pair.settle();
        let left = check_in_time(&pair, at, &deadlines);
        assert!((300..2_400).contains(&left), "{left} of 2,500 left: there is nothing to see");
        let given_up = |ticket| matches!(pair.peers[at].settled[ticket], Settled::GivenUp);
        let late = tickets.iter().filter(|ticket| given_up(ticket)).count();
        assert!(late > 50, "each has ended, and {late} because their time was over");
        pair.check(at, ROOM);
    }
}

#[test]
fn what_an_earlier_process_left_has_the_time_that_is_left() {
    // L8, LC-PUB-015
    let mut pair = Pair::new(3, Kind::Pipe);
    let at = pair.idle_client("ann");
    pair.peers[at].handed_over = Some(Vec::new());
    let kept = |id: u64, ttl_ms: u32, keep_ms| Kept {
        ticket: lanecast_protocol::publisher::Ticket(id),
        room: ROOM.into(),
        lane: Normal,
        number: id,
        envelope: app::envelope(&format!("kept {id}")),
        ttl_ms,
        ack: v1::AckLevel::Stored,
        keep_ms,
    };
    let publishes = vec![kept(1, 5_000, 5_000), kept(2, 1, 0), kept(3, 60_000, 20_000), kept(4, 0, 20_000)];
    let now = pair.now;
    pair.peers[at].client.take_over(now, OldOutbox { start: 1, floor: 4, user: None, publishes });
    pair.reachable = false;
    pair.peers[at].client.connect(now);
    pair.advance(2_000);
    // The file says so too before anything behind it is sent (LC-SDK-016).
    assert_eq!(pair.peers[at].settled[&lanecast_protocol::publisher::Ticket(2)], Settled::GivenUp);
    pair.peers[at].client.end_written(ROOM, Normal);
    pair.reachable = true;
    pair.drive_until("the kept ones have ended", |pair| pair.peers[at].settled.len() == 4);
    let since_ms = now.monotonic_ms;
    let deadlines = BTreeMap::from([("kept 1".to_owned(), since_ms + 5_000), ("kept 3".to_owned(), since_ms + 60_000)]);
    assert_eq!(check_in_time(&pair, at, &deadlines), 2);
    let stored = pair.node.stored[&(ROOM.to_owned(), Normal)].clone();
    assert_eq!(stored, ["kept 1", "kept 3", "kept 4"]);
    assert!(
        !pair.node.stored.contains_key(&(ROOM.to_owned(), Urgent))
            && !pair.node.stored.contains_key(&(ROOM.to_owned(), Bulk))
    );
}
