//! What waits for a connection of the reference server: a queue per lane, turns between rooms, and shares between lanes
//! and pieces of large records where they have one transport together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::credit::Gate;
use super::fragments;
use super::mutant::Mutant;
use crate::schema::v1;
use crate::target::now_ms;

/// Bytes of lane control that may wait (LC-FLOW-004).
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Bytes handed to the transport at once, so that a higher lane can overtake (LC-LANE-005).
const BATCH_BYTES: usize = 16 * 1024;

/// Of so many turns of a lane one is that of the lowest level of focus (LC-FLOW-020).
const LOWEST_EVERY: u64 = 16;
/// Tokens of lane urgent, bytes (LC-LANE-006).
const URGENT_BURST: i64 = 64 * 1024;

/// Lanes in the order in which they leave.
pub(super) const CONTROL: usize = 0;
pub(super) const URGENT: usize = 1;
pub(super) const NORMAL: usize = 2;
pub(super) const SIGNAL: usize = 3;
pub(super) const BULK: usize = 4;
/// Their values on the wire.
const WIRE: [i32; 5] = [1, 2, 3, 5, 4];
/// What a byte costs a lane that shares: 1 / its weight, as fractions of 4 (LC-LANE-007).
const COSTS: [u64; 5] = [0, 0, 1, 2, 4];

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

/// A record that leaves in pieces.
#[derive(Default)]
struct Cut {
    transfer: u64,
    out: Out,
    pieces: VecDeque<Vec<u8>>,
}

#[derive(Default)]
struct Lanes {
    queues: [VecDeque<(u64, VecDeque<Out>)>; 5],
    /// What of each lane is under way in pieces, and how many transfers there were.
    cut: [Option<Cut>; 5],
    transfers: u64,
    /// Large records leave in pieces.
    fragments: bool,
    /// What each lane that shares has had, by its costs.
    had: [u64; 5],
    /// Rooms that are not as every other: by handle, the level of the focus.
    focus: HashMap<u64, i32>,
    /// Turns that each lane had.
    turns: [u64; 5],
    /// What lets lanes under credit leave, where the client gives it.
    gate: Option<Gate>,
    /// What urgent has spent, bytes: of the burst, or more.
    urgent_spent: i64,
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
    mutant: Option<Mutant>,
}

/// What to do next.
pub(super) enum Turn {
    Send(Vec<u8>),
    Close(Vec<u8>, u16),
}

impl Outbox {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        Self { mutant, ..Self::default() }
    }

    /// Whether large records leave in pieces, on a transport that all lanes have together.
    pub(super) fn set_fragments(&self, fragments: bool) {
        let is_one = self.mutant == Some(Mutant::OneQueue);
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).fragments = fragments && !is_one;
    }

    /// What waits of a room comes before or behind the others.
    pub(super) fn set_focus(&self, room: u64, level: i32) {
        self.lock().focus.insert(room, level);
    }

    /// From now on the client says what it takes of lanes normal and bulk.
    pub(super) fn set_gate(&self, gate: Gate) {
        self.lock().gate = Some(gate);
    }

    /// Looks at, or changes, what is under way; `None`: the client gives no credit.
    pub(super) fn with_gate<T>(&self, act: impl FnOnce(&mut Gate) -> T) -> Option<T> {
        let result = self.lock().gate.as_mut().map(act);
        for ready in [&self.ready, &self.lane_ready[NORMAL], &self.lane_ready[BULK]] {
            ready.notify_one();
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, lane: usize, out: Out) {
        let one_queue = self.mutant == Some(Mutant::OneQueue);
        let lane = if one_queue { CONTROL } else { lane };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.closing.is_some() {
            return;
        }
        if lane == CONTROL && !one_queue {
            lanes.control_bytes += out.record.len();
            lanes.overflow |= lanes.control_bytes > CONTROL_BYTES_MAX;
        }
        let room = if one_queue { 0 } else { out.room };
        lanes.rejoin(lane);
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
        let aborts = self.mutant != Some(Mutant::TransfersLeft);
        for lane in URGENT..=BULK {
            if lanes.cut[lane].as_ref().is_some_and(|cut| cut.out.room == room) {
                lanes.give_up(lane, None, aborts);
            }
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
            let next = self.lock().pop_let(lane);
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
        while batch.len() < BATCH_BYTES
            && let Some(lane) = lanes.choose(self.mutant)
        {
            let record = lanes.next(lane);
            lanes.count(lane, record.len());
            lanes.sent(lane, record.len());
            batch.extend(record);
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

    fn waits(&self, lane: usize) -> bool {
        self.cut[lane].is_some() || !self.queues[lane].is_empty()
    }

    fn sharing(&self) -> impl Iterator<Item = usize> + '_ {
        (NORMAL..=BULK).filter(|lane| self.waits(*lane))
    }

    /// Whether credit lets the next record of a lane, or the next piece of it, leave.
    fn lets(&mut self, lane: usize) -> bool {
        let bytes = match &self.cut[lane] {
            Some(cut) => cut.pieces.front().map_or(0, Vec::len),
            None => {
                let turn = self.turn(lane);
                let next = turn.and_then(|place| self.queues[lane][place].1.front());
                let bytes = next.map_or(0, |out| out.record.len());
                if self.fragments { bytes.min(fragments::PIECE_BYTES_MAX) } else { bytes }
            }
        };
        bytes == 0 || self.gate.as_mut().is_none_or(|gate| gate.lets(lane, bytes))
    }

    fn sent(&mut self, lane: usize, bytes: usize) {
        if let Some(gate) = &mut self.gate {
            gate.sent(lane, bytes);
        }
    }

    /// The next record of a lane, if credit lets it leave.
    fn pop_let(&mut self, lane: usize) -> Option<Out> {
        if !self.lets(lane) {
            return None;
        }
        let out = self.pop(lane)?;
        self.sent(lane, out.record.len());
        Some(out)
    }

    /// The lane that leaves next: of those that share, the one that has had the least.
    fn choose(&mut self, mutant: Option<Mutant>) -> Option<usize> {
        let [normal, signal, bulk] = [NORMAL, SIGNAL, BULK].map(|lane| self.waits(lane) && self.lets(lane));
        let sharing = [(NORMAL, normal), (SIGNAL, signal), (BULK, bulk)];
        let mut sharing = sharing.into_iter().filter(|(_, ready)| *ready).map(|(lane, _)| lane).peekable();
        let affords = self.urgent_spent < URGENT_BURST || mutant == Some(Mutant::UrgentUnbounded);
        if self.waits(CONTROL) {
            Some(CONTROL)
        } else if self.waits(URGENT) && (affords || sharing.peek().is_none()) {
            Some(URGENT)
        } else if mutant == Some(Mutant::StrictLanes) {
            sharing.next()
        } else {
            sharing.min_by_key(|lane| self.had[*lane])
        }
    }

    /// A lane that did not wait saved nothing up.
    fn rejoin(&mut self, lane: usize) {
        if !self.waits(lane)
            && let Some(least) = self.sharing().map(|other| self.had[other]).min()
        {
            self.had[lane] = self.had[lane].max(least);
        }
    }

    fn count(&mut self, lane: usize, bytes: usize) {
        self.had[lane] += COSTS[lane] * bytes as u64;
        let bytes = bytes as i64;
        if lane == URGENT && self.sharing().next().is_some() {
            self.urgent_spent += bytes;
        }
        self.urgent_spent = (self.urgent_spent - bytes / 2).max(0);
    }

    /// The next record of a lane, or the next piece of it.
    fn next(&mut self, lane: usize) -> Vec<u8> {
        if let Some(cut) = &mut self.cut[lane] {
            let expires_at_ms = cut.out.expires_at_ms;
            if expires_at_ms != 0 && expires_at_ms <= now_ms() {
                let instead = cut.out.instead.take();
                self.give_up(lane, instead, true);
            }
        }
        if self.cut[lane].is_none() {
            let Some(out) = self.pop(lane) else { return Vec::new() };
            let is_cut = self.fragments && lane != CONTROL;
            let transfer = self.transfers + 1;
            let pieces = if is_cut { fragments::cut(transfer, WIRE[lane], &out.record) } else { Vec::new() };
            if pieces.is_empty() {
                return out.record;
            }
            self.transfers = transfer;
            self.cut[lane] = Some(Cut { transfer, out, pieces: pieces.into() });
        }
        let Some(cut) = &mut self.cut[lane] else { return Vec::new() };
        let piece = cut.pieces.pop_front().unwrap_or_default();
        if cut.pieces.is_empty() {
            self.cut[lane] = None;
        }
        piece
    }

    /// Ends a transfer early; what is due instead of it comes next.
    fn give_up(&mut self, lane: usize, instead: Option<Vec<u8>>, aborts: bool) {
        let Some(cut) = self.cut[lane].take() else { return };
        let mut record = if aborts { fragments::abort(cut.transfer, WIRE[lane]) } else { Vec::new() };
        record.extend(instead.unwrap_or_default());
        if !record.is_empty() {
            self.queues[lane].push_front((0, VecDeque::from([Out { record, ..Out::default() }])));
        }
    }

    /// Which room of a lane is next: the first of the highest level of focus, and now and then of the lowest.
    fn turn(&self, lane: usize) -> Option<usize> {
        let level = |(room, _): &(u64, _)| self.focus.get(room).copied().unwrap_or(v1::FocusLevel::Default as i32);
        let levels = || self.queues[lane].iter().map(level);
        let wanted = if (self.turns[lane] + 1).is_multiple_of(LOWEST_EVERY) { levels().min() } else { levels().max() };
        levels().position(|level| Some(level) == wanted)
    }

    /// The next record of a lane, in the turn of its room; an empty one if it expired and nothing stands for it.
    fn pop(&mut self, lane: usize) -> Option<Out> {
        let turn = self.turn(lane)?;
        self.turns[lane] += 1;
        let (room, mut queue) = self.queues[lane].remove(turn)?;
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
