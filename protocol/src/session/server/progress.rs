//! Whether the client takes what waits for it (LC-FLOW-005).

use crate::lane::{Lane, Lanes};

/// What got through, and when. A lane that passes by does not count for one that waits: a client that reads its answers
/// and no event takes nothing of what waits.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Since when something waits; `None`: nothing does.
    waiting_since_ms: Option<u64>,
    /// When something of a lane got through last.
    moved_at_ms: [u64; 5],
}

impl Progress {
    /// Something of these lanes was taken, or consumed.
    pub(super) fn moved(&mut self, now_ms: u64, lanes: Lanes) {
        for lane in Lane::ALL.into_iter().filter(|lane| lanes.contains(*lane)) {
            self.moved_at_ms[lane.index()] = now_ms;
        }
    }

    /// Says whether something waits, and whether all that waits, which is in the transport then, moves.
    pub(super) fn look(&mut self, now_ms: u64, is_waiting: bool, moves: bool) {
        match self.waiting_since_ms {
            Some(_) if is_waiting && !moves => {}
            _ => self.waiting_since_ms = is_waiting.then_some(now_ms),
        }
    }

    /// Since when nothing got through of what waits; `waits` says of which lanes something does. If of none, what waits is in
    /// the transport, which took it when something moved last.
    pub(super) fn stuck_since_ms(&self, waits: impl Fn(Lane) -> bool) -> Option<u64> {
        let since = self.waiting_since_ms?;
        let is_empty = !Lane::ALL.into_iter().any(&waits);
        let moved = Lane::ALL.into_iter().filter(|lane| is_empty || waits(*lane));
        Some(moved.map(|lane| self.moved_at_ms[lane.index()]).fold(since, u64::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_transport_got_there() {
        // LC-FLOW-005
        let normal = Lanes::NONE.with(Lane::Normal);
        let mut progress = Progress::default();
        assert_eq!(progress.stuck_since_ms(|_| false), None);
        progress.look(10, true, false);
        progress.moved(20, normal);
        progress.look(20, true, false);
        assert_eq!(progress.stuck_since_ms(|_| false), Some(20), "the transport took it");
        assert_eq!(progress.stuck_since_ms(|lane| lane == Lane::Normal), Some(20));
        assert_eq!(progress.stuck_since_ms(|lane| lane == Lane::Bulk), Some(10), "another lane passed by");
        progress.look(30, false, false);
        assert_eq!(progress.stuck_since_ms(|_| true), None);
    }
}
