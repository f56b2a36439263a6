//! How a subscriber reads what comes after its place: from the room's newest events, from a page that somebody read a
//! moment ago, or from the log, which is read by one at a time and for all.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use lanecast_protocol::place::Batch;
use lanecast_protocol::position::DurableLane;

use super::pages::{PAGE_BYTES_MAX, Page, Pages, Turn};
use super::room::Cached;
use super::{Hub, READ_EVENTS_MAX, ReadOut, Room};
use crate::engine::EngineError;
use crate::telemetry::labels::Source;

impl Hub {
    /// Reads what comes after a place. An epoch that has ended reads as nothing: its end is on the way as a mark.
    ///
    /// # Errors
    /// Whatever the engine says.
    pub async fn read(
        &self,
        room: &Arc<Room>,
        handle: u64,
        lane: DurableLane,
        after: u64,
        bytes_max: usize,
    ) -> Result<ReadOut, EngineError> {
        match self.read_cached(room, handle, lane, after, bytes_max) {
            Some(out) => Ok(out),
            None => self.read_log(room, handle, lane, after, bytes_max).await,
        }
    }

    /// What the node knows without asking anybody; `None`: the log has to be read.
    pub fn read_cached(
        &self,
        room: &Room,
        handle: u64,
        lane: DurableLane,
        after: u64,
        bytes_max: usize,
    ) -> Option<ReadOut> {
        let out = match room.cached(self.clock.now_ms(), handle, lane, after, bytes_max) {
            Cached::Hit(out) => out,
            Cached::EpochEnded => return Some(ReadOut::default()),
            Cached::Miss => {
                // Nothing was told beyond it, and everything up to the head was (E23).
                let head = self.engine().glance(room.name())?.head;
                let nothing = room.is_current(handle, head.epoch) && head.seq(lane) <= after;
                nothing
                    .then(|| ReadOut { batch: Batch { first: after + 1, events: Vec::new() }, ..ReadOut::default() })?
            }
        };
        self.metrics.room_reads.of(Source::Cache).inc();
        Some(out)
    }

    /// Reads the log, or takes what somebody else read of it a moment ago.
    ///
    /// Cancel safety: if the future is dropped, the next one who waits reads.
    ///
    /// # Errors
    /// Whatever the engine says, also to the one who read while this one waited.
    pub async fn read_log(
        &self,
        room: &Arc<Room>,
        handle: u64,
        lane: DurableLane,
        after: u64,
        bytes_max: usize,
    ) -> Result<ReadOut, EngineError> {
        let pages = room.pages(lane, || self.paged.lock().push(Arc::downgrade(room)));
        if let Some(out) = self.read_page_kept(room, pages, handle, lane, after, bytes_max) {
            return Ok(out);
        }
        let mut turn = pages.turn().await;
        // What came while this one waited.
        if let Some(out) = self.read_cached(room, handle, lane, after, bytes_max) {
            return Ok(out);
        }
        if let Some(out) = self.read_page_kept(room, pages, handle, lane, after, bytes_max) {
            return Ok(out);
        }
        if let Some(error) = turn.failed() {
            return Err(error);
        }
        let page = self.turn_page(room, &mut turn, handle, lane, after).await?;
        let Some(page) = page else { return Ok(ReadOut::default()) };
        let out = page.slice(after, bytes_max);
        turn.keep(page, &self.page_budget);
        Ok(out)
    }

    /// Reads the page after a seq for who will ask for it next, unless somebody reads the lane or it is there.
    ///
    /// A lane that has to wait for its log is empty for as long, and leaves its share to the others (LC-LANE-007). If it
    /// fails nothing is lost: who needs the page reads it and hears why.
    pub async fn read_ahead(&self, room: &Arc<Room>, handle: u64, lane: DurableLane, after: u64) {
        let pages = room.pages(lane, || self.paged.lock().push(Arc::downgrade(room)));
        let Some(mut turn) = pages.try_turn() else { return };
        let is_known = self.read_cached(room, handle, lane, after, 1).is_some()
            || pages.find(handle, after, 1, &room.kept, self.clock.now_ms(), room.newest(lane)).is_some();
        if !is_known && let Ok(Some(page)) = self.turn_page(room, &mut turn, handle, lane, after).await {
            turn.keep(page, &self.page_budget);
        }
    }

    /// What a page that was read a moment ago has.
    fn read_page_kept(
        &self,
        room: &Room,
        pages: &Pages,
        handle: u64,
        lane: DurableLane,
        after: u64,
        bytes_max: usize,
    ) -> Option<ReadOut> {
        let out = pages.find(handle, after, bytes_max, &room.kept, self.clock.now_ms(), room.newest(lane))?;
        self.metrics.room_reads.of(Source::Shared).inc();
        Some(out)
    }

    /// Reads a page that has what comes after a seq, in one's turn; `None`: the epoch of the handle has ended.
    async fn turn_page(
        &self,
        room: &Room,
        turn: &mut Turn<'_>,
        handle: u64,
        lane: DurableLane,
        after: u64,
    ) -> Result<Option<Page>, EngineError> {
        let before = turn.before();
        let begin = turn.begin(handle, after);
        let mut read = self.read_page(room, handle, lane, begin).await;
        if let Ok(Some(page)) = &read
            && !page.covers(after)
        {
            turn.set_heavy();
            read = self.read_page(room, handle, lane, after).await;
        }
        let page = read.inspect_err(|error| turn.fail(before, *error))?;
        if page.is_some() {
            self.metrics.room_reads.of(Source::Engine).inc();
        }
        Ok(page)
    }

    /// Reads a page after a seq; `None`: the epoch of the handle has ended.
    async fn read_page(
        &self,
        room: &Room,
        handle: u64,
        lane: DurableLane,
        after: u64,
    ) -> Result<Option<Page>, EngineError> {
        let read = self.engine().read(room.name(), lane, after, READ_EVENTS_MAX, PAGE_BYTES_MAX).await?;
        let current = room.is_current(handle, read.epoch);
        Ok(current.then(|| Page::new(handle, after, &read, self.clock.now_ms())))
    }

    /// Marks the subscribers of a large room, some at a time. One such task runs for a room at most; it ends by itself when
    /// all are marked, and nothing depends on its end.
    pub(super) fn mark_rest(room: Arc<Room>) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                while room.mark_some() {
                    tokio::task::yield_now().await;
                }
            })),
            Err(_) => while room.mark_some() {},
        }
    }

    /// Drops pages that are too old.
    pub(super) fn sweep_pages(&self) {
        let now_ms = self.clock.now_ms();
        let rooms = std::mem::take(&mut *self.paged.lock());
        let swept = |room: &Weak<Room>| room.upgrade().map(|room| room.sweep_pages(now_ms)).is_some();
        let left: Vec<_> = rooms.into_iter().filter(swept).collect();
        self.paged.lock().extend(left);
    }

    /// Whether clients are told that the store is away.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Acquire)
    }
}
