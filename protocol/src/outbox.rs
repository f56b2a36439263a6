//! The queue between a session and its transport: one FIFO per lane.
//!
//! Between lanes the order is strict (control, urgent, normal, signal, bulk). This is the seam for a scheduler with
//! budgets and turns: it would replace [`Outbox::pop`] and nothing else.
//!
//! Only queues of ours can reorder, expire and conflate, so a transport takes no more than it can write now.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::lane::{Lane, Lanes};

/// Most unsent bytes of lane control; beyond it the peer asks faster than it reads (LC-FLOW-004).
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

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
    queued_at_ms: u64,
    /// Boxed: few messages have one, and the queue of an idle connection should stay small.
    expiry: Option<Box<Expiry>>,
}

/// The outbox of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    lanes: [VecDeque<Entry>; 5],
    bytes: [usize; 5],
    /// Node's clock, ms, when it was told last.
    now_ms: u64,
    /// What expired here since it was asked last, by lane.
    expired: [u32; 5],
}

impl Outbox {
    /// Queues a record. Bounds are the caller's, who knows what to do when full: see [`Self::bytes`].
    pub fn push(&mut self, lane: Lane, record: Bytes) {
        self.push_entry(lane, record, None);
    }

    /// Queues a record with a time to live.
    pub fn push_expiring(&mut self, lane: Lane, record: Bytes, expiry: Expiry) {
        self.push_entry(lane, record, Some(Box::new(expiry)));
    }

    fn push_entry(&mut self, lane: Lane, record: Bytes, expiry: Option<Box<Expiry>>) {
        self.bytes[lane.index()] += record.len();
        self.lanes[lane.index()].push_back(Entry { record, queued_at_ms: self.now_ms, expiry });
    }

    /// Tells the time, node's clock, for what is queued from now on.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// How much expired here, by lane as in [`Lane::ALL`], since this was called last.
    pub fn take_expired(&mut self) -> [u32; 5] {
        std::mem::take(&mut self.expired)
    }

    /// Goes over what waits in a lane: `revise` says what becomes of each record.
    pub fn revise(&mut self, lane: Lane, mut revise: impl FnMut(&Bytes) -> Option<Bytes>) {
        self.bytes[lane.index()] = 0;
        for mut entry in std::mem::take(&mut self.lanes[lane.index()]) {
            if let Some(record) = revise(&entry.record) {
                self.bytes[lane.index()] += record.len();
                entry.record = record;
                self.lanes[lane.index()].push_back(entry);
            }
        }
    }

    /// The next record to send at this time of the node's clock, of one of these lanes: a transport with streams may
    /// have room for some lanes only.
    pub fn pop(&mut self, now_ms: u64, lanes: Lanes) -> Option<Output> {
        loop {
            let mut waiting = Lane::ALL.into_iter().filter(|lane| !self.lanes[lane.index()].is_empty());
            let lane = waiting.find(|lane| lanes.contains(*lane))?;
            let queue = &mut self.lanes[lane.index()];
            let entry = queue.pop_front()?;
            if queue.is_empty() && queue.capacity() > 4 {
                // An idle connection keeps no room for the burst that it once had.
                *queue = VecDeque::new();
            }
            self.bytes[lane.index()] -= entry.record.len();
            let record = match entry.expiry {
                Some(expiry) if expiry.at_ms <= now_ms => {
                    self.expired[lane.index()] += 1;
                    expiry.instead
                }
                _ => entry.record,
            };
            if !record.is_empty() {
                let waited_ms = now_ms.saturating_sub(entry.queued_at_ms);
                return Some(Output { route: Route::of(lane), lane, record, waited_ms });
            }
        }
    }

    /// Unsent bytes of a lane.
    pub fn bytes(&self, lane: Lane) -> usize {
        self.bytes[lane.index()]
    }

    /// Unsent records of a lane.
    pub fn records(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Forgets everything: the connection is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_between_lanes_and_fifo_inside() {
        // LC-LANE-003
        let mut outbox = Outbox::default();
        for (lane, text) in [
            (Lane::Bulk, "b1"),
            (Lane::Normal, "n1"),
            (Lane::Urgent, "u1"),
            (Lane::Normal, "n2"),
            (Lane::Control, "c1"),
        ] {
            outbox.push(lane, Bytes::from(text));
        }
        assert_eq!(outbox.bytes(Lane::Normal), 4);
        assert_eq!(outbox.pop(0, Lanes::NONE.with(Lane::Signal)), None);
        outbox.push(Lane::Bulk, Bytes::from("b2"));
        assert_eq!(outbox.pop(0, Lanes::NONE.with(Lane::Bulk)).unwrap().record, "b1");
        outbox.push(Lane::Urgent, Bytes::from("u2"));
        let order: Vec<_> = std::iter::from_fn(|| outbox.pop(0, Lanes::ALL)).map(|output| output.record).collect();
        assert_eq!(order, ["c1", "u1", "u2", "n1", "n2", "b2"]);
        assert!(outbox.is_empty());
        assert_eq!(Lane::ALL.map(|lane| outbox.bytes(lane)), [0; 5]);
    }

    #[test]
    fn what_is_late_is_not_sent() {
        // LC-PUB-014
        let mut outbox = Outbox::default();
        let expiry = |at_ms, instead: &'static str| Expiry { at_ms, instead: Bytes::from(instead) };
        outbox.push_expiring(Lane::Normal, Bytes::from("late"), expiry(10, "gap"));
        outbox.push_expiring(Lane::Signal, Bytes::from("late"), expiry(10, ""));
        outbox.push_expiring(Lane::Bulk, Bytes::from("in time"), expiry(11, "gap"));
        let order: Vec<_> = std::iter::from_fn(|| outbox.pop(10, Lanes::ALL)).map(|output| output.record).collect();
        assert_eq!(order, ["gap", "in time"]);
    }
}
