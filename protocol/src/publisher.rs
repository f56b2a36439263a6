//! The client's queue of durable publishes: numbered, in order, and kept until they are settled.
//!
//! Within a room and lane publishes reach the log in the order in which the application made them, over refusals,
//! give-ups and reconnects: each names in `after` the highest earlier number that is still unsettled, and the log
//! refuses it while that one is missing (LC-PUB-020, LC-PUB-026, LC-PUB-027).
//!
//! The queue may be the image of an outbox that outlives the process ([`Publisher::outlive`]). Then the owner writes each
//! publish down before it may be sent, and each end of one that was not stored before anything is sent after it: a
//! process that dies in between finds in its outbox what the node may have seen, and nothing that contradicts it.

mod copies;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use self::copies::{Copied, Copies};
use crate::codes::{Action, Code, action_of};
use crate::position::{DurableLane, PerLane};
use crate::v1;

/// Names a publish towards the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How a publish ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// It is stored.
    Stored(v1::Published),
    /// It was refused for good.
    Refused {
        /// Number from the table of codes.
        code: u32,
        /// One sentence for developers.
        detail: String,
    },
    /// Its time in the outbox ran out. If it was sent before, it may be stored all the same.
    GivenUp,
}

/// Rooms whose numbers a publisher remembers; beyond it those without a publish are forgotten, and all numbers go on
/// above theirs.
const ROOMS_MAX: usize = 10_000;

/// Bounds of the queue. A publish beyond them is refused to the application, which alone knows what to drop.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Publishes in the queue.
    pub items_max: usize,
    /// Bytes of their envelopes.
    pub bytes_max: usize,
}

/// What a publish asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Until when the event lives, monotonic ms; `None`: for ever.
    pub expires_at_ms: Option<u64>,
    /// What has to be true before it counts as stored.
    pub ack: v1::AckLevel,
    /// When the application no longer wants it sent, monotonic ms.
    pub give_up_at_ms: u64,
    /// When it asked for it, monotonic ms; `None`: in an earlier process.
    pub asked_at_ms: Option<u64>,
}

impl Terms {
    /// Whether it is too late to send it.
    fn is_over(&self, now_ms: u64) -> bool {
        self.give_up_at_ms <= now_ms || self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}

/// A time to live as it is said on the wire, where 0 is for ever.
pub fn ttl_ms(left_ms: u64) -> u32 {
    u32::try_from(left_ms).unwrap_or(u32::MAX).max(1)
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full")]
pub struct OutboxFull;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not yet in the outbox that outlives the process: must not be sent, since its number may be used again after a kill.
    Unwritten,
    Waiting,
    /// Refused because an earlier one is missing: waits until all before it are answered, or until they are sent again.
    OutOfOrder,
    InFlight {
        id: u32,
    },
}

impl Progress {
    fn is_in_flight(self) -> bool {
        matches!(self, Self::InFlight { .. })
    }
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    number: u64,
    envelope: Bytes,
    terms: Terms,
    progress: Progress,
    /// When it was last sent, monotonic ms.
    sent_at_ms: u64,
    copied: Copied,
}

impl Entry {
    fn new(ticket: Ticket, number: u64, envelope: Bytes, terms: Terms, progress: Progress) -> Self {
        Self { ticket, number, envelope, terms, progress, sent_at_ms: 0, copied: Copied::No }
    }

    /// What is sent now.
    fn publish(&self, room: &str, lane: DurableLane, after: u64, now_ms: u64, node_ahead_ms: i64) -> v1::Publish {
        let Terms { expires_at_ms, asked_at_ms, ack, .. } = self.terms;
        v1::Publish {
            room: room.to_owned(),
            lane: v1::Lane::from(lane).into(),
            delivery: v1::Delivery::Durable.into(),
            number: self.number,
            after,
            // What it waited here it does not live at the node.
            ttl_ms: expires_at_ms.map_or(0, |at_ms| ttl_ms(at_ms.saturating_sub(now_ms))),
            ack: ack.into(),
            envelope: self.envelope.clone(),
            asked_at_ms: asked_at_ms.map_or(0, |asked| asked.saturating_add_signed(node_ahead_ms)),
        }
    }
}

/// The publishes of one room and lane.
#[derive(Debug, Default)]
struct Queue {
    /// By number.
    entries: VecDeque<Entry>,
    last_number: u64,
    /// The node asked to wait until then, monotonic ms.
    not_before_ms: u64,
    /// No entry that waits is given up before then, monotonic ms; `None`: none at all. A bound, so that a long queue is
    /// not searched at every input.
    give_up_from_ms: Option<u64>,
    /// Ends other than by being stored that are not yet written down. Nothing is sent meanwhile: it would say in `after`
    /// that the ended one is over, and were that forgotten, a later answer *duplicate* would say that it is stored.
    ends_unwritten: usize,
}

impl Queue {
    fn due(&self, now_ms: u64) -> Option<usize> {
        if self.not_before_ms > now_ms || self.ends_unwritten > 0 {
            return None;
        }
        let at = self.entries.iter().position(|entry| !entry.progress.is_in_flight())?;
        if self.entries[at].terms.give_up_at_ms <= now_ms {
            // Late is not sent (L8); it is given up as soon as time is looked at.
            return None;
        }
        match self.entries[at].progress {
            Progress::Waiting => Some(at),
            Progress::OutOfOrder => (at == 0).then_some(at),
            Progress::Unwritten | Progress::InFlight { .. } => None,
        }
    }

    /// Sends an entry; returns it and the number before it.
    fn send(&mut self, at: usize, id: u32, now_ms: u64) -> (&Entry, u64) {
        if at == 0 {
            // What was refused after it may follow it again.
            for entry in self.entries.iter_mut().filter(|entry| entry.progress == Progress::OutOfOrder) {
                entry.progress = Progress::Waiting;
            }
        }
        let after = if at > 0 { self.entries[at - 1].number } else { 0 };
        let entry = &mut self.entries[at];
        (entry.progress, entry.sent_at_ms, entry.copied) = (Progress::InFlight { id }, now_ms, Copied::No);
        (entry, after)
    }

    fn push(&mut self, entry: Entry) {
        self.last_number = entry.number;
        self.will_give_up(entry.terms.give_up_at_ms);
        self.entries.push_back(entry);
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.number).ok()
    }

    /// Nothing would be lost by forgetting it but the last number.
    fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.ends_unwritten == 0
    }

    fn will_give_up(&mut self, at_ms: u64) {
        self.give_up_from_ms = Some(self.give_up_from_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
    }
}

/// The client's queue of durable publishes.
#[derive(Debug)]
pub struct Publisher {
    bounds: Bounds,
    rooms: BTreeMap<String, PerLane<Queue>>,
    in_flight: BTreeMap<u32, (String, DurableLane)>,
    /// The room that sent last in each lane.
    turns: PerLane<String>,
    settled: VecDeque<(Ticket, Settled)>,
    items: usize,
    bytes: usize,
    /// No number up to it is given out (again).
    floor: u64,
    /// The owner keeps it in an outbox that outlives the process.
    outlives: bool,
    /// The node's clock less monotonic time, ms, as far as it is known.
    node_ahead_ms: i64,
    copies: Copies,
}

impl Publisher {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            rooms: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            turns: PerLane::default(),
            settled: VecDeque::new(),
            items: 0,
            bytes: 0,
            floor: 0,
            outlives: false,
            node_ahead_ms: 0,
            copies: Copies::default(),
        }
    }

    /// The queue is kept in an outbox that outlives the process and gave out numbers up to `floor` before. From now on
    /// the owner says of each publish that it is [written](Self::written) or [withdrawn](Self::withdraw), and of each
    /// that ended without being stored that its [end is written](Self::end_written).
    pub fn outlive(&mut self, floor: u64) {
        self.outlives = true;
        self.floor = self.floor.max(floor);
    }

    /// Queues a publish; returns its number.
    ///
    /// # Errors
    /// [`OutboxFull`] beyond the bounds.
    pub fn push(
        &mut self,
        ticket: Ticket,
        room: &str,
        lane: DurableLane,
        envelope: Bytes,
        terms: Terms,
    ) -> Result<u64, OutboxFull> {
        if self.items >= self.bounds.items_max || self.bytes + envelope.len() > self.bounds.bytes_max {
            return Err(OutboxFull);
        }
        if !self.rooms.contains_key(room) {
            self.forget_idle_rooms();
            if self.rooms.len() >= ROOMS_MAX {
                return Err(OutboxFull);
            }
        }
        self.items += 1;
        self.bytes += envelope.len();
        let progress = if self.outlives { Progress::Unwritten } else { Progress::Waiting };
        let floor = self.floor;
        let queue = self.queue(room, lane);
        let number = queue.last_number.max(floor) + 1;
        queue.push(Entry::new(ticket, number, envelope, terms, progress));
        Ok(number)
    }

    /// Queues again what an earlier process left in the outbox, under its number. The bounds are not asked, since they
    /// were when it was taken.
    pub fn restore(
        &mut self,
        ticket: Ticket,
        room: &str,
        lane: DurableLane,
        number: u64,
        envelope: Bytes,
        terms: Terms,
    ) {
        self.items += 1;
        self.bytes += envelope.len();
        self.queue(room, lane).push(Entry::new(ticket, number, envelope, terms, Progress::Waiting));
    }

    /// A publish is in the outbox that outlives the process, and may be sent.
    pub fn written(&mut self, room: &str, lane: DurableLane, number: u64) {
        let queue = self.queue(room, lane);
        if let Some(at) = queue.find(number)
            && queue.entries[at].progress == Progress::Unwritten
        {
            queue.entries[at].progress = Progress::Waiting;
        }
    }

    /// A publish could not be written: it is as if it had never been queued. False if it has ended already.
    pub fn withdraw(&mut self, room: &str, lane: DurableLane, number: u64) -> bool {
        let queue = self.queue(room, lane);
        let Some(entry) = queue.find(number).and_then(|at| queue.entries.remove(at)) else { return false };
        self.items -= 1;
        self.bytes -= entry.envelope.len();
        true
    }

    /// The end of a publish that was not stored is written down.
    pub fn end_written(&mut self, room: &str, lane: DurableLane) {
        let queue = self.queue(room, lane);
        queue.ends_unwritten = queue.ends_unwritten.saturating_sub(1);
    }

    fn queue(&mut self, room: &str, lane: DurableLane) -> &mut Queue {
        if !self.rooms.contains_key(room) {
            self.rooms.insert(room.to_owned(), PerLane::default());
        }
        &mut self.rooms.get_mut(room).expect("it was just inserted")[lane]
    }

    /// Makes room for further rooms. Numbers only ever rise, so nothing of the forgotten ones is used again.
    fn forget_idle_rooms(&mut self) {
        if self.rooms.len() < ROOMS_MAX {
            return;
        }
        let floor = &mut self.floor;
        self.rooms.retain(|_, lanes| {
            let is_idle = lanes.0.iter().all(Queue::is_idle);
            if is_idle {
                *floor = lanes.0.iter().map(|queue| queue.last_number).fold(*floor, u64::max);
            }
            !is_idle
        });
    }

    /// Says by how much the node's clock is ahead of monotonic time, ms.
    pub fn set_node_ahead(&mut self, ahead_ms: i64) {
        self.node_ahead_ms = ahead_ms;
    }

    /// The next publish to send, under a request id that `next_id` makes: of lanes that have room, urgent first; inside a
    /// lane rooms take turns, each in its order. `in_flight_max` is the node's limit, of which each lane leaves a quarter
    /// to those above it, or a bulk import would make urgent ones wait for its answers.
    pub fn poll(
        &mut self,
        now_ms: u64,
        in_flight_max: usize,
        has_room: impl Fn(DurableLane) -> bool,
        next_id: impl FnOnce() -> u32,
    ) -> Option<(u32, v1::Publish)> {
        let in_flight = self.in_flight.len();
        let may = |lane: DurableLane| in_flight + lane.index() * (in_flight_max / 4) < in_flight_max && has_room(lane);
        let mut lanes = DurableLane::ALL.into_iter().filter(|lane| may(*lane));
        let (room, lane, at) = lanes.find_map(|lane| self.next_due(now_ms, lane))?;
        self.turns[lane].clone_from(&room);
        let queue = &mut self.rooms.get_mut(&room)?[lane];
        let id = next_id();
        let (entry, after) = queue.send(at, id, now_ms);
        let publish = entry.publish(&room, lane, after, now_ms, self.node_ahead_ms);
        self.in_flight.insert(id, (room, lane));
        Some((id, publish))
    }

    /// The room whose turn it is in a lane, and its next publish.
    fn next_due(&self, now_ms: u64, lane: DurableLane) -> Option<(String, DurableLane, usize)> {
        let last = self.turns[lane].as_str();
        let after = self.rooms.range::<str, _>((Bound::Excluded(last), Bound::Unbounded));
        let rooms = after.chain(self.rooms.range::<str, _>((Bound::Unbounded, Bound::Included(last))));
        let mut due = rooms.filter_map(|(room, lanes)| Some((room, lanes[lane].due(now_ms)?)));
        due.next().map(|(room, at)| (room.clone(), lane, at))
    }

    /// Takes an answer. Returns false if the id is not one of a publish.
    pub fn published(&mut self, now_ms: u64, id: u32, published: v1::Published) -> bool {
        let Some((room, lane)) = self.in_flight.remove(&id) else { return false };
        self.copies.ended(id);
        if lane == DurableLane::Urgent
            && let Some(entry) = self.rooms.get(&room).and_then(|lanes| lanes[lane].entries.front())
            && entry.progress == (Progress::InFlight { id })
        {
            self.copies.answered(now_ms.saturating_sub(entry.sent_at_ms));
        }
        self.settle(&room, lane, id, Settled::Stored(published));
        true
    }

    /// Takes a refusal. Returns false if the id is not one of a publish.
    pub fn refused(&mut self, now_ms: u64, id: u32, error: &v1::Error) -> bool {
        let Some((room, lane)) = self.in_flight.remove(&id) else { return false };
        self.copies.ended(id);
        let queue = self.rooms.get_mut(&room).map(|lanes| &mut lanes[lane]);
        if let Some(first) = queue.and_then(|queue| queue.entries.front_mut())
            && first.copied == Copied::As(id)
        {
            first.copied = Copied::Never;
            return true;
        }
        match action_of(error.code) {
            Action::Stop | Action::NewToken => {
                let settled = Settled::Refused { code: error.code, detail: error.detail.clone() };
                self.settle(&room, lane, id, settled);
            }
            Action::Retry | Action::RetryAfter => {
                let Some(queue) = self.rooms.get_mut(&room).map(|lanes| &mut lanes[lane]) else { return true };
                // OUT_OF_ORDER follows an earlier refusal and is cured by sending in order: no need to wait for a time.
                let out_of_order = error.code == u32::from(Code::OutOfOrder.number());
                if let Some(entry) = queue.entries.iter_mut().find(|entry| entry.progress == Progress::InFlight { id })
                {
                    entry.progress = if out_of_order { Progress::OutOfOrder } else { Progress::Waiting };
                    let at_ms = entry.terms.give_up_at_ms;
                    queue.will_give_up(at_ms);
                }
                if !out_of_order {
                    queue.not_before_ms = now_ms + u64::from(error.retry_after_ms.max(50));
                }
            }
        }
        true
    }

    /// A publish that was taken to be sent was not, since its time to live ran out first. Returns false if the id is not
    /// one of a publish.
    pub fn expired(&mut self, id: u32) -> bool {
        let Some((room, lane)) = self.in_flight.remove(&id) else { return false };
        self.settle(&room, lane, id, Settled::GivenUp);
        true
    }

    fn settle(&mut self, room: &str, lane: DurableLane, id: u32, settled: Settled) {
        let Some(queue) = self.rooms.get_mut(room).map(|lanes| &mut lanes[lane]) else { return };
        let Some(at) = queue.entries.iter().position(|entry| entry.is_sent_as(id)) else {
            return;
        };
        if let Some(entry) = queue.entries.remove(at) {
            if self.outlives && !matches!(settled, Settled::Stored(_)) {
                queue.ends_unwritten += 1;
            }
            self.items -= 1;
            self.bytes -= entry.envelope.len();
            self.settled.push_back((entry.ticket, settled));
        }
    }

    /// The connection is gone: what was in flight waits to be sent again, in order, under the same numbers.
    pub fn disconnected(&mut self) {
        self.in_flight.clear();
        self.copies.disconnected();
        for queue in self.rooms.values_mut().flat_map(|lanes| &mut lanes.0) {
            queue.not_before_ms = 0;
            queue.give_up_from_ms = queue.entries.iter().map(|entry| entry.terms.give_up_at_ms).min();
            for entry in queue.entries.iter_mut().filter(|entry| entry.progress != Progress::Unwritten) {
                (entry.progress, entry.copied) = (Progress::Waiting, Copied::No);
            }
        }
    }

    /// Gives up what waited too long.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        for queue in self.rooms.values_mut().flat_map(|lanes| &mut lanes.0) {
            if queue.give_up_from_ms.is_none_or(|from_ms| from_ms > now_ms) {
                continue;
            }
            // Entries in flight are left alone: their answer says more than a time-out could.
            queue.entries.retain(|entry| {
                let over = !entry.progress.is_in_flight() && entry.terms.give_up_at_ms <= now_ms;
                if over {
                    queue.ends_unwritten += usize::from(self.outlives);
                    self.items -= 1;
                    self.bytes -= entry.envelope.len();
                    self.settled.push_back((entry.ticket, Settled::GivenUp));
                }
                !over
            });
            let waiting = queue.entries.iter().filter(|entry| !entry.progress.is_in_flight());
            queue.give_up_from_ms = waiting.map(|entry| entry.terms.give_up_at_ms).min();
        }
    }

    /// When something becomes due after `drained_ms`, is overdue, or may have to be given up, monotonic ms.
    pub fn poll_timeout(&self, drained_ms: u64) -> Option<u64> {
        let queues = self.rooms.values().flat_map(|lanes| &lanes.0).filter(|queue| !queue.entries.is_empty());
        let queues = queues.filter_map(|queue| {
            let due = (queue.not_before_ms > drained_ms).then_some(queue.not_before_ms);
            [queue.give_up_from_ms, due].into_iter().flatten().min()
        });
        queues.chain(self.next_overdue()).min()
    }

    /// The next publish that ended.
    pub fn poll_settled(&mut self) -> Option<(Ticket, Settled)> {
        self.settled.pop_front()
    }

    /// Publishes that are not settled.
    pub fn unsettled(&self) -> usize {
        self.items
    }
}

#[cfg(test)]
mod tests;
