//! Large frames in pieces over a pipe, both ways: what passes between them, and what a broken connection leaves.

use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::position::DurableLane::{self, Bulk, Normal, Urgent};
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::v1::{self, GapCause};
use rand::Rng;

use crate::raw::Raw;
use crate::support::{Kind, Pair, envelope};

const ROOM: &str = "chat.a";

fn large(name: &str, bytes: usize) -> String {
    format!("{name}-{}", "x".repeat(bytes))
}

/// Both directions at once, of all sizes, cut at random bytes: in the middle of pieces and between them.
#[test]
fn cuts_between_pieces_lose_and_double_nothing() {
    // LC-FRM-030, LC-SUB-010, LC-RES-001, LC-PUB-020, LC-SDK-001
    for seed in 0..30 {
        let mut pair = Pair::new(seed, Kind::Pipe);
        pair.net.capacity = 10_000;
        pair.net.rate = 1_000;
        let (reader, writer) = (pair.member("ann", ROOM), pair.member("bob", ROOM));
        let mut texts: [Vec<String>; 3] = Default::default();
        let mut halves = 0;
        for round in 0..20 {
            for at in 0..10 {
                let lane = DurableLane::ALL[pair.rng.random_range(0..3)];
                let bytes = [10, 3_000, 20_000, 50_000][pair.rng.random_range(0..4)];
                let text = large(&format!("{round}-{at}"), bytes);
                pair.publish(writer, ROOM, lane, &text);
                texts[lane.index()].push(text);
            }
            let ms = pair.rng.random_range(1..400);
            pair.advance(ms);
            let victim = [reader, writer][round % 2];
            halves += u32::from(pair.peers[victim].client.unfinished_bytes() > 0);
            pair.cut(victim);
        }
        pair.settle();
        assert!(seed > 0 || halves > 0, "nothing was cut in the middle of a transfer");
        for (lane, texts) in DurableLane::ALL.into_iter().zip(&texts) {
            pair.check_stored(ROOM, lane, texts);
            for peer in [reader, writer] {
                pair.check(peer, ROOM);
                assert_eq!(pair.peers[peer].ledger(ROOM).lanes[lane].texts(), *texts);
            }
        }
    }
}

#[test]
fn urgent_passes_between_the_pieces_in_both_directions() {
    // LC-FRM-030, LC-LANE-005, LC-LANE-009
    let mut pair = Pair::new(1, Kind::Pipe);
    pair.net.capacity = 8_000;
    pair.net.rate = 100;
    pair.net.latency_ms = (10, 10);
    let (reader, writer) = (pair.member("ann", ROOM), pair.member("bob", ROOM));
    for number in 0..20 {
        pair.publish(writer, ROOM, Bulk, &large(&format!("b{number}"), 50_000));
    }
    pair.advance(2_000);
    for number in 0..10 {
        let since = pair.now.monotonic_ms;
        pair.publish(writer, ROOM, Urgent, &format!("u{number}"));
        let came = |pair: &Pair| pair.peers[reader].ledger(ROOM).lanes[Urgent].delivered() == number + 1;
        pair.drive_until("urgent arrives", came);
        // Each way: up to 8,000 bytes and a piece are in the pipe, 100 leave in a ms, and each hop takes 10 ms.
        let ms = pair.now.monotonic_ms - since;
        assert!(ms <= 2 * (8_000 + 2 * 4_096) / 100 + 20, "urgent took {ms} ms");
    }
    assert!(pair.peers[reader].ledger(ROOM).lanes[Bulk].delivered() < 20, "bulk still goes on");
    pair.settle();
    pair.check(reader, ROOM);
}

#[test]
fn a_client_that_does_not_take_fragments_gets_records_whole() {
    // LC-FRM-030
    let mut pair = Pair::new(1, Kind::Streams);
    let at = pair.member("ann", ROOM);
    pair.node.publish(pair.now, ROOM, Bulk, &large("b", 50_000), 0);
    pair.settle();
    assert_eq!(pair.peers[at].ledger(ROOM).lanes[Bulk].delivered(), 1, "streams need none");
    let mut raw = Raw::new();
    raw.session.set_pipe(true);
    let mut raw = raw.welcomed(&[]);
    raw.deliver_large(Normal);
    assert!(matches!(&raw.received()[..], [v1::Frame { body: Some(Body::Event(_)), .. }]));
    let mut raw = Raw::new();
    raw.session.set_pipe(true);
    let mut raw = raw.welcomed(&[v1::Capability::Fragments]);
    raw.deliver_large(Normal);
    assert!(raw.received().iter().all(|frame| matches!(frame.body, Some(Body::Fragment(_)))));
}

#[test]
fn what_is_left_in_the_middle_is_given_up() {
    // LC-FRM-030, LC-SUB-007
    let mut pair = Pair::new(2, Kind::Pipe);
    pair.net.capacity = 10_000;
    pair.net.rate = 10;
    let at = pair.member("ann", ROOM);
    pair.subscribe(at, "other", crate::support::beginning());
    pair.settle();
    pair.node.publish(pair.now, ROOM, Normal, &large("left", 50_000), 0);
    pair.advance(1_500);
    assert!(pair.peers[at].client.unfinished_bytes() > 0, "some pieces came");
    pair.peers[at].rooms.remove(ROOM);
    pair.peers[at].client.unsubscribe(ROOM);
    pair.node.publish(pair.now, "other", Normal, &large("stayed", 20_000), 0);
    pair.settle();
    assert_eq!(pair.peers[at].client.unfinished_bytes(), 0);
    assert_eq!(pair.peers[at].ledger("other").lanes[Normal].delivered(), 1);
    assert_eq!(pair.peers[at].connects.len(), 1);
}

#[test]
fn what_expires_between_its_pieces_is_a_gap() {
    // LC-FRM-030, LC-PUB-014, L8
    let mut pair = Pair::new(2, Kind::Pipe);
    pair.net.capacity = 10_000;
    pair.net.rate = 10;
    let at = pair.member("ann", ROOM);
    pair.node.publish(pair.now, ROOM, Normal, &large("late", 50_000), 2_000);
    pair.node.publish(pair.now, ROOM, Normal, "after it", 0);
    pair.settle();
    pair.check(at, ROOM);
    let gaps: Vec<_> = pair.peers[at].ledger(ROOM).gaps().map(|gap| (gap.from, gap.cause)).collect();
    assert_eq!(gaps, [(1, GapCause::Expired)]);
    assert_eq!(pair.peers[at].client.unfinished_bytes(), 0);
}

/// A publish of these bytes, in pieces.
fn pieces(transfer: u64, lane: v1::Lane, bytes: usize) -> Vec<Body> {
    let text = "x".repeat(bytes);
    let publish = v1::Publish {
        room: ROOM.into(),
        lane: lane.into(),
        number: 1,
        envelope: envelope(&text),
        ..Default::default()
    };
    let frame = v1::Frame { id: 9, body: Some(Body::Publish(publish)) };
    let record = codec::records(codec::encode(&frame), usize::MAX).next().unwrap().unwrap();
    let total = record.len() as u64;
    let parts = record.chunks(1_000).enumerate();
    parts
        .map(|(at, data)| {
            let total = if at == 0 { total } else { 0 };
            Body::Fragment(v1::Fragment { transfer, lane: lane.into(), total, data: data.to_vec().into() })
        })
        .collect()
}

#[test]
fn a_node_takes_frames_in_pieces_with_others_between() {
    // LC-FRM-030
    let mut raw = Raw::open();
    let (first, second) = (pieces(1, v1::Lane::Bulk, 5_000), pieces(2, v1::Lane::Bulk, 7_000));
    assert!(first.len() < second.len());
    for (at, piece) in second.into_iter().enumerate() {
        raw.send(0, piece);
        if let Some(piece) = first.get(at) {
            raw.send(0, piece.clone());
        }
        raw.send(3, Body::Ping(v1::Ping::default()));
    }
    assert_eq!(raw.received().len(), 8, "only Pongs");
    let asked: Vec<_> = raw.requests.iter().map(|request| format!("{request:?}").contains("Publish")).collect();
    assert_eq!(asked, [true, true]);
    assert_eq!(raw.closed(), None);
}

#[test]
fn a_node_forgets_what_is_aborted_or_silent() {
    // LC-FRM-031
    let mut raw = Raw::open();
    let first = pieces(1, v1::Lane::Bulk, 5_000);
    raw.send(0, first[0].clone());
    raw.send(0, Body::FragmentAbort(v1::FragmentAbort { transfer: 1, lane: v1::Lane::Bulk.into(), code: 0 }));
    raw.send(0, first[1].clone());
    assert_eq!(raw.closed(), Some(Code::Protocol), "the abort ended it");
    let mut raw = Raw::open();
    raw.send(0, first[0].clone());
    raw.advance(29_000);
    raw.send(0, first[1].clone());
    raw.advance(29_999);
    assert_eq!(raw.closed(), None);
    raw.send(3, Body::Ping(v1::Ping::default()));
    raw.advance(2);
    raw.send(0, first[2].clone());
    assert_eq!(raw.closed(), Some(Code::IdleTimeout));
}

#[test]
fn a_frame_in_pieces_keeps_to_its_lane() {
    // LC-FRM-030, LC-LANE-002
    let on_another = pieces(1, v1::Lane::Bulk, 1_500).into_iter().map(|piece| match piece {
        Body::Fragment(fragment) => Body::Fragment(v1::Fragment { lane: v1::Lane::Normal.into(), ..fragment }),
        other => other,
    });
    let mut raw = Raw::open();
    on_another.for_each(|piece| raw.send(0, piece));
    assert_eq!(raw.closed(), Some(Code::Protocol));
    let nested = codec::encode(&v1::Frame { id: 0, body: pieces(7, v1::Lane::Bulk, 10).pop() });
    let nested = codec::records(nested, usize::MAX).next().unwrap().unwrap();
    let total = nested.len() as u64;
    let mut raw = Raw::open();
    raw.send(0, Body::Fragment(v1::Fragment { transfer: 1, lane: v1::Lane::Bulk.into(), total, data: nested }));
    assert_eq!(raw.closed(), Some(Code::Protocol));
}
