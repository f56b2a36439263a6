//! The delay window: how much may be under way before a queue builds up that urgent bytes would wait in.
//!
//! A link has a least round trip. What is under way beyond the link's rate times that stands in a queue, and makes the
//! round trip longer: so the round trip tells the queue. Once per round trip the window is compared with what it caused:
//!
//! ```text
//!            doubles while it is used            grows by up to an eighth while used
//!  Startup ──────────── queue ≥ ½ target ──────▶ Steady ◀───────────────────────────┐
//!     ▲                                           │  │                              │
//!     │                                           │  │ queue > target:              │
//!     │                                           │  └─ shrinks to what would fit, ─┤
//!     │                                           │     at most by 30 %, then waits │
//!     │                                           │     a round for the effect      │
//!     │                                           ▼                                 │
//!     │ the least round trip was not seen for 10 s, or the window was halved in vain  │
//!     │                                           │                                 │
//!     └──────────── the path is longer ──────── Drain: less than the link holds, ───┘
//!                                              so that the next round trips show
//!                                              the path without a queue of ours
//! ```
//!
//! Draining is the only way in which the least round trip grows. Without it a queue that always stands would pass for the
//! path within ten seconds, and the next one would stand on top of it; and after a change to a longer path the window would
//! stay at its least for ever. A queue that others keep full does not drain, so it counts as the path, and the window competes
//! for its share instead of starving.

use std::time::{Duration, Instant};

/// Segments of the window before anything is known, as TCP and QUIC begin.
const SEGMENTS_INITIAL: u64 = 10;
/// Segments of the smallest window: below it delayed acknowledgements hold up the sender more than a queue would.
const SEGMENTS_MIN: u64 = 4;
/// How long a least round trip is believed without being seen again.
const BASE_BELIEVED: Duration = Duration::from_secs(10);
/// By how much a round trip may exceed the least one and still confirm it.
const BASE_NOISE: Duration = Duration::from_millis(2);
/// Rounds are no shorter, so that acknowledgements of one burst are not taken for several.
const ROUND_MIN: Duration = Duration::from_millis(1);
/// Rounds of a drain whose round trips count. TCP's round trip is a mean over some acknowledgements and takes that long to
/// forget the queue.
const DRAIN_ROUNDS: u8 = 2;

/// What was seen when acknowledgements came.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The round trip now.
    pub rtt: Duration,
    /// Bytes handed over and not acknowledged, just before these acknowledgements.
    pub outstanding: u64,
    /// Bytes acknowledged so far, cumulative.
    pub delivered: u64,
}

/// The window of one path.
#[derive(Clone, Debug)]
pub struct DelayWindow {
    /// The queueing delay that it aims at.
    target: Duration,
    window: u64,
    segment: u64,
    /// The round trip without a queue, and when it was seen last.
    base: Option<(Duration, Instant)>,
    delivered: u64,
    round: Option<Round>,
    phase: Phase,
    /// Whether it is the first startup, before which nobody filled the path.
    is_first: bool,
    /// Whether the window was used up in the round before.
    was_used: bool,
    /// The window before it began to shrink in rounds that followed one another.
    shrinks_from: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Startup,
    Steady,
    /// The window was changed by much, which the round trips of this round do not show yet.
    Settling {
        then_startup: bool,
    },
    Drain {
        /// The least round trip as believed before.
        believed: Duration,
        /// Rounds that still count; one more is left out first.
        rounds: u8,
        least_rtt: Option<Duration>,
        /// The window afterwards, and if the path turns out to be longer than was believed.
        after: u64,
        after_longer: u64,
    },
}

/// What was seen within about one round trip.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    delivered_before: u64,
    least_rtt: Option<Duration>,
    last_rtt: Duration,
    outstanding_max: u64,
}

impl DelayWindow {
    /// The window of a path of which nothing is known; `segment`: bytes of one packet; `target`: the queueing delay to aim at,
    /// enough to keep a link busy that varies, and short beside a round trip.
    pub fn new(segment: u64, target: Duration) -> Self {
        let segment = segment.max(1);
        Self {
            target,
            window: segment * SEGMENTS_INITIAL,
            segment,
            base: None,
            delivered: 0,
            round: None,
            phase: Phase::Startup,
            is_first: true,
            was_used: false,
            shrinks_from: None,
        }
    }

    /// Bytes that may be under way, at least some segments.
    pub fn window(&self) -> u64 {
        self.window.max(self.least())
    }

    /// The round trip without a queue of ours, once one was seen.
    pub fn least_rtt(&self) -> Option<Duration> {
        self.base.map(|(base, _)| base)
    }

    /// Tells the bytes of one packet, where they change.
    pub fn set_segment(&mut self, segment: u64) {
        self.segment = segment.max(1);
    }

    /// Takes what was seen, in the order in which it was.
    pub fn sample(&mut self, now: Instant, sample: &Sample) {
        let round = self.round.get_or_insert(Round::new(now, self.delivered));
        round.outstanding_max = round.outstanding_max.max(sample.outstanding);
        // Without an acknowledgement the round trip is the one of before.
        if sample.delivered > self.delivered {
            self.delivered = sample.delivered;
            let before = std::mem::replace(&mut round.last_rtt, sample.rtt);
            round.least_rtt = Some(round.least_rtt.map_or(sample.rtt, |least| least.min(sample.rtt)));
            self.confirm(now, sample.rtt);
            self.watch_doubling(now, before.min(sample.rtt));
        }
        let Some(round) = self.round else { return };
        if let Some(least_rtt) = round.least_rtt
            && now.saturating_duration_since(round.began) >= least_rtt.max(ROUND_MIN)
        {
            self.round = Some(Round::new(now, self.delivered));
            self.judge(now, &round, least_rtt);
        }
    }

    fn least(&self) -> u64 {
        self.segment * SEGMENTS_MIN
    }

    fn confirm(&mut self, now: Instant, rtt: Duration) {
        match &mut self.base {
            Some((base, seen)) if rtt <= *base + BASE_NOISE => (*base, *seen) = (rtt.min(*base), now),
            Some(_) => {}
            None => self.base = Some((rtt, now)),
        }
    }

    fn judge(&mut self, now: Instant, round: &Round, rtt: Duration) {
        let Some((base, seen)) = self.base else { return };
        // A round that began with less in use does not show what the whole window does.
        let is_used = round.outstanding_max + 2 * self.segment >= self.window;
        let used = std::mem::replace(&mut self.was_used, is_used) && is_used;
        match self.phase {
            Phase::Settling { then_startup: true } => self.phase = Phase::Startup,
            Phase::Settling { then_startup: false } => self.phase = Phase::Steady,
            Phase::Drain { .. } => self.drain(now, rtt),
            Phase::Startup | Phase::Steady if used && now.saturating_duration_since(seen) > BASE_BELIEVED => {
                self.start_drain(now, round, base, (self.window, self.window));
            }
            Phase::Startup | Phase::Steady => {
                let queue = rtt.saturating_sub(base);
                if queue > self.target {
                    self.shrink(now, round, (base, rtt));
                } else {
                    self.shrinks_from = None;
                    // The first windows are small, and as long as two rounds at each of them last others wait for it.
                    if used || self.is_first && is_used {
                        self.grow(round.last_rtt.saturating_sub(base));
                    }
                }
            }
        }
    }

    /// Takes a doubling back as soon as two round trips in a row show its queue: at the end of its round twice what the link
    /// holds would be under way. TCP has a window of its own, which may follow later than in that round.
    fn watch_doubling(&mut self, now: Instant, rtt: Duration) {
        let is_queue = self.base.is_some_and(|(base, _)| rtt > base + self.target);
        let has_doubled = self.phase == Phase::Settling { then_startup: true }
            || self.phase == Phase::Startup && self.is_first && self.window > self.segment * SEGMENTS_INITIAL;
        if is_queue && has_doubled {
            self.is_first = false;
            self.window = (self.window / 8 * 5).max(self.least());
            self.phase = Phase::Settling { then_startup: false };
            self.round = Some(Round::new(now, self.delivered));
        }
    }

    /// `queue`: what had built up at the end of the round, which is more than what stood for all of it.
    fn grow(&mut self, queue: Duration) {
        if self.phase == Phase::Startup && queue < self.target / 2 {
            self.window = self.window.saturating_mul(2);
            self.phase = Phase::Settling { then_startup: true };
            return;
        }
        (self.phase, self.is_first) = (Phase::Steady, false);
        let most = (self.window / 8).max(self.segment);
        self.window = self.window.saturating_add(part(most, self.target.saturating_sub(queue), self.target));
    }

    fn shrink(&mut self, now: Instant, round: &Round, (base, rtt): (Duration, Duration)) {
        (self.phase, self.is_first) = (Phase::Steady, false);
        if round.outstanding_max < self.window / 2 {
            // What is under way of ours is not what fills the queue.
            return;
        }
        let window = self.window.min(round.outstanding_max).max(self.least());
        let from = *self.shrinks_from.get_or_insert(window);
        self.window = part(window, base + self.target, rtt).max(window / 10 * 7).max(self.least());
        self.phase = Phase::Settling { then_startup: false };
        if self.window <= from / 2 {
            self.shrinks_from = None;
            self.start_drain(now, round, base, (self.window, from));
        }
    }

    fn start_drain(&mut self, now: Instant, round: &Round, base: Duration, (after, after_longer): (u64, u64)) {
        let took = now.saturating_duration_since(round.began);
        let held = part(self.delivered.saturating_sub(round.delivered_before), base, took);
        self.window = (held / 4 * 3).min(self.window).max(self.least());
        self.phase = Phase::Drain { believed: base, rounds: DRAIN_ROUNDS + 1, least_rtt: None, after, after_longer };
    }

    fn drain(&mut self, now: Instant, rtt: Duration) {
        let Phase::Drain { believed, rounds, least_rtt, after, after_longer } = self.phase else { return };
        let rounds = rounds - 1;
        // The first round still shows the queue.
        let least = (rounds < DRAIN_ROUNDS).then(|| least_rtt.map_or(rtt, |least| least.min(rtt)));
        if rounds > 0 {
            self.phase = Phase::Drain { believed, rounds, least_rtt: least, after, after_longer };
            return;
        }
        let Some(seen) = least else { return };
        self.base = Some((seen, now));
        if seen + BASE_NOISE < believed {
            // The path is shorter than was believed, so the link holds less, and may not have drained yet.
            self.window = (self.window / 2).max(self.least());
            self.phase =
                Phase::Drain { believed: seen, rounds: DRAIN_ROUNDS + 1, least_rtt: None, after, after_longer: after };
            return;
        }
        let is_longer = seen > believed + self.target / 2;
        self.phase = Phase::Settling { then_startup: is_longer };
        self.window = if is_longer { after_longer } else { after };
    }
}

impl Round {
    fn new(began: Instant, delivered_before: u64) -> Self {
        Self { began, delivered_before, least_rtt: None, last_rtt: Duration::ZERO, outstanding_max: 0 }
    }
}

/// This part of a number of bytes.
fn part(bytes: u64, of: Duration, whole: Duration) -> u64 {
    let part = u128::from(bytes) * of.as_nanos() / whole.as_nanos().max(1);
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
