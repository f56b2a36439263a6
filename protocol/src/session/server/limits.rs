//! What a connection may do that is not the same for all of its life: a limit that changes, and the operator's cap of
//! lane bulk.

/// How long a client may go on by a limit that was lowered, ms: the time that the frame takes, and what is under way.
const LOWERED_AFTER_MS: u64 = 10_000;
/// Bytes of bulk that may leave at once under a cap.
const BURST_BYTES: i64 = 16 * 1024;

/// A limit that may change during a connection (LC-FLOW-007).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limit {
    holds: u32,
    /// What it was lowered to, and from when on it is that, monotonic ms.
    lowered: Option<(u32, u64)>,
}

impl Limit {
    pub(super) fn at(limit: u32) -> Self {
        Self { holds: limit, lowered: None }
    }

    /// What the client was told last.
    pub(super) fn told(&self) -> u32 {
        self.lowered.map_or(self.holds, |(limit, _)| limit)
    }

    /// What holds for what is received now.
    pub(super) fn now(&self, now_ms: u64) -> u32 {
        match self.lowered {
            Some((limit, at_ms)) if at_ms <= now_ms => limit,
            _ => self.holds,
        }
    }

    pub(super) fn change(&mut self, now_ms: u64, limit: u32) {
        let holds = self.now(now_ms);
        *self = match limit < holds {
            true => Self { holds, lowered: Some((limit, now_ms + LOWERED_AFTER_MS)) },
            false => Self::at(limit),
        };
    }
}

/// A token bucket in front of lane bulk. A record may leave while anything is in it, and what is too much is made up for
/// before the next.
#[derive(Debug)]
pub(super) struct Cap {
    bytes_per_second: u32,
    /// Thousandths of bytes.
    level: i64,
    filled_at_ms: u64,
}

impl Cap {
    pub(super) fn new(now_ms: u64, bytes_per_second: u32) -> Self {
        Self { bytes_per_second, level: BURST_BYTES * 1000, filled_at_ms: now_ms }
    }

    pub(super) fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_at_ms);
        let more = i64::try_from(passed_ms.saturating_mul(self.bytes_per_second.into())).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(more).min(BURST_BYTES * 1000);
        self.filled_at_ms = now_ms;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.level -= bytes as i64 * 1000;
    }

    /// When the next record may leave, monotonic ms; `None`: now.
    pub(super) fn opens_at_ms(&self) -> Option<u64> {
        let missing = u64::try_from(1 - self.level).unwrap_or(0);
        (missing > 0).then(|| self.filled_at_ms + missing.div_ceil(self.bytes_per_second.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_limit_holds_at_once_and_a_lowered_one_later() {
        // LC-FLOW-007
        let mut limit = Limit::at(10);
        limit.change(1_000, 30);
        assert_eq!((limit.now(1_000), limit.told()), (30, 30));
        limit.change(2_000, 5);
        assert_eq!((limit.now(11_999), limit.now(12_000), limit.told()), (30, 5, 5));
        limit.change(3_000, 20);
        assert_eq!((limit.now(12_999), limit.now(13_000)), (30, 20));
        limit.change(4_000, 40);
        assert_eq!(limit.now(20_000), 40);
    }

    #[test]
    fn a_cap_lets_through_what_it_says() {
        let mut cap = Cap::new(0, 20_000);
        let (mut sent, mut now_ms) = (0, 0);
        while now_ms < 60_000 {
            cap.fill(now_ms);
            match cap.opens_at_ms() {
                Some(at_ms) => now_ms = at_ms,
                None => {
                    cap.sent(5_000);
                    sent += 5_000;
                }
            }
        }
        assert!((1_200_000..=1_200_000 + BURST_BYTES + 5_000).contains(&sent), "{sent}");
    }
}
