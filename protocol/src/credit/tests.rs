//! A sender and a receiver over a simulated link: a rate, a delay each way, and a queue without an end.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::pace::{GAP_MS_MAX, QUEUE_MS};
use super::*;

/// What a link is like.
#[derive(Clone, Copy, Debug)]
struct Link {
    bytes_per_ms: u64,
    one_way_ms: u64,
}

/// One direction with Credit coming back, on lane bulk. The sender never runs out of records.
struct World {
    link: Link,
    now_ms: u64,
    rng: SmallRng,
    sizes: std::ops::RangeInclusive<usize>,
    gate: Gate,
    meter: Meter,
    next: usize,
    /// Bytes in the queue before the link, and the bytes of the first record of it that have left.
    queue: VecDeque<u64>,
    queued: u64,
    left: u64,
    /// On the way: arrival, and the size of a record that is complete then.
    data: VecDeque<(u64, u64)>,
    credits: VecDeque<(u64, v1::Credit)>,
    delivered: u64,
    /// How long the queue was longer than it should be.
    over_ms: u64,
}

impl World {
    fn new(seed: u64, link: Link, window: u64, sizes: std::ops::RangeInclusive<usize>) -> Self {
        let mut meter = Meter::default();
        meter.tell(window);
        let mut rng = SmallRng::seed_from_u64(seed);
        Self {
            link,
            now_ms: 1,
            next: rng.random_range(sizes.clone()),
            rng,
            sizes,
            gate: Gate::counting(),
            meter,
            queue: VecDeque::new(),
            queued: 0,
            left: 0,
            data: VecDeque::new(),
            credits: VecDeque::new(),
            delivered: 0,
            over_ms: 0,
        }
    }

    /// Sends what may be sent, and checks that it may.
    fn send(&mut self) {
        while self.gate.lanes(|_| self.next).contains(Lane::Bulk) {
            let (window, _) = self.gate.bounds(Lane::Bulk).unwrap();
            let before = self.gate.under_way(Lane::Bulk);
            self.gate.sent(self.now_ms, Lane::Bulk, self.next);
            let after = self.gate.under_way(Lane::Bulk);
            assert!(before <= UNCOUNTED_BYTES || after <= window, "{before}, then {after} under way of {window}");
            self.queue.push_back(self.next as u64);
            self.queued += self.next as u64;
            self.next = self.rng.random_range(self.sizes.clone());
        }
    }

    fn tick(&mut self) {
        self.send();
        let mut room = self.link.bytes_per_ms;
        while let Some(size) = self.queue.front().copied()
            && room > 0
        {
            let part = room.min(size - self.left);
            room -= part;
            self.left += part;
            self.queued -= part;
            if self.left == size {
                self.left = 0;
                self.queue.pop_front();
                self.data.push_back((self.now_ms + self.link.one_way_ms, size));
            }
        }
        self.over_ms += u64::from(self.queued > queue_max(self.link, *self.sizes.end() as u64));
        self.now_ms += 1;
        while let Some((at_ms, size)) = self.data.front().copied()
            && at_ms <= self.now_ms
        {
            self.data.pop_front();
            self.delivered += size;
            self.meter.consumed(self.now_ms, Lane::Bulk, size as usize);
            self.tell();
        }
        self.meter.handle_timeout(self.now_ms);
        self.tell();
        while let Some((at_ms, credit)) = self.credits.front().copied()
            && at_ms <= self.now_ms
        {
            self.credits.pop_front();
            self.gate.credit(self.now_ms, &credit).expect("an honest receiver");
        }
    }

    fn tell(&mut self) {
        while let Some(credit) = self.meter.poll(self.now_ms) {
            self.credits.push_back((self.now_ms + self.link.one_way_ms, credit));
        }
    }

    /// Lets time pass; the bytes delivered meanwhile.
    fn run(&mut self, ms: u64) -> u64 {
        let before = self.delivered;
        (0..ms).for_each(|_| self.tick());
        self.delivered - before
    }

    /// Lets time pass, in which the path must be busy and the queue short, but for moments: after the path was emptied
    /// to be measured, what fills it comes at once.
    fn check(&mut self, ms: u64) {
        self.over_ms = 0;
        let (delivered, carried, link) = (self.run(ms), self.link.bytes_per_ms * ms, self.link);
        assert!(delivered >= carried * 9 / 10, "{delivered} of {carried} bytes over {link:?}");
        assert!(self.over_ms <= ms / 20, "for {} of {ms} ms the queue of {link:?} was too long", self.over_ms);
    }
}

fn links() -> impl Strategy<Value = Link> {
    (20u64..12_500, 0u64..150).prop_map(|(bytes_per_ms, one_way_ms)| Link { bytes_per_ms, one_way_ms })
}

/// The longest queue that a link may have once the sender knows it.
fn queue_max(link: Link, record: u64) -> u64 {
    let Link { bytes_per_ms, one_way_ms } = link;
    let carried = bytes_per_ms * 2 * one_way_ms;
    // Where the least bound is more than the path carries, that much stands in it and looks like the path.
    let stands = OWN_BYTES_MIN.saturating_sub(carried);
    // A quarter of all that is under way is what the rate may be taken for too much.
    carried / 4 + bytes_per_ms * (QUEUE_MS + GAP_MS_MAX) * 5 / 4 + stands + record
}

proptest! {
    // The same links each time: how much is carried is a measurement, and one of a thousand links may be an odd one.
    #![proptest_config(ProptestConfig { cases: 32, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn a_path_is_kept_busy_and_its_queue_short(seed: u64, link in links(), size in 64usize..16_384) {
        // LC-FLOW-010
        let mut world = World::new(seed, link, 64 * WINDOW_BYTES, 1..=size);
        world.run(5_000);
        world.check(25_000);
    }

    #[test]
    fn a_path_that_changes_is_found_again(seed: u64, first in links(), second in links()) {
        // LC-FLOW-010
        let mut world = World::new(seed, first, 64 * WINDOW_BYTES, 1..=1_500);
        world.run(15_000);
        world.link = second;
        // What is under way has to come through first.
        world.run(35_000 + 2 * world.queued / second.bytes_per_ms);
        world.check(10_000);
    }

    #[test]
    fn nothing_waits_for_ever(seed: u64, link in links(), window in 0u64..200_000, size in 1usize..262_144) {
        // LC-FLOW-010
        let mut world = World::new(seed, link, window, 1..=size);
        let records_ms = (2 * size as u64 + FIRST_BYTES) / link.bytes_per_ms;
        for _ in 0..10 {
            let longest_ms = records_ms + 2 * link.one_way_ms + 200;
            prop_assert!(world.run(longest_ms) > 0, "nothing in {longest_ms} ms");
        }
    }
}

fn credit(lane: v1::Lane, consumed: u64, window: u64) -> v1::Credit {
    v1::Credit { lane: lane.into(), consumed, window }
}

#[test]
fn nothing_is_counted_unless_both_named_it() {
    // LC-FRM-011
    let mut gate = Gate::default();
    gate.sent(1, Lane::Bulk, 1 << 20);
    assert_eq!(gate.lanes(|_| 1 << 20), Lanes::ALL);
    assert_eq!(gate.credit(2, &credit(v1::Lane::Bulk, 5, 0)), Ok(None));
    let mut meter = Meter::default();
    meter.consumed(1, Lane::Bulk, 1 << 20);
    assert_eq!((meter.poll(1), meter.poll_timeout()), (None, None));
}

#[test]
fn before_the_first_credit_64_kib_are_under_way() {
    // LC-FLOW-010
    let mut gate = Gate::counting();
    gate.set_window(Some(u64::MAX));
    gate.sent(1, Lane::Bulk, 60_000);
    assert!(gate.lanes(|_| 5_536).contains(Lane::Bulk));
    assert!(!gate.lanes(|_| 5_537).contains(Lane::Bulk));
    assert!(gate.lanes(|_| 5_537).contains(Lane::Normal), "each lane by itself");
    assert!(gate.lanes(|_| 1 << 20).contains(Lane::Urgent), "the others are not counted");
    assert_eq!(gate.credit(2, &credit(v1::Lane::Bulk, 10_000, 200_000)), Ok(Some(Lane::Bulk)));
    assert!(gate.lanes(|_| 150_000).contains(Lane::Bulk));
    assert_eq!(gate.credit(3, &credit(v1::Lane::Urgent, 7, 0)), Ok(None));
}

#[test]
fn the_path_bounds_what_the_receiver_would_take() {
    let mut gate = Gate::counting();
    gate.set_window(Some(50_000));
    gate.credit(1, &credit(v1::Lane::Normal, 0, 1 << 20)).unwrap();
    gate.sent(1, Lane::Normal, 100_000);
    assert!(!gate.lanes(|_| 1).contains(Lane::Normal));
    gate.set_window(Some(50_001));
    assert!(gate.lanes(|_| 1).contains(Lane::Normal));
}

#[test]
fn credit_that_cannot_be_is_a_breach() {
    // LC-FLOW-010
    let mut gate = Gate::counting();
    gate.sent(1, Lane::Normal, 100);
    gate.credit(2, &credit(v1::Lane::Normal, 60, 1000)).unwrap();
    for consumed in [59, 101, u64::MAX] {
        let fault = gate.credit(3, &credit(v1::Lane::Normal, consumed, 1000)).unwrap_err();
        assert_eq!(fault.code, Code::Protocol);
    }
    assert_eq!(gate.credit(3, &credit(v1::Lane::Normal, 60, 2000)), Ok(None), "only the window is new");
}

#[test]
fn a_receiver_tells_soon_but_not_of_each_event() {
    // LC-FLOW-010
    let mut meter = Meter::default();
    meter.tell(WINDOW_BYTES);
    meter.consumed(100, Lane::Normal, 4_000);
    assert_eq!((meter.poll(100), meter.poll_timeout()), (None, None));
    meter.consumed(120, Lane::Normal, 96);
    assert_eq!((meter.poll(120), meter.poll_timeout()), (None, Some(150)));
    meter.handle_timeout(150);
    assert_eq!(meter.poll_timeout(), None, "it waits for its turn on control");
    assert_eq!(meter.poll(201), Some(credit(v1::Lane::Normal, 4_096, WINDOW_BYTES)));
    meter.consumed(202, Lane::Bulk, 20_000);
    assert_eq!(meter.poll(202).map(|credit| credit.consumed), Some(20_000), "worth one of its own");
    meter.consumed(203, Lane::Bulk, 20_000);
    assert_eq!((meter.poll(203), meter.poll_timeout()), (None, Some(212)));
    meter.consumed(204, Lane::Bulk, 300_000);
    assert_eq!(meter.poll(204).map(|credit| credit.consumed), Some(340_000), "a quarter of the window");
}
