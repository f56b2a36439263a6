//! When subscribers were current again: had an event that was published after the repair, in each of their rooms.

use std::collections::HashMap;
use std::time::Duration;

use super::{CURRENT_WITHIN, Facts, Finding, Kind, Report};
use crate::faults::history::{Entry, FaultTime};

pub(super) fn check(facts: &Facts<'_>, report: &mut Report) {
    let deliveries = Deliveries::new(facts);
    for fault in &facts.histories.run.faults {
        let mut worst = Some(0);
        for (client, rooms) in &facts.histories.run.subscribers {
            for room in rooms {
                let us = deliveries.current_after(*client, *room, fault.repaired_us);
                let late = us.is_none_or(|us| us > CURRENT_WITHIN.as_micros() as u64);
                if late && fault.effect.is_ok() {
                    report.add(finding(*client, *room, fault, us));
                }
                worst = worst.zip(us).map(|(worst, us)| worst.max(us));
            }
        }
        report.current.push(worst.map(Duration::from_micros));
    }
}

fn finding(client: usize, room: u16, fault: &FaultTime, us: Option<u64>) -> Finding {
    let text = match us {
        Some(us) => format!("{}: current again only {:.1} s after the repair", fault.name, us as f64 / 1e6),
        None => format!("{}: nothing that was published after the repair came", fault.name),
    };
    Finding { client: Some(client), room: Some(room), ..Finding::new(Kind::NotCurrent, text) }
}

/// By client and room: when each event came and when it was published, µs.
struct Deliveries(HashMap<(usize, u16), Vec<(u64, u64)>>);

impl Deliveries {
    fn new(facts: &Facts<'_>) -> Self {
        let mut deliveries: HashMap<(usize, u16), Vec<(u64, u64)>> = HashMap::new();
        for client in facts.histories.run.subscribers.keys() {
            for line in facts.histories.clients.get(*client).into_iter().flatten() {
                if let Entry::Delivered { payload, .. } = &line.entry
                    && let Some(publish) = facts.publishes.get(payload)
                {
                    deliveries.entry((*client, payload.room)).or_default().push((line.us, publish.first_us));
                }
            }
        }
        Self(deliveries)
    }

    fn current_after(&self, client: usize, room: u16, us: u64) -> Option<u64> {
        let all = self.0.get(&(client, room))?;
        all.iter().find(|(_, published)| *published >= us).map(|(came, _)| came.saturating_sub(us))
    }
}
