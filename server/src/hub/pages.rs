//! Pages of a room's log that were read a moment ago: many who catch up read each page once.
//!
//! Pages begin at multiples of [`READ_EVENTS_MAX`], so that readers at different places find the same ones. They are
//! kept for [`PAGE_MS`] only, and serve nothing that the log would not at that time (LC-RES-003).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use lanecast_protocol::log::Read;
use lanecast_protocol::place::{Batch, Stored};
use parking_lot::Mutex;
use tokio::sync::MutexGuard;

use super::cache::Kept;
use super::{READ_EVENTS_MAX, ReadOut, stored};
use crate::engine::EngineError;
use crate::telemetry::labels::Source;

/// Bytes of a page; one event is read whatever its size.
pub(super) const PAGE_BYTES_MAX: usize = 128 * 1024;
/// Pages of one lane of a room; the oldest go first.
const PAGES_MAX: usize = 8;
/// How long a page serves.
pub(super) const PAGE_MS: u64 = 2_000;
/// Bytes of pages of all rooms; beyond it a page serves only who read it.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of all pages of a hub.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

/// A part of the budget; dropping it gives it back.
#[derive(Debug)]
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let charge = Charge { budget: Arc::clone(self), bytes };
        (self.0.fetch_add(bytes, Ordering::AcqRel) + bytes <= ALL_BYTES_MAX).then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What one read of the log gave.
#[derive(Debug)]
pub(super) struct Page {
    handle: u64,
    /// It was read after this seq, and has everything up to `through`.
    after: u64,
    through: u64,
    /// The first seq that the log had.
    first: u64,
    head: u64,
    read_at_ms: u64,
    /// With the times at which nodes received them.
    events: Vec<(Stored, u64)>,
    bytes: usize,
    charge: Option<Charge>,
}

impl Page {
    pub(super) fn new(handle: u64, after: u64, read: &Read, now_ms: u64) -> Self {
        let through = read.records.last().map_or(after.max(read.first - 1), |record| record.seq);
        let events: Vec<_> = read.records.iter().map(|record| (stored(handle, record), record.time_ms)).collect();
        let bytes = events.iter().map(|(event, _)| event.record.len()).sum();
        Self {
            handle,
            after,
            through,
            first: read.first,
            head: read.head,
            read_at_ms: now_ms,
            events,
            bytes,
            charge: None,
        }
    }

    /// Whether it says what comes after a seq: events, or that there is nothing.
    pub(super) fn covers(&self, after: u64) -> bool {
        self.after <= after && (after < self.through || self.through >= self.head)
    }

    /// Whether it was cut because it had enough bytes.
    pub(super) fn is_heavy(&self) -> bool {
        self.bytes >= PAGE_BYTES_MAX / 2 && self.events.len() < READ_EVENTS_MAX
    }

    /// What comes after a seq that it covers, at least one event and then as many as fit.
    pub(super) fn slice(&self, after: u64, bytes_max: usize) -> ReadOut {
        let skip = self.events.partition_point(|(event, _)| event.seq <= after);
        let mut bytes = 0;
        let fitting = self.events[skip..].iter().take_while(|(event, _)| {
            let fits = bytes == 0 || bytes + event.record.len() <= bytes_max;
            bytes += event.record.len();
            fits
        });
        let events: Vec<Stored> = fitting.map(|(event, _)| event.clone()).collect();
        let last = events.last().map_or(after.max(self.through), |event| event.seq);
        let first = if after + 1 < self.first { self.first } else { after + 1 };
        ReadOut {
            batch: Batch { first, events },
            more: last < self.head,
            cached_since_ms: None,
            source: Source::Engine,
            ahead: (last < self.head && self.events.len() - skip <= self.events.len() / 2).then_some(self.through),
        }
    }

    /// Whether the log would still give what it has after a seq.
    fn is_kept(&self, after: u64, kept: &Kept, now_ms: u64, newest: u64) -> bool {
        let Some((event, time_ms)) = self.events.iter().find(|(event, _)| event.seq > after) else { return true };
        let trimmed_through = self.head.max(newest).saturating_sub(kept.events_max as u64);
        event.seq > trimmed_through && now_ms.saturating_sub(*time_ms) <= kept.age_ms_max
    }
}

/// The pages of one lane of a room, and who reads the next one.
#[derive(Debug, Default)]
pub(super) struct Pages {
    arrivals: AtomicU64,
    /// Held while the log is read; what is there already serves meanwhile.
    reading: tokio::sync::Mutex<()>,
    lane: Mutex<LanePages>,
}

#[derive(Debug, Default)]
pub(super) struct LanePages {
    pages: VecDeque<Page>,
    /// Who came before that number waited while a read failed with this error, and fails with it.
    failed: Option<(u64, EngineError)>,
    /// Events are so large that a page from an earlier begin would not reach a place.
    heavy: bool,
}

/// A turn to read a lane of a room.
pub(super) struct Turn<'a> {
    pages: &'a Pages,
    arrival: u64,
    _reading: MutexGuard<'a, ()>,
}

impl Pages {
    /// Waits until nobody reads the lane.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let arrival = self.arrivals.fetch_add(1, Ordering::AcqRel);
        Turn { pages: self, arrival, _reading: self.reading.lock().await }
    }

    /// A turn, unless somebody reads the lane.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        let reading = self.reading.try_lock().ok()?;
        Some(Turn { pages: self, arrival: self.arrivals.fetch_add(1, Ordering::AcqRel), _reading: reading })
    }

    /// What the page that was read a moment ago has after a seq.
    pub(super) fn find(
        &self,
        handle: u64,
        after: u64,
        bytes_max: usize,
        kept: &Kept,
        now_ms: u64,
        newest: u64,
    ) -> Option<ReadOut> {
        let lane = self.lane.lock();
        let page = lane.pages.iter().find(|page| {
            page.handle == handle
                && page.after <= after
                && after < page.through
                && now_ms.saturating_sub(page.read_at_ms) <= PAGE_MS
                && page.is_kept(after, kept, now_ms, newest)
        })?;
        // It was read before it was asked for: what it says of the head may be old. Whoever is back for it while it serves
        // reads so fast that the time of a whole page is needed to read the next one.
        let ahead = (page.through < page.head).then_some(page.through);
        Some(ReadOut { more: true, source: Source::Shared, ahead, ..page.slice(after, bytes_max) })
    }

    /// Drops what is too old. What is being read is left alone.
    pub(super) fn sweep(&self, now_ms: u64) {
        let Ok(_reading) = self.reading.try_lock() else { return };
        let mut lane = self.lane.lock();
        lane.pages.retain(|page| now_ms.saturating_sub(page.read_at_ms) <= PAGE_MS);
        if lane.pages.is_empty() {
            *lane = LanePages { heavy: lane.heavy, ..LanePages::default() };
        }
    }
}

impl Turn<'_> {
    /// Who came before a read that is made now.
    pub(super) fn before(&self) -> u64 {
        self.pages.arrivals.load(Ordering::Acquire)
    }

    /// The failure of a read that was made while this one waited.
    pub(super) fn failed(&self) -> Option<EngineError> {
        self.pages.lane.lock().failed.filter(|(before, _)| self.arrival < *before).map(|(_, error)| error)
    }

    /// A read that began with `before` failed.
    pub(super) fn fail(&mut self, before: u64, error: EngineError) {
        self.pages.lane.lock().failed = Some((before, error));
    }

    /// After which seq to read for whoever is after this one: from where the page begins, or the one before it ended.
    pub(super) fn begin(&self, handle: u64, after: u64) -> u64 {
        let lane = self.pages.lane.lock();
        if lane.heavy {
            return after;
        }
        let page_begin = after - after % READ_EVENTS_MAX as u64;
        let ends = lane.pages.iter().filter(|page| page.handle == handle).map(|page| page.through);
        ends.filter(|end| (page_begin..=after).contains(end)).max().unwrap_or(page_begin)
    }

    /// Keeps a page for the others.
    pub(super) fn keep(&mut self, mut page: Page, budget: &Arc<Budget>) {
        let mut lane = self.pages.lane.lock();
        lane.heavy = page.is_heavy();
        page.charge = budget.charge(page.bytes);
        if page.charge.is_none() || page.through <= page.after {
            return;
        }
        lane.pages.retain(|known| known.handle == page.handle && known.after != page.after);
        if lane.pages.len() == PAGES_MAX {
            lane.pages.pop_front();
        }
        lane.pages.push_back(page);
    }

    /// The next reads begin where they are asked to.
    pub(super) fn set_heavy(&mut self) {
        self.pages.lane.lock().heavy = true;
    }
}
