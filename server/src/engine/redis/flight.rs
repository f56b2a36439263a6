//! Over which connection a command goes, and how much may be under way there at once.
//!
//! A connection for each lane class, and not one with a queue in front of it: Redis takes turns between connections, so
//! what urgent waits for is one command of each of the others, whoever sent them, while on a connection of its own it finds
//! nothing ahead of it, neither in the socket nor in the answers that come back. A queue of ours in front of one connection
//! would order what has not left yet, and an urgent append would still wait for the bulk that has.
//!
//! ```text
//! urgent   appends and transients of lane urgent                                   no bound: each publisher has one
//! normal   those of normal, signals, openings, audits; reads of urgent and normal  appends and reads by bytes
//! bulk     those of bulk; reads of bulk and pages of history                       appends and reads by bytes
//! ```
//!
//! Within a class the bytes under way are bounded, so that a node with a slow way to Redis fills no socket: what waits is
//! in `group`, where it becomes larger groups. Reads of a lane wait for reads of that lane only, so a long catch-up of one
//! lane delays neither the publishes nor the holes of another.

use lanecast_protocol::position::{DurableLane, PerLane};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of appends of lane normal that are under way: 25 MB a second at 10 ms to Redis.
const NORMAL_BYTES_MAX: usize = 256 * 1024;
/// Bytes of appends of lane bulk that are under way.
const BULK_BYTES_MAX: usize = 128 * 1024;
/// Bytes of events that are being read, in each lane.
const READ_BYTES_MAX: usize = 512 * 1024;
/// What a command counts at least, bytes.
const COST_MIN: usize = 512;

/// One of the connections for commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// What nothing may delay.
    Urgent,
    /// What is usual.
    Normal,
    /// What may wait.
    Bulk,
}

impl Path {
    pub(super) const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// The one for what is published in a lane.
    pub(super) fn of(lane: DurableLane) -> Self {
        match lane {
            DurableLane::Urgent => Self::Urgent,
            DurableLane::Normal => Self::Normal,
            DurableLane::Bulk => Self::Bulk,
        }
    }

    /// The one for reading a lane's log: a page must not delay an urgent append.
    pub(super) fn of_read(lane: DurableLane) -> Self {
        match lane {
            DurableLane::Urgent | DurableLane::Normal => Self::Normal,
            DurableLane::Bulk => Self::Bulk,
        }
    }
}

/// What is under way.
pub(super) struct Flights {
    normal: Semaphore,
    bulk: Semaphore,
    reads: PerLane<Semaphore>,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            normal: Semaphore::new(NORMAL_BYTES_MAX),
            bulk: Semaphore::new(BULK_BYTES_MAX),
            reads: PerLane::from_fn(|_| Semaphore::new(READ_BYTES_MAX)),
        }
    }
}

impl Flights {
    /// Waits until an append of so many bytes may go; it is under way until the permit is dropped. Urgent waits for nothing.
    pub(super) async fn append(&self, lane: DurableLane, bytes: usize) -> Option<SemaphorePermit<'_>> {
        match lane {
            DurableLane::Urgent => None,
            DurableLane::Normal => take(&self.normal, bytes, NORMAL_BYTES_MAX).await,
            DurableLane::Bulk => take(&self.bulk, bytes, BULK_BYTES_MAX).await,
        }
    }

    /// Waits until so many bytes of a lane may be read.
    pub(super) async fn read(&self, lane: DurableLane, bytes: usize) -> Option<SemaphorePermit<'_>> {
        take(&self.reads[lane], bytes, READ_BYTES_MAX).await
    }
}

/// In the order of asking. What is larger than all may go alone.
async fn take(semaphore: &Semaphore, bytes: usize, bytes_max: usize) -> Option<SemaphorePermit<'_>> {
    let cost = u32::try_from(bytes.clamp(COST_MIN, bytes_max)).unwrap_or(u32::MAX);
    // Fails where it was closed, which nobody does.
    semaphore.acquire_many(cost).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::{Bulk, Normal, Urgent};
    use futures_util::FutureExt;

    #[test]
    fn what_is_under_way_is_bounded_by_lane() {
        let flights = Flights::default();
        let now = |lane, bytes| flights.append(lane, bytes).now_or_never();
        let first = now(Bulk, 10 * BULK_BYTES_MAX).expect("alone it may go");
        assert!(now(Bulk, 1).is_none() && now(Normal, 1).is_some() && now(Urgent, 1 << 30).is_some());
        drop(first);
        assert!(now(Bulk, 1).is_some());
        let read = flights.read(Bulk, READ_BYTES_MAX).now_or_never().expect("nothing is read");
        assert!(flights.read(Bulk, 1).now_or_never().is_none() && flights.read(Urgent, 1).now_or_never().is_some());
        drop(read);
    }

    #[test]
    fn nothing_but_urgent_publishes_is_on_the_urgent_connection() {
        assert!(DurableLane::ALL.into_iter().all(|lane| Path::of_read(lane) != Path::Urgent));
        assert_eq!(DurableLane::ALL.map(Path::of), Path::ALL);
    }
}
