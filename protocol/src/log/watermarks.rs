//! Publish numbers: which were used, so that a retry is stored once and pipelined publishes keep their order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::position::{DurableLane, PerLane};

/// How long a publisher is remembered after its last publish: longer than any outbox keeps one (LC-PUB-024).
pub const WATERMARK_MS: u64 = 24 * 60 * 60 * 1000;
/// Publishers remembered per room. When full, the one that was silent longest is forgotten, and counted: refusing
/// newcomers instead would let one user with many instances close the room for a day.
pub const PUBLISHERS_MAX: usize = 10_000;
/// Numbers per publisher and lane whose seq and order are remembered: as many as may be in flight.
pub const NUMBERS_REMEMBERED_MAX: usize = 256;

/// Whose publish numbers they are (LC-PUB-022).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Publisher {
    /// The user.
    pub user: String,
    /// The instance of the client.
    pub instance: String,
}

pub(super) enum Judgement {
    New,
    OutOfOrder,
    /// With seq and order where they are still known.
    Used(Option<(u64, u64)>),
}

/// The numbers of one publisher in one lane.
#[derive(Clone, Debug, Default)]
struct Watermark {
    /// The highest number stored.
    number: u64,
    /// (number, seq, order) of the newest ones, by number.
    recent: VecDeque<(u64, u64, u64)>,
}

#[derive(Clone, Debug)]
struct Entry {
    lanes: PerLane<Watermark>,
    /// Key into `by_age`.
    age: (u64, u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Watermarks {
    /// Keys are shared and entries boxed: a node of a map has room for eleven, and most rooms have one publisher.
    publishers: BTreeMap<Arc<Publisher>, Box<Entry>>,
    /// Publishers by the time of their last publish; the serial tells apart those of one millisecond.
    by_age: BTreeMap<(u64, u64), Arc<Publisher>>,
    serial: u64,
    evicted: u64,
    cost: usize,
}

impl Watermarks {
    /// A publisher whose watermark expired is judged like one that never published: its watermark is 0.
    pub(super) fn judge(
        &mut self,
        now_ms: u64,
        publisher: &Publisher,
        lane: DurableLane,
        number: u64,
        after: u64,
    ) -> Judgement {
        self.expire(now_ms);
        let watermark = self.publishers.get(publisher).map(|entry| &entry.lanes[lane]);
        let highest = watermark.map_or(0, |watermark| watermark.number);
        if number <= highest {
            let found = watermark.and_then(|watermark| {
                let at = watermark.recent.binary_search_by_key(&number, |(number, ..)| *number).ok()?;
                watermark.recent.get(at)
            });
            Judgement::Used(found.map(|(_, seq, order)| (*seq, *order)))
        } else if after > highest {
            Judgement::OutOfOrder
        } else {
            Judgement::New
        }
    }

    pub(super) fn store(
        &mut self,
        now_ms: u64,
        publisher: Publisher,
        lane: DurableLane,
        number: u64,
        (seq, order): (u64, u64),
    ) {
        self.serial += 1;
        let age = (now_ms, self.serial);
        let publisher = match self.publishers.get_key_value(&publisher) {
            Some((known, _)) => Arc::clone(known),
            None => {
                self.make_room();
                self.cost += cost(&publisher);
                let publisher = Arc::new(publisher);
                let entry = Entry { lanes: PerLane::default(), age };
                self.publishers.insert(Arc::clone(&publisher), Box::new(entry));
                publisher
            }
        };
        let Some(entry) = self.publishers.get_mut(&publisher) else { return };
        self.by_age.remove(&entry.age);
        entry.age = age;
        let watermark = &mut entry.lanes[lane];
        watermark.number = number;
        watermark.recent.push_back((number, seq, order));
        self.cost += NUMBER_BYTES;
        if watermark.recent.len() > NUMBERS_REMEMBERED_MAX {
            watermark.recent.pop_front();
            self.cost -= NUMBER_BYTES;
        }
        self.by_age.insert(age, publisher);
    }

    fn make_room(&mut self) {
        if self.publishers.len() < PUBLISHERS_MAX {
            return;
        }
        if let Some((_, silent)) = self.by_age.pop_first() {
            self.forget(&silent);
            self.evicted += 1;
        }
    }

    fn forget(&mut self, publisher: &Publisher) {
        if let Some(entry) = self.publishers.remove(publisher) {
            let numbers: usize = entry.lanes.iter().map(|(_, watermark)| watermark.recent.len()).sum();
            self.cost -= cost(publisher) + numbers * NUMBER_BYTES;
        }
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((age, _)) = self.by_age.first_key_value()
            && age.0.saturating_add(WATERMARK_MS) <= now_ms
        {
            if let Some((_, silent)) = self.by_age.pop_first() {
                self.forget(&silent);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publishers.is_empty()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }
}

/// Bytes of one remembered number.
const NUMBER_BYTES: usize = size_of::<(u64, u64, u64)>();

/// Bytes of one publisher.
fn cost(publisher: &Publisher) -> usize {
    publisher.user.len() + publisher.instance.len() + 320
}
