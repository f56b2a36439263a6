//! The client's queue of durable publishes: numbered, in order, and kept until they are settled.
//!
//! Within a room and lane publishes reach the log in the order in which the application made them, over refusals,
//! give-ups and reconnects: each names in `after` the highest earlier number that is still unsettled, and the log
//! refuses it while that one is missing (LC-PUB-020, LC-PUB-026, LC-PUB-027).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

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

/// Rooms whose numbers a publisher remembers: forgetting one would let its numbers begin anew.
const ROOMS_MAX: usize = 10_000;

/// Bounds of the queue. A publish beyond them is refused to the application, which alone knows what to drop.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Publishes in the queue.
    pub items_max: usize,
    /// Bytes of their envelopes.
    pub bytes_max: usize,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full")]
pub struct OutboxFull;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
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
    ttl_ms: u32,
    /// When the application no longer wants it, monotonic ms.
    give_up_at_ms: u64,
    progress: Progress,
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
}

impl Queue {
    fn due(&self, now_ms: u64) -> Option<usize> {
        if self.not_before_ms > now_ms {
            return None;
        }
        let at = self.entries.iter().position(|entry| !entry.progress.is_in_flight())?;
        (at == 0 || self.entries[at].progress == Progress::Waiting).then_some(at)
    }

    /// Sends an entry; returns it and the number before it.
    fn send(&mut self, at: usize, id: u32) -> (&Entry, u64) {
        if at == 0 {
            // What was refused after it may follow it again.
            for entry in self.entries.iter_mut().filter(|entry| entry.progress == Progress::OutOfOrder) {
                entry.progress = Progress::Waiting;
            }
        }
        let after = if at > 0 { self.entries[at - 1].number } else { 0 };
        let entry = &mut self.entries[at];
        entry.progress = Progress::InFlight { id };
        (entry, after)
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
    settled: VecDeque<(Ticket, Settled)>,
    items: usize,
    bytes: usize,
}

impl Publisher {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            rooms: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            settled: VecDeque::new(),
            items: 0,
            bytes: 0,
        }
    }

    /// Queues a publish.
    ///
    /// # Errors
    /// [`OutboxFull`] beyond the bounds.
    pub fn push(
        &mut self,
        ticket: Ticket,
        room: &str,
        lane: DurableLane,
        envelope: Bytes,
        ttl_ms: u32,
        give_up_at_ms: u64,
    ) -> Result<(), OutboxFull> {
        let known = self.rooms.contains_key(room);
        if self.items >= self.bounds.items_max
            || self.bytes + envelope.len() > self.bounds.bytes_max
            || (!known && self.rooms.len() >= ROOMS_MAX)
        {
            return Err(OutboxFull);
        }
        self.items += 1;
        self.bytes += envelope.len();
        if !known {
            self.rooms.insert(room.to_owned(), PerLane::default());
        }
        let queue = &mut self.rooms.get_mut(room).expect("it was just inserted")[lane];
        queue.last_number += 1;
        let number = queue.last_number;
        queue.will_give_up(give_up_at_ms);
        queue.entries.push_back(Entry { ticket, number, envelope, ttl_ms, give_up_at_ms, progress: Progress::Waiting });
        Ok(())
    }

    /// The next publish to send, under a request id that `next_id` makes: urgent rooms first, each room in its
    /// order. `in_flight_max` is the node's limit.
    pub fn poll(
        &mut self,
        now_ms: u64,
        in_flight_max: usize,
        next_id: impl FnOnce() -> u32,
    ) -> Option<(u32, v1::Publish)> {
        if self.in_flight.len() >= in_flight_max {
            return None;
        }
        let (room, lane, at) = DurableLane::ALL.into_iter().find_map(|lane| {
            self.rooms.iter().find_map(|(room, lanes)| Some((room.clone(), lane, lanes[lane].due(now_ms)?)))
        })?;
        let queue = &mut self.rooms.get_mut(&room)?[lane];
        let id = next_id();
        let (entry, after) = queue.send(at, id);
        let publish = v1::Publish {
            room: room.clone(),
            lane: v1::Lane::from(lane).into(),
            delivery: v1::Delivery::Durable.into(),
            number: entry.number,
            after,
            ttl_ms: entry.ttl_ms,
            ack: v1::AckLevel::Stored.into(),
            envelope: entry.envelope.clone(),
        };
        self.in_flight.insert(id, (room, lane));
        Some((id, publish))
    }

    /// Takes an answer. Returns false if the id is not one of a publish.
    pub fn published(&mut self, id: u32, published: v1::Published) -> bool {
        let Some((room, lane)) = self.in_flight.remove(&id) else { return false };
        self.settle(&room, lane, id, Settled::Stored(published));
        true
    }

    /// Takes a refusal. Returns false if the id is not one of a publish.
    pub fn refused(&mut self, now_ms: u64, id: u32, error: &v1::Error) -> bool {
        let Some((room, lane)) = self.in_flight.remove(&id) else { return false };
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
                    let at_ms = entry.give_up_at_ms;
                    queue.will_give_up(at_ms);
                }
                if !out_of_order {
                    queue.not_before_ms = now_ms + u64::from(error.retry_after_ms.max(50));
                }
            }
        }
        true
    }

    fn settle(&mut self, room: &str, lane: DurableLane, id: u32, settled: Settled) {
        let Some(queue) = self.rooms.get_mut(room).map(|lanes| &mut lanes[lane]) else { return };
        let Some(at) = queue.entries.iter().position(|entry| entry.progress == Progress::InFlight { id }) else {
            return;
        };
        if let Some(entry) = queue.entries.remove(at) {
            self.items -= 1;
            self.bytes -= entry.envelope.len();
            self.settled.push_back((entry.ticket, settled));
        }
    }

    /// The connection is gone: what was in flight waits to be sent again, in order, under the same numbers.
    pub fn disconnected(&mut self) {
        self.in_flight.clear();
        for queue in self.rooms.values_mut().flat_map(|lanes| &mut lanes.0) {
            queue.not_before_ms = 0;
            queue.give_up_from_ms = queue.entries.iter().map(|entry| entry.give_up_at_ms).min();
            for entry in &mut queue.entries {
                entry.progress = Progress::Waiting;
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
                let over = !entry.progress.is_in_flight() && entry.give_up_at_ms <= now_ms;
                if over {
                    self.items -= 1;
                    self.bytes -= entry.envelope.len();
                    self.settled.push_back((entry.ticket, Settled::GivenUp));
                }
                !over
            });
            let waiting = queue.entries.iter().filter(|entry| !entry.progress.is_in_flight());
            queue.give_up_from_ms = waiting.map(|entry| entry.give_up_at_ms).min();
        }
    }

    /// When something becomes due or may have to be given up, monotonic ms.
    pub fn poll_timeout(&self, now_ms: u64) -> Option<u64> {
        let queues = self.rooms.values().flat_map(|lanes| &lanes.0).filter(|queue| !queue.entries.is_empty());
        queues
            .filter_map(|queue| {
                let due = (queue.not_before_ms > now_ms).then_some(queue.not_before_ms);
                [queue.give_up_from_ms, due].into_iter().flatten().min()
            })
            .min()
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
mod tests {
    use super::*;
    use DurableLane::{Normal, Urgent};

    struct Fixture {
        publisher: Publisher,
        id: u32,
    }

    impl Fixture {
        fn new(pushes: &[DurableLane]) -> Self {
            let mut publisher = Publisher::new(Bounds { items_max: 8, bytes_max: 1000 });
            for (at, lane) in pushes.iter().enumerate() {
                publisher.push(Ticket(at as u64), "r", *lane, Bytes::from("x"), 0, 1000).unwrap();
            }
            Self { publisher, id: 0 }
        }

        fn sent(&mut self, now_ms: u64) -> Vec<(u32, u64, u64)> {
            std::iter::from_fn(|| {
                let id = self.id + 1;
                let (id, publish) = self.publisher.poll(now_ms, 4, || id)?;
                self.id = id;
                Some((id, publish.number, publish.after))
            })
            .collect()
        }

        fn error(&mut self, now_ms: u64, id: u32, code: Code, retry_after_ms: u32) {
            let error = v1::Error { code: code.number().into(), retry_after_ms, ..Default::default() };
            assert!(self.publisher.refused(now_ms, id, &error));
        }
    }

    #[test]
    fn each_names_the_unsettled_number_before_it() {
        // LC-PUB-026
        let mut fixture = Fixture::new(&[Normal, Normal, Normal]);
        assert_eq!(fixture.sent(0), [(1, 1, 0), (2, 2, 1), (3, 3, 2)]);
        fixture.publisher.published(1, v1::Published::default());
        fixture.publisher.disconnected();
        assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
    }

    #[test]
    fn a_refusal_for_good_is_skipped_and_the_rest_sent_in_order() {
        // LC-PUB-027
        let mut fixture = Fixture::new(&[Normal, Normal, Normal]);
        fixture.sent(0);
        fixture.error(0, 1, Code::MessageTooLarge, 0);
        fixture.error(0, 2, Code::OutOfOrder, 0);
        fixture.error(0, 3, Code::OutOfOrder, 0);
        assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
        assert!(matches!(fixture.publisher.poll_settled(), Some((Ticket(0), Settled::Refused { code: 4306, .. }))));
    }

    #[test]
    fn what_came_out_of_order_waits_for_the_answers_before_it() {
        // LC-PUB-027
        let mut fixture = Fixture::new(&[Normal, Normal, Normal]);
        fixture.sent(0);
        fixture.error(0, 2, Code::OutOfOrder, 0);
        assert_eq!(fixture.sent(0), [], "the first is not answered: sending on would only be refused again");
        fixture.error(0, 3, Code::OutOfOrder, 0);
        fixture.publisher.published(1, v1::Published::default());
        assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
    }

    #[test]
    fn a_refusal_for_now_waits_as_long_as_it_says() {
        let mut fixture = Fixture::new(&[Normal]);
        fixture.sent(0);
        fixture.error(0, 1, Code::Unavailable, 300);
        assert_eq!(fixture.sent(299), []);
        assert_eq!(fixture.publisher.poll_timeout(0), Some(300));
        assert_eq!(fixture.sent(300), [(2, 1, 0)]);
    }

    #[test]
    fn urgent_overtakes_and_the_window_holds() {
        let mut fixture = Fixture::new(&[Normal, Normal, Urgent, Normal, Normal]);
        assert_eq!(fixture.sent(0), [(1, 1, 0), (2, 1, 0), (3, 2, 1), (4, 3, 2)]);
    }

    #[test]
    fn the_outbox_is_bounded_and_gives_up() {
        let mut fixture = Fixture::new(&[Normal; 8]);
        assert_eq!(fixture.publisher.push(Ticket(9), "r", Normal, Bytes::new(), 0, 0), Err(OutboxFull));
        fixture.publisher.handle_timeout(1000);
        assert_eq!(fixture.publisher.unsettled(), 0);
        assert_eq!(std::iter::from_fn(|| fixture.publisher.poll_settled()).count(), 8);
        // Numbers go on; what was given up is settled and is not named in `after`.
        fixture.publisher.push(Ticket(9), "r", Normal, Bytes::new(), 0, 2000).unwrap();
        assert_eq!(fixture.sent(1000), [(1, 9, 0)]);
    }
}
