//! One room on this node.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::codec::{self, EventFront};
use lanecast_protocol::log::Record;
use lanecast_protocol::lossy::LiveSignal;
use lanecast_protocol::place::Batch;
use lanecast_protocol::position::{DurableLane, PerLane};
use lanecast_protocol::v1;
use parking_lot::Mutex;

use super::cache::Cache;
use super::{Mailbox, ReadOut, stored};
use crate::auth::rights::TypeFilter;
use crate::engine::{Signal, Transient};

/// Transients kept for a subscriber whose opening is under way; beyond it the oldest are reported as dropped.
const PENDING_MAX: usize = 64;

#[derive(Debug)]
enum Stage {
    /// The log is being read. What passes meanwhile may be before or after the moment of the opening; its count
    /// will tell.
    Opening(VecDeque<(u64, Transient)>),
    Live,
}

#[derive(Debug)]
struct Subscriber {
    mailbox: Arc<Mailbox>,
    stage: Stage,
    signals: bool,
    types: TypeFilter,
}

#[derive(Debug, Default)]
struct State {
    /// 0 until the log was read once.
    epoch: u64,
    handle: u64,
    cache: Cache,
    subscribers: Vec<Subscriber>,
}

/// One room on this node: its subscribers and its newest events.
#[derive(Debug)]
pub struct Room {
    name: Arc<str>,
    state: Mutex<State>,
}

/// What the cache says to a read.
pub(super) enum Cached {
    Hit(ReadOut),
    Miss,
    EpochEnded,
}

impl Room {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self { name, state: Mutex::default() }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().subscribers.is_empty()
    }

    /// Subscribers on this node.
    pub fn subscribers(&self) -> usize {
        self.state.lock().subscribers.len()
    }

    pub(super) fn is_live(&self, mailbox: &Arc<Mailbox>) -> bool {
        self.state.lock().subscribers.iter().any(|known| known.is_live() && Arc::ptr_eq(&known.mailbox, mailbox))
    }

    pub(super) fn is_current(&self, handle: u64, epoch: u64) -> bool {
        let state = self.state.lock();
        state.handle == handle && state.epoch == epoch
    }

    pub(super) fn enter(&self, mailbox: &Arc<Mailbox>) {
        let mut state = self.state.lock();
        if !state.subscribers.iter().any(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            state.subscribers.push(Subscriber {
                mailbox: Arc::clone(mailbox),
                stage: Stage::Opening(VecDeque::new()),
                signals: false,
                types: TypeFilter::All,
            });
        }
    }

    /// Removes a subscriber; says the handle, and whether it was the last one.
    pub(super) fn leave(&self, mailbox: &Arc<Mailbox>) -> (u64, bool) {
        let mut state = self.state.lock();
        let before = state.subscribers.len();
        state.subscribers.retain(|known| !Arc::ptr_eq(&known.mailbox, mailbox));
        (state.handle, before > 0 && state.subscribers.is_empty())
    }

    /// Makes a subscriber live from the moment of its opening: transients after `mark` are left for it. Returns the
    /// handle of the epoch.
    pub(super) fn admit(
        &self,
        mailbox: &Arc<Mailbox>,
        epoch: u64,
        mark: &v1::TransientMark,
        interest: &super::Interest,
        next_handle: impl FnOnce() -> u64,
    ) -> u64 {
        let mut state = self.state.lock();
        if state.epoch < epoch {
            state.begin_epoch(epoch, next_handle());
        }
        let handle = state.handle;
        let counts = PerLane([mark.urgent, mark.normal, mark.bulk]);
        if let Some(subscriber) = state.subscribers.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            subscriber.signals = interest.signals;
            subscriber.types = interest.types.clone();
            match std::mem::replace(&mut subscriber.stage, Stage::Live) {
                Stage::Live => mailbox.begin(handle, counts),
                Stage::Opening(pending) => subscriber.catch_up(handle, counts, pending),
            }
        }
        handle
    }

    pub(super) fn cached(&self, handle: u64, lane: DurableLane, after: u64, bytes_max: usize) -> Cached {
        let state = self.state.lock();
        if state.handle != handle {
            return Cached::EpochEnded;
        }
        match state.cache.after(lane, after, bytes_max) {
            None => Cached::Miss,
            Some(hit) => Cached::Hit(ReadOut {
                batch: Batch { first: after + 1, events: hit.events },
                more: hit.more,
                cached_since_ms: Some(hit.oldest_ms),
            }),
        }
    }

    /// The log has a new event.
    pub(super) fn appended(&self, epoch: u64, record: &Record) {
        let mut state = self.state.lock();
        if state.epoch != epoch {
            // Nobody has read the log in this epoch yet; whoever does will find the event there.
            return;
        }
        let event = stored(state.handle, record);
        state.cache.push(record.lane, event, record.time_ms);
        for subscriber in &state.subscribers {
            subscriber.mailbox.ready(state.handle, record.lane);
        }
    }

    /// A transient event passes, the `count`th of its lane. Returns how many older ones it pushed out of mailboxes.
    pub(super) fn transient(&self, transient: &Transient, count: u64) -> u64 {
        let mut state = self.state.lock();
        let handle = state.handle;
        let record = transient_record(handle, transient);
        state.subscribers.iter_mut().map(|known| known.transient(handle, count, transient, &record)).sum()
    }

    /// A signal passes. Returns how many others it pushed out of mailboxes.
    pub(super) fn signal(&self, signal: &Signal) -> u64 {
        let state = self.state.lock();
        let live = live_signal(state.handle, signal);
        let wanting = state.subscribers.iter().filter(|known| known.is_live() && known.wants(signal));
        wanting.map(|known| u64::from(known.mailbox.signal(state.handle, live.clone()))).sum()
    }

    /// The log has a new epoch: the handle ends, and every subscriber has to open the room again.
    pub(super) fn epoch_changed(&self, epoch: u64, handle: u64) {
        let mut state = self.state.lock();
        if state.epoch == 0 || state.epoch >= epoch {
            return;
        }
        let former = state.handle;
        state.begin_epoch(epoch, handle);
        for subscriber in &state.subscribers {
            subscriber.mailbox.epoch(former);
        }
    }
}

impl State {
    fn begin_epoch(&mut self, epoch: u64, handle: u64) {
        self.epoch = epoch;
        self.handle = handle;
        self.cache.clear();
    }
}

impl Subscriber {
    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live)
    }

    fn wants(&self, signal: &Signal) -> bool {
        self.signals && self.types.passes(&signal.key.kind)
    }

    fn transient(&mut self, handle: u64, count: u64, transient: &Transient, record: &Bytes) -> u64 {
        match &mut self.stage {
            Stage::Opening(pending) => {
                if pending.len() == PENDING_MAX {
                    pending.pop_front();
                }
                pending.push_back((count, transient.clone()));
                0
            }
            Stage::Live if self.types.passes(&transient.event_type) => {
                self.mailbox.transient(handle, transient.lane, count, record.clone(), transient.expires_at_ms)
            }
            Stage::Live => {
                self.mailbox.leave_out(handle, transient.lane, v1::GapCause::Filtered, 1);
                0
            }
        }
    }

    /// Hands over what passed while the log was read, as far as it came after the opening.
    fn catch_up(&mut self, handle: u64, mut counts: PerLane<u64>, pending: VecDeque<(u64, Transient)>) {
        for (count, transient) in pending {
            let lane = transient.lane;
            if count <= counts[lane] {
                continue;
            }
            if count > counts[lane] + 1 {
                self.mailbox.leave_out(handle, lane, v1::GapCause::Dropped, count - counts[lane] - 1);
            }
            counts[lane] = count;
            let record = transient_record(handle, &transient);
            self.transient(handle, count, &transient, &record);
        }
    }
}

fn transient_record(handle: u64, transient: &Transient) -> Bytes {
    let front = EventFront { handle, lane: transient.lane.into(), seq: 0, order: 0, epoch: 0 };
    codec::event_record(front, &transient.tail)
}

/// A signal as a subscriber's mailbox keeps it.
pub fn live_signal(handle: u64, signal: &Signal) -> LiveSignal {
    let record = codec::signal_record(handle, &signal.tail);
    LiveSignal { key: signal.key.clone(), age: signal.age(), expires_at_ms: signal.expires_at_ms, record }
}
