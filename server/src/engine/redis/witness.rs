//! After a restart of Redis, nodes say what they saw before anybody goes on.
//!
//! A restart may take back what was acknowledged, and who crosses the fork is told only what somebody saw. The node that
//! was acknowledged the newest events may be another than the one that serves their subscribers, so each node first hands
//! in what it saw of every room, says that it did, and waits a moment for the others: those that had a lease. Until then its
//! link counts as down.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lanecast_protocol::log::Start;
use lanecast_protocol::position::{DurableLane, PerLane};
use parking_lot::Mutex;
use redis::Value;

use super::Inner;
use super::follow::Seen;
use super::link::Up;
use super::state::text;

/// Rooms that this node stored to and does not follow, whose newest seqs it remembers; of more the oldest are forgotten.
const ROOMS_MAX: usize = 10_000;
/// Rooms that are handed in with one round trip.
const BATCH_ROOMS: usize = 200;
/// How long a node waits for the others. Clients wait as long, so it is short; who comes later is heard by those who cross
/// the fork after that.
const OTHERS_WITHIN: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long the list of witnesses is kept, ms.
const LIST_MS: u64 = 3_600_000;

/// What this node was acknowledged as stored in rooms that it does not follow.
#[derive(Default)]
pub(super) struct Witnesses {
    stored: Mutex<Stored>,
    /// The life of the data that this node knows.
    replication_id: Mutex<Arc<str>>,
}

#[derive(Default)]
struct Stored {
    rooms: HashMap<Arc<str>, (u64, PerLane<u64>)>,
    oldest: VecDeque<Arc<str>>,
}

impl Witnesses {
    /// The first connection: there is nothing to say.
    pub(super) fn begin(&self, up: &Up) {
        *self.replication_id.lock() = Arc::clone(&up.replication_id);
    }

    pub(super) fn acknowledged(&self, room: &str, epoch: u64, lane: DurableLane, seq: u64) {
        let mut stored = self.stored.lock();
        if let Some((known, heads)) = stored.rooms.get_mut(room) {
            if *known != epoch {
                (*known, *heads) = (epoch, PerLane::default());
            }
            heads[lane] = heads[lane].max(seq);
            return;
        }
        if stored.oldest.len() == ROOMS_MAX
            && let Some(oldest) = stored.oldest.pop_front()
        {
            stored.rooms.remove(&oldest);
        }
        let (room, mut heads): (Arc<str>, _) = (room.into(), PerLane::default());
        heads[lane] = seq;
        stored.oldest.push_back(Arc::clone(&room));
        stored.rooms.insert(room, (epoch, heads));
    }

    /// Where the epoch began is not known here: one is right for a room that was never rolled back, and for others it
    /// only means that an epoch which the store has forgotten stays unknown.
    pub(super) fn seen(&self, room: &str) -> Seen {
        let stored = self.stored.lock();
        let seen = stored.rooms.get(room);
        seen.map_or_else(Seen::default, |(epoch, heads)| Seen { epoch: *epoch, first: PerLane([1; 3]), heads: *heads })
    }

    fn rooms(&self) -> Vec<Arc<str>> {
        self.stored.lock().rooms.keys().cloned().collect()
    }
}

impl Inner {
    /// Says what this node saw, if the data may have lost something, and waits for the other nodes. Whatever fails here
    /// fails again, and is dealt with, where it matters.
    pub(super) async fn testify(&self, up: &Up) {
        let former = std::mem::replace(&mut *self.witnesses.replication_id.lock(), Arc::clone(&up.replication_id));
        if former == up.replication_id || former.is_empty() {
            return;
        }
        self.upkeep.forget_all();
        let mut rooms: Vec<Arc<str>> = self.rooms.all().into_iter().map(|room| Arc::clone(&room.name)).collect();
        rooms.extend(self.witnesses.rooms());
        for batch in rooms.chunks(BATCH_ROOMS) {
            let mut pipeline = redis::pipe();
            for room in batch {
                pipeline.add_command(self.open_command(up, room, Start::Live)).ignore();
            }
            if self.link.call_all(up, &pipeline).await.is_err() {
                return;
            }
        }
        let Some(name) = self.cluster.name() else { return };
        let list = self.keys.witnesses(&up.replication_id);
        let mut pipeline = redis::pipe();
        pipeline.cmd("SADD").arg(&list).arg(&name).ignore();
        pipeline.cmd("PEXPIRE").arg(&list).arg(LIST_MS).ignore();
        if self.link.call_all(up, &pipeline).await.is_ok() {
            // A node that died says nothing: then the others go on without it.
            let _ = tokio::time::timeout(OTHERS_WITHIN, self.wait_for_others(up, &list)).await;
        }
    }

    async fn wait_for_others(&self, up: &Up, list: &str) {
        let mut missing = self.cluster.peers();
        while !missing.is_empty() {
            match self.link.call(up, redis::cmd("SMEMBERS").arg(list)).await {
                Ok(Value::Array(said) | Value::Set(said)) => {
                    missing.retain(|peer| !said.iter().any(|said| text(said) == Some(peer)));
                }
                _ => return,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::Normal;

    #[test]
    fn the_newest_of_each_room_are_remembered_and_the_oldest_rooms_forgotten() {
        let witnesses = Witnesses::default();
        for (room, epoch, seq) in [("a", 9, 5), ("a", 9, 3), ("b", 9, 1), ("b", 10, 7)] {
            witnesses.acknowledged(room, epoch, Normal, seq);
        }
        let seen = |room| (witnesses.seen(room).epoch, witnesses.seen(room).heads[Normal]);
        assert_eq!((seen("a"), seen("b"), seen("c")), ((9, 5), (10, 7), (0, 0)));
        for room in 0..ROOMS_MAX - 1 {
            witnesses.acknowledged(&room.to_string(), 9, Normal, 1);
        }
        assert_eq!((seen("a"), seen("b")), ((0, 0), (10, 7)));
        assert_eq!(witnesses.rooms().len(), ROOMS_MAX);
    }
}
