//! The newest events of a room, encoded: what fan-out, catch-up and resume read without asking the log.

use std::collections::VecDeque;

use lanecast_protocol::place::Stored;
use lanecast_protocol::position::{DurableLane, PerLane};

/// Events and bytes of one lane of one room that are kept; the oldest leave first, the log still has them.
const EVENTS_MAX: usize = 512;
const BYTES_MAX: usize = 256 * 1024;

/// How much of a lane the room's policy keeps: the cache serves nothing that the log would not (LC-RES-003).
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Events.
    pub(super) events_max: usize,
    /// Age, ms.
    pub(super) age_ms_max: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { events_max: usize::MAX, age_ms_max: u64::MAX }
    }
}

#[derive(Debug)]
struct Cached {
    event: Stored,
    time_ms: u64,
}

#[derive(Debug, Default)]
struct LaneCache {
    /// Contiguous in seq.
    events: VecDeque<Cached>,
    bytes: usize,
}

/// The newest events of a room.
#[derive(Debug, Default)]
pub(super) struct Cache {
    lanes: PerLane<LaneCache>,
    kept: Kept,
}

/// What a cache has after a seq.
pub(super) struct Hit {
    /// The events.
    pub(super) events: Vec<Stored>,
    /// When the node received the oldest of them, node's clock, ms.
    pub(super) oldest_ms: u64,
    /// Whether it has more.
    pub(super) more: bool,
}

impl Cache {
    pub(super) fn new(kept: Kept) -> Self {
        Self { lanes: PerLane::default(), kept }
    }

    /// Adds the newest event of a lane.
    pub(super) fn push(&mut self, lane: DurableLane, event: Stored, time_ms: u64) {
        let lane = &mut self.lanes[lane];
        if lane.events.back().is_some_and(|newest| newest.event.seq + 1 != event.seq) {
            // A hole would be read as contiguous: begin anew behind it.
            *lane = LaneCache::default();
        }
        lane.bytes += event.record.len();
        lane.events.push_back(Cached { event, time_ms });
        while lane.events.len() > EVENTS_MAX.min(self.kept.events_max) || lane.bytes > BYTES_MAX {
            let Some(oldest) = lane.events.pop_front() else { break };
            lane.bytes -= oldest.event.record.len();
        }
    }

    /// What comes after a seq, at least one event and then as many as fit; `None` if the cache does not reach back
    /// that far, has nothing, or may have more than the log.
    pub(super) fn after(&self, now_ms: u64, lane: DurableLane, seq: u64, bytes_max: usize) -> Option<Hit> {
        let events = &self.lanes[lane].events;
        let first = events.front()?.event.seq;
        let skip = usize::try_from((seq + 1).checked_sub(first)?).ok()?;
        let oldest_ms = events.get(skip)?.time_ms;
        if now_ms.saturating_sub(oldest_ms) > self.kept.age_ms_max {
            return None;
        }
        let mut bytes = 0;
        let fitting = events.iter().skip(skip).take_while(|cached| {
            let fits = bytes == 0 || bytes + cached.event.record.len() <= bytes_max;
            bytes += cached.event.record.len();
            fits
        });
        let events_out: Vec<Stored> = fitting.map(|cached| cached.event.clone()).collect();
        let more = skip + events_out.len() < events.len();
        Some(Hit { events: events_out, oldest_ms, more })
    }

    /// Whether it has everything after a seq up to the head, and the log would still give all of it.
    pub(super) fn reaches(&self, now_ms: u64, lane: DurableLane, seq: u64, head: u64) -> bool {
        let events = &self.lanes[lane].events;
        let (Some(first), Some(newest)) = (events.front(), events.back()) else { return false };
        let Some(skip) = (seq + 1).checked_sub(first.event.seq).and_then(|skip| usize::try_from(skip).ok()) else {
            return false;
        };
        let Some(oldest) = events.get(skip) else { return false };
        newest.event.seq >= head && now_ms.saturating_sub(oldest.time_ms) <= self.kept.age_ms_max
    }

    /// Forgets a lane: the log went on without it.
    pub(super) fn clear_lane(&mut self, lane: DurableLane) {
        self.lanes[lane] = LaneCache::default();
    }

    /// Forgets everything: the handle in the records has ended.
    pub(super) fn clear(&mut self) {
        self.lanes = PerLane::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::Normal;
    use bytes::Bytes;

    fn event(seq: u64, len: usize) -> Stored {
        Stored { seq, expires_at_ms: 0, event_type: "t".into(), record: Bytes::from(vec![0; len]) }
    }

    fn seqs(hit: &Hit) -> Vec<u64> {
        hit.events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn it_answers_only_what_it_has_in_full() {
        let mut cache = Cache::default();
        for seq in 5..=9 {
            cache.push(Normal, event(seq, 10), seq * 100);
        }
        assert!(cache.after(0, Normal, 3, 100).is_none(), "seq 4 is only in the log");
        let hit = cache.after(0, Normal, 4, 25).unwrap();
        assert_eq!((seqs(&hit), hit.more, hit.oldest_ms), (vec![5, 6], true, 500));
        let hit = cache.after(0, Normal, 7, 1).unwrap();
        assert_eq!((seqs(&hit), hit.more), (vec![8], true));
        assert!(cache.after(0, Normal, 9, 100).is_none());
        assert!(cache.reaches(0, Normal, 4, 9) && cache.reaches(0, Normal, 8, 9));
        assert!(!cache.reaches(0, Normal, 3, 9), "not all of it");
        assert!(!cache.reaches(0, Normal, 4, 10), "not the newest");
        assert!(!cache.reaches(0, Normal, 9, 9), "nothing of it");
        cache.push(Normal, event(12, 10), 0);
        assert!(cache.after(0, Normal, 9, 100).is_none(), "10 and 11 are missing");
    }

    #[test]
    fn it_keeps_no_more_than_the_log() {
        // LC-RES-003
        let mut cache = Cache::new(Kept { events_max: 2, age_ms_max: 100 });
        for seq in 1..=5 {
            cache.push(Normal, event(seq, 10), 0);
        }
        assert!(cache.after(100, Normal, 2, 100).is_none(), "seq 3 is trimmed from the log");
        assert_eq!(seqs(&cache.after(100, Normal, 3, 100).unwrap()), [4, 5]);
        assert!(cache.after(101, Normal, 3, 100).is_none(), "4 and 5 are too old");
        assert!(cache.reaches(100, Normal, 3, 5) && !cache.reaches(101, Normal, 3, 5));
    }

    #[test]
    fn it_is_bounded() {
        let mut cache = Cache::default();
        for seq in 1..=2000 {
            cache.push(Normal, event(seq, 1024), 0);
        }
        assert_eq!(cache.lanes[Normal].events.len(), BYTES_MAX / 1024);
    }
}
