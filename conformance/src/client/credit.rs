//! What a receiver says of lanes normal and bulk so that their sender does not fill the path (LC-FLOW-010).

use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use crate::schema::v1;

/// The lanes under credit.
pub(crate) const CREDIT_LANES: [Lane; 2] = [Lane::Normal, Lane::Bulk];
/// Bytes that may stay uncounted.
pub(crate) const UNCOUNTED: u64 = 4 * 1024;
/// More of them are counted after this at the latest.
const WITHIN: Duration = Duration::from_millis(50);
/// So many are worth a Credit, but none sooner than this after the one before.
const WORTH: u64 = 16 * 1024;
const APART: Duration = Duration::from_millis(10);

/// One lane.
#[derive(Debug, Default)]
struct Account {
    consumed: u64,
    said: u64,
    /// When the first bytes came of which nothing was said.
    since: Option<Instant>,
    said_at: Option<Instant>,
}

impl Account {
    fn due(&self, window: u64) -> Option<Instant> {
        let since = self.since?;
        match self.consumed - self.said {
            unsaid if unsaid >= window / 4 => Some(since),
            unsaid if unsaid >= WORTH => Some(self.said_at.map_or(since, |at| since.max(at + APART))),
            unsaid if unsaid >= UNCOUNTED => Some(since + WITHIN),
            _ => None,
        }
    }
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

    /// When credit is due; `None`: nothing that must be told.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.accounts.iter().filter_map(|account| account.due(self.window)).min()
    }

    /// The credit that is due now.
    pub(crate) fn credits(&mut self, now: Instant) -> Vec<v1::Credit> {
        let window = self.window;
        let due = CREDIT_LANES.into_iter().zip(&mut self.accounts);
        due.filter(|(_, account)| account.due(window).is_some_and(|due| due <= now))
            .map(|(lane, account)| {
                (account.said, account.said_at, account.since) = (account.consumed, Some(now), None);
                v1::Credit { lane: lane.to_wire(), consumed: account.consumed, window }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(meter: &mut Meter, now: Instant) -> Vec<(Lane, u64)> {
        let credits = meter.credits(now);
        credits.iter().map(|credit| (Lane::from_wire(credit.lane).unwrap(), credit.consumed)).collect()
    }

    #[test]
    fn credit_is_due_at_a_quarter_of_the_window() {
        let (mut meter, start) = (Meter::new(40_000), Instant::now());
        meter.consumed(Lane::Urgent, 100_000, start);
        meter.consumed(Lane::Bulk, 9_999, start);
        assert_eq!(told(&mut meter, start), []);
        meter.consumed(Lane::Bulk, 1, start);
        assert_eq!(told(&mut meter, start), [(Lane::Bulk, 10_000)]);
        assert_eq!(meter.due(), None);
    }

    #[test]
    fn credit_is_due_after_a_while_unless_it_is_little() {
        let (mut meter, start) = (Meter::new(1 << 20), Instant::now());
        meter.consumed(Lane::Normal, UNCOUNTED as usize - 1, start);
        assert_eq!(meter.due(), None);
        meter.consumed(Lane::Normal, 1, start);
        assert_eq!(meter.due(), Some(start + WITHIN));
        assert_eq!(told(&mut meter, start + WITHIN), [(Lane::Normal, UNCOUNTED)]);
    }

    #[test]
    fn much_is_told_soon_and_not_at_once() {
        let (mut meter, start) = (Meter::new(1 << 20), Instant::now());
        meter.consumed(Lane::Bulk, WORTH as usize, start);
        assert_eq!(told(&mut meter, start), [(Lane::Bulk, WORTH)]);
        meter.consumed(Lane::Bulk, WORTH as usize, start);
        assert_eq!(meter.due(), Some(start + APART));
    }
}
