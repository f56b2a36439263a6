//! Faults planted into a recorded round: the checker must find each, and where it was planted.

use std::path::Path;

use super::{Finding, Kind, check};
use crate::faults::history::{Cause, Entry, Gap, Histories, Line, Payload};

/// The subscriber whose history is changed.
const CLIENT: usize = 2;

fn recorded() -> Histories {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faults-recorded");
    Histories::read(&directory).expect("the recorded round is readable")
}

/// The line of the first delivery for which this lane has another delivery in the very next line of the same room and
/// lane without a gap or Subscribed of the room between them; and that next line.
fn two_deliveries(lines: &[Line]) -> (usize, usize) {
    let delivery = |line: &Line| match line.entry {
        Entry::Delivered { seq, payload, .. } => Some((seq, payload)),
        _ => None,
    };
    for (first, line) in lines.iter().enumerate() {
        let Some((seq, payload)) = delivery(line).filter(|(seq, _)| *seq > 1) else { continue };
        let next = lines.iter().enumerate().skip(first + 1).find(|(_, next)| {
            delivery(next).is_some_and(|(next_seq, next)| {
                (next_seq, next.room, next.lane) == (seq + 1, payload.room, payload.lane)
            })
        });
        if let Some((second, _)) = next {
            return (first, second);
        }
    }
    panic!("the recorded round has no two deliveries in a row");
}

fn place(lines: &[Line], index: usize) -> (Payload, u64, u64) {
    match lines[index].entry {
        Entry::Delivered { epoch, seq, payload, .. } => (payload, epoch, seq),
        ref other => panic!("{other:?} is no delivery"),
    }
}

#[track_caller]
fn finds(histories: &Histories, kind: Kind, fits: impl Fn(&Finding) -> bool) {
    let report = check(histories);
    let told: String = report.findings.iter().map(|finding| finding.explain(histories)).collect();
    assert!(report.findings.iter().any(|finding| finding.kind == kind && fits(finding)), "no {kind} in:\n{told}");
}

#[test]
fn a_clean_round_passes() {
    let histories = recorded();
    let report = check(&histories);
    let told: String = report.findings.iter().map(|finding| finding.explain(&histories)).collect();
    assert!(report.is_good(), "{told}");
    assert!(report.counts.delivered > 100 && report.counts.gaps[&Cause::RolledBack] > 0, "{:?}", report.counts);
}

#[test]
fn a_lost_event_is_found() {
    let mut histories = recorded();
    let (first, _) = two_deliveries(&histories.clients[CLIENT]);
    let (payload, _, seq) = place(&histories.clients[CLIENT], first);
    histories.clients[CLIENT].remove(first);
    finds(&histories, Kind::Lost, |finding| {
        (finding.client, finding.room, finding.lane, finding.seq)
            == (Some(CLIENT), Some(payload.room), Some(payload.lane), Some(seq))
    });
}

#[test]
fn an_event_lost_at_the_end_is_found() {
    let mut histories = recorded();
    let lines = &mut histories.clients[CLIENT];
    let last = lines.iter().rposition(|line| matches!(line.entry, Entry::Delivered { .. })).unwrap();
    let (_, _, seq) = place(lines, last);
    lines.remove(last);
    finds(&histories, Kind::Lost, |finding| finding.client == Some(CLIENT) && finding.seq == Some(seq));
}

#[test]
fn a_doubled_event_is_found() {
    let mut histories = recorded();
    let (first, second) = two_deliveries(&histories.clients[CLIENT]);
    let (payload, _, seq) = place(&histories.clients[CLIENT], first);
    let again = histories.clients[CLIENT][first].clone();
    histories.clients[CLIENT].insert(second + 1, again);
    finds(&histories, Kind::Doubled, |finding| finding.seq == Some(seq) && finding.room == Some(payload.room));
}

#[test]
fn a_publish_stored_twice_is_found() {
    let mut histories = recorded();
    let log = &mut histories.logs[0];
    let (mut again, newest) = (log.events[3], log.events[log.events.len() - 1]);
    let lane = again.payload.lane;
    again.seq = log.head.seqs[lane.index()] + 1;
    again.order = newest.order + 1;
    log.head.seqs[lane.index()] += 1;
    log.events.push(again);
    finds(&histories, Kind::Doubled, |finding| finding.client.is_none() && finding.seq == Some(again.seq));
}

#[test]
fn reordered_events_are_found() {
    let mut histories = recorded();
    let lines = &mut histories.clients[CLIENT];
    let (first, second) = two_deliveries(lines);
    let (_, _, seq) = place(lines, first);
    let entry = lines[first].entry.clone();
    lines[first].entry = std::mem::replace(&mut lines[second].entry, entry);
    finds(&histories, Kind::Reordered, |finding| finding.client == Some(CLIENT) && finding.seq == Some(seq));
}

#[test]
fn an_acknowledged_event_that_is_absent_is_found() {
    let mut histories = recorded();
    let publisher = &mut histories.clients[0];
    let index = publisher.iter().rposition(|line| matches!(line.entry, Entry::Acknowledged { .. })).unwrap();
    let Entry::Acknowledged { payload, epoch, seq, order, .. } = publisher[index].entry else { unreachable!() };
    let us = publisher[index].us;
    let payload = Payload { number: payload.number + 1_000, transient: false, ..payload };
    let epoch = epoch.max(histories.logs[0].head.epoch);
    let (seq, order) = (seq + 1_000, order + 1_000);
    publisher.push(Line { us, entry: Entry::Sent { payload, after: 0, connection: 1, ttl_ms: 0, again: false } });
    publisher.push(Line { us, entry: Entry::Acknowledged { payload, epoch, seq, order, duplicate: false } });
    finds(&histories, Kind::AcknowledgedAbsent, |finding| finding.client == Some(0) && finding.seq == Some(seq));
}

#[test]
fn a_wrong_recovered_is_found() {
    let mut histories = recorded();
    let lines = &mut histories.clients[CLIENT];
    let answer = lines.iter_mut().find_map(|line| match &mut line.entry {
        Entry::Subscribed(subscribed) if subscribed.asked.is_some() => Some(subscribed),
        _ => None,
    });
    let answer = answer.expect("the recorded round has a resume");
    assert!(!answer.recovered && !answer.rolled_back.is_empty(), "{answer:?}");
    answer.recovered = true;
    let room = answer.room;
    finds(&histories, Kind::WronglyRecovered, |finding| finding.client == Some(CLIENT) && finding.room == Some(room));
}

#[test]
fn a_gap_that_does_not_fit_is_found() {
    for (less, kind) in [(1, Kind::Lost), (-1, Kind::BadGap)] {
        let mut histories = recorded();
        let lines = &mut histories.clients[CLIENT];
        let (first, second) = two_deliveries(lines);
        let (payload, epoch, seq) = place(lines, first);
        // In the place of both events: one seq short of them, or one seq into what came before.
        let from = if less > 0 { seq } else { seq - 1 };
        let to = if less > 0 { seq } else { seq + 1 };
        let gap = Gap { lane: payload.lane, epoch, from, to, count: 0, cause: Cause::Filtered };
        lines[first].entry = Entry::Gap { room: payload.room, gap };
        lines.remove(second);
        finds(&histories, kind, |finding| finding.client == Some(CLIENT) && finding.room == Some(payload.room));
    }
}
