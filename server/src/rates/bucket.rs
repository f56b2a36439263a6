//! A token bucket as one number: when it will be full again.

/// A rate: so much over a longer time, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time in which a token comes back.
    token_ns: u64,
    /// Tokens of a full bucket.
    burst: u32,
}

impl Rate {
    /// So many a second; `None` for 0: no limit.
    pub fn per_second(count: u32, burst: u32) -> Option<Self> {
        (count > 0).then(|| Self { token_ns: 1_000_000_000 / u64::from(count), burst: burst.max(1) })
    }

    /// So many a minute; `None` for 0: no limit.
    pub fn per_minute(count: u32, burst: u32) -> Option<Self> {
        (count > 0).then(|| Self { token_ns: 60_000_000_000 / u64::from(count), burst: burst.max(1) })
    }

    /// Time in which so many tokens come back.
    fn time_ns(self, tokens: u32) -> u64 {
        self.token_ns.saturating_mul(tokens.into())
    }
}

/// A bucket; a fresh one is full. Its rate is the caller's to remember.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at_ns: u64,
    /// Refusals since a token was last taken.
    refused: u32,
}

impl Bucket {
    /// Goes on at another rate: what is missing are as many tokens as before, and not as long a time.
    pub fn change(&mut self, from: Rate, to: Rate, now_ns: u64) {
        let missing = self.full_at_ns.saturating_sub(now_ns).div_ceil(from.token_ns.max(1));
        self.full_at_ns = now_ns.saturating_add(missing.saturating_mul(to.token_ns));
        self.refused = 0;
    }

    /// Whether it is as good as a fresh one.
    pub fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }

    /// How long there will be no token, ns; 0: there is one.
    pub fn wait_ns(&self, rate: Rate, now_ns: u64) -> u64 {
        let missing_ns = self.full_at_ns.saturating_sub(now_ns);
        missing_ns.saturating_add(rate.token_ns).saturating_sub(rate.time_ns(rate.burst))
    }

    /// Takes a token, which must be there.
    pub fn take(&mut self, rate: Rate, now_ns: u64) {
        self.full_at_ns = self.full_at_ns.max(now_ns).saturating_add(rate.token_ns);
        self.refused = 0;
    }

    /// Refuses, and says after how long a token will be there for this one too, ns: those that were refused before it
    /// take theirs first. So a pipeline that is refused comes back when a good part of it can pass, and not for each
    /// single token.
    pub fn refuse(&mut self, rate: Rate, now_ns: u64) -> u64 {
        let before = self.refused.min(rate.burst - 1);
        self.refused = self.refused.saturating_add(1);
        self.wait_ns(rate, now_ns).saturating_add(rate.time_ns(before))
    }
}

/// Whole ms, at least 1, that cover so many ns: what a client that is refused is told.
pub fn wait_ms(wait_ns: u64) -> u32 {
    u32::try_from(wait_ns.div_ceil(1_000_000).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn take(bucket: &mut Bucket, rate: Rate, now_ms: u64) -> Result<(), u32> {
        if bucket.wait_ns(rate, now_ms * MS) > 0 {
            return Err(wait_ms(bucket.refuse(rate, now_ms * MS)));
        }
        bucket.take(rate, now_ms * MS);
        Ok(())
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::per_second(10, 20).unwrap();
        let mut bucket = Bucket::default();
        assert!((0..20).all(|_| take(&mut bucket, rate, 5).is_ok()));
        assert_eq!(take(&mut bucket, rate, 5), Err(100));
        assert!(take(&mut bucket, rate, 104).is_err());
        assert_eq!(take(&mut bucket, rate, 105), Ok(()));
        assert_eq!(take(&mut bucket, rate, 105), Err(100));
        assert!(!bucket.is_full(2_000 * MS) && bucket.is_full(2_105 * MS));
        assert!((0..20).all(|_| take(&mut bucket, rate, 9_000).is_ok()));
    }

    #[test]
    fn each_refused_one_is_told_when_its_own_token_is_there() {
        // LC-FLOW-001
        let rate = Rate::per_minute(600, 3).unwrap();
        let mut bucket = Bucket::default();
        assert!((0..3).all(|_| take(&mut bucket, rate, 0).is_ok()));
        let waits: Vec<_> = (0..5).map(|_| take(&mut bucket, rate, 0).unwrap_err()).collect();
        assert_eq!(waits, [100, 200, 300, 300, 300], "a full bucket is as much as there will ever be");
        assert!((0..3).all(|_| take(&mut bucket, rate, 300).is_ok()));
        assert_eq!(take(&mut bucket, rate, 300), Err(100), "counted anew");
    }

    #[test]
    fn another_rate_holds_at_once() {
        // LC-FLOW-007
        let (slow, fast) = (Rate::per_second(2, 60).unwrap(), Rate::per_second(600, 600).unwrap());
        let mut bucket = Bucket::default();
        assert!((0..60).all(|_| take(&mut bucket, slow, 0).is_ok()));
        assert!(take(&mut bucket, slow, 0).is_err());
        bucket.change(slow, fast, 0);
        assert!((0..540).all(|_| take(&mut bucket, fast, 0).is_ok()));
        assert!(take(&mut bucket, fast, 0).is_err());
        bucket.change(fast, slow, 0);
        assert!(take(&mut bucket, slow, 499).is_err(), "as much is missing as before");
    }

    #[test]
    fn rates_are_kept_over_a_long_time() {
        for (rate, taken) in [
            (Rate::per_minute(1, 1), 60),
            (Rate::per_minute(120, 20), 20 + 120 * 60 - 1),
            (Rate::per_second(7, 5), 5 + 7 * 3_600 - 1),
        ] {
            let mut bucket = Bucket::default();
            let passed = (0..3_600_000).step_by(20).filter(|ms| take(&mut bucket, rate.unwrap(), *ms).is_ok()).count();
            assert!((taken..=taken + 2).contains(&passed), "{rate:?}: {passed} instead of {taken}");
        }
        assert_eq!((Rate::per_second(0, 5), Rate::per_minute(0, 5)), (None, None));
    }

    #[test]
    fn nothing_overflows() {
        let rate = Rate::per_minute(1, u32::MAX).unwrap();
        let mut bucket = Bucket { full_at_ns: u64::MAX - 1, refused: u32::MAX };
        bucket.take(rate, u64::MAX);
        assert!(wait_ms(bucket.refuse(rate, 0)) > 0);
        assert_eq!(wait_ms(u64::MAX), u32::MAX);
    }
}
