//! The node's clock: the only place of the server that asks the operating system for the time.
//!
//! Promises: [`Clock::now_ms`] never goes backwards in a node's life, so that differences of its values are never
//! negative, and it follows the wall clock when that is set forward or the machine was suspended.
//! Refuses: following a wall clock that is set back. Then it goes on at the pace of real time until the node restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// By how much the wall clock must be ahead before the node follows it, ms. Below this it is drift and reading noise.
const STEP_MS: i64 = 1_000;

/// The time, cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    /// The operating system's clocks: `ahead_ms` is the wall clock minus the time since `start`.
    System { start: Instant, ahead_ms: AtomicI64 },
    /// A test's clock, in microseconds since the Unix epoch.
    Manual { start_us: u64, now_us: AtomicU64 },
}

impl Clock {
    /// The operating system's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else must ask")]
    pub fn system() -> Self {
        Self(Arc::new(Source::System { start: Instant::now(), ahead_ms: AtomicI64::new(wall_ms()) }))
    }

    /// A clock that stands still until [`Self::advance`] moves it.
    pub fn manual(now_ms: u64) -> Self {
        let now_us = now_ms * 1_000;
        Self(Arc::new(Source::Manual { start_us: now_us, now_us: AtomicU64::new(now_us) }))
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        match &*self.0 {
            Source::System { start, ahead_ms } => {
                let elapsed_ms = millis(start.elapsed());
                let ahead_now_ms = wall_ms() - elapsed_ms;
                let mut ahead = ahead_ms.load(Ordering::Relaxed);
                if ahead_now_ms > ahead + STEP_MS {
                    ahead = ahead_ms.fetch_max(ahead_now_ms, Ordering::Relaxed).max(ahead_now_ms);
                }
                (ahead + elapsed_ms).unsigned_abs()
            }
            Source::Manual { now_us, .. } => now_us.load(Ordering::Relaxed) / 1_000,
        }
    }

    /// Time since the clock was made, unmoved by steps of the wall clock: for durations.
    pub fn elapsed(&self) -> Duration {
        match &*self.0 {
            Source::System { start, .. } => start.elapsed(),
            Source::Manual { start_us, now_us } => Duration::from_micros(now_us.load(Ordering::Relaxed) - start_us),
        }
    }

    /// Moves a manual clock; the system's clock moves by itself and is left alone.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { now_us, .. } = &*self.0 {
            let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
            now_us.fetch_add(by_us, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that everything else must ask")]
fn wall_ms() -> i64 {
    // A wall clock before 1970 is broken; the node then counts from 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_tells_the_date_and_never_goes_back() {
        let clock = Clock::system();
        let mut before = clock.now_ms();
        assert!(before > 1_700_000_000_000, "{before}");
        for _ in 0..1_000 {
            let now = clock.now_ms();
            assert!(now >= before);
            before = now;
        }
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = Clock::manual(5_000);
        let same = clock.clone();
        assert_eq!((clock.now_ms(), clock.elapsed()), (5_000, Duration::ZERO));
        same.advance(Duration::from_micros(1_500));
        assert_eq!((clock.now_ms(), clock.elapsed()), (5_001, Duration::from_micros(1_500)));
    }
}
