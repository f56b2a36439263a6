//! What waits for a connection of the reference server: a queue per lane, turns between rooms, and strict between lanes
//! where they share one transport.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::target::now_ms;

/// Bytes of lane control that may wait (LC-FLOW-004).
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Bytes handed to the transport at once, so that a higher lane can overtake (LC-LANE-005).
const BATCH_BYTES: usize = 16 * 1024;

/// Lanes in the order in which they leave.
pub(super) const CONTROL: usize = 0;
pub(super) const URGENT: usize = 1;
pub(super) const SIGNAL: usize = 3;
pub(super) const BULK: usize = 4;

/// A record that waits.
#[derive(Clone, Default)]
pub(super) struct Out {
    pub record: Vec<u8>,
    /// When it expires, and what is then sent instead.
    pub expires_at_ms: u64,
    pub instead: Option<Vec<u8>>,
    /// Which queue of the lane: the room's handle.
    pub room: u64,
    /// What a newer one replaces.
    pub key: Option<String>,
    /// The durable event's seq, or the first that a gap covers.
    pub seq: u64,
}

#[derive(Default)]
struct Lanes {
    queues: [VecDeque<(u64, VecDeque<Out>)>; 5],
    control_bytes: usize,
    /// Set once: Error record and code. Nothing is queued after it.
    closing: Option<(Vec<u8>, u16)>,
    overflow: bool,
}

/// The outbox of one connection.
#[derive(Default)]
pub(super) struct Outbox {
    lanes: Mutex<Lanes>,
    /// Something waits on any lane, or the connection closes.
    ready: Notify,
    /// Something waits on that lane.
    lane_ready: [Notify; 5],
    /// Lanes are ignored.
    one_queue: bool,
}

/// What to do next.
pub(super) enum Turn {
    Send(Vec<u8>),
    Close(Vec<u8>, u16),
}

impl Outbox {
    pub(super) fn new(one_queue: bool) -> Self {
        Self { one_queue, ..Self::default() }
    }

    pub(super) fn push(&self, lane: usize, out: Out) {
        let lane = if self.one_queue { CONTROL } else { lane };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.closing.is_some() {
            return;
        }
        if lane == CONTROL && !self.one_queue {
            lanes.control_bytes += out.record.len();
            lanes.overflow |= lanes.control_bytes > CONTROL_BYTES_MAX;
        }
        let room = if self.one_queue { 0 } else { out.room };
        let queues = &mut lanes.queues[lane];
        match queues.iter_mut().find(|(key, _)| *key == room) {
            Some((_, queue)) => {
                if out.key.is_some() {
                    queue.retain(|waiting| waiting.key != out.key);
                }
                queue.push_back(out);
            }
            None => queues.push_back((room, VecDeque::from([out]))),
        }
        drop(lanes);
        self.ready.notify_one();
        self.lane_ready[lane].notify_one();
    }

    /// Drops what waits and then closes.
    pub(super) fn close(&self, error: Vec<u8>, code: u16) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.closing.get_or_insert((error, code));
        drop(lanes);
        self.ready.notify_one();
        self.lane_ready[CONTROL].notify_one();
    }

    pub(super) fn overflowed(&self) -> bool {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).overflow
    }

    /// Ends the queue of a room.
    pub(super) fn forget(&self, room: u64) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for queues in &mut lanes.queues[1..] {
            queues.retain(|(key, _)| *key != room);
        }
    }

    /// Waits for something to do.
    pub(super) async fn turn(&self) -> Turn {
        loop {
            if let Some(turn) = self.next() {
                return turn;
            }
            self.ready.notified().await;
        }
    }

    /// Waits for something to do on lane control alone, where the others have streams of their own.
    pub(super) async fn control_turn(&self) -> Turn {
        loop {
            {
                let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = lanes.drain(CONTROL, usize::MAX);
                match lanes.closing.clone() {
                    Some((error, code)) => {
                        bytes.extend_from_slice(&error);
                        return Turn::Close(bytes, code);
                    }
                    None if !bytes.is_empty() => return Turn::Send(bytes),
                    None => {}
                }
            }
            self.lane_ready[CONTROL].notified().await;
        }
    }

    /// Waits for the next record of a lane. What expired meanwhile gives way to what stands for it.
    pub(super) async fn lane_turn(&self, lane: usize) -> Out {
        loop {
            let next = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop(lane);
            match next {
                Some(out) if !out.record.is_empty() => return out,
                Some(_) => {}
                None => self.lane_ready[lane].notified().await,
            }
        }
    }

    fn next(&self) -> Option<Turn> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((error, code)) = lanes.closing.clone() {
            // Answers of lane control that were made before the fault still leave.
            let mut bytes = lanes.drain(CONTROL, usize::MAX);
            bytes.extend_from_slice(&error);
            return Some(Turn::Close(bytes, code));
        }
        let mut batch = Vec::new();
        for lane in 0..lanes.queues.len() {
            let more = lanes.drain(lane, BATCH_BYTES.saturating_sub(batch.len()));
            batch.extend(more);
            if batch.len() >= BATCH_BYTES {
                break;
            }
        }
        (!batch.is_empty()).then_some(Turn::Send(batch))
    }
}

impl Lanes {
    fn drain(&mut self, lane: usize, bytes_max: usize) -> Vec<u8> {
        let mut batch = Vec::new();
        while batch.len() < bytes_max {
            let Some(out) = self.pop(lane) else { break };
            batch.extend(out.record);
        }
        batch
    }

    /// The next record of a lane, in the turn of its room; an empty one if it expired and nothing stands for it.
    fn pop(&mut self, lane: usize) -> Option<Out> {
        let (room, mut queue) = self.queues[lane].pop_front()?;
        let mut out = queue.pop_front().unwrap_or_default();
        if !queue.is_empty() {
            self.queues[lane].push_back((room, queue));
        }
        if lane == CONTROL {
            self.control_bytes = self.control_bytes.saturating_sub(out.record.len());
        }
        if out.expires_at_ms != 0 && out.expires_at_ms <= now_ms() {
            out.record = out.instead.take().unwrap_or_default();
        }
        Some(out)
    }
}

/// Outboxes by connection.
pub(super) type Outboxes = HashMap<u64, std::sync::Arc<Outbox>>;
