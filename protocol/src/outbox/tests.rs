//! Lanes, times to live, pieces, and the one queue to compare with.

use proptest::prelude::*;

use super::*;
use crate::codec;
use crate::fragment::{Assembler, PIECE_BYTES_MAX};
use crate::v1;
use crate::v1::frame::Body;

fn drain(outbox: &mut Outbox, now_ms: u64) -> Vec<Bytes> {
    std::iter::from_fn(|| outbox.pop(now_ms, Lanes::ALL)).map(|output| output.record).collect()
}

/// The record of an event with so many bytes.
fn event(seq: u64, lane: Lane, bytes: usize) -> Bytes {
    let envelope = vec![seq as u8; bytes].into();
    let lane = lane.to_wire().into();
    codec::encode_body(0, Body::Event(v1::Event { handle: 1, lane, seq, envelope, ..Default::default() }))
}

fn body(record: Bytes) -> Body {
    let frame = codec::records(record, usize::MAX).next().unwrap().unwrap();
    codec::decode(frame).unwrap().body.unwrap()
}

/// What a receiver makes of what left, and the numbers of transfers that were given up.
#[derive(Default)]
struct Receiver {
    assembler: Assembler,
    frames: Vec<(Lane, Body)>,
    aborted: Vec<u64>,
}

impl Receiver {
    fn take(&mut self, output: Output) {
        match body(output.record) {
            Body::Fragment(fragment) => {
                if let Some((lane, frame)) = self.assembler.take(0, fragment, usize::MAX).unwrap() {
                    assert_eq!(lane, output.lane);
                    self.frames.push((lane, codec::decode(frame).unwrap().body.unwrap()));
                }
            }
            Body::FragmentAbort(abort) => {
                self.aborted.push(abort.transfer);
                self.assembler.abort(&abort);
            }
            other => self.frames.push((output.lane, other)),
        }
    }

    fn seqs(&self, of: Lane) -> Vec<u64> {
        self.with_gaps(of, 1_000)
    }

    /// The numbers, whether an event has them or a gap in its place.
    fn numbers(&self, of: Lane) -> Vec<u64> {
        self.with_gaps(of, 0)
    }

    fn with_gaps(&self, of: Lane, more: u64) -> Vec<u64> {
        let seq = |body: &Body| match body {
            Body::Event(event) => event.seq,
            Body::Gap(gap) => more + gap.from,
            other => panic!("{other:?}"),
        };
        self.frames.iter().filter(|(lane, _)| *lane == of).map(|(_, body)| seq(body)).collect()
    }
}

fn gap(seq: u64) -> Bytes {
    codec::encode_body(0, Body::Gap(v1::Gap { from: seq, to: seq, ..Default::default() }))
}

#[test]
fn control_and_urgent_leave_first_and_each_lane_is_a_fifo() {
    // LC-LANE-003, LC-LANE-005
    let mut outbox = Outbox::default();
    for (lane, text) in
        [(Lane::Bulk, "b1"), (Lane::Normal, "n1"), (Lane::Urgent, "u1"), (Lane::Normal, "n2"), (Lane::Control, "c1")]
    {
        outbox.push(lane, Bytes::from(text));
    }
    assert_eq!(outbox.bytes(Lane::Normal), 4);
    assert_eq!(outbox.pop(0, Lanes::NONE.with(Lane::Signal)), None);
    outbox.push(Lane::Bulk, Bytes::from("b2"));
    assert_eq!(outbox.pop(0, Lanes::NONE.with(Lane::Bulk)).unwrap().record, "b1");
    outbox.push(Lane::Urgent, Bytes::from("u2"));
    assert_eq!(drain(&mut outbox, 0)[..3], ["c1", "u1", "u2"]);
    assert!(outbox.is_empty());
    assert_eq!(Lane::ALL.map(|lane| outbox.bytes(lane)), [0; 5]);
}

#[test]
fn what_is_late_is_not_sent() {
    // LC-PUB-014
    let mut outbox = Outbox::default();
    let expiry = |at_ms, instead: &'static str| Expiry { at_ms, instead: Bytes::from(instead) };
    outbox.push_from(Lane::Normal, 0, Bytes::from("late"), Some(expiry(10, "gap")), false);
    outbox.push_from(Lane::Signal, 0, Bytes::from("late"), Some(expiry(10, "")), false);
    outbox.push_from(Lane::Bulk, 0, Bytes::from("in time"), Some(expiry(11, "gap")), false);
    assert_eq!(drain(&mut outbox, 10), ["gap", "in time"]);
    assert_eq!(outbox.take_expired(), [0, 0, 1, 1, 0]);
}

#[test]
fn one_queue_is_a_fifo_of_all_lanes() {
    let mut outbox = Outbox::default();
    outbox.set_fragment_above(Some(100));
    outbox.set_one_queue(true);
    let long = event(1, Lane::Bulk, 1_000);
    outbox.push(Lane::Bulk, long.clone());
    for (lane, text) in [(Lane::Normal, "n"), (Lane::Control, "c"), (Lane::Urgent, "u")] {
        outbox.push(lane, Bytes::from(text));
    }
    assert_eq!(outbox.pop(0, Lanes::ALL.without(Lane::Bulk)), None, "what came first holds up the rest");
    outbox.clear();
    for (lane, record) in [(Lane::Bulk, long.clone()), (Lane::Control, "c".into()), (Lane::Urgent, "u".into())] {
        outbox.push(lane, record);
    }
    assert_eq!(drain(&mut outbox, 0), [long, "c".into(), "u".into()], "it outlives a connection");
}

#[test]
fn others_pass_between_the_pieces_of_a_long_record() {
    // LC-FRM-030
    let mut outbox = Outbox::default();
    outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
    let mut receiver = Receiver::default();
    outbox.push(Lane::Bulk, event(1, Lane::Bulk, 60_000));
    outbox.push(Lane::Bulk, event(2, Lane::Bulk, 10));
    let mut pieces = 0;
    while outbox.records(Lane::Bulk) > 1 {
        outbox.push(Lane::Urgent, event(pieces, Lane::Urgent, 10));
        let urgent = outbox.pop(0, Lanes::ALL).unwrap();
        assert_eq!(urgent.lane, Lane::Urgent);
        receiver.take(urgent);
        let piece = outbox.pop(0, Lanes::ALL).unwrap();
        assert!(piece.record.len() <= PIECE_BYTES_MAX);
        receiver.take(piece);
        pieces += 1;
    }
    assert_eq!((pieces, outbox.bytes(Lane::Bulk)), (15, event(2, Lane::Bulk, 10).len()));
    receiver.take(outbox.pop(0, Lanes::ALL).unwrap());
    assert_eq!(receiver.seqs(Lane::Bulk), [1, 2]);
    assert!(outbox.is_empty());
}

#[test]
fn control_and_what_fits_leave_whole() {
    let mut outbox = Outbox::default();
    outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
    let fits = event(1, Lane::Normal, PIECE_BYTES_MAX - 30);
    assert!(fits.len() <= PIECE_BYTES_MAX);
    let long = event(2, Lane::Normal, PIECE_BYTES_MAX);
    outbox.push(Lane::Control, long.clone());
    outbox.push(Lane::Normal, fits.clone());
    assert_eq!(drain(&mut outbox, 0), [long, fits]);
}

#[test]
fn a_record_that_expires_between_its_pieces_is_given_up_and_its_gap_takes_its_place() {
    // LC-FRM-030, LC-PUB-014
    let mut outbox = Outbox::default();
    outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
    let mut receiver = Receiver::default();
    let late = Expiry { at_ms: 10, instead: gap(1) };
    outbox.push_from(Lane::Normal, 0, event(1, Lane::Normal, 20_000), Some(late), false);
    outbox.push(Lane::Normal, event(2, Lane::Normal, 10));
    receiver.take(outbox.pop(9, Lanes::ALL).unwrap());
    while let Some(output) = outbox.pop(10, Lanes::ALL) {
        receiver.take(output);
    }
    assert_eq!((receiver.seqs(Lane::Normal), receiver.aborted), (vec![1_001, 2], vec![1]));
    assert_eq!((outbox.take_expired(), outbox.bytes(Lane::Normal)), ([0, 0, 1, 0, 0], 0));
}

#[test]
fn a_record_that_is_revised_between_its_pieces_is_given_up() {
    // LC-FRM-030
    for instead in [None, Some(gap(1))] {
        let mut outbox = Outbox::default();
        outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
        let mut receiver = Receiver::default();
        let first = event(1, Lane::Normal, 20_000);
        outbox.push(Lane::Normal, first.clone());
        outbox.push(Lane::Normal, event(2, Lane::Normal, 20_000));
        receiver.take(outbox.pop(0, Lanes::ALL).unwrap());
        outbox.revise(Lane::Normal, |record| Some(record.clone()));
        receiver.take(outbox.pop(0, Lanes::ALL).unwrap());
        outbox.revise(Lane::Normal, |record| if *record == first { instead.clone() } else { Some(record.clone()) });
        while let Some(output) = outbox.pop(0, Lanes::ALL) {
            receiver.take(output);
        }
        let expected = if instead.is_some() { vec![1_001, 2] } else { vec![2] };
        assert_eq!((receiver.seqs(Lane::Normal), receiver.aborted), (expected, vec![1]));
        assert_eq!(receiver.assembler.bytes(), 0);
        assert!(outbox.is_empty() && outbox.bytes(Lane::Normal) == 0);
    }
}

#[test]
fn what_has_no_backlog_passes_what_has_one() {
    let mut outbox = Outbox::default();
    for seq in 1..=4 {
        outbox.push_from(Lane::Normal, 1, event(seq, Lane::Normal, 100), None, false);
    }
    outbox.push_from(Lane::Normal, 2, event(11, Lane::Normal, 100), None, true);
    // In its order behind the one before, and a source that has a backlog stays behind it.
    outbox.push_from(Lane::Normal, 2, event(12, Lane::Normal, 100), None, true);
    outbox.push_from(Lane::Normal, 1, event(5, Lane::Normal, 100), None, true);
    let mut receiver = Receiver::default();
    while let Some(output) = outbox.pop(0, Lanes::ALL) {
        receiver.take(output);
    }
    assert_eq!(receiver.seqs(Lane::Normal), [11, 12, 1, 2, 3, 4, 5]);
}

#[test]
fn a_backlog_that_is_passed_has_half_of_its_lane() {
    let (record, mut outbox) = (event(1, Lane::Normal, 400), Outbox::default());
    let (mut backlog, mut others) = (0, 0);
    for source in 2..10_000 {
        while outbox.bytes(Lane::Normal) < 8 * 1024 {
            outbox.push_from(Lane::Normal, 1, event(0, Lane::Normal, 400), None, false);
        }
        if outbox.may_pass(Lane::Normal) {
            outbox.push_from(Lane::Normal, source, record.clone(), None, true);
        }
        match outbox.pop(0, Lanes::ALL).unwrap().record == record {
            true => others += 1,
            false => backlog += 1,
        }
    }
    assert!(others * 10 > backlog * 9 && backlog * 10 > others * 9, "{others} passed {backlog}");
}

proptest! {
    /// Whatever is pushed, revised and popped when: each record leaves once, in the order of its lane, or what stands for
    /// it does, and the sums are right.
    #[test]
    fn each_record_leaves_once_and_in_order(
        steps in prop::collection::vec((0..8u8, 0..5usize, 1..12_000usize), 1..200),
        fragments in any::<bool>(),
    ) {
        // LC-LANE-003, LC-FRM-030
        let mut outbox = Outbox::default();
        outbox.set_fragment_above(fragments.then_some(PIECE_BYTES_MAX));
        let mut receiver = Receiver::default();
        let (mut expected, mut now_ms): ([Vec<u64>; 5], u64) = Default::default();
        let mut dropped = Vec::new();
        for (number, (kind, at, bytes)) in steps.into_iter().enumerate() {
            let (lane, seq) = (Lane::ALL[at], number as u64 + 1);
            match kind {
                0..3 => {
                    outbox.push(lane, event(seq, lane, bytes));
                    expected[at].push(seq);
                }
                3 => {
                    let expiry = Expiry { at_ms: now_ms + bytes as u64 % 50, instead: gap(seq) };
                    outbox.push_from(lane, 0, event(seq, lane, bytes), Some(expiry), false);
                    expected[at].push(seq);
                }
                4 => outbox.revise(lane, |record| match body(record.clone()) {
                    Body::Event(event) if event.seq % 5 == 0 => {
                        dropped.push(event.seq);
                        None
                    }
                    _ => Some(record.clone()),
                }),
                _ => {
                    now_ms += bytes as u64 % 10;
                    let lanes = if kind == 5 { Lanes::ALL.without(lane) } else { Lanes::ALL };
                    if let Some(output) = outbox.pop(now_ms, lanes) {
                        prop_assert!(lanes.contains(output.lane));
                        receiver.take(output);
                    }
                }
            }
            let waits = Lane::ALL.into_iter().any(|lane| outbox.bytes(lane) > 0);
            prop_assert_eq!(waits, !outbox.is_empty());
        }
        while let Some(output) = outbox.pop(now_ms, Lanes::ALL) {
            receiver.take(output);
        }
        for (at, lane) in Lane::ALL.into_iter().enumerate() {
            let seqs: Vec<u64> = receiver.seqs(lane).into_iter().map(|seq| seq % 1_000).collect();
            expected[at].retain(|seq| !dropped.contains(seq));
            prop_assert_eq!(&seqs, &expected[at]);
        }
        prop_assert_eq!(receiver.assembler.bytes(), 0);
        prop_assert_eq!(Lane::ALL.map(|lane| outbox.bytes(lane)), [0; 5]);
    }

    /// Whatever passes whatever: each source keeps its order, and nothing is lost.
    #[test]
    fn each_source_keeps_its_order(
        steps in prop::collection::vec((0..6u8, 1..4u64, 1..3_000usize, any::<bool>()), 1..300),
    ) {
        let mut outbox = Outbox::default();
        outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
        let mut receiver = Receiver::default();
        let (mut expected, mut now_ms): ([Vec<u64>; 4], u64) = Default::default();
        let source_of = |seq: u64| seq as usize % 4;
        for (number, (kind, source, bytes, has_no_backlog)) in steps.into_iter().enumerate() {
            let seq = number as u64 * 4 + source;
            match kind {
                0..3 => {
                    let expiry = (kind == 0).then(|| Expiry { at_ms: now_ms + bytes as u64 % 50, instead: gap(seq) });
                    let record = event(seq, Lane::Normal, bytes);
                    outbox.push_from(Lane::Normal, source, record, expiry, has_no_backlog);
                    expected[source as usize].push(seq);
                }
                3 => outbox.revise(Lane::Normal, |record| match body(record.clone()) {
                    Body::Event(event) if event.seq % 5 == 0 => {
                        expected[source_of(event.seq)].retain(|seq| *seq != event.seq);
                        None
                    }
                    _ => Some(record.clone()),
                }),
                _ => {
                    now_ms += bytes as u64 % 10;
                    outbox.pop(now_ms, Lanes::ALL).into_iter().for_each(|output| receiver.take(output));
                }
            }
        }
        while let Some(output) = outbox.pop(now_ms, Lanes::ALL) {
            receiver.take(output);
        }
        let seqs: Vec<u64> = receiver.numbers(Lane::Normal);
        for (source, expected) in expected.iter().enumerate() {
            let own: Vec<u64> = seqs.iter().copied().filter(|seq| source_of(*seq) == source).collect();
            prop_assert_eq!(&own, expected);
        }
        prop_assert_eq!(outbox.bytes(Lane::Normal), 0);
    }
}
