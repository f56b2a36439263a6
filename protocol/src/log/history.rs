//! Pages of history: the lanes merged by order.

use super::{Record, RoomLog};
use crate::position::{Cursor, DurableLane, PerLane, Position};
use crate::v1::GapCause;

/// Which way a page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Newest first.
    Backward,
    /// Oldest first.
    Forward,
}

/// What a page is asked for.
#[derive(Clone, Copy, Debug)]
pub struct HistoryQuery {
    /// Which way to read.
    pub direction: Direction,
    /// Backward: events with a lower order; forward: with a higher one. `None`: from the end or the beginning.
    pub cursor: Option<Cursor>,
    /// The lanes to read.
    pub lanes: PerLane<bool>,
    /// Most events.
    pub events_max: usize,
    /// Most bytes, beyond the first event.
    pub bytes_max: usize,
}

/// An event in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEvent {
    /// The epoch whose range holds it.
    pub epoch: u64,
    /// The event.
    pub record: Record,
}

/// Seqs that a page cannot show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageGap {
    /// The epoch in which they count.
    pub epoch: u64,
    /// Their lane.
    pub lane: DurableLane,
    /// The first of them.
    pub from: u64,
    /// The last of them; `None`: no upper end.
    pub to: Option<u64>,
    /// Why.
    pub cause: GapCause,
}

/// A page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, by order in the direction asked for.
    pub events: Vec<PageEvent>,
    /// What is missing in the page's range. What was trimmed is in each page whose range it may reach into, since the
    /// log has forgotten which orders it had.
    pub gaps: Vec<PageGap>,
    /// Where to read on; `None`: there is nothing further in this direction.
    pub next: Option<Cursor>,
    /// The head.
    pub head: Position,
    /// The newest order; 0: none.
    pub head_order: u64,
}

impl RoomLog {
    /// Reads a page (LC-HIST-001 to LC-HIST-012). Events that expired are gaps; a cursor in a former epoch is cut back
    /// to where that epoch ended, and one in an epoch that the log does not know is as none, each with gaps that say so.
    pub fn history(&self, now_ms: u64, query: &HistoryQuery) -> Page {
        let head = self.head();
        let (order, mut gaps) = match query.cursor {
            Some(cursor) => self.resolve(cursor, query),
            None => (None, Vec::new()),
        };
        let mut merge = Merge::new(self, query, order);
        let mut events: Vec<PageEvent> = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        while let Some(record) = merge.peek() {
            bytes += record.cost();
            if events.len() >= query.events_max.max(1) || (!events.is_empty() && bytes > query.bytes_max) {
                break;
            }
            last = Some(record.order);
            let epoch = self.epoch_of(record.lane, record.seq);
            if record.is_expired(now_ms) {
                push_expired(&mut gaps, epoch, record);
            } else {
                events.push(PageEvent { epoch, record: record.clone() });
            }
            merge.pop();
        }
        let next = merge.peek().and(last).map(|order| Cursor { epoch: self.epoch(), order });
        let lowest = match query.direction {
            Direction::Backward => next.map_or(0, |cursor| cursor.order - 1),
            Direction::Forward => order.unwrap_or(0),
        };
        gaps.extend(self.trimmed_above(lowest, query));
        Page { events, gaps, next, head: head.position, head_order: head.order }
    }

    /// The order in the present epoch from which a page is read; `None`: from its end.
    pub fn page_order(&self, query: &HistoryQuery) -> Option<u64> {
        query.cursor.and_then(|cursor| self.resolve(cursor, query).0)
    }

    /// The order that a cursor has in the present epoch, and what its own epoch lost below it.
    fn resolve(&self, cursor: Cursor, query: &HistoryQuery) -> (Option<u64>, Vec<PageGap>) {
        let lanes = || DurableLane::ALL.into_iter().filter(|lane| query.lanes[*lane]);
        let lost = |epoch, lane, from, to| PageGap { epoch, lane, from, to, cause: GapCause::RolledBack };
        let Some(forks) = self.forks.since(cursor.epoch) else {
            return (None, lanes().map(|lane| lost(cursor.epoch, lane, 1, None)).collect());
        };
        let mut order = cursor.order;
        let mut gaps = Vec::new();
        for (ended, fork) in forks {
            // The end of a range that is read backward is not part of it, its beginning read forward neither.
            let surviving = match query.direction {
                Direction::Backward => fork.first_order,
                Direction::Forward => fork.first_order - 1,
            };
            if order > surviving {
                order = surviving;
                let lanes = lanes().filter(|lane| fork.lost_through[*lane] >= fork.first[*lane]);
                gaps.extend(lanes.map(|lane| lost(ended, lane, fork.first[lane], Some(fork.lost_through[lane]))));
            }
        }
        (Some(order), gaps)
    }

    /// What was trimmed and may have had a higher order (LC-HIST-006).
    fn trimmed_above(&self, order: u64, query: &HistoryQuery) -> impl Iterator<Item = PageGap> {
        let asked = self.lanes.iter().filter(|(lane, _)| query.lanes[*lane]);
        asked.filter(move |(_, log)| log.trimmed_order() > order).map(|(lane, log)| PageGap {
            epoch: self.epoch(),
            lane,
            from: 1,
            to: Some(log.first() - 1),
            cause: GapCause::Trimmed,
        })
    }
}

/// Adds an expired event to the gaps, widening the newest one of its lane if that borders on it.
fn push_expired(gaps: &mut Vec<PageGap>, epoch: u64, record: &Record) {
    let (lane, seq, cause) = (record.lane, record.seq, GapCause::Expired);
    let same = |gap: &&mut PageGap| gap.lane == lane && gap.cause == cause && gap.epoch == epoch;
    match gaps.iter_mut().rev().find(same) {
        Some(gap) if gap.from == seq + 1 => gap.from = seq,
        Some(gap) if gap.to == Some(seq - 1) => gap.to = Some(seq),
        _ => gaps.push(PageGap { epoch, lane, from: seq, to: Some(seq), cause }),
    }
}

/// The records of the asked lanes, by order in the direction asked for.
struct Merge<'log> {
    log: &'log RoomLog,
    direction: Direction,
    /// For each lane what is left: indices of its records.
    left: PerLane<std::ops::Range<usize>>,
}

impl<'log> Merge<'log> {
    fn new(log: &'log RoomLog, query: &HistoryQuery, order: Option<u64>) -> Self {
        let left = PerLane::from_fn(|lane| {
            let lane_log = &log.lanes[lane];
            let all = lane_log.records().len();
            match (query.lanes[lane], query.direction, order) {
                (false, ..) => 0..0,
                (true, _, None) => 0..all,
                (true, Direction::Backward, Some(order)) => 0..lane_log.count_up_to(order.saturating_sub(1)),
                (true, Direction::Forward, Some(order)) => lane_log.count_up_to(order)..all,
            }
        });
        Self { log, direction: query.direction, left }
    }

    fn peek(&self) -> Option<&'log Record> {
        let next = self.left.iter().filter(|(_, left)| !left.is_empty()).map(|(lane, left)| {
            let records = self.log.lanes[lane].records();
            match self.direction {
                Direction::Backward => &records[left.end - 1],
                Direction::Forward => &records[left.start],
            }
        });
        match self.direction {
            Direction::Backward => next.max_by_key(|record| record.order),
            Direction::Forward => next.min_by_key(|record| record.order),
        }
    }

    fn pop(&mut self) {
        let Some(lane) = self.peek().map(|record| record.lane) else { return };
        match self.direction {
            Direction::Backward => self.left[lane].end -= 1,
            Direction::Forward => self.left[lane].start += 1,
        }
    }
}
