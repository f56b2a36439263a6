//! How much of a full path a lane may take.

/// A part of what gets through, for a lane that goes before others: without it the others would starve once their streams
/// may write no more. Needs no clock: what goes through, on whichever lane, earns.
#[derive(Debug)]
pub(super) struct Share {
    percent: i64,
    /// Hundredths of bytes.
    tokens: i64,
    tokens_max: i64,
}

impl Share {
    /// `burst`: bytes that may go at once after a while in which nothing did.
    pub(super) const fn new(percent: u32, burst: u32) -> Self {
        let tokens_max = burst as i64 * 100;
        Self { percent: percent as i64, tokens: tokens_max, tokens_max }
    }

    /// Bytes of any lane got through.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.tokens = self.tokens.saturating_add(self.percent.saturating_mul(bytes as i64)).min(self.tokens_max);
    }

    /// The lane took bytes while others waited.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.tokens = self.tokens.saturating_sub((bytes as i64).saturating_mul(100));
    }

    /// Whether the lane has to wait with the others.
    pub(super) fn is_spent(&self) -> bool {
        self.tokens <= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_never_stops_takes_its_part() {
        // LC-LANE-006
        let (burst, size) = (64 * 1024, 1_000);
        let mut share = Share::new(50, burst as u32);
        let (mut own, mut others) = (0, 0);
        while own + others < 10_000_000 {
            if share.is_spent() {
                others += size;
            } else {
                share.spend(size);
                own += size;
            }
            share.earn(size);
        }
        let expected = 10_000_000 / 2 + burst;
        assert!(own.abs_diff(expected) <= 2 * size, "{own} of {expected}");
    }

    #[test]
    fn a_pause_earns_one_burst() {
        let mut share = Share::new(50, 1_000);
        share.earn(1_000_000);
        share.spend(999);
        assert!(!share.is_spent());
        share.spend(1);
        assert!(share.is_spent());
        share.earn(1);
        assert!(!share.is_spent(), "half a byte is something");
    }
}
