//! When a room's lane is to be tidied: trimmed, its retention noted, and the lives of its keys prolonged. That is not part
//! of every append, which it would make a third dearer; reads hide what is not trimmed yet.

use std::collections::HashMap;
use std::sync::Arc;

use lanecast_protocol::log::Retention;
use lanecast_protocol::position::DurableLane;
use parking_lot::Mutex;

/// Lanes whose state is remembered; beyond it all is forgotten, and each lane is tidied once more than it needed.
const LANES_MAX: usize = 100_000;
/// Least and most time between two rounds, ms.
const EVERY_MS: (u64, u64) = (1_000, 600_000);
/// Events after which a lane is tidied whatever the time, at least: about one node of a stream.
const EVENTS_MIN: usize = 100;

#[derive(Clone, Copy)]
struct State {
    retention: Retention,
    at_ms: u64,
    /// Events until then.
    left: usize,
}

/// What this node knows of the lanes that it stores to.
#[derive(Default)]
pub(super) struct Upkeep(Mutex<HashMap<(Arc<str>, DurableLane), State>>);

impl Upkeep {
    /// Whether a lane is to be tidied with an append of so many events. The caller does it, or calls [`Self::forget`].
    pub(super) fn is_due(
        &self,
        now_ms: u64,
        room: &Arc<str>,
        lane: DurableLane,
        retention: Retention,
        events: usize,
    ) -> bool {
        let mut lanes = self.0.lock();
        let name = (Arc::clone(room), lane);
        if let Some(state) = lanes.get_mut(&name)
            && state.retention == retention
            && state.at_ms > now_ms
            && let Some(left) = state.left.checked_sub(events)
        {
            state.left = left;
            return false;
        }
        if lanes.len() >= LANES_MAX {
            lanes.clear();
        }
        let every_ms = (retention.age_ms_max / 16).clamp(EVERY_MS.0, EVERY_MS.1);
        let left = (retention.events_max / 10).max(EVENTS_MIN);
        lanes.insert(name, State { retention, at_ms: now_ms + every_ms, left });
        true
    }

    /// It was not done, or the store has forgotten it.
    pub(super) fn forget(&self, room: &Arc<str>, lane: DurableLane) {
        self.0.lock().remove(&(Arc::clone(room), lane));
    }

    /// The store may have forgotten all of it.
    pub(super) fn forget_all(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::{Normal, Urgent};

    #[test]
    fn a_lane_is_tidied_at_first_and_after_a_time_a_number_or_a_change() {
        let (upkeep, room) = (Upkeep::default(), Arc::from("r"));
        let keep = Retention { events_max: 2_000, age_ms_max: 32_000 };
        let due = |now_ms, lane, retention, events| upkeep.is_due(now_ms, &room, lane, retention, events);
        assert!(due(0, Normal, keep, 1) && due(0, Urgent, keep, 1));
        assert!(!due(1_999, Normal, keep, 150) && due(2_000, Normal, keep, 1), "after a sixteenth of the age");
        assert!(!due(2_000, Normal, keep, 200) && due(2_000, Normal, keep, 1), "after a tenth of the events");
        assert!(due(2_000, Normal, Retention { events_max: 3, ..keep }, 1));
        upkeep.forget(&room, Urgent);
        assert!(due(0, Urgent, keep, 1));
    }
}
