//! The records of one lane: contiguous seqs, of which the oldest are forgotten.

use std::collections::VecDeque;

use super::{LanePart, Record, Retention};

/// Invariant: the seqs of `records` have no hole. They run from `first` to `head`, or, in a part of a log that another
/// store has, within that range.
#[derive(Clone, Debug)]
pub(super) struct LaneLog {
    records: VecDeque<Record>,
    /// The lowest seq retained, or the next one if none is.
    first: u64,
    head: u64,
    /// The order of the newest record that was trimmed; 0: none was.
    trimmed_order: u64,
    cost: usize,
}

impl Default for LaneLog {
    fn default() -> Self {
        Self { records: VecDeque::new(), first: 1, head: 0, trimmed_order: 0, cost: 0 }
    }
}

impl LaneLog {
    /// A lane of which another store has more than these records.
    pub(super) fn part(part: LanePart) -> Self {
        let LanePart { first, head, trimmed_order, records } = part;
        Self { cost: records.iter().map(Record::cost).sum(), records: records.into(), first, head, trimmed_order }
    }

    pub(super) fn push(&mut self, record: impl FnOnce(u64) -> Record) -> u64 {
        self.head += 1;
        let record = record(self.head);
        self.cost += record.cost();
        self.records.push_back(record);
        self.head
    }

    /// Drops from the front only: an event that is kept longer than its age because an older one carries a later
    /// time is still bounded by the count.
    pub(super) fn trim(&mut self, now_ms: u64, retention: Retention) {
        while let Some(oldest) = self.records.front() {
            let too_many = self.records.len() > retention.events_max.max(1);
            let too_old = oldest.time_ms.saturating_add(retention.age_ms_max) <= now_ms;
            if !too_many && !too_old {
                break;
            }
            self.trimmed_order = oldest.order;
            self.cost -= oldest.cost();
            self.first = oldest.seq + 1;
            self.records.pop_front();
        }
        // A burst must not pin its memory for ever.
        if self.records.capacity() > 64 && self.records.len() < self.records.capacity() / 4 {
            self.records.shrink_to(self.records.len() * 2);
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// The lowest seq retained, or the next one if none is.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn trimmed_order(&self) -> u64 {
        self.trimmed_order
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn records(&self) -> &VecDeque<Record> {
        &self.records
    }

    /// The records with a higher seq.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &Record> {
        let skipped = (seq + 1).saturating_sub(self.first());
        self.records.range(usize::try_from(skipped).unwrap_or(usize::MAX).min(self.records.len())..)
    }

    /// How many of the retained records have an order up to this one.
    pub(super) fn count_up_to(&self, order: u64) -> usize {
        self.records.partition_point(|record| record.order <= order)
    }
}
