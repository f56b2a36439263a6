//! Epochs: which seqs belong to which life of the log, and what each life lost when the next began.

use std::collections::VecDeque;

use crate::position::{DurableLane, PerLane, Position};

/// Forks remembered per room. Beyond it the oldest is forgotten, and positions in the epoch before it are unknown.
pub const FORKS_MAX: usize = 64;

/// Where an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The epoch that began.
    pub epoch: u64,
    /// Its first seq of each lane.
    pub first: PerLane<u64>,
    /// Its first order.
    pub first_order: u64,
    /// For each lane the highest seq of the epoch before it that any node saw; below `first`: nothing was lost.
    pub lost_through: PerLane<u64>,
}

/// Invariant: epochs rise, and so do `first` and `first_order`, since a log that is rolled back takes its forks along.
#[derive(Clone, Debug)]
pub(super) struct Forks {
    /// The oldest epoch known.
    base: u64,
    table: VecDeque<Fork>,
}

impl Forks {
    pub(super) fn new(epoch: u64) -> Self {
        Self { base: epoch, table: VecDeque::new() }
    }

    /// A table that another store keeps; `table` is ordered by epoch, and too old ones are left out.
    pub(super) fn part(base: u64, mut table: VecDeque<Fork>) -> Self {
        let mut base = base;
        while table.len() > FORKS_MAX
            && let Some(oldest) = table.pop_front()
        {
            base = oldest.epoch;
        }
        Self { base, table }
    }

    pub(super) fn current(&self) -> u64 {
        self.table.back().map_or(self.base, |fork| fork.epoch)
    }

    pub(super) fn open(&mut self, epoch: u64, first: PerLane<u64>, first_order: u64) {
        debug_assert!(epoch > self.current(), "epochs rise");
        debug_assert!(self.table.back().is_none_or(|last| last.first_order <= first_order), "forks rise");
        if self.table.len() == FORKS_MAX
            && let Some(oldest) = self.table.pop_front()
        {
            self.base = oldest.epoch;
        }
        let lost_through = PerLane::from_fn(|lane| first[lane] - 1);
        self.table.push_back(Fork { epoch, first, first_order, lost_through });
    }

    /// Notes what a node saw of an epoch that ended.
    pub(super) fn raise_lost_through(&mut self, seen: Position) {
        let Some(ended) = self.index_after(seen.epoch) else { return };
        if let Some(fork) = self.table.get_mut(ended) {
            for lane in DurableLane::ALL {
                fork.lost_through[lane] = fork.lost_through[lane].max(seen.seq(lane));
            }
        }
    }

    pub(super) fn epoch_of(&self, lane: DurableLane, seq: u64) -> u64 {
        self.table.iter().rev().find(|fork| fork.first[lane] <= seq).map_or(self.base, |fork| fork.epoch)
    }

    /// The forks since an epoch, each with the epoch that it ended; `None` if the epoch is not known.
    pub(super) fn since(&self, epoch: u64) -> Option<impl Iterator<Item = (u64, &Fork)>> {
        let start = self.index_after(epoch)?;
        let ended = std::iter::once(epoch).chain(self.table.range(start..).map(|fork| fork.epoch));
        Some(ended.zip(self.table.range(start..)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Fork> {
        self.table.iter()
    }

    /// Index of the fork that ended an epoch, or would end it.
    fn index_after(&self, epoch: u64) -> Option<usize> {
        if epoch == self.base {
            return Some(0);
        }
        self.table.iter().position(|fork| fork.epoch == epoch).map(|index| index + 1)
    }
}
