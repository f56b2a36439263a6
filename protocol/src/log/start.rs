//! Where a subscriber begins.

use super::RoomLog;
use crate::position::{DurableLane, PerLane, Position};

/// What a subscriber asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// What is stored from now on (LC-SUB-002).
    Live,
    /// Everything that the log has (LC-SUB-003).
    Beginning,
    /// What comes after a position (LC-RES-001).
    Position(Position),
    /// The newest so many events, counted across lanes (LC-SUB-004).
    Count(u64),
    /// What nodes received in the last so many ms (LC-SUB-004).
    Duration(u64),
}

/// Seqs of a former life of the log that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The epoch in which they counted.
    pub epoch: u64,
    /// Their lane.
    pub lane: DurableLane,
    /// The first of them.
    pub from: u64,
    /// The last of them that is known; `None`: no upper end.
    pub to: Option<u64>,
}

/// What became of a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Where it goes on, in the present epoch.
    pub position: Position,
    /// What the epochs in between lost, oldest first.
    pub rolled_back: Vec<RolledBack>,
    /// Whether every event after the position is still there.
    pub recovered: bool,
}

/// A subscription's beginning, and the head at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Every seq of each lane after this follows.
    pub position: Position,
    /// The head.
    pub head: Position,
    /// The newest order; 0: none.
    pub head_order: u64,
    /// Whether a position was asked for and every event after it is still there.
    pub recovered: bool,
    /// What the epochs since the asked position lost, oldest first.
    pub rolled_back: Vec<RolledBack>,
}

impl RoomLog {
    /// Says where a subscription begins.
    pub fn open(&self, now_ms: u64, start: Start) -> Opened {
        let head = self.head();
        let (position, rolled_back, recovered) = match start {
            Start::Live => (head.position, Vec::new(), false),
            Start::Beginning => (head.oldest, Vec::new(), false),
            Start::Position(asked) => {
                let Resumed { position, rolled_back, recovered } = self.resume(asked);
                (position, rolled_back, recovered)
            }
            Start::Count(count) => (self.before_order(head.order.saturating_sub(count)), Vec::new(), false),
            Start::Duration(0) => (head.position, Vec::new(), false),
            Start::Duration(ms) => (self.before_time(now_ms.saturating_sub(ms)), Vec::new(), false),
        };
        Opened { position, head: head.position, head_order: head.order, recovered, rolled_back }
    }

    /// Follows a position over the forks since its epoch (LC-RES-001, LC-RES-003, LC-RES-011 to LC-RES-013).
    ///
    /// A position beyond the head of the present epoch is cut back to the head: [`RoomLog::is_beyond_head`] tells, and
    /// whoever can know that the log was rolled back opens a new epoch first.
    pub fn resume(&self, asked: Position) -> Resumed {
        let Some(forks) = self.forks.since(asked.epoch) else { return self.resume_from_unknown(asked) };
        let mut seqs = asked.seqs();
        let mut rolled_back = Vec::new();
        let mut cut = |epoch, lane, first: u64, lost_through: u64| {
            let to = lost_through.max(seqs[lane]);
            if to >= first {
                rolled_back.push(RolledBack { epoch, lane, from: first, to: Some(to) });
                seqs[lane] = seqs[lane].min(first - 1);
            }
        };
        for (ended, fork) in forks {
            for lane in DurableLane::ALL {
                cut(ended, lane, fork.first[lane], fork.lost_through[lane]);
            }
        }
        for lane in DurableLane::ALL {
            cut(self.epoch(), lane, self.lanes[lane].head() + 1, 0);
        }
        let trimmed = DurableLane::ALL.into_iter().any(|lane| seqs[lane] + 1 < self.lanes[lane].first());
        let recovered = rolled_back.is_empty() && !trimmed;
        Resumed { position: Position::new(self.epoch(), seqs), rolled_back, recovered }
    }

    fn resume_from_unknown(&self, asked: Position) -> Resumed {
        let rolled_back = DurableLane::ALL
            .map(|lane| RolledBack { epoch: asked.epoch, lane, from: asked.seq(lane) + 1, to: None })
            .to_vec();
        Resumed { position: self.head().oldest, rolled_back, recovered: false }
    }

    /// The position before everything with a higher order that is still there.
    fn before_order(&self, order: u64) -> Position {
        self.skipping(|lane| self.lanes[lane].count_up_to(order))
    }

    /// The position before the first event of each lane that is not older.
    fn before_time(&self, time_ms: u64) -> Position {
        self.skipping(|lane| {
            let records = self.lanes[lane].records();
            records.iter().position(|record| record.time_ms >= time_ms).unwrap_or(records.len())
        })
    }

    fn skipping(&self, count: impl Fn(DurableLane) -> usize) -> Position {
        let seqs = PerLane::from_fn(|lane| self.lanes[lane].first() - 1 + count(lane) as u64);
        Position::new(self.epoch(), seqs)
    }
}
