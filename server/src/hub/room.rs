//! One room on this node.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lanecast_protocol::codec::{self, EventFront};
use lanecast_protocol::log::{Record, Start};
use lanecast_protocol::lossy::{LiveSignal, Pushed, SignalQueue, Under};
use lanecast_protocol::place::Batch;
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::v1;
use parking_lot::Mutex;

use super::cache::{Cache, Kept};
use super::pages::Pages;
use super::shared::Shared;
use super::{Mailbox, ReadOut, stored};
use crate::auth::rights::TypeFilter;
use crate::engine::{Opened, Signal, Transient};
use crate::telemetry::labels::Source;

/// Transients kept for a subscriber whose opening is under way; beyond it the oldest are reported as dropped.
const PENDING_MAX: usize = 64;
/// Subscribers that are marked while the engine tells of an event; those of a larger room are marked by a task of its own,
/// so that no other room waits for it.
pub(super) const MARKED_AT_ONCE_MAX: usize = 256;

#[derive(Debug)]
enum Stage {
    /// The log is being read. What passes meanwhile may be before or after the moment of the opening: the count of a
    /// transient will tell, and a lane that got an event is read once more.
    Opening {
        transients: VecDeque<(u64, Transient)>,
        lanes: PerLane<bool>,
        /// Lanes of which transients never came here. Whether before or after the moment of the opening is not known.
        missed: PerLane<bool>,
    },
    Live,
}

#[derive(Debug)]
struct Subscriber {
    mailbox: Arc<Mailbox>,
    stage: Stage,
    signals: bool,
    types: TypeFilter,
    /// Signals that came while the live ones were asked for, which are older and must not come behind them.
    held: Option<Box<SignalQueue>>,
}

/// The marking of a large room's subscribers: many events in one round.
#[derive(Debug)]
struct Round {
    /// How many of the subscribers were marked.
    marked: usize,
    lanes: PerLane<bool>,
    /// What came since: a further round.
    next: PerLane<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// 0 until the log was read once.
    epoch: u64,
    handle: u64,
    /// The newest seqs that the node knows of in this epoch.
    newest: PerLane<u64>,
    cache: Cache,
    subscribers: Vec<Subscriber>,
    round: Option<Round>,
}

/// One room on this node: its subscribers and its newest events.
#[derive(Debug)]
pub struct Room {
    name: Arc<str>,
    state: Mutex<State>,
    /// What its log keeps.
    pub(super) kept: Kept,
    /// Whether the engine tells what happens in it.
    pub(super) followed: AtomicBool,
    /// Openings that the engine is asked for.
    pub(super) openings: Shared<Start, Opened>,
    /// Made at the first read of the log.
    pages: OnceLock<Box<PerLane<Pages>>>,
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
        let (followed, openings) = (AtomicBool::new(false), Shared::new());
        Self { name, state: Mutex::new(state), kept, followed, openings, pages: OnceLock::new() }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it has no subscriber.
    pub fn is_empty(&self) -> bool {
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
                stage: Stage::Opening {
                    transients: VecDeque::new(),
                    lanes: PerLane::default(),
                    missed: PerLane::default(),
                },
                signals: false,
                types: TypeFilter::All,
                held: None,
            });
        }
    }

    /// Removes a subscriber; says the handle, and whether it was the last one.
    pub(super) fn leave(&self, mailbox: &Arc<Mailbox>) -> (u64, bool) {
        let mut state = self.state.lock();
        let Some(at) = state.subscribers.iter().position(|known| Arc::ptr_eq(&known.mailbox, mailbox)) else {
            return (state.handle, false);
        };
        state.subscribers.remove(at);
        if let Some(round) = &mut state.round {
            round.marked -= usize::from(at < round.marked);
        }
        (state.handle, state.subscribers.is_empty())
    }

    /// Makes a subscriber live from the moment of its opening: transients after its mark are left for it. Returns the
    /// handle of the epoch; `None` if the room has a newer one by now and has to be opened again.
    pub(super) fn admit(
        &self,
        mailbox: &Arc<Mailbox>,
        opened: &Opened,
        interest: &super::Interest,
        next_handle: impl FnOnce() -> u64,
    ) -> Option<u64> {
        let (head, mark) = (opened.log.head, &opened.transients);
        let mut state = self.state.lock();
        if state.epoch < head.epoch {
            // The others learn of it here, if the engine has not told yet.
            state.begin_epoch(head.epoch, next_handle());
        }
        if state.epoch > head.epoch {
            return None;
        }
        for lane in DurableLane::ALL {
            state.newest[lane] = state.newest[lane].max(head.seq(lane));
        }
        let (handle, under) = (state.handle, state.under());
        let counts = PerLane([mark.urgent, mark.normal, mark.bulk]);
        if let Some(subscriber) = state.subscribers.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            subscriber.signals = interest.signals;
            subscriber.types = interest.types.clone();
            subscriber.held = interest.live.then(Box::default);
            match std::mem::replace(&mut subscriber.stage, Stage::Live) {
                Stage::Live => mailbox.begin(handle, counts, interest.transients.is_some()),
                Stage::Opening { transients, lanes, missed } => {
                    mailbox.begin(handle, counts, true);
                    for lane in DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]) {
                        mailbox.ready(handle, lane);
                    }
                    subscriber.catch_up(under, counts, transients);
                    for lane in DurableLane::ALL.into_iter().filter(|lane| missed[*lane]) {
                        mailbox.leave_out(under, lane, v1::GapCause::Unknown, 0);
                    }
                }
            }
        }
        Some(handle)
    }

    /// From now on a subscriber gets these types only.
    pub fn restrict(&self, mailbox: &Arc<Mailbox>, types: &TypeFilter) {
        let mut state = self.state.lock();
        if let Some(known) = state.subscribers.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, mailbox)) {
            known.types.clone_from(types);
        }
    }

    /// Whether all that a subscriber at a position misses is here, which makes its resume complete (LC-RES-002).
    pub(super) fn covers(&self, now_ms: u64, asked: Position, head: Position) -> bool {
        let state = self.state.lock();
        let covers = |lane| {
            let (asked, head) = (asked.seq(lane), head.seq(lane));
            asked == head || asked < head && state.cache.reaches(now_ms, lane, asked, head)
        };
        state.epoch == head.epoch && asked.epoch == head.epoch && DurableLane::ALL.into_iter().all(covers)
    }

    /// The newest seq of a lane that the node knows of.
    pub(super) fn newest(&self, lane: DurableLane) -> u64 {
        self.state.lock().newest[lane]
    }

    /// The pages of a lane; `made` runs when they are made.
    pub(super) fn pages(&self, lane: DurableLane, made: impl FnOnce()) -> &Pages {
        &self.pages.get_or_init(|| {
            made();
            Box::default()
        })[lane]
    }

    /// Drops pages that are too old.
    pub(super) fn sweep_pages(&self, now_ms: u64) {
        if let Some(pages) = self.pages.get() {
            DurableLane::ALL.into_iter().for_each(|lane| pages[lane].sweep(now_ms));
        }
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
                source: Source::Cache,
                ahead: None,
            }),
        }
    }

    /// The log has a new event. Returns whether the caller has to see to it that [`Self::mark_some`] is called until
    /// all subscribers are marked.
    pub(super) fn appended(&self, epoch: u64, record: &Record) -> bool {
        let mut state = self.state.lock();
        let State { epoch: present, handle, newest, cache, .. } = &mut *state;
        if *present == epoch {
            newest[record.lane] = newest[record.lane].max(record.seq);
            cache.push(record.lane, stored(*handle, record), record.time_ms);
        }
        state.begin_round(PerLane::from_fn(|lane| lane == record.lane))
    }

    /// Marks the next subscribers of a large room; returns whether there are more.
    pub(super) fn mark_some(&self) -> bool {
        let mut state = self.state.lock();
        let State { handle, subscribers, round: rounds, .. } = &mut *state;
        let Some(round) = rounds else { return false };
        let end = subscribers.len().min(round.marked + MARKED_AT_ONCE_MAX);
        for subscriber in subscribers.iter_mut().take(end).skip(round.marked) {
            subscriber.mark(*handle, round.lanes);
        }
        round.marked = end;
        if end < subscribers.len() {
            return true;
        }
        let next = std::mem::take(&mut round.next);
        let again = next != PerLane::default();
        *rounds = again.then_some(Round { marked: 0, lanes: next, next: PerLane::default() });
        again
    }

    /// A transient event passes, the `count`th of its lane. Returns how many older ones it pushed out of mailboxes.
    pub(super) fn transient(&self, transient: &Transient, count: u64) -> u64 {
        let mut state = self.state.lock();
        let under = state.under();
        let record = transient_record(under, transient);
        state.subscribers.iter_mut().map(|known| known.transient(under, count, transient, &record)).sum()
    }

    /// A lane's head moved over events that are only in the log: what is known of the lane ends before it. Returns as
    /// [`Self::appended`].
    pub(super) fn jumped(&self, lane: DurableLane) -> bool {
        let mut state = self.state.lock();
        state.cache.clear_lane(lane);
        state.begin_round(PerLane::from_fn(|other| other == lane))
    }

    /// Transients of a lane were published and never came here.
    pub(super) fn transients_missed(&self, lane: DurableLane, count: Option<u64>) {
        let mut state = self.state.lock();
        let under = state.under();
        for subscriber in &mut state.subscribers {
            match &mut subscriber.stage {
                Stage::Opening { missed, .. } => missed[lane] = true,
                Stage::Live => subscriber.mailbox.leave_out(under, lane, v1::GapCause::Unknown, count.unwrap_or(0)),
            }
        }
    }

    /// A signal passes. Says of each mailbox what it did to the signals that waited there.
    pub(super) fn signal(&self, signal: &Signal, mut pushed: impl FnMut(Pushed)) {
        let mut state = self.state.lock();
        let handle = state.handle;
        let live = live_signal(handle, signal);
        for known in state.subscribers.iter_mut().filter(|known| known.is_live() && known.wants(signal)) {
            pushed(match &mut known.held {
                Some(held) => held.push(handle, live.clone()),
                None => known.mailbox.signal(handle, live.clone()),
            });
        }
    }

    /// Leaves the live signals for a subscriber that entered, and what came since they were asked for.
    /// Says of each what it did to those before it.
    pub(super) fn enliven(&self, mailbox: &Arc<Mailbox>, live: &[Signal], mut pushed: impl FnMut(Pushed)) {
        let mut state = self.state.lock();
        let handle = state.handle;
        let Some(known) = state.subscribers.iter_mut().find(|known| Arc::ptr_eq(&known.mailbox, mailbox)) else {
            return;
        };
        let Some(held) = known.held.take() else { return };
        for signal in live.iter().filter(|signal| known.wants(signal)) {
            pushed(mailbox.signal(handle, live_signal(handle, signal)));
        }
        for (handle, signal) in held.drain() {
            pushed(mailbox.signal(handle, signal));
        }
    }

    /// The log has a new epoch.
    pub(super) fn epoch_changed(&self, epoch: u64, handle: u64) {
        let mut state = self.state.lock();
        if state.epoch == 0 || state.epoch >= epoch {
            return;
        }
        state.begin_epoch(epoch, handle);
    }
}

impl State {
    fn under(&self) -> Under {
        Under { handle: self.handle, epoch: self.epoch }
    }

    /// Marks lanes for all subscribers; returns whether the room is so large that it is left to a round, and that has to
    /// be driven.
    fn begin_round(&mut self, lanes: PerLane<bool>) -> bool {
        if let Some(round) = &mut self.round {
            DurableLane::ALL.into_iter().for_each(|lane| round.next[lane] |= lanes[lane]);
            return false;
        }
        if self.subscribers.len() > MARKED_AT_ONCE_MAX {
            self.round = Some(Round { marked: 0, lanes, next: PerLane::default() });
            return true;
        }
        let handle = self.handle;
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.mark(handle, lanes));
        false
    }

    /// The handle ends, and every subscriber has to open the room again.
    fn begin_epoch(&mut self, epoch: u64, handle: u64) {
        let former = std::mem::replace(&mut self.handle, handle);
        self.epoch = epoch;
        self.newest = PerLane::default();
        self.cache.clear();
        let new = self.under();
        for subscriber in self.subscribers.iter().filter(|known| known.is_live()) {
            subscriber.mailbox.epoch(former, new);
        }
    }
}

impl Subscriber {
    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live)
    }

    fn mark(&mut self, handle: u64, ready: PerLane<bool>) {
        match &mut self.stage {
            Stage::Opening { lanes, .. } => {
                DurableLane::ALL.into_iter().for_each(|lane| lanes[lane] |= ready[lane]);
            }
            // A former epoch's subscribers are told of the new one before its first event.
            Stage::Live => self.mailbox.ready_lanes(handle, ready),
        }
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
fn live_signal(handle: u64, signal: &Signal) -> LiveSignal {
    let record = codec::signal_record(handle, &signal.tail);
    LiveSignal { key: signal.key.clone(), age: signal.age(), expires_at_ms: signal.expires_at_ms, record }
}

#[cfg(test)]
mod tests;
