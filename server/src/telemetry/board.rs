//! What the lanes of one connection did: for whoever looks at that one. The metrics have the sums of all.

use std::sync::atomic::{AtomicU64, Ordering};

use lanecast_protocol::lane::Lane;
use serde::Serialize;

use super::labels::{DropReason, Source};

/// One lane.
#[derive(Debug, Default)]
struct Cell {
    queued_bytes: AtomicU64,
    queued_frames: AtomicU64,
    sent_bytes: AtomicU64,
    sent_frames: AtomicU64,
    waited_ms: AtomicU64,
    waited_max_ms: AtomicU64,
    dropped: AtomicU64,
    expired: AtomicU64,
    conflated: AtomicU64,
    caught_up_cache: AtomicU64,
    caught_up_log: AtomicU64,
}

/// The lanes of one connection, counted since it began. Kept in development only: an idle connection is small.
#[derive(Debug, Default)]
pub struct Board([Cell; 5]);

/// One lane, as it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneFigures {
    /// Bytes in the session's queue now.
    pub queued_bytes: u64,
    /// Frames there now.
    pub queued_frames: u64,
    /// Bytes that the transport took.
    pub sent_bytes: u64,
    /// Frames that it took.
    pub sent_frames: u64,
    /// How long the newest of them had waited, ms.
    pub waited_ms: u64,
    /// The longest wait since somebody looked last, ms.
    pub waited_max_ms: u64,
    /// Transients and signals that a full queue dropped.
    pub dropped: u64,
    /// Events and signals whose time to live ran out in a queue.
    pub expired: u64,
    /// Signals of which a newer one took the place.
    pub conflated: u64,
    /// Reads of rooms that had been held back, served from what the node has of the room.
    pub catch_ups_cache: u64,
    /// Those served from the log.
    pub catch_ups_log: u64,
}

/// All lanes, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Lane control.
    pub control: LaneFigures,
    /// Lane urgent.
    pub urgent: LaneFigures,
    /// Lane normal.
    pub normal: LaneFigures,
    /// Lane signal.
    pub signal: LaneFigures,
    /// Lane bulk.
    pub bulk: LaneFigures,
}

fn add(cell: &AtomicU64, count: u64) {
    cell.fetch_add(count, Ordering::Relaxed);
}

impl Board {
    fn of(&self, lane: Lane) -> &Cell {
        &self.0[lane.index()]
    }

    /// What waits in a lane now.
    pub fn queued(&self, lane: Lane, frames: usize, bytes: usize) {
        let cell = self.of(lane);
        cell.queued_frames.store(frames as u64, Ordering::Relaxed);
        cell.queued_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// The transport took a frame.
    pub fn sent(&self, lane: Lane, bytes: usize, waited_ms: u64) {
        let cell = self.of(lane);
        add(&cell.sent_frames, 1);
        add(&cell.sent_bytes, bytes as u64);
        cell.waited_ms.store(waited_ms, Ordering::Relaxed);
        cell.waited_max_ms.fetch_max(waited_ms, Ordering::Relaxed);
    }

    /// Something was not sent.
    pub fn dropped(&self, lane: Lane, reason: DropReason, count: u64) {
        let cell = self.of(lane);
        let counter = match reason {
            DropReason::QueueFull => &cell.dropped,
            DropReason::Expired => &cell.expired,
            DropReason::Conflated => &cell.conflated,
        };
        add(counter, count);
    }

    /// A read of a room that had been held back.
    pub fn caught_up(&self, lane: Lane, source: Source) {
        let cell = self.of(lane);
        match source {
            Source::Cache => add(&cell.caught_up_cache, 1),
            Source::Shared | Source::Engine => add(&cell.caught_up_log, 1),
        }
    }

    /// What is shown. The longest waits begin anew.
    pub fn look(&self) -> Figures {
        let [control, urgent, normal, signal, bulk] =
            [Lane::Control, Lane::Urgent, Lane::Normal, Lane::Signal, Lane::Bulk].map(|lane| self.of(lane).look());
        Figures { control, urgent, normal, signal, bulk }
    }
}

impl Cell {
    fn look(&self) -> LaneFigures {
        let of = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        LaneFigures {
            queued_bytes: of(&self.queued_bytes),
            queued_frames: of(&self.queued_frames),
            sent_bytes: of(&self.sent_bytes),
            sent_frames: of(&self.sent_frames),
            waited_ms: of(&self.waited_ms),
            waited_max_ms: self.waited_max_ms.swap(0, Ordering::Relaxed),
            dropped: of(&self.dropped),
            expired: of(&self.expired),
            conflated: of(&self.conflated),
            catch_ups_cache: of(&self.caught_up_cache),
            catch_ups_log: of(&self.caught_up_log),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lane_did_is_shown_under_its_name() {
        let board = Board::default();
        board.sent(Lane::Urgent, 100, 7);
        board.sent(Lane::Urgent, 50, 3);
        board.queued(Lane::Bulk, 2, 900);
        board.dropped(Lane::Signal, DropReason::Conflated, 4);
        board.caught_up(Lane::Normal, Source::Shared);
        let first = board.look();
        let urgent =
            LaneFigures { sent_bytes: 150, sent_frames: 2, waited_ms: 3, waited_max_ms: 7, ..LaneFigures::default() };
        assert_eq!(first.urgent, urgent);
        assert_eq!((first.bulk.queued_frames, first.bulk.queued_bytes), (2, 900));
        assert_eq!((first.signal.conflated, first.normal.catch_ups_log), (4, 1));
        assert_eq!(board.look().urgent, LaneFigures { waited_max_ms: 0, ..urgent }, "seen once");
        assert_eq!(serde_json::to_value(first).unwrap()["urgent"]["waitedMaxMs"], 7);
    }
}
