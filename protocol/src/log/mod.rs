//! One room's log: the executable definition of what is stored, numbered, kept and forgotten.
//!
//! A [`RoomLog`] promises laws 1, 3 and the log's part of law 2. The memory engine is a lock around it, the atomic
//! script of another engine does the same step by step, and the model rolls it back and compares. It has no clock, no
//! randomness and no I/O: time comes in as `now_ms`, and the same calls give the same log.
//!
//! Operations come in four families: [`RoomLog::append`] and [`RoomLog::trim`] change what is stored;
//! [`RoomLog::open`] and [`RoomLog::resume`] say where a subscriber begins; [`RoomLog::read`], [`RoomLog::history`]
//! and [`RoomLog::head`] read; [`RoomLog::open_epoch`] and [`RoomLog::raise_lost_through`] follow a rollback of what
//! lies below. Call [`RoomLog::trim`] before a read whose answer must not hold what is too old.
//!
//! It refuses: to renumber, to leave a hole between the first seq that it retains and its head, and to forget an
//! idempotency key before its time.

mod forks;
mod history;
mod idempotency;
mod lane;
mod start;
mod watermarks;

use std::sync::Arc;

use bytes::Bytes;

pub use self::forks::{FORKS_MAX, Fork};
pub use self::history::{Direction, HistoryQuery, Page, PageEvent, PageGap};
pub use self::idempotency::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_MS};
pub use self::start::{Opened, Resumed, RolledBack, Start};
pub use self::watermarks::{NUMBERS_REMEMBERED_MAX, PUBLISHERS_MAX, Publisher, WATERMARK_MS};

use self::forks::Forks;
use self::idempotency::{Claim, IdempotencyKeys};
use self::lane::LaneLog;
use self::watermarks::{Judgement, Watermarks};
use crate::position::{DurableLane, PerLane, Position};

/// What a record costs beyond its bytes, for bounds on memory.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// A durable event as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its lane.
    pub lane: DurableLane,
    /// Its number within the lane, contiguous from 1.
    pub seq: u64,
    /// Its number across lanes, contiguous from 1.
    pub order: u64,
    /// When a node received it, ms since the Unix epoch.
    pub time_ms: u64,
    /// When it stops being worth anything, ms since the Unix epoch; 0: never.
    pub expires_at_ms: u64,
    /// The application's type, for rights and unread counts.
    pub event_type: Arc<str>,
    /// The encoded fields of `Event` from `from` on: what every subscriber gets behind the node's own fields.
    pub tail: Bytes,
}

impl Record {
    /// Whether it must not be delivered any more (law 8).
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }

    /// What it costs to keep, bytes.
    pub fn cost(&self) -> usize {
        self.tail.len() + self.event_type.len() + RECORD_OVERHEAD_BYTES
    }
}

/// How much of each lane is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events; at least 1 is kept whatever this says.
    pub events_max: usize,
    /// Age, ms.
    pub age_ms_max: u64,
}

/// An event to be stored.
#[derive(Clone, Debug)]
pub struct Append {
    /// Its lane.
    pub lane: DurableLane,
    /// Who publishes it, and so how a retry is recognised.
    pub origin: Origin,
    /// When the node received it, ms since the Unix epoch.
    pub time_ms: u64,
    /// When it stops being worth anything, ms since the Unix epoch; 0: never.
    pub expires_at_ms: u64,
    /// The application's type.
    pub event_type: Arc<str>,
    /// The encoded fields of `Event` from `from` on.
    pub tail: Bytes,
}

/// How a retry of an append is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By publish numbers, which the caller has checked: `after` < `number` (LC-PUB-007).
    Numbered {
        /// Whose numbers they are.
        publisher: Publisher,
        /// The number of this publish, from 1.
        number: u64,
        /// The highest earlier number that is still unsettled; 0: none.
        after: u64,
    },
    /// By an idempotency key.
    Keyed {
        /// The API key, in whose name the idempotency key counts.
        api_key: Arc<str>,
        /// The idempotency key.
        key: Arc<str>,
        /// A digest of everything in the request that must be the same in a retry.
        body: [u8; 32],
    },
    /// Not at all: each append is stored.
    Unmarked,
}

/// The numbers of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The epoch whose range holds it.
    pub epoch: u64,
    /// Its lane.
    pub lane: DurableLane,
    /// Its seq.
    pub seq: u64,
    /// Its order.
    pub order: u64,
}

/// How an append was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored.
    Stored(Numbers),
    /// Its number was used before; nothing was stored (LC-PUB-020).
    Duplicate {
        /// Where the first one stands. `None`: not known any more, which proves only that the number was used.
        first: Option<Numbers>,
    },
    /// An earlier publish of this publisher is missing; nothing was stored (LC-PUB-021).
    OutOfOrder,
    /// Its idempotency key was used with the same body: the first answer; nothing was stored.
    Replayed(Numbers),
    /// Its idempotency key was used with another body; nothing was stored (LC-API-005).
    KeyConflict,
    /// No room for a further idempotency key; nothing was stored.
    KeysFull {
        /// When the oldest key will be forgotten, ms from now.
        retry_after_ms: u64,
    },
}

/// The head of the log, and what it still serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The epoch and the newest seq of each lane.
    pub position: Position,
    /// The newest order; 0: none.
    pub order: u64,
    /// The oldest position from which nothing is missing.
    pub oldest: Position,
}

/// Records of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The epoch in which the seqs count. A reader whose place is in another one must resume.
    pub epoch: u64,
    /// The lowest seq that the log still has, or would give next if it has none.
    pub first: u64,
    /// The newest seq; 0: none.
    pub head: u64,
    /// Records in the order of their seqs, without a hole.
    pub records: Vec<Record>,
}

/// What another store has of one lane.
#[derive(Clone, Debug)]
pub struct LanePart {
    /// The lowest seq that is there, or the next one if none is.
    pub first: u64,
    /// The newest seq; 0: none.
    pub head: u64,
    /// At least the order of the newest event that was trimmed; 0: none was.
    pub trimmed_order: u64,
    /// Some of the records, without a hole: for a page of history those around the cursor, in both directions one more
    /// than the page can hold.
    pub records: Vec<Record>,
}

/// The log of one room. See the [module](self).
#[derive(Clone, Debug)]
pub struct RoomLog {
    lanes: PerLane<LaneLog>,
    order: u64,
    forks: Forks,
    watermarks: Watermarks,
    keys: IdempotencyKeys,
    retention: Retention,
}

impl RoomLog {
    /// An empty log in its first epoch.
    pub fn new(epoch: u64, retention: Retention) -> Self {
        Self {
            lanes: PerLane::default(),
            order: 0,
            forks: Forks::new(epoch),
            watermarks: Watermarks::default(),
            keys: IdempotencyKeys::default(),
            retention,
        }
    }

    /// A log that another store keeps, as far as it was read: to open at a position, to resume, and to make a page of
    /// history out of. `base` is the epoch before the first fork. It is not for appending.
    pub fn part(base: u64, forks: impl IntoIterator<Item = Fork>, order: u64, lanes: PerLane<LanePart>) -> Self {
        let nothing = Retention { events_max: usize::MAX, age_ms_max: u64::MAX };
        Self {
            lanes: PerLane(lanes.0.map(LaneLog::part)),
            order,
            forks: Forks::part(base, forks.into_iter().collect()),
            ..Self::new(base, nothing)
        }
    }

    /// Judges an append and stores it, or not. Trims what the retention does not cover any more.
    pub fn append(&mut self, now_ms: u64, append: Append) -> Outcome {
        if let Some(refused) = self.judge(now_ms, &append) {
            return refused;
        }
        let Append { lane, origin, time_ms, expires_at_ms, event_type, tail } = append;
        self.order += 1;
        let order = self.order;
        let seq = self.lanes[lane].push(|seq| Record { lane, seq, order, time_ms, expires_at_ms, event_type, tail });
        let numbers = Numbers { epoch: self.epoch(), lane, seq, order };
        match origin {
            Origin::Numbered { publisher, number, .. } => {
                self.watermarks.store(now_ms, publisher, lane, number, (seq, order));
            }
            Origin::Keyed { api_key, key, body } => self.keys.store(now_ms, (api_key, key), body, numbers),
            Origin::Unmarked => {}
        }
        self.lanes[lane].trim(now_ms, self.retention);
        Outcome::Stored(numbers)
    }

    fn judge(&mut self, now_ms: u64, append: &Append) -> Option<Outcome> {
        match &append.origin {
            Origin::Numbered { publisher, number, after } => {
                match self.watermarks.judge(now_ms, publisher, append.lane, *number, *after) {
                    Judgement::New => None,
                    Judgement::OutOfOrder => Some(Outcome::OutOfOrder),
                    Judgement::Used(known) => {
                        let first = known.map(|(seq, order)| Numbers {
                            epoch: self.forks.epoch_of(append.lane, seq),
                            lane: append.lane,
                            seq,
                            order,
                        });
                        Some(Outcome::Duplicate { first })
                    }
                }
            }
            Origin::Keyed { api_key, key, body } => match self.keys.claim(now_ms, api_key, key, body) {
                Claim::New => None,
                Claim::Replayed(first) => Some(Outcome::Replayed(first)),
                Claim::Conflict => Some(Outcome::KeyConflict),
                Claim::Full { retry_after_ms } => Some(Outcome::KeysFull { retry_after_ms }),
            },
            Origin::Unmarked => None,
        }
    }

    /// Sets how much is kept from the next append or trim on.
    pub fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Forgets what is too old: events, watermarks and idempotency keys.
    pub fn trim(&mut self, now_ms: u64) {
        for lane in &mut self.lanes.0 {
            lane.trim(now_ms, self.retention);
        }
        self.watermarks.expire(now_ms);
        self.keys.expire(now_ms);
    }

    /// Reads what comes after a seq of a lane: at least one record if there is one, and then no more than fit both
    /// bounds.
    pub fn read(&self, lane: DurableLane, after: u64, records_max: usize, bytes_max: usize) -> Read {
        let log = &self.lanes[lane];
        let mut bytes = 0;
        let records = log.after(after).take(records_max.max(1)).take_while(|record| {
            let fits = bytes == 0 || bytes + record.cost() <= bytes_max;
            bytes += record.cost();
            fits
        });
        Read { epoch: self.epoch(), first: log.first(), head: log.head(), records: records.cloned().collect() }
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.forks.current()
    }

    /// The head, and the oldest position that is served without a gap.
    pub fn head(&self) -> Head {
        let epoch = self.epoch();
        Head {
            position: Position::new(epoch, PerLane::from_fn(|lane| self.lanes[lane].head())),
            order: self.order,
            oldest: Position::new(epoch, PerLane::from_fn(|lane| self.lanes[lane].first() - 1)),
        }
    }

    /// The epoch whose range holds a seq.
    pub fn epoch_of(&self, lane: DurableLane, seq: u64) -> u64 {
        self.forks.epoch_of(lane, seq)
    }

    /// Whether a position claims more of its epoch than that epoch ever had here: the log was rolled back without
    /// anybody noticing, or the claim is made up.
    pub fn is_beyond_head(&self, position: Position) -> bool {
        position.epoch == self.epoch()
            && DurableLane::ALL.into_iter().any(|lane| position.seq(lane) > self.lanes[lane].head())
    }

    /// Opens a new epoch, `candidate` or the one after the present, and returns it. To be called when what lies below
    /// the log may have lost its newest part.
    ///
    /// `seen` says what nodes saw of former epochs: for each of them the highest seqs.
    pub fn open_epoch(&mut self, candidate: u64, seen: &[Position]) -> u64 {
        let epoch = candidate.max(self.epoch() + 1);
        let first = PerLane::from_fn(|lane| self.lanes[lane].head() + 1);
        self.forks.open(epoch, first, self.order + 1);
        self.raise_lost_through(seen);
        epoch
    }

    /// Takes in what a further node saw of former epochs.
    pub fn raise_lost_through(&mut self, seen: &[Position]) {
        for position in seen {
            self.forks.raise_lost_through(*position);
        }
    }

    /// The forks that the log remembers, oldest first.
    pub fn forks(&self) -> impl Iterator<Item = &Fork> {
        self.forks.iter()
    }

    /// Bytes that the events, watermarks and keys cost.
    pub fn cost(&self) -> usize {
        self.lanes.iter().map(|(_, lane)| lane.cost()).sum::<usize>() + self.watermarks.cost() + self.keys.cost()
    }

    /// Whether nothing is stored and nothing need be remembered: neither events nor watermarks nor keys.
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|(_, lane)| lane.is_empty()) && self.watermarks.is_empty() && self.keys.is_empty()
    }

    /// Watermarks that were forgotten before their time because the table was full (LC-PUB-024).
    pub fn watermarks_evicted(&self) -> u64 {
        self.watermarks.evicted()
    }
}

/// The lowest number that a new epoch may have at that time; below 2^53 until the year 2248.
///
/// Two logs that open an epoch in the same millisecond differ by the random bits, of which the lowest ten count.
pub const fn epoch_candidate(now_ms: u64, random: u64) -> u64 {
    now_ms * 1024 + random % 1024
}

#[cfg(test)]
mod tests;
