//! Group commit: publishes of a room and lane that wait together go to Redis in one call.
//!
//! One call at a time is under way for each room and lane, so order holds; what comes meanwhile is the next group. An
//! unloaded publish goes alone and at once, a loaded room forms groups by itself, and no timer is involved.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use lanecast_protocol::log::{Append, Outcome, Retention};
use lanecast_protocol::position::DurableLane;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::engine::EngineError;

/// Bytes of a group, beyond its first event.
const GROUP_BYTES_MAX: usize = 64 * 1024;
/// Publishes of one room and lane that wait; beyond it they are refused.
const WAITING_MAX: usize = 8_192;
/// Bytes of those.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
const FULL: EngineError =
    EngineError::Full { what: "publishes that wait for one room and lane", retry_after_ms: 1_000 };
const SHARDS: usize = 32;

/// The answer to one append.
pub(super) type Answer = Result<Outcome, EngineError>;
type Name = (Arc<str>, DurableLane);

/// An append and who waits for its answer.
pub(super) struct Waiting {
    pub(super) append: Append,
    pub(super) answer: oneshot::Sender<Answer>,
}

struct Lane {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    retention: Retention,
}

/// The queues of all rooms and lanes in which something waits or is under way.
pub(super) struct Groups {
    shards: [Mutex<HashMap<Name, Lane>>; SHARDS],
    hasher: RandomState,
    events_max: usize,
}

impl Groups {
    /// With groups of at most so many events.
    pub(super) fn new(events_max: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), events_max }
    }

    fn shard(&self, name: &Name) -> &Mutex<HashMap<Name, Lane>> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    /// Puts appends of one lane in line. Returns where their answers will be, and whether the caller must see to it that
    /// groups are taken until there is none ([`Self::next`]).
    pub(super) fn push(
        &self,
        name: &Name,
        retention: Retention,
        items: Vec<Append>,
    ) -> (Vec<oneshot::Receiver<Answer>>, bool) {
        let mut shard = self.shard(name).lock();
        let lead = !shard.contains_key(name);
        let lane = shard.entry(name.clone()).or_insert_with(|| Lane { waiting: VecDeque::new(), bytes: 0, retention });
        lane.retention = retention;
        let answers = items.into_iter().map(|append| {
            let (answer, receiver) = oneshot::channel();
            if lane.waiting.len() >= WAITING_MAX || lane.bytes + append.tail.len() > WAITING_BYTES_MAX {
                // Nobody waits for the error but the receiver that is returned.
                let _ = answer.send(Err(FULL));
            } else {
                lane.bytes += append.tail.len();
                lane.waiting.push_back(Waiting { append, answer });
            }
            receiver
        });
        (answers.collect(), lead)
    }

    /// The next group; `None` ends the lead.
    pub(super) fn next(&self, name: &Name) -> Option<(Retention, Vec<Waiting>)> {
        let mut shard = self.shard(name).lock();
        let lane = shard.get_mut(name)?;
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(first) = lane.waiting.front() {
            bytes += first.append.tail.len();
            if group.len() >= self.events_max || (!group.is_empty() && bytes > GROUP_BYTES_MAX) {
                break;
            }
            lane.bytes -= first.append.tail.len();
            group.extend(lane.waiting.pop_front());
        }
        if group.is_empty() {
            shard.remove(name);
            return None;
        }
        Some((lane.retention, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use lanecast_protocol::log::Origin;

    const KEEP: Retention = Retention { events_max: 9, age_ms_max: 9 };

    fn items(count: usize, bytes: usize) -> Vec<Append> {
        let append = Append {
            lane: DurableLane::Normal,
            origin: Origin::Unmarked,
            time_ms: 0,
            expires_at_ms: 0,
            event_type: "t".into(),
            tail: Bytes::from(vec![0; bytes]),
        };
        vec![append; count]
    }

    fn sizes(groups: &Groups, name: &Name) -> Vec<usize> {
        std::iter::from_fn(|| groups.next(name)).map(|(_, group)| group.len()).collect()
    }

    #[test]
    fn one_leads_and_the_others_wait_for_the_next_group() {
        let (groups, name) = (Groups::new(32), ("r".into(), DurableLane::Normal));
        assert!(groups.push(&name, KEEP, items(1, 1)).1);
        assert_eq!(groups.next(&name).unwrap().1.len(), 1);
        assert!(!groups.push(&name, KEEP, items(40, 1)).1, "a call is under way");
        assert_eq!(sizes(&groups, &name), [32, 8]);
        assert!(groups.push(&name, KEEP, items(1, 1)).1);
    }

    #[test]
    fn groups_are_bounded_in_bytes() {
        let (groups, name) = (Groups::new(32), ("r".into(), DurableLane::Normal));
        let (_answers, _) = groups.push(&name, KEEP, items(5, 30 * 1024));
        assert_eq!(sizes(&groups, &name), [2, 2, 1]);
        let (_answers, _) = groups.push(&name, KEEP, items(2, 100 * 1024));
        assert_eq!(sizes(&groups, &name), [1, 1]);
    }

    #[test]
    fn too_many_that_wait_are_refused() {
        let (groups, name) = (Groups::new(32), ("r".into(), DurableLane::Normal));
        let (mut answers, _) = groups.push(&name, KEEP, items(WAITING_MAX + 1, 1));
        assert_eq!(answers.pop().unwrap().try_recv(), Ok(Err(FULL)));
        assert!(answers.pop().unwrap().try_recv().is_err(), "the one before still waits");
    }
}
