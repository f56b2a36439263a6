//! What travels between a node and a client of the model.

use std::collections::VecDeque;

use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::v1;

/// How far above the lowest urgent seq in flight a node starts another one (law 2).
const URGENT_WINDOW: u64 = 64;

/// A frame from a node.
#[derive(Clone, Debug)]
pub enum Down {
    /// With the id of the Subscribe that it answers; 0: unasked.
    Subscribed(u32, Box<v1::Subscribed>),
    Event {
        handle: u64,
        seq: u64,
        payload: u64,
    },
    Gap(v1::Gap),
    Published {
        id: u32,
        published: v1::Published,
    },
    Refused {
        id: u32,
        error: v1::Error,
    },
}

impl Down {
    fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Event { seq, .. } => Some((*seq, *seq)),
            Self::Gap(gap) => Some((gap.from, gap.to)),
            _ => None,
        }
    }
}

/// A frame from a client.
#[derive(Clone, Debug)]
pub enum Up {
    Subscribe(u32, v1::start::At),
    Publish { id: u32, publish: v1::Publish, instance: u64 },
}

/// What is in flight on one connection. Each lane keeps its order and overtakes the others; without `ordered`, urgent
/// frames overtake each other too, as messages on QUIC streams do.
#[derive(Clone, Debug)]
pub struct Link {
    pub ordered: bool,
    pub control_down: VecDeque<Down>,
    pub lanes_down: PerLane<VecDeque<Down>>,
    pub control_up: VecDeque<Up>,
    pub lanes_up: PerLane<VecDeque<Up>>,
}

impl Link {
    pub fn new(ordered: bool) -> Self {
        Self {
            ordered,
            control_down: VecDeque::new(),
            lanes_down: PerLane::default(),
            control_up: VecDeque::new(),
            lanes_up: PerLane::default(),
        }
    }

    /// Takes a frame of a lane that may arrive next; `pick` chooses among several.
    pub fn arrive(&mut self, lane: DurableLane, pick: usize) -> Option<Down> {
        let queue = &mut self.lanes_down[lane];
        if self.ordered || lane != DurableLane::Urgent {
            return queue.pop_front();
        }
        let mut lowest = u64::MAX;
        let mut started = 0;
        for frame in queue.iter().take(32) {
            let Some((from, to)) = frame.range() else { break };
            lowest = lowest.min(from);
            if to >= lowest + URGENT_WINDOW {
                break;
            }
            started += 1;
        }
        queue.remove(if started == 0 { 0 } else { pick % started })
    }

    pub fn is_empty(&self) -> bool {
        self.control_down.is_empty()
            && self.control_up.is_empty()
            && self.lanes_down.iter().all(|(_, queue)| queue.is_empty())
            && self.lanes_up.iter().all(|(_, queue)| queue.is_empty())
    }
}

pub fn position_of(frame: &v1::Subscribed) -> Position {
    Position::try_from(frame.position.as_ref().unwrap()).unwrap()
}
