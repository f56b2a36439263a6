//! What a publisher keeps until it is answered: numbers, `after`, and sending again in order (LC-PUB-026, LC-PUB-027).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::faults::history::{Lane, Payload};

/// Publishes of a stream sent and not answered, at most: a stream does not take the whole connection.
const IN_FLIGHT_OF_STREAM: usize = 32;
/// How long to wait where a refusal for now names no time.
const RETRY: Duration = Duration::from_millis(50);

/// A durable publish on its way.
struct Item {
    payload: Payload,
    first_us: u64,
    ttl_ms: u64,
    /// Sent on the present connection and not answered.
    since: Option<Instant>,
    sent_before: bool,
}

/// The publishes of one room and lane.
struct Stream {
    room: u16,
    lane: Lane,
    number: u32,
    items: VecDeque<Item>,
    in_flight: usize,
    /// Refused for now: nothing is sent until all that is in flight was answered and this time has come.
    held_until: Option<Instant>,
}

/// A publish to send.
pub(super) struct ToSend {
    pub id: u32,
    pub payload: Payload,
    pub after: u64,
    pub ttl_ms: u64,
    pub first_us: u64,
    pub again: bool,
}

/// All unanswered publishes of a client.
pub(super) struct Outbox {
    client: u16,
    streams: Vec<Stream>,
    /// By request id: stream and number.
    waiting: HashMap<u32, (usize, u32)>,
    /// Transients by request id.
    transients: HashMap<u32, Payload>,
    transient_numbers: HashMap<(u16, Lane), u32>,
    next_id: u32,
    len: usize,
    len_max: usize,
    first: usize,
}

impl Outbox {
    /// An outbox that refuses new publishes beyond `len_max`.
    pub(super) fn new(client: u16, rooms: &[u16], len_max: usize) -> Self {
        let streams = rooms.iter().flat_map(|room| Lane::ALL.map(|lane| (*room, lane)));
        let stream =
            |(room, lane)| Stream { room, lane, number: 0, items: VecDeque::new(), in_flight: 0, held_until: None };
        Self {
            client,
            streams: streams.map(stream).collect(),
            waiting: HashMap::new(),
            transients: HashMap::new(),
            transient_numbers: HashMap::new(),
            // Below are the ids of the handshake and of Subscribe.
            next_id: 1_000_000,
            len: 0,
            len_max,
            first: 0,
        }
    }

    /// Unanswered durable publishes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a durable publish; false: it is full, as an application would be told.
    pub(super) fn push(&mut self, room: u16, lane: Lane, first_us: u64, ttl_ms: u64) -> bool {
        let client = self.client;
        let stream = self.streams.iter_mut().find(|stream| stream.room == room && stream.lane == lane);
        let Some(stream) = stream.filter(|_| self.len < self.len_max) else { return false };
        stream.number += 1;
        let payload = Payload { client, room, lane, transient: false, number: stream.number };
        stream.items.push_back(Item { payload, first_us, ttl_ms, since: None, sent_before: false });
        self.len += 1;
        true
    }

    /// A transient publish; it is not kept.
    pub(super) fn transient(&mut self, room: u16, lane: Lane, first_us: u64) -> ToSend {
        let number = self.transient_numbers.entry((room, lane)).or_default();
        *number += 1;
        let payload = Payload { client: self.client, room, lane, transient: true, number: *number };
        self.next_id += 1;
        self.transients.insert(self.next_id, payload);
        ToSend { id: self.next_id, payload, after: 0, ttl_ms: 0, first_us, again: false }
    }

    /// The connection is gone: everything unanswered is sent again, in order.
    pub(super) fn disconnected(&mut self) {
        self.waiting.clear();
        self.transients.clear();
        for stream in &mut self.streams {
            stream.in_flight = 0;
            stream.held_until = None;
            stream.items.iter_mut().for_each(|item| item.since = None);
        }
    }

    /// What may be sent now, while at most `in_flight_max` publishes wait for their answers.
    pub(super) fn due(&mut self, now: Instant, in_flight_max: usize) -> Vec<ToSend> {
        let mut due = Vec::new();
        let count = self.streams.len().max(1);
        // Streams take turns at being first, so that a full connection starves none.
        self.first = (self.first + 1) % count;
        for index in (0..count).map(|index| (index + self.first) % count) {
            let Some(stream) = self.streams.get_mut(index) else { break };
            if let Some(until) = stream.held_until {
                if stream.in_flight > 0 || now < until {
                    continue;
                }
                stream.held_until = None;
            }
            let mut after = 0;
            for item in &mut stream.items {
                if self.waiting.len() + self.transients.len() >= in_flight_max
                    || stream.in_flight >= IN_FLIGHT_OF_STREAM
                {
                    break;
                }
                if item.since.is_none() {
                    self.next_id += 1;
                    self.waiting.insert(self.next_id, (index, item.payload.number));
                    let Item { payload, first_us, ttl_ms, sent_before: again, .. } = *item;
                    due.push(ToSend { id: self.next_id, payload, after, ttl_ms, first_us, again });
                    (item.since, item.sent_before) = (Some(now), true);
                    stream.in_flight += 1;
                }
                after = u64::from(item.payload.number);
            }
        }
        due
    }

    /// The oldest publish that waits for its answer was sent then.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.streams.iter().flat_map(|stream| stream.items.front()).filter_map(|item| item.since).min()
    }

    /// Published came; returns what it was about.
    pub(super) fn published(&mut self, id: u32) -> Option<Payload> {
        if let Some(payload) = self.transients.remove(&id) {
            return Some(payload);
        }
        let (index, number) = self.waiting.remove(&id)?;
        self.settle(index, number)
    }

    /// An Error came; returns what it was about. Refused for good: it is settled; for now: it is sent again.
    pub(super) fn refused(&mut self, id: u32, code: u32, retry_after_ms: u32, now: Instant) -> Option<Payload> {
        if let Some(payload) = self.transients.remove(&id) {
            return Some(payload);
        }
        let (index, number) = self.waiting.remove(&id)?;
        if !(4400..4500).contains(&code) {
            return self.settle(index, number);
        }
        let stream = self.streams.get_mut(index)?;
        let item = stream.items.iter_mut().find(|item| item.payload.number == number)?;
        item.since = None;
        stream.in_flight = stream.in_flight.saturating_sub(1);
        let wait = RETRY.max(Duration::from_millis(retry_after_ms.into()));
        stream.held_until = stream.held_until.max(Some(now + wait));
        Some(item.payload)
    }

    fn settle(&mut self, index: usize, number: u32) -> Option<Payload> {
        let stream = self.streams.get_mut(index)?;
        let place = stream.items.iter().position(|item| item.payload.number == number)?;
        let item = stream.items.remove(place)?;
        stream.in_flight = stream.in_flight.saturating_sub(1);
        self.len -= 1;
        Some(item.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(due: &[ToSend]) -> Vec<(u32, u64)> {
        due.iter().map(|due| (due.payload.number, due.after)).collect()
    }

    #[test]
    fn refused_publishes_are_sent_again_in_order() {
        let mut outbox = Outbox::new(0, &[0], 3);
        for _ in 0..3 {
            assert!(outbox.push(0, Lane::Normal, 0, 0));
        }
        assert!(!outbox.push(0, Lane::Normal, 0, 0), "full");
        let now = Instant::now();
        let first = outbox.due(now, 10);
        assert_eq!(sent(&first), [(1, 0), (2, 1), (3, 2)]);
        outbox.refused(first[1].id, 4401, 0, now);
        outbox.refused(first[2].id, 4402, 0, now);
        assert!(outbox.due(now + RETRY, 10).is_empty(), "1 is still in flight");
        assert_eq!(outbox.published(first[0].id).unwrap().number, 1);
        assert!(outbox.due(now, 10).is_empty(), "it is not time yet");
        let second = outbox.due(now + RETRY, 10);
        assert_eq!(sent(&second), [(2, 0), (3, 2)]);
        assert!(second.iter().all(|sent| sent.again));
        outbox.refused(second[0].id, 4300, 0, now);
        assert_eq!(outbox.len(), 1, "refused for good is settled");
        outbox.disconnected();
        assert_eq!(sent(&outbox.due(now, 10)), [(3, 0)]);
    }
}
