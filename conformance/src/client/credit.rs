//! What a receiver says of lanes normal and bulk so that their sender does not fill the path (LC-FLOW-010).

use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use crate::schema::v1;

/// The lanes under credit.
pub(crate) const CREDIT_LANES: [Lane; 2] = [Lane::Normal, Lane::Bulk];
/// Credit is due this long after bytes arrived, if no quarter of the window came before.
pub(crate) const CREDIT_AFTER: Duration = Duration::from_millis(50);

/// One lane.
#[derive(Debug, Default)]
struct Account {
    consumed: u64,
    said: u64,
    /// When the first bytes came of which nothing was said.
    since: Option<Instant>,
}

/// Counts what was consumed and says when it is to be told.
#[derive(Debug)]
pub(crate) struct Meter {
    window: u64,
    accounts: [Account; CREDIT_LANES.len()],
}

impl Meter {
    /// A receiver that takes that many bytes of a lane beyond what it has consumed.
    pub(crate) fn new(window: u64) -> Self {
        Self { window, accounts: Default::default() }
    }

    /// A record of that length, tag and length included, left the receiver's queue.
    pub(crate) fn consumed(&mut self, lane: Lane, record_bytes: usize, now: Instant) {
        if let Some(place) = CREDIT_LANES.iter().position(|known| *known == lane) {
            let account = &mut self.accounts[place];
            account.consumed += record_bytes as u64;
            account.since.get_or_insert(now);
        }
    }

    /// When credit is due at the latest; `None`: everything was told.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.accounts.iter().filter_map(|account| account.since).min().map(|since| since + CREDIT_AFTER)
    }

    /// The credit that is due now.
    pub(crate) fn credits(&mut self, now: Instant) -> Vec<v1::Credit> {
        let mut credits = Vec::new();
        for (lane, account) in CREDIT_LANES.into_iter().zip(&mut self.accounts) {
            let Some(since) = account.since else { continue };
            if account.consumed - account.said >= self.window / 4 || now >= since + CREDIT_AFTER {
                account.said = account.consumed;
                account.since = None;
                credits.push(v1::Credit { lane: lane.to_wire(), consumed: account.consumed, window: self.window });
            }
        }
        credits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_due_at_a_quarter_of_the_window_or_after_a_while() {
        let (mut meter, start) = (Meter::new(400), Instant::now());
        meter.consumed(Lane::Urgent, 1_000, start);
        meter.consumed(Lane::Bulk, 99, start);
        assert!(meter.credits(start).is_empty());
        assert_eq!(meter.due(), Some(start + CREDIT_AFTER));
        meter.consumed(Lane::Bulk, 1, start);
        meter.consumed(Lane::Normal, 5, start);
        let told: Vec<_> = meter.credits(start).iter().map(|credit| (credit.lane, credit.consumed)).collect();
        assert_eq!(told, [(Lane::Bulk.to_wire(), 100)]);
        let told: Vec<_> =
            meter.credits(start + CREDIT_AFTER).iter().map(|credit| (credit.lane, credit.consumed)).collect();
        assert_eq!(told, [(Lane::Normal.to_wire(), 5)]);
        assert_eq!(meter.due(), None);
    }
}
