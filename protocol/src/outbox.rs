//! The queue between a session and its transport: one FIFO per lane.
//!
//! Between lanes the order is strict (control, urgent, normal, signal, bulk). This is the seam for a scheduler with
//! budgets and turns: it would replace [`Outbox::pop`] and nothing else.
//!
//! Only queues of ours can reorder, expire and conflate, so a transport takes no more than it can write now.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::lane::Lane;

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
}

/// The outbox of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    lanes: [VecDeque<Bytes>; 5],
    bytes: [usize; 5],
}

impl Outbox {
    /// Queues a record. Bounds are the caller's, who knows what to do when full: see [`Self::bytes`].
    pub fn push(&mut self, lane: Lane, record: Bytes) {
        self.bytes[lane.index()] += record.len();
        self.lanes[lane.index()].push_back(record);
    }

    /// The next record to send.
    pub fn pop(&mut self) -> Option<Output> {
        let lane = Lane::ALL.into_iter().find(|lane| !self.lanes[lane.index()].is_empty())?;
        let queue = &mut self.lanes[lane.index()];
        let record = queue.pop_front()?;
        if queue.is_empty() && queue.capacity() > 8 {
            // An idle connection keeps no room for the burst that it once had.
            *queue = VecDeque::new();
        }
        self.bytes[lane.index()] -= record.len();
        Some(Output { route: Route::of(lane), lane, record })
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
        for (lane, text) in
            [(Lane::Bulk, "b1"), (Lane::Normal, "n1"), (Lane::Urgent, "u1"), (Lane::Normal, "n2"), (Lane::Control, "c1")]
        {
            outbox.push(lane, Bytes::from(text));
        }
        assert_eq!(outbox.bytes(Lane::Normal), 4);
        let order: Vec<_> = std::iter::from_fn(|| outbox.pop()).map(|output| output.record).collect();
        assert_eq!(order, ["c1", "u1", "n1", "n2", "b1"]);
        assert!(outbox.is_empty());
        assert_eq!(Lane::ALL.map(|lane| outbox.bytes(lane)), [0; 5]);
    }
}
