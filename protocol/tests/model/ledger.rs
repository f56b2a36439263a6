//! What one subscriber was given, seq by seq, and what must hold of it.

use std::collections::BTreeMap;

use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::tracker::SeqGap;
use lanecast_protocol::v1::GapCause;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Event(u64),
    Gap(GapCause),
}

/// Law 1, from the receiver's side: each seq after `base` once, as an event or inside a gap, and revoked only by a
/// gap that says so.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub base: PerLane<u64>,
    pub cells: PerLane<BTreeMap<u64, Cell>>,
}

impl Ledger {
    pub fn begin(position: Position) -> Self {
        Self { base: position.seqs(), cells: PerLane::default() }
    }

    pub fn event(&mut self, lane: DurableLane, seq: u64, payload: u64, ordered: bool) -> Result<(), String> {
        self.put(lane, seq, Cell::Event(payload), ordered)
    }

    pub fn gap(&mut self, gap: &SeqGap, ordered: bool) -> Result<(), String> {
        match gap.cause {
            GapCause::RolledBack => {
                self.revoke(gap.lane, gap.from);
                return Ok(());
            }
            GapCause::Trimmed | GapCause::Expired | GapCause::Filtered => {}
            other => return Err(format!("a gap with cause {other:?}: {gap:?}")),
        }
        let to = gap.to.ok_or(format!("a gap without end: {gap:?}"))?;
        if to < gap.from {
            return Err(format!("a gap without range: {gap:?}"));
        }
        (gap.from..=to).try_for_each(|seq| self.put(gap.lane, seq, Cell::Gap(gap.cause), ordered))
    }

    /// Takes back everything from a seq on.
    pub fn revoke(&mut self, lane: DurableLane, from: u64) {
        self.cells[lane].split_off(&from);
        self.base[lane] = self.base[lane].min(from - 1);
    }

    /// The lane's numbers begin anew.
    pub fn restart(&mut self, lane: DurableLane, base: u64) {
        self.cells[lane].clear();
        self.base[lane] = base;
    }

    fn put(&mut self, lane: DurableLane, seq: u64, cell: Cell, ordered: bool) -> Result<(), String> {
        if seq <= self.base[lane] {
            return Err(format!("{lane} {seq} {cell:?} comes before the beginning {}", self.base[lane]));
        }
        if let Some((last, _)) = self.cells[lane].last_key_value()
            && *last >= seq
            && (ordered || lane != DurableLane::Urgent)
        {
            return Err(format!("{lane} {seq} {cell:?} comes after {last}"));
        }
        match self.cells[lane].insert(seq, cell) {
            None => Ok(()),
            Some(before) => Err(format!("{lane} {seq} twice: {before:?}, then {cell:?}")),
        }
    }

    /// At the end: every seq up to the head is there, and each event is the one that the log has. `hidden` says that a
    /// seq was left out by a right and not shown.
    pub fn audit(&self, truth: &PerLane<Vec<u64>>, hidden: impl Fn(u64) -> bool) -> Result<(), String> {
        for (lane, cells) in self.cells.iter() {
            for seq in self.base[lane] + 1..=truth[lane].len() as u64 {
                let payload = truth[lane][seq as usize - 1];
                match cells.get(&seq) {
                    Some(Cell::Event(got)) if *got == payload => {}
                    Some(Cell::Event(got)) => {
                        return Err(format!("{lane} {seq} was delivered as {got}, the log has {payload}"));
                    }
                    Some(Cell::Gap(_)) => {}
                    None if hidden(payload) => {}
                    None => return Err(format!("{lane} {seq} ({payload}) never came")),
                }
            }
            if let Some((last, cell)) = cells.last_key_value()
                && *last > truth[lane].len() as u64
            {
                return Err(format!("{lane} {last} {cell:?} is beyond the log and was not revoked"));
            }
        }
        Ok(())
    }
}
