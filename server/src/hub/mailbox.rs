//! What the hub leaves for one connection, between two runs of its task.
//!
//! Durable events leave only a mark that a lane of a room has something new; the session reads when it has room.
//! Transients and signals wait here, bounded, and lose what the queues' policies say. Whatever a publisher does, a
//! connection that does not read costs the node no more than that.

use std::sync::Arc;

use lanecast_protocol::focus::Focus;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::lossy::{LiveSignal, Popped, Pushed, SignalQueue, TransientQueue, Under};
use lanecast_protocol::position::{DurableLane, PerLane};
use lanecast_protocol::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::telemetry::Board;
use crate::telemetry::labels::DropReason;

/// What a connection finds in its mailbox apart from transients and signals.
#[derive(Debug, PartialEq, Eq)]
pub enum Mark {
    /// The lanes of a subscription that have something new, by [`DurableLane::index`].
    Ready {
        /// The subscription.
        handle: u64,
        /// Its lanes.
        lanes: PerLane<bool>,
    },
    /// The room of this handle has a new epoch.
    Epoch {
        /// The former handle.
        handle: u64,
    },
}

#[derive(Debug, Default)]
struct Lossy {
    transients: PerLane<TransientQueue>,
    signals: SignalQueue,
}

#[derive(Debug, Default)]
struct Inner {
    ready: Vec<(u64, PerLane<bool>)>,
    epochs: Vec<u64>,
    /// Handles of new epochs that no Subscribed has named yet: what waits under them must not overtake it (LC-SUB-009).
    withheld: Vec<u64>,
    /// Boxed and dropped when empty: most connections have none.
    lossy: Option<Box<Lossy>>,
}

/// The mailbox of one connection.
#[derive(Debug, Default)]
pub struct Mailbox {
    owner: Arc<str>,
    inner: Mutex<Inner>,
    wake: Notify,
    /// What the connection's lanes did, if somebody may look.
    board: Option<Box<Board>>,
}

impl Mailbox {
    /// The mailbox of the connection with that id; `watched`: what its lanes do is written down.
    pub fn of(owner: Arc<str>, watched: bool) -> Self {
        Self { owner, board: watched.then(Box::default), ..Self::default() }
    }

    /// What the connection's lanes did, if that is written down.
    pub fn board(&self) -> Option<&Board> {
        self.board.as_deref()
    }

    fn count(&self, lane: Lane, reason: DropReason, count: u64) {
        if let Some(board) = self.board() {
            board.dropped(lane, reason, count);
        }
    }

    /// Id of the connection.
    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Marks a lane of a subscription.
    pub(super) fn ready(&self, handle: u64, lane: DurableLane) {
        let mut inner = self.inner.lock();
        match inner.ready.iter_mut().find(|(of, _)| *of == handle) {
            Some((_, lanes)) => lanes[lane] = true,
            None => inner.ready.push((handle, PerLane::from_fn(|other| other == lane))),
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Marks lanes of a subscription.
    pub(super) fn ready_lanes(&self, handle: u64, lanes: PerLane<bool>) {
        DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]).for_each(|lane| self.ready(handle, lane));
    }

    /// Marks the end of an epoch. What comes under the new handle waits until [`Self::begin`].
    pub(super) fn epoch(&self, former: u64, new: Under) {
        let mut inner = self.inner.lock();
        let Inner { epochs, withheld, lossy, .. } = &mut *inner;
        epochs.push(former);
        if let Some(at) = withheld.iter().position(|handle| *handle == former) {
            // The epoch ended before the subscriber heard of it.
            withheld.remove(at);
            if let Some(lossy) = lossy {
                lossy.signals.forget(former);
                for lane in DurableLane::ALL {
                    if lossy.transients[lane].forget(former) {
                        lossy.transients[lane].leave_out(new, v1::GapCause::Unknown, 0);
                    }
                }
            }
        }
        withheld.push(new.handle);
        drop(inner);
        self.wake.notify_one();
    }

    /// Leaves a transient event; returns how many older ones it pushed out.
    pub(super) fn transient(
        &self,
        under: Under,
        lane: DurableLane,
        count: u64,
        record: bytes::Bytes,
        expires_at_ms: u64,
    ) -> u64 {
        let mut inner = self.inner.lock();
        let dropped = inner.lossy.get_or_insert_default().transients[lane].push(under, count, record, expires_at_ms);
        drop(inner);
        self.count(lane.into(), DropReason::QueueFull, dropped);
        self.wake.notify_one();
        dropped
    }

    /// Counts transient events that are not delivered.
    pub(super) fn leave_out(&self, under: Under, lane: DurableLane, cause: v1::GapCause, events: u64) {
        let mut inner = self.inner.lock();
        inner.lossy.get_or_insert_default().transients[lane].leave_out(under, cause, events);
        drop(inner);
        self.wake.notify_one();
    }

    /// A subscription begins, or begins anew, at these counts of transients; `counted`: the subscriber is told how many
    /// it missed.
    pub(super) fn begin(&self, handle: u64, counts: PerLane<u64>, counted: bool) {
        let mut inner = self.inner.lock();
        inner.withheld.retain(|withheld| *withheld != handle);
        if let Some(lossy) = &mut inner.lossy {
            DurableLane::ALL.into_iter().for_each(|lane| lossy.transients[lane].begin(handle, counts[lane], counted));
        }
    }

    /// Leaves a signal; returns what it did to those that waited.
    pub fn signal(&self, handle: u64, signal: LiveSignal) -> Pushed {
        let mut inner = self.inner.lock();
        let pushed = inner.lossy.get_or_insert_default().signals.push(handle, signal);
        drop(inner);
        if let Some(reason) = DropReason::of(pushed) {
            self.count(Lane::Signal, reason, 1);
        }
        self.wake.notify_one();
        pushed
    }

    /// Wakes the connection's task for something that it finds elsewhere.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until something was left since the last call. Cancel safe: a wake-up is kept for the next caller.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the marks.
    pub fn take_marks(&self) -> Vec<Mark> {
        let mut inner = self.inner.lock();
        if inner.ready.is_empty() && inner.epochs.is_empty() {
            return Vec::new();
        }
        let epochs = std::mem::take(&mut inner.epochs);
        let ready = std::mem::take(&mut inner.ready);
        drop(inner);
        let ready = ready.into_iter().map(|(handle, lanes)| Mark::Ready { handle, lanes });
        epochs.into_iter().map(|handle| Mark::Epoch { handle }).chain(ready).collect()
    }

    /// Gives `send` what may be lost, while `has_room` for its lane; rooms in `focus`, which is asked with the handle, go
    /// first. Returns how many signals had expired here.
    pub fn take_lossy(
        &self,
        now_ms: u64,
        focus: impl Fn(u64) -> Focus,
        mut has_room: impl FnMut(Lane) -> bool,
        mut send: impl FnMut(Lane, Popped),
    ) -> u64 {
        let mut inner = self.inner.lock();
        let Inner { lossy: Some(lossy), withheld, .. } = &mut *inner else { return 0 };
        for lane in DurableLane::ALL {
            while has_room(lane.into())
                && let Some(popped) = lossy.transients[lane].pop_focused(lane, withheld, &focus)
            {
                send(lane.into(), popped);
            }
        }
        while has_room(Lane::Signal)
            && let Some(popped) = lossy.signals.pop_focused(now_ms, withheld, &focus)
        {
            send(Lane::Signal, popped);
        }
        let expired = lossy.signals.take_expired();
        self.count(Lane::Signal, DropReason::Expired, expired);
        if lossy.signals.is_empty() && lossy.transients.iter().all(|(_, queue)| queue.is_empty()) {
            inner.lossy = None;
        }
        expired
    }

    /// Forgets a subscription that ended.
    pub fn forget(&self, handle: u64) {
        let mut inner = self.inner.lock();
        inner.ready.retain(|(of, _)| *of != handle);
        inner.withheld.retain(|withheld| *withheld != handle);
        if let Some(lossy) = &mut inner.lossy {
            lossy.signals.forget(handle);
            for lane in DurableLane::ALL {
                lossy.transients[lane].forget(handle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn marks_of_one_room_fold_into_one() {
        let mailbox = Mailbox::default();
        for lane in [DurableLane::Normal, DurableLane::Urgent, DurableLane::Normal] {
            mailbox.ready(7, lane);
        }
        mailbox.ready(8, DurableLane::Bulk);
        mailbox.epoch(9, Under { handle: 10, epoch: 2 });
        mailbox.forget(8);
        let lanes = PerLane([true, true, false]);
        assert_eq!(mailbox.take_marks(), [Mark::Epoch { handle: 9 }, Mark::Ready { handle: 7, lanes }]);
        assert_eq!(mailbox.take_marks(), []);
    }

    #[test]
    fn the_lossy_wait_until_their_lane_has_room() {
        let mailbox = Mailbox::default();
        mailbox.transient(Under { handle: 1, epoch: 9 }, DurableLane::Normal, 1, Bytes::from("t"), 0);
        let mut sent = Vec::new();
        mailbox.take_lossy(0, |_| Focus::Default, |lane| lane != Lane::Normal, |_, popped| sent.push(popped.record));
        assert!(sent.is_empty());
        mailbox.take_lossy(0, |_| Focus::Default, |_| true, |_, popped| sent.push(popped.record));
        assert_eq!(sent, ["t"]);
        assert!(mailbox.inner.lock().lossy.is_none(), "an empty queue costs nothing");
    }
}
