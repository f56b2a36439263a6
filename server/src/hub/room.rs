//! One room on this node.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::codec::{self, EventFront};
use lanecast_protocol::log::Record;
use lanecast_protocol::lossy::{LiveSignal, Pushed, Under};
use lanecast_protocol::place::Batch;
use lanecast_protocol::position::{DurableLane, PerLane};
use lanecast_protocol::v1;
use parking_lot::Mutex;

use super::cache::{Cache, Kept};
use super::{Mailbox, ReadOut, stored};
use crate::auth::rights::TypeFilter;
use crate::engine::{Signal, Transient};

/// Transients kept for a subscriber whose opening is under way; beyond it the oldest are reported as dropped.
const PENDING_MAX: usize = 64;

#[derive(Debug)]
enum Stage {
    /// The log is being read. What passes meanwhile may be before or after the moment of the opening: the count of a
    /// transient will tell, and a lane that got an event is read once more.
    Opening {
        transients: VecDeque<(u64, Transient)>,
        lanes: PerLane<bool>,
    },
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
    pub(super) fn new(name: Arc<str>, kept: Kept) -> Self {
        let state = State { cache: Cache::new(kept), ..State::default() };
        Self { name, state: Mutex::new(state) }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().subscribers.is_empty()
    }

    pub(super) fn is_live(&self, mailbox: &Arc<Mailbox>) -> bool {
        self.state.lock().subscribers.iter().any(|known| known.is_live() && Arc::ptr_eq(&known.mailbox, mailbox))
    }

    /// Whether the mailbox is subscribed, or is about to be.
    pub fn has(&self, mailbox: &Arc<Mailbox>) -> bool {
        self.state.lock().subscribers.iter().any(|known| Arc::ptr_eq(&known.mailbox, mailbox))
    }

    /// The ids of the connections that are subscribed here, in no order.
    pub fn subscribers(&self) -> Vec<Arc<str>> {
        self.state.lock().subscribers.iter().map(|known| Arc::clone(known.mailbox.owner())).collect()
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
                stage: Stage::Opening { transients: VecDeque::new(), lanes: PerLane::default() },
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
        let (handle, under) = (state.handle, state.under());
        let counts = PerLane([mark.urgent, mark.normal, mark.bulk]);
        if let Some(subscriber) = state.subscribers.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            subscriber.signals = interest.signals;
            subscriber.types = interest.types.clone();
            match std::mem::replace(&mut subscriber.stage, Stage::Live) {
                Stage::Live => mailbox.begin(handle, counts, interest.transients.is_some()),
                Stage::Opening { transients, lanes } => {
                    mailbox.begin(handle, counts, true);
                    for lane in DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]) {
                        mailbox.ready(handle, lane);
                    }
                    subscriber.catch_up(under, counts, transients);
                }
            }
        }
        handle
    }

    pub(super) fn cached(&self, now_ms: u64, handle: u64, lane: DurableLane, after: u64, bytes_max: usize) -> Cached {
        let state = self.state.lock();
        if state.handle != handle {
            return Cached::EpochEnded;
        }
        match state.cache.after(now_ms, lane, after, bytes_max) {
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
        let State { epoch: present, handle, cache, subscribers } = &mut *state;
        if *present == epoch {
            cache.push(record.lane, stored(*handle, record), record.time_ms);
        }
        for subscriber in subscribers {
            match &mut subscriber.stage {
                Stage::Opening { lanes, .. } => lanes[record.lane] = true,
                // A former epoch's subscribers are told of the new one before its first event.
                Stage::Live => subscriber.mailbox.ready(*handle, record.lane),
            }
        }
    }

    /// A transient event passes, the `count`th of its lane. Returns how many older ones it pushed out of mailboxes.
    pub(super) fn transient(&self, transient: &Transient, count: u64) -> u64 {
        let mut state = self.state.lock();
        let under = state.under();
        let record = transient_record(under, transient);
        state.subscribers.iter_mut().map(|known| known.transient(under, count, transient, &record)).sum()
    }

    /// A lane's head moved over events that are only in the log.
    pub(super) fn jumped(&self, lane: DurableLane) {
        let mut state = self.state.lock();
        let handle = state.handle;
        for subscriber in &mut state.subscribers {
            match &mut subscriber.stage {
                Stage::Opening { lanes, .. } => lanes[lane] = true,
                Stage::Live => subscriber.mailbox.ready(handle, lane),
            }
        }
    }

    /// Transients of a lane were published and never came here.
    pub(super) fn transients_missed(&self, lane: DurableLane, count: Option<u64>) {
        let mut state = self.state.lock();
        let under = state.under();
        for subscriber in &mut state.subscribers {
            match &mut subscriber.stage {
                // Its opening says what it missed.
                Stage::Opening { .. } => {}
                Stage::Live => subscriber.mailbox.leave_out(under, lane, v1::GapCause::Unknown, count.unwrap_or(0)),
            }
        }
    }

    /// A signal passes. Says of each mailbox what it did to the signals that waited there.
    pub(super) fn signal(&self, signal: &Signal, mut pushed: impl FnMut(Pushed)) {
        let state = self.state.lock();
        let live = live_signal(state.handle, signal);
        for known in state.subscribers.iter().filter(|known| known.is_live() && known.wants(signal)) {
            pushed(known.mailbox.signal(state.handle, live.clone()));
        }
    }

    /// The log has a new epoch: the handle ends, and every subscriber has to open the room again.
    pub(super) fn epoch_changed(&self, epoch: u64, handle: u64) {
        let mut state = self.state.lock();
        if state.epoch == 0 || state.epoch >= epoch {
            return;
        }
        let former = state.handle;
        state.begin_epoch(epoch, handle);
        let new = state.under();
        for subscriber in &state.subscribers {
            subscriber.mailbox.epoch(former, new);
        }
    }
}

impl State {
    fn under(&self) -> Under {
        Under { handle: self.handle, epoch: self.epoch }
    }

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

    fn transient(&mut self, under: Under, count: u64, transient: &Transient, record: &Bytes) -> u64 {
        match &mut self.stage {
            Stage::Opening { transients, .. } => {
                if transients.len() == PENDING_MAX {
                    transients.pop_front();
                }
                transients.push_back((count, transient.clone()));
                0
            }
            Stage::Live if self.types.passes(&transient.event_type) => {
                self.mailbox.transient(under, transient.lane, count, record.clone(), transient.expires_at_ms)
            }
            Stage::Live => {
                self.mailbox.leave_out(under, transient.lane, v1::GapCause::Filtered, 1);
                0
            }
        }
    }

    /// Hands over what passed while the log was read, as far as it came after the opening.
    fn catch_up(&mut self, under: Under, mut counts: PerLane<u64>, pending: VecDeque<(u64, Transient)>) {
        for (count, transient) in pending {
            let lane = transient.lane;
            if count <= counts[lane] {
                continue;
            }
            if count > counts[lane] + 1 {
                self.mailbox.leave_out(under, lane, v1::GapCause::Dropped, count - counts[lane] - 1);
            }
            counts[lane] = count;
            let record = transient_record(under, &transient);
            self.transient(under, count, &transient, &record);
        }
    }
}

fn transient_record(under: Under, transient: &Transient) -> Bytes {
    let front = EventFront { handle: under.handle, lane: transient.lane.into(), seq: 0, order: 0, epoch: 0 };
    codec::event_record(front, &transient.tail)
}

/// A signal as a subscriber's mailbox keeps it.
pub fn live_signal(handle: u64, signal: &Signal) -> LiveSignal {
    let record = codec::signal_record(handle, &signal.tail);
    LiveSignal { key: signal.key.clone(), age: signal.age(), expires_at_ms: signal.expires_at_ms, record }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Interest, Mark};
    use lanecast_protocol::log::Start;

    fn record(seq: u64) -> Record {
        Record {
            lane: DurableLane::Normal,
            seq,
            order: seq,
            time_ms: 0,
            expires_at_ms: 0,
            event_type: "t".into(),
            tail: Bytes::new(),
        }
    }

    fn transient() -> Transient {
        Transient { lane: DurableLane::Normal, expires_at_ms: 0, event_type: "t".into(), tail: Bytes::new() }
    }

    fn admit(room: &Room, mailbox: &Arc<Mailbox>, transients: u64) -> u64 {
        let interest = Interest { start: Start::Live, transients: None, signals: false, types: TypeFilter::All };
        let mark = v1::TransientMark { normal: transients, ..Default::default() };
        room.admit(mailbox, 9, &mark, &interest, || 77)
    }

    #[test]
    fn an_event_stored_while_the_room_opens_is_not_slept_through() {
        let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
        room.enter(&mailbox);
        room.appended(9, &record(1));
        assert_eq!(mailbox.take_marks(), []);
        assert_eq!(admit(&room, &mailbox, 0), 77);
        let lanes = PerLane([false, true, false]);
        assert_eq!(mailbox.take_marks(), [Mark::Ready { handle: 77, lanes }]);
    }

    #[test]
    fn transients_are_sent_from_the_moment_of_the_opening() {
        // LC-SUB-021
        let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
        room.enter(&mailbox);
        for count in 1..=3 {
            room.transient(&transient(), count);
        }
        admit(&room, &mailbox, 2);
        room.transient(&transient(), 4);
        let mut sent = 0;
        mailbox.take_lossy(0, |_| true, |_, _, _| sent += 1);
        assert_eq!(sent, 2, "the third and the fourth");
    }

    #[test]
    fn a_new_epoch_ends_the_handle_for_everyone() {
        let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
        room.enter(&mailbox);
        admit(&room, &mailbox, 0);
        room.epoch_changed(10, 78);
        assert_eq!(mailbox.take_marks(), [Mark::Epoch { handle: 77 }]);
        assert!(matches!(room.cached(0, 77, DurableLane::Normal, 0, 100), Cached::EpochEnded));
    }

    #[test]
    fn nothing_overtakes_the_frame_that_names_a_new_epochs_handle() {
        // LC-SUB-009
        let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
        room.enter(&mailbox);
        admit(&room, &mailbox, 0);
        let taken = || {
            let mut taken = 0;
            mailbox.take_lossy(0, |_| true, |_, _, _| taken += 1);
            taken
        };
        for epoch in [10, 11] {
            room.epoch_changed(epoch, epoch + 100);
            room.transient(&transient(), 1);
            assert_eq!(taken(), 0, "the subscriber does not know the handle");
        }
        let interest = Interest { start: Start::Live, transients: None, signals: false, types: TypeFilter::All };
        room.admit(&mailbox, 11, &v1::TransientMark::default(), &interest, || 0);
        assert_eq!(taken(), 2, "a gap of unknown count for what epoch 10 had, and the event of epoch 11");
    }
}
