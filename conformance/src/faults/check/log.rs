//! The end logs, and the acknowledgements against them.

use std::collections::{HashMap, HashSet};

use super::{Facts, Finding, Kind, Report};
use crate::faults::history::{Entry, Lane, Payload, RoomLog};

pub(super) fn check(facts: &Facts<'_>, report: &mut Report) {
    for log in &facts.histories.logs {
        contiguous(facts, log, report);
        once_and_in_order(facts, log, report);
    }
    for (client, lines) in facts.histories.clients.iter().enumerate() {
        for (index, line) in lines.iter().enumerate() {
            let Entry::Acknowledged { payload, epoch, seq, order, duplicate } = &line.entry else { continue };
            if payload.transient {
                continue;
            }
            let acknowledged = Acknowledged { epoch: *epoch, seq: *seq, order: *order, duplicate: *duplicate };
            if let Some(finding) = acknowledged.judge(facts, *payload) {
                report.add(Finding { client: Some(client), line: Some(index), ..finding });
            }
        }
    }
}

/// Every seq up to the head is there, or the page says why not.
fn contiguous(facts: &Facts<'_>, log: &RoomLog, report: &mut Report) {
    for lane in Lane::ALL {
        let Some(events) = facts.by_seq.get(&(log.room, lane)) else { continue };
        let mut missing = (1..=log.head.seqs[lane.index()])
            .filter(|seq| !events.contains_key(seq) && !facts.log_lacks(log.room, lane, *seq));
        if let Some(first) = missing.next() {
            let text = format!("history shows neither this seq nor a gap, and {} more like it", missing.count());
            let finding = Finding::new(Kind::Lost, text);
            report.add(Finding { room: Some(log.room), lane: Some(lane), seq: Some(first), ..finding });
        }
    }
}

/// Each payload is stored once, orders rise, and a publisher's numbers rise in each lane.
fn once_and_in_order(facts: &Facts<'_>, log: &RoomLog, report: &mut Report) {
    let mut seen = HashSet::new();
    let mut numbers: HashMap<(u16, Lane), u32> = HashMap::new();
    let mut order = 0;
    for event in &log.events {
        let Payload { client, lane, number, room, .. } = event.payload;
        let mut add = |kind, text| report.add(Finding::of(kind, event.payload, event.seq, text));
        if room != log.room || !facts.publishes.contains_key(&event.payload) {
            add(Kind::Broken, format!("the log holds {}, which nobody published here", event.payload));
        }
        if !seen.insert(event.payload) {
            add(Kind::Doubled, format!("{} is stored twice", event.payload));
            continue;
        }
        if event.order <= order {
            add(Kind::Reordered, format!("order {} follows order {order} in history", event.order));
        }
        order = event.order;
        let newest = numbers.entry((client, lane)).or_default();
        if number <= *newest {
            add(Kind::Reordered, format!("number {number} of client {client} is stored after its number {newest}"));
        }
        *newest = number;
    }
}

struct Acknowledged {
    epoch: u64,
    seq: u64,
    order: u64,
    duplicate: bool,
}

impl Acknowledged {
    fn judge(&self, facts: &Facts<'_>, payload: Payload) -> Option<Finding> {
        let Payload { room, lane, .. } = payload;
        let Self { epoch, seq, order, duplicate } = *self;
        // Proof only that the number was used, which a retry of the same publish means (LC-PUB-028).
        let placed = !(duplicate && seq == 0);
        let lost = placed && facts.told_lost(room, lane, epoch, seq);
        match facts.stored.get(&payload) {
            Some(stored) if !placed || (stored.seq == seq && stored.order == order) || lost => None,
            Some(stored) => {
                let (is, at) = ((stored.seq, stored.order), (seq, order));
                let text = format!("{payload} was acknowledged with (seq, order) {at:?} and is stored with {is:?}");
                Some(Finding::of(Kind::AcknowledgedAbsent, payload, seq, text))
            }
            None if lost || !placed || seq <= facts.trimmed_through(room, lane) => None,
            None => {
                let has_ttl = facts.publishes.get(&payload).is_some_and(|publish| publish.ttl_ms > 0);
                if has_ttl && facts.log_lacks(room, lane, seq) {
                    return None;
                }
                let text = format!(
                    "{payload} was acknowledged in epoch {epoch} with order {order}; the log does not have it, did not \
                     trim it, and nobody was told that it was lost"
                );
                Some(Finding::of(Kind::AcknowledgedAbsent, payload, seq, text))
            }
        }
    }
}
