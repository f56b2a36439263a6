//! Transient events of one subscriber in one room: each once, and the missing ones counted (LC-SUB-021, LC-RES-020).
//!
//! What a publisher sent on one connection went through one node, which numbers it on its way, so that receivers see
//! a hole. Across connections of a publisher nothing exact is promised: a node that died took its count along. So only
//! acknowledged transients between two that came from the same connection count as missing. They must be covered by
//! the counts of gaps and of `missed_transients`; a gap of unknown count covers everything before it.

use std::collections::HashMap;

use super::{Facts, Finding, Kind, Report};
use crate::faults::history::{Entry, Lane, Missed, Payload};

pub(super) fn check(facts: &Facts<'_>, client: usize, room: u16, report: &mut Report) {
    let mut stretch = Stretch { client, room, newest: HashMap::new(), missing: 0, counted: 0 };
    let lines = facts.histories.clients.get(client).map_or(&[][..], Vec::as_slice);
    for (index, line) in lines.iter().enumerate() {
        match &line.entry {
            Entry::Transient { payload } if payload.room == room => stretch.came(facts, *payload, index, report),
            Entry::Gap { room: of, gap } if *of == room && gap.from == 0 => {
                stretch.counted += gap.count;
                if gap.count == 0 {
                    stretch.forgive(index, report);
                }
            }
            Entry::Subscribed(subscribed) if subscribed.room == room && !subscribed.unasked => {
                match subscribed.missed {
                    Missed::None => {}
                    Missed::Count(count) => stretch.counted += count,
                    Missed::Unasked | Missed::Unknown => stretch.forgive(index, report),
                }
            }
            _ => {}
        }
    }
    stretch.judge(lines.len().saturating_sub(1), report);
}

/// What happened since the last gap of unknown count.
struct Stretch {
    client: usize,
    room: u16,
    /// By publisher, its connection, and lane: the newest number that came.
    newest: HashMap<(u16, u32, Lane), u32>,
    missing: u64,
    counted: u64,
}

impl Stretch {
    fn came(&mut self, facts: &Facts<'_>, payload: Payload, index: usize, report: &mut Report) {
        let Some(publish) = facts.publishes.get(&payload) else {
            return self.add(Kind::Broken, Some(payload), index, format!("{payload} was never published"), report);
        };
        let key = (payload.client, publish.connection, payload.lane);
        let Some(last) = self.newest.insert(key, payload.number) else { return };
        if payload.number <= last {
            let kind = if payload.number == last { Kind::Doubled } else { Kind::Reordered };
            self.newest.insert(key, last);
            let text = format!("transient {payload} came after number {last} of the same publisher");
            return self.add(kind, Some(payload), index, text, report);
        }
        let missing = (last + 1..payload.number).filter(|number| {
            let between = facts.publishes.get(&Payload { number: *number, ..payload });
            between.is_some_and(|between| between.acknowledged && between.connection == publish.connection)
        });
        self.missing += missing.count() as u64;
    }

    fn forgive(&mut self, index: usize, report: &mut Report) {
        self.judge(index, report);
        self.newest.clear();
        (self.missing, self.counted) = (0, 0);
    }

    fn judge(&self, index: usize, report: &mut Report) {
        if self.missing > self.counted {
            let text = format!("{} acknowledged transients did not come, gaps counted {}", self.missing, self.counted);
            self.add(Kind::TransientLost, None, index, text, report);
        }
    }

    fn add(&self, kind: Kind, payload: Option<Payload>, index: usize, text: String, report: &mut Report) {
        let finding = Finding::new(kind, text);
        let lane = payload.map(|payload| payload.lane);
        report.add(Finding { client: Some(self.client), room: Some(self.room), lane, line: Some(index), ..finding });
    }
}
