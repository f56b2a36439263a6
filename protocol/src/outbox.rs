//! The queue between a session and its transport: one FIFO per lane, of which the [scheduler](crate::schedule) says which
//! one leaves next.
//!
//! Only queues of ours can reorder, expire and conflate, so a transport takes no more than it can write now. On a pipe a
//! long record leaves in [pieces](crate::fragment), one each time, so that other lanes pass between them.
//!
//! Within a lane, [what has no backlog](Outbox::push_from) passes what has one: a room that says something now and then does
//! not wait behind the replay of another.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::fragment::Cut;
use crate::lane::{Lane, Lanes};
use crate::schedule::{Heads, Scheduler};

/// Most unsent bytes of lane control; beyond it the peer asks faster than it reads (LC-FLOW-004).
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Bytes that pass the backlog of a lane before it has its turn, since they share the lane half and half; but for one record,
/// which is no longer than this.
const PASSING_BYTES_MAX: usize = 2 * 1024;

/// Where a transport with streams puts a record. A WebSocket folds all routes into one pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The bidirectional stream that the client opened.
    Control,
    /// The ordered stream of a lane.
    Stream(Lane),
    /// A stream of its own for one urgent message.
    Message,
    /// A datagram.
    Datagram,
}

impl Route {
    fn of(lane: Lane) -> Self {
        match lane {
            Lane::Control => Self::Control,
            Lane::Urgent => Self::Message,
            Lane::Normal | Lane::Bulk => Self::Stream(lane),
            Lane::Signal => Self::Datagram,
        }
    }
}

/// A record on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where it goes.
    pub route: Route,
    /// Its lane.
    pub lane: Lane,
    /// The encoded record, shared with other connections where it can be.
    pub record: Bytes,
    /// How long it waited here, ms, as far as the session's inputs told the time.
    pub waited_ms: u64,
}

/// A time to live and what to send when it has run out (LC-PUB-014).
#[derive(Debug)]
pub struct Expiry {
    /// Node's clock, ms.
    pub at_ms: u64,
    /// The record of the gap that takes the place of what expired; empty: nothing does.
    pub instead: Bytes,
}

#[derive(Debug)]
struct Entry {
    record: Bytes,
    /// Who must keep its order: see [`Outbox::push_from`]; 0: nobody.
    source: u64,
    queued_at_ms: u64,
    /// Boxed: few messages have one, and the queue of an idle connection should stay small.
    expiry: Option<Box<Expiry>>,
    /// Its place among the records of all lanes.
    serial: u64,
    /// The id of a request that is stamped as it leaves.
    request: Option<u32>,
}

impl Entry {
    fn is_expired(&self, now_ms: u64) -> bool {
        self.expiry.as_ref().is_some_and(|expiry| expiry.at_ms <= now_ms)
    }
}

/// An entry of which pieces have left.
#[derive(Debug)]
struct Begun {
    entry: Entry,
    cut: Cut,
}

/// What waits of one lane.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    /// How many at the front have passed the backlog.
    passing: u16,
    /// Bytes that passed the backlog, less what left of it meanwhile: at most twice [`PASSING_BYTES_MAX`].
    passed: u16,
    /// Bytes of all that waits. So small, as the others, because an idle connection has five of these.
    bytes: u32,
    /// Of which the rest leaves before the others. Boxed, as the expiry is.
    begun: Option<Box<Begun>>,
}

impl Queue {
    fn push_back(&mut self, entry: Entry) {
        self.bytes += count(entry.record.len());
        self.waiting.push_back(entry);
    }

    fn push_front(&mut self, entry: Entry) {
        self.bytes += count(entry.record.len());
        // In front of the backlog, whatever it was before.
        self.passing = self.passing.saturating_add(1);
        self.waiting.push_front(entry);
    }

    /// Queues it before the backlog, if nothing of its source is in there, and the backlog had its turn.
    fn push_passing(&mut self, entry: Entry) {
        let bytes = entry.record.len();
        let at = self.passing as usize;
        let has_backlog = self.waiting.range(at..).any(|waiting| waiting.source == entry.source);
        if has_backlog || !self.may_pass(bytes) {
            return self.push_back(entry);
        }
        self.bytes += count(bytes);
        if at < self.waiting.len() {
            self.passed += bytes as u16;
        }
        self.waiting.insert(at, entry);
        self.passing = self.passing.saturating_add(1);
    }

    fn may_pass(&self, bytes: usize) -> bool {
        bytes.max(self.passed as usize + 1) <= PASSING_BYTES_MAX
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.waiting.pop_front()?;
        match self.passing.checked_sub(1) {
            Some(fewer) => self.passing = fewer,
            None => self.passed = self.passed.saturating_sub(u16::try_from(entry.record.len()).unwrap_or(u16::MAX)),
        }
        if self.waiting.len() == self.passing as usize {
            // Nobody is passed.
            self.passed = 0;
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 4 {
            // An idle connection keeps no room for the burst that it once had.
            self.waiting = VecDeque::new();
        }
        self.bytes -= count(entry.record.len());
        Some(entry)
    }

    /// Gives up what was begun; `instead`, if it is anything, takes its place.
    fn abort(&mut self, instead: Bytes) {
        let Some(begun) = self.begun.take() else { return };
        let Begun { entry, cut } = *begun;
        self.bytes -= count(cut.left());
        let plain = |record| Entry { record, expiry: None, request: None, ..entry };
        if !instead.is_empty() {
            self.push_front(plain(instead));
        }
        self.push_front(plain(cut.abort()));
    }

    /// Puts what stands for expired records in their place; returns how many there were, and names requests in `late`.
    fn expire(&mut self, now_ms: u64, late: &mut Vec<u32>) -> u32 {
        let mut expired = 0;
        if let Some(begun) = &mut self.begun
            && begun.entry.is_expired(now_ms)
        {
            expired += 1;
            late.extend(begun.entry.request.filter(|id| *id != 0));
            let instead = begun.entry.expiry.take().map_or(Bytes::new(), |expiry| expiry.instead);
            self.abort(instead);
        }
        while self.begun.is_none()
            && self.waiting.front().is_some_and(|front| front.is_expired(now_ms))
            && let Some(mut entry) = self.pop_front()
        {
            expired += 1;
            late.extend(entry.request.filter(|id| *id != 0));
            let instead = entry.expiry.take().map_or(Bytes::new(), |expiry| expiry.instead);
            if !instead.is_empty() {
                self.push_front(Entry { record: instead, request: None, ..entry });
            }
        }
        expired
    }

    /// Says of the first record, if it is a request of which nothing left yet, how much of its time is left.
    fn stamp(&mut self, now_ms: u64, stamp: impl FnOnce(&Bytes, u64) -> Bytes) {
        if self.begun.is_none()
            && let Some(front) = self.waiting.front_mut().filter(|front| front.request.is_some())
            && let Some(expiry) = &front.expiry
        {
            let stamped = stamp(&front.record, expiry.at_ms.saturating_sub(now_ms));
            self.bytes = self.bytes - count(front.record.len()) + count(stamped.len());
            front.record = stamped;
        }
    }

    /// Bytes of the next record to leave; 0: nothing waits.
    fn head(&self, fragment_above: usize) -> usize {
        match (&self.begun, self.waiting.front()) {
            (Some(begun), _) => begun.cut.head(),
            (None, Some(front)) => front.record.len().min(fragment_above),
            (None, None) => 0,
        }
    }

    fn serial(&self) -> Option<u64> {
        let begun = self.begun.as_ref().map(|begun| begun.entry.serial);
        begun.or_else(|| self.waiting.front().map(|entry| entry.serial))
    }

    /// Begins to cut the first record, if it is longer than may leave in one. `transfers` counts those of the connection.
    fn begin(&mut self, lane: Lane, fragment_above: usize, transfers: &mut u64) {
        if self.begun.is_some() || self.waiting.front().is_none_or(|front| front.record.len() <= fragment_above) {
            return;
        }
        let Some(entry) = self.pop_front() else { return };
        match Cut::new(*transfers + 1, lane, &entry.record, fragment_above) {
            Some(cut) => {
                *transfers += 1;
                self.bytes += count(cut.left());
                self.begun = Some(Box::new(Begun { entry, cut }));
            }
            None => self.push_front(entry),
        }
    }

    /// The next record to leave, and since when it waited.
    fn leave(&mut self) -> Option<(Bytes, u64)> {
        let Some(begun) = &mut self.begun else {
            return self.pop_front().map(|entry| (entry.record, entry.queued_at_ms));
        };
        let before = begun.cut.left();
        let piece = begun.cut.next();
        self.bytes -= count(before - begun.cut.left());
        let since = begun.entry.queued_at_ms;
        if begun.cut.left() == 0 {
            self.begun = None;
        }
        Some((piece, since))
    }

    fn revise(&mut self, revise: &mut impl FnMut(&Bytes) -> Option<Bytes>) {
        if let Some(begun) = &self.begun {
            let revised = revise(&begun.entry.record).unwrap_or_default();
            if revised != begun.entry.record {
                let waiting = std::mem::take(&mut self.waiting);
                self.revise_all(waiting, revise);
                return self.abort(revised);
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.revise_all(waiting, revise);
    }

    fn revise_all(&mut self, waiting: VecDeque<Entry>, revise: &mut impl FnMut(&Bytes) -> Option<Bytes>) {
        self.bytes = self.begun.as_ref().map_or(0, |begun| count(begun.cut.left()));
        let passing = std::mem::take(&mut self.passing) as usize;
        for (at, mut entry) in waiting.into_iter().enumerate() {
            if let Some(record) = revise(&entry.record) {
                entry.record = record;
                self.passing += u16::from(at < passing);
                self.push_back(entry);
            }
        }
    }
}

/// Bytes of records, of which callers bound the sum to far less.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The outbox of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    lanes: [Queue; 5],
    scheduler: Scheduler,
    /// All lanes leave as one FIFO, and whole.
    one_queue: bool,
    /// Longer records leave in pieces.
    fragment_above: Option<usize>,
    /// Records that were cut on this connection.
    transfers: u64,
    /// Records that were queued.
    serial: u64,
    /// Node's clock, ms, when it was told last.
    now_ms: u64,
    /// What expired here since it was asked last, by lane.
    expired: [u32; 5],
    /// The requests among it.
    late: Vec<u32>,
}

impl Outbox {
    /// Queues a record. Bounds are the caller's, who knows what to do when full: see [`Self::bytes`].
    pub fn push(&mut self, lane: Lane, record: Bytes) {
        self.push_entry(lane, record, None);
    }

    /// Queues a record of a source, such as a room, whose records of one lane leave in the order in which they were queued. One
    /// that `has_no_backlog`, neither here nor wherever it comes from, passes those that have one, and shares the lane with
    /// them half and half.
    pub fn push_from(&mut self, lane: Lane, source: u64, record: Bytes, expiry: Option<Expiry>, has_no_backlog: bool) {
        let entry = Entry { source, ..self.entry(record, expiry.map(Box::new)) };
        let queue = &mut self.lanes[lane.index()];
        if has_no_backlog && !self.one_queue { queue.push_passing(entry) } else { queue.push_back(entry) }
    }

    /// Whether a source without a backlog may pass those with one now.
    pub fn may_pass(&self, lane: Lane) -> bool {
        !self.one_queue && self.lanes[lane.index()].may_pass(1)
    }

    /// Queues a request whose time to live counts until it leaves: [`Self::pop_stamped`] says it anew, and if it has run
    /// out before all of the record left, [`Self::take_late`] names it, unless its id is 0.
    pub fn push_request(&mut self, lane: Lane, id: u32, record: Bytes, at_ms: u64) {
        self.push_entry(lane, record, Some(Box::new(Expiry { at_ms, instead: Bytes::new() })));
        if let Some(entry) = self.lanes[lane.index()].waiting.back_mut() {
            entry.request = Some(id);
        }
    }

    /// The requests that expired here since this was called last.
    pub fn take_late(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.late)
    }

    fn push_entry(&mut self, lane: Lane, record: Bytes, expiry: Option<Box<Expiry>>) {
        let entry = self.entry(record, expiry);
        self.lanes[lane.index()].push_back(entry);
    }

    fn entry(&mut self, record: Bytes, expiry: Option<Box<Expiry>>) -> Entry {
        self.serial += 1;
        Entry { record, source: 0, queued_at_ms: self.now_ms, expiry, serial: self.serial, request: None }
    }

    /// Tells the time, node's clock, for what is queued from now on.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Cuts records that are longer, but those of lane control, into pieces no longer than this: for a transport that folds
    /// all lanes into one pipe, and a peer that takes fragments (LC-FRM-030). `None` cuts nothing.
    pub fn set_fragment_above(&mut self, bytes: Option<usize>) {
        self.fragment_above = bytes;
    }

    /// Lets all lanes leave as one FIFO, and whole, as if there were none: to measure what lanes are worth. Of a lane that
    /// may not leave everything waits that came after it.
    pub fn set_one_queue(&mut self, one_queue: bool) {
        self.one_queue = one_queue;
    }

    /// How much expired here, by lane as in [`Lane::ALL`], since this was called last.
    pub fn take_expired(&mut self) -> [u32; 5] {
        std::mem::take(&mut self.expired)
    }

    /// Goes over what waits in a lane: `revise` says what becomes of each record. One of which pieces have left is given up
    /// if it changes.
    pub fn revise(&mut self, lane: Lane, mut revise: impl FnMut(&Bytes) -> Option<Bytes>) {
        self.lanes[lane.index()].revise(&mut revise);
    }

    /// Puts what stands for expired records in their place.
    pub fn expire(&mut self, now_ms: u64) {
        for lane in Lane::ALL {
            let at = lane.index();
            self.expired[at] += self.lanes[at].expire(now_ms, &mut self.late);
        }
    }

    /// Whether all lanes leave as one.
    pub fn is_one_queue(&self) -> bool {
        self.one_queue
    }

    /// Bytes of the next record of a lane, or of the piece of it that leaves next; 0: none waits.
    pub fn next_bytes(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].head(self.longest(lane))
    }

    /// The next record to send at this time of the node's clock, of one of these lanes: a transport with streams may
    /// have room for some lanes only. What has expired is not sent, nor any further piece of it.
    pub fn pop(&mut self, now_ms: u64, lanes: Lanes) -> Option<Output> {
        self.pop_stamped(now_ms, lanes, |record, _| record.clone())
    }

    /// As [`Self::pop`]; `stamp` says anew how much time a request has left, ms, and makes it no longer.
    pub fn pop_stamped(
        &mut self,
        now_ms: u64,
        lanes: Lanes,
        stamp: impl FnOnce(&Bytes, u64) -> Bytes,
    ) -> Option<Output> {
        self.expire(now_ms);
        let heads: Heads = Lane::ALL.map(|lane| self.next_bytes(lane));
        let lane = if self.one_queue {
            self.oldest().filter(|lane| lanes.contains(*lane))?
        } else {
            self.scheduler.pick(&heads, lanes)?
        };
        let longest = self.longest(lane);
        let queue = &mut self.lanes[lane.index()];
        queue.stamp(now_ms, stamp);
        queue.begin(lane, longest, &mut self.transfers);
        let (record, since_ms) = queue.leave()?;
        Some(Output { route: Route::of(lane), lane, record, waited_ms: now_ms.saturating_sub(since_ms) })
    }

    /// The longest record that leaves whole. Nothing passes control, so pieces of it would be of no use; and Hello is
    /// sent before it is known what the peer takes.
    fn longest(&self, lane: Lane) -> usize {
        match self.fragment_above {
            Some(bytes) if lane != Lane::Control && !self.one_queue => bytes,
            _ => usize::MAX,
        }
    }

    /// The lane whose next record was queued first.
    fn oldest(&self) -> Option<Lane> {
        let serials = Lane::ALL.into_iter().filter_map(|lane| Some((self.lanes[lane.index()].serial()?, lane)));
        serials.min_by_key(|(serial, _)| *serial).map(|(_, lane)| lane)
    }

    /// Unsent bytes of a lane.
    pub fn bytes(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].bytes as usize
    }

    /// Unsent records of a lane; one of which pieces have left is one.
    pub fn records(&self, lane: Lane) -> usize {
        let queue = &self.lanes[lane.index()];
        queue.waiting.len() + usize::from(queue.begun.is_some())
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|queue| queue.waiting.is_empty() && queue.begun.is_none())
    }

    /// Forgets everything but whether it is one queue: the connection is gone.
    pub fn clear(&mut self) {
        *self = Self { one_queue: self.one_queue, ..Self::default() };
    }
}

#[cfg(test)]
mod tests;
