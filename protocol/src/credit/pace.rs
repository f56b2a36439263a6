//! How much keeps a path busy that shows itself by Credit alone.
//!
//! Two things are measured at marks among the bytes sent: how long it took until a mark was counted, of which the least is
//! the path without a queue, and how fast bytes were counted meanwhile, of which the most is the path's rate. Their product
//! fills the path; 25 ms more, and the time between two Credits, see that it stays full.
//!
//! ```text
//!                 no faster any more, or a queue shows
//!  ┌──────────┐ ─────────────────────────────────────▶ ┌─────────┐  the least is 10 s old  ┌───────┐
//!  │ Starting │                                        │ Keeping │ ──────────────────────▶ │ Empty │
//!  │  bound×2 │ ◀───────────┐                          │         │ ◀───────────────────────│  ½    │
//!  └──────────┘             │                          └─────────┘  a mark was counted     └───────┘
//!                           └── the path became longer ──────────────────────────────────────┘
//! ```
//!
//! A rate that was measured while the bound held the lane back, and had the bound follow it, would spiral down. So the
//! most of ten rounds counts, and what was measured while too little waited to fill the path can only raise it.

use std::collections::VecDeque;
use std::ops::Range;

use super::{FIRST_BYTES, OWN_BYTES_MIN, UNCOUNTED_BYTES};

/// How much queue is aimed at, as time: what a Credit or a packet may be late without the path running dry.
pub(super) const QUEUE_MS: u64 = 25;
/// Longest time between two Credits that is allowed for.
pub(super) const GAP_MS_MAX: u64 = 50;
/// Beyond twice the least round trip and this much the queue is not one that a sender of this rate makes: the path carries
/// less than it did.
const TOO_LONG_MS: u64 = 300;
/// Marks under way at most.
const MARKS_MAX: usize = 32;
/// Rounds, from a byte's leaving to its being counted, after which the best rate of as many before them is forgotten.
const ROUNDS: u32 = 5;
/// Rounds in a row without a quarter more of rate that end the start.
const FLAT_ROUNDS: u32 = 2;
/// After this time the least round trip is measured anew, with the path emptied: its own queue hides a change.
const LEAST_HOLDS_MS: u64 = 10_000;

#[derive(Debug)]
struct Mark {
    /// Bytes sent up to it.
    end: u64,
    at_ms: u64,
    /// What was consumed when it was sent, and when that was known.
    consumed: u64,
    heard_at_ms: u64,
    /// The bound was all but used up.
    filled: bool,
    /// Little enough was under way that none of it queued.
    empty: bool,
}

#[derive(Debug)]
enum Phase {
    Starting { best: u64, flat: u32 },
    Keeping,
    Empty,
}

/// What was measured of one lane.
#[derive(Debug)]
pub(super) struct Pace {
    phase: Phase,
    marks: VecDeque<Mark>,
    /// When the newest Credit came, or sending began with nothing under way.
    heard_at_ms: u64,
    /// Time between Credits, smoothed, in eighths of a ms.
    gap_eighths: u64,
    /// The least round trip, and when it was seen last.
    least: Option<(u64, u64)>,
    /// Most bytes per second of these rounds and of those before.
    rates: [u64; 2],
    round_end: u64,
    /// Whether the bound held the lane back in this round.
    round_filled: bool,
    rounds: u32,
}

impl Pace {
    /// Nothing is known; this many bytes were sent before.
    pub(super) fn new(now_ms: u64, sent: u64) -> Self {
        Self {
            phase: Phase::Starting { best: 0, flat: 0 },
            marks: VecDeque::new(),
            heard_at_ms: now_ms,
            gap_eighths: 8 * 10,
            least: None,
            rates: [0; 2],
            round_end: sent,
            round_filled: false,
            rounds: 0,
        }
    }

    /// Bytes that may be under way.
    pub(super) fn bound(&self) -> u64 {
        let Some((least_ms, _)) = self.least else { return FIRST_BYTES };
        let over = |ms: u64| self.rate().saturating_mul(ms) / 1000;
        let full = over(least_ms + QUEUE_MS + self.gap_eighths / 8);
        match self.phase {
            Phase::Starting { .. } => full.saturating_mul(2).max(FIRST_BYTES),
            Phase::Keeping => full.max(OWN_BYTES_MIN),
            Phase::Empty => self.empty_bytes(),
        }
    }

    fn rate(&self) -> u64 {
        self.rates[0].max(self.rates[1])
    }

    /// Bytes that do not queue.
    fn empty_bytes(&self) -> u64 {
        let least_ms = self.least.map_or(0, |(least_ms, _)| least_ms);
        (self.rate().saturating_mul(least_ms) / 2000).max(OWN_BYTES_MIN)
    }

    /// These bytes were sent while that many were consumed, under that bound.
    pub(super) fn sent(&mut self, now_ms: u64, bytes: Range<u64>, consumed: u64, bound: u64) {
        let before = bytes.start - consumed;
        if before <= UNCOUNTED_BYTES {
            self.heard_at_ms = now_ms;
        }
        let filled = !matches!(self.phase, Phase::Empty) && bytes.end - consumed >= bound / 4 * 3;
        self.round_filled |= filled;
        let apart = bound / MARKS_MAX as u64 * 2;
        let wanted = self.marks.back().is_none_or(|mark| bytes.end >= mark.end + apart);
        if wanted && self.marks.len() < MARKS_MAX {
            let empty = before <= UNCOUNTED_BYTES || matches!(self.phase, Phase::Empty) && before < self.empty_bytes();
            let mark = Mark { end: bytes.end, at_ms: now_ms, consumed, heard_at_ms: self.heard_at_ms, filled, empty };
            self.marks.push_back(mark);
        }
    }

    /// The receiver has counted so much of what was sent.
    pub(super) fn consumed(&mut self, now_ms: u64, consumed: u64, sent: u64) {
        let gap_ms = now_ms.saturating_sub(self.heard_at_ms).min(GAP_MS_MAX);
        self.gap_eighths += gap_ms;
        self.gap_eighths -= self.gap_eighths / 8;
        self.heard_at_ms = now_ms;
        let mut newest = None;
        while self.marks.front().is_some_and(|mark| mark.end <= consumed) {
            newest = self.marks.pop_front();
        }
        if self.marks.is_empty() && consumed == sent {
            // A lane that rests keeps no room for the marks of its burst.
            self.marks = VecDeque::new();
        }
        if let Some(mark) = newest {
            self.measure(now_ms, consumed, &mark);
        }
        if consumed >= self.round_end {
            self.end_round(sent);
        }
    }

    fn measure(&mut self, now_ms: u64, consumed: u64, mark: &Mark) {
        let rate = (consumed - mark.consumed).saturating_mul(1000) / now_ms.saturating_sub(mark.heard_at_ms).max(1);
        if mark.filled || rate > self.rate() {
            self.rates[0] = self.rates[0].max(rate);
        }
        let round_trip_ms = now_ms.saturating_sub(mark.at_ms);
        if mark.filled && self.least.is_some_and(|(least_ms, _)| round_trip_ms > 2 * least_ms + TOO_LONG_MS) {
            // With such a queue the path was busy all the time, and this is all that it carries now.
            self.rates = [rate, 0];
        }
        match self.least {
            Some((least_ms, at_ms)) if round_trip_ms > least_ms => {
                let old = now_ms.saturating_sub(at_ms) >= LEAST_HOLDS_MS;
                let queue_ms = 2 * QUEUE_MS + self.gap_eighths / 8;
                if old && mark.empty {
                    self.renew_least(now_ms, least_ms, round_trip_ms);
                } else if old && matches!(self.phase, Phase::Keeping) {
                    self.phase = Phase::Empty;
                } else if matches!(self.phase, Phase::Starting { .. }) && round_trip_ms > least_ms + queue_ms {
                    self.phase = Phase::Keeping;
                }
            }
            _ => {
                self.least = Some((round_trip_ms, now_ms));
                if matches!(self.phase, Phase::Empty) {
                    self.phase = Phase::Keeping;
                }
            }
        }
    }

    /// The path was empty, and this is how long it is.
    fn renew_least(&mut self, now_ms: u64, former_ms: u64, round_trip_ms: u64) {
        // What the least bound allows may stand in a slow path's queue all the same.
        let stands_ms = OWN_BYTES_MIN * 1000 / self.rate().max(1);
        let longer = round_trip_ms > former_ms + former_ms / 4 + QUEUE_MS + stands_ms;
        self.least = Some((round_trip_ms, now_ms));
        if longer {
            // Under the bound of a shorter path the rate was as much too low.
            self.phase = Phase::Starting { best: self.rate(), flat: 0 };
        } else if matches!(self.phase, Phase::Empty) {
            self.phase = Phase::Keeping;
        }
    }

    fn end_round(&mut self, sent: u64) {
        self.round_end = sent;
        if !std::mem::take(&mut self.round_filled) {
            return;
        }
        let rate = self.rate();
        if let Phase::Starting { best, flat } = &mut self.phase {
            if rate >= *best + *best / 4 {
                (*best, *flat) = (rate, 0);
            } else {
                *flat += 1;
                if *flat == FLAT_ROUNDS {
                    self.phase = Phase::Keeping;
                }
            }
        }
        self.rounds += 1;
        if self.rounds >= ROUNDS && self.rates[0] > 0 {
            self.rounds = 0;
            self.rates = [0, self.rates[0]];
        }
    }
}
