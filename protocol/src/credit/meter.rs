//! The receiver's side.

use super::{LANES, UNCOUNTED_BYTES, index};
use crate::lane::Lane;
use crate::v1;

/// What this side accepts beyond what it consumed, bytes of each lane. It is not what holds the delay down, which is the
/// sender's own bound, so it is as much as any path here needs: 80 Mbit/s at 100 ms.
pub const WINDOW_BYTES: u64 = 1024 * 1024;
/// Longest that bytes wait to be counted, beyond [`UNCOUNTED_BYTES`].
const WITHIN_MS: u64 = 50;
/// Bytes that are worth a Credit of their own, as long as there are not more than 100 in a second. The sender lets go for
/// the time until the next Credit too, so a rare one makes a longer queue in the path.
const WORTH_BYTES: u64 = 16 * 1024;
const APART_MS: u64 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    consumed: u64,
    told: u64,
    told_at_ms: u64,
    /// When the first byte came that was not told.
    since_ms: u64,
    due: bool,
}

impl Count {
    fn untold(&self) -> u64 {
        self.consumed - self.told
    }

    /// When it has to be told by time alone.
    fn deadline_ms(&self) -> Option<u64> {
        if self.due {
            return None;
        }
        match self.untold() {
            untold if untold >= WORTH_BYTES => Some((self.told_at_ms + APART_MS).min(self.since_ms + WITHIN_MS)),
            untold if untold >= UNCOUNTED_BYTES => Some(self.since_ms + WITHIN_MS),
            _ => None,
        }
    }
}

/// Counts what a session took out of its transport, and says when the sender is to be told.
///
/// It counts from the beginning, and tells nobody before [`Self::tell`].
#[derive(Debug, Default)]
pub struct Meter {
    /// Made with the first record that counts: most connections only listen.
    counts: Option<Box<[Count; 2]>>,
    /// 0: not both sides named the capability, and nobody is told.
    window: u64,
}

impl Meter {
    /// Both sides named the capability: from now on the sender is told.
    pub fn tell(&mut self, window: u64) {
        self.window = window;
    }

    /// A record of this many bytes was taken out of the transport.
    pub fn consumed(&mut self, now_ms: u64, lane: Lane, bytes: usize) {
        let Some(at) = index(lane) else { return };
        let (count, window) = (&mut self.counts.get_or_insert_default()[at], self.window);
        if count.untold() == 0 {
            count.since_ms = now_ms;
        }
        count.consumed += bytes as u64;
        count.due |= window > 0 && count.untold() >= window / 4;
        self.handle_timeout(now_ms);
    }

    /// The next Credit to send now.
    pub fn poll(&mut self, now_ms: u64) -> Option<v1::Credit> {
        let (count, lane) = self.counts.as_mut()?.iter_mut().zip(LANES).find(|(count, _)| count.due)?;
        (count.told, count.told_at_ms, count.due) = (count.consumed, now_ms, false);
        Some(v1::Credit { lane: lane.to_wire().into(), consumed: count.consumed, window: self.window })
    }

    /// When [`Self::handle_timeout`] wants to be called, monotonic ms.
    pub fn poll_timeout(&self) -> Option<u64> {
        let deadlines = self.counts.iter().flat_map(|counts| counts.iter()).filter_map(Count::deadline_ms);
        deadlines.min().filter(|_| self.window > 0)
    }

    /// Makes what is due by time ready for [`Self::poll`].
    pub fn handle_timeout(&mut self, now_ms: u64) {
        if self.window > 0 {
            for count in self.counts.iter_mut().flat_map(|counts| counts.iter_mut()) {
                count.due |= count.deadline_ms().is_some_and(|at_ms| at_ms <= now_ms);
            }
        }
    }
}
