//! Copies of urgent publishes: one whose answer is overdue on a path that loses packets is sent once more, on a stream of its
//! own, where nothing that was lost before it holds it up (LC-QUIC-015).
//!
//! Only the first unsettled one of a room is copied. Those behind it would be refused as out of order until it is stored; they
//! are on the ordered stream already, and come with what is repaired there.

use super::{Entry, Progress, Publisher, Queue};
use crate::position::DurableLane::Urgent;
use crate::v1;

/// Bytes of a publish that is copied: one that fits into a packet. A larger one is in several, and seldom lost whole.
const BYTES_MAX: usize = 1_000;
/// Copies that are due or not answered, at most: a part of the message streams that may be open. What is overdue beyond them is
/// left to be repaired.
const COPIES_MAX: usize = 8;
/// An answer is overdue when, beyond the time that answers take, an eighth of it has passed, or, where that is longer, this
/// many ms: what nodes and stores may take more at times. A false alarm costs one small message.
const BEYOND_PARTS: u64 = 8;
const BEYOND_MIN_MS: u64 = 8;
/// Answers of which the quickest is kept, twice.
const ANSWERS: u8 = 32;

/// What becomes of a publish whose answer may be overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Copied {
    /// Not overdue yet.
    #[default]
    No,
    /// To be copied.
    Due,
    /// Under this request id.
    As(u32),
    /// Not copied, or its copy was refused.
    Never,
}

/// When answers are overdue, and how many copies are due.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The round trip of a path that loses packets, ms; `None`: it loses none, or keeps an order.
    round_trip_ms: Option<u64>,
    /// The quickest answer of the last [`ANSWERS`], and of as many before them, ms.
    quickest_ms: [Option<u64>; 2],
    answers: u8,
    due: usize,
    /// Request ids of the copies that are not answered.
    unanswered: Vec<u32>,
}

impl Copies {
    /// An answer came so long after its publish was sent.
    pub(super) fn answered(&mut self, after_ms: u64) {
        if self.answers == ANSWERS {
            (self.quickest_ms, self.answers) = ([None, self.quickest_ms[0]], 0);
        }
        self.answers += 1;
        self.quickest_ms[0] = Some(self.quickest_ms[0].map_or(after_ms, |ms| ms.min(after_ms)));
    }

    /// This request was answered, be it that of a copy or not.
    pub(super) fn ended(&mut self, id: u32) {
        self.unanswered.retain(|copy| *copy != id);
    }

    pub(super) fn disconnected(&mut self) {
        *self = Self::default();
    }

    /// How long after it was sent a publish is overdue, ms; `None`: never.
    fn overdue_after_ms(&self) -> Option<u64> {
        let quickest = self.quickest_ms.into_iter().flatten().min().unwrap_or(0);
        let usual = self.round_trip_ms?.max(quickest);
        Some(usual + (usual / BEYOND_PARTS).max(BEYOND_MIN_MS))
    }
}

impl Entry {
    /// Whether an answer to this request is one to it.
    pub(super) fn is_sent_as(&self, id: u32) -> bool {
        self.progress == Progress::InFlight { id } || self.copied == Copied::As(id)
    }
}

impl Queue {
    /// The one that may be copied: the first, while its answer is awaited.
    fn first_awaited(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut().filter(|entry| entry.progress.is_in_flight() && entry.copied == Copied::No)
    }
}

impl Publisher {
    /// Says how long the path takes for a round trip, if it loses packets and what is sent as [`Self::repeat`] says can overtake
    /// what was sent before; `None`: nothing is copied.
    pub fn set_round_trip(&mut self, round_trip_ms: Option<u64>) {
        self.copies.round_trip_ms = round_trip_ms;
    }

    /// When the next urgent publish is overdue, monotonic ms.
    pub(super) fn next_overdue(&self) -> Option<u64> {
        let after_ms = self.copies.overdue_after_ms()?;
        let first = self.rooms.values().filter_map(|lanes| lanes[Urgent].entries.front());
        let awaited = first.filter(|entry| entry.progress.is_in_flight() && entry.copied == Copied::No);
        awaited.map(|entry| entry.sent_at_ms + after_ms).min()
    }

    /// Notes which urgent publishes are overdue. They are copied if that is worth it: `may_copy` says whether none is still on this
    /// side, where it would wait for itself. Each is looked at once.
    pub fn note_overdue(&mut self, now_ms: u64, may_copy: bool) {
        let Some(after_ms) = self.copies.overdue_after_ms() else { return };
        for (room, lanes) in &mut self.rooms {
            let queue = &mut lanes[Urgent];
            // While an end is not written down `after` must not say that it is over.
            let may_copy =
                may_copy && queue.ends_unwritten == 0 && self.copies.due + self.copies.unanswered.len() < COPIES_MAX;
            let Some(entry) = queue.first_awaited().filter(|entry| entry.sent_at_ms + after_ms <= now_ms) else {
                continue;
            };
            let copied = may_copy && entry.envelope.len() + room.len() <= BYTES_MAX;
            entry.copied = if copied { Copied::Due } else { Copied::Never };
            self.copies.due += usize::from(copied);
        }
    }

    /// The next copy to send, on a stream of its own, under a request id that `next_id` makes. Whichever answer comes first
    /// settles the publish; a refusal of the copy alone says nothing, since it may have overtaken what goes before it.
    pub fn repeat(
        &mut self,
        now_ms: u64,
        in_flight_max: usize,
        next_id: impl FnOnce() -> u32,
    ) -> Option<(u32, v1::Publish)> {
        while self.copies.due > 0 {
            self.copies.due -= 1;
            let is_due = |queue: &Queue| queue.entries.front().is_some_and(|entry| entry.copied == Copied::Due);
            let (room, lanes) = self.rooms.iter_mut().find(|(_, lanes)| is_due(&lanes[Urgent]))?;
            let entry = lanes[Urgent].entries.front_mut()?;
            // L8: late is not sent, and not sent again. What was refused meanwhile goes on its usual way.
            let is_late = entry.terms.is_over(now_ms) || !entry.progress.is_in_flight();
            if is_late || self.in_flight.len() >= in_flight_max {
                entry.copied = Copied::Never;
                continue;
            }
            let id = next_id();
            entry.copied = Copied::As(id);
            let publish = entry.publish(room, Urgent, 0, now_ms, self.node_ahead_ms);
            self.in_flight.insert(id, (room.clone(), Urgent));
            self.copies.unanswered.push(id);
            return Some((id, publish));
        }
        None
    }
}
