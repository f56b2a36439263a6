//! The window against a simulated link: a drop-tail queue of packets, on a clock of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const SEGMENT: u64 = 1_200;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What bounds a flow.
enum Bound {
    /// The window under test, with the round trip as QUIC or as TCP tells it, below a congestion window.
    Delay { window: Box<DelayWindow>, smooths: bool, smoothed: Option<Duration>, congestion: Reno },
    /// Fills the queue until something is lost.
    Reno(Reno),
    /// Sends nothing.
    Off,
}

struct Reno {
    window: f64,
    threshold: f64,
    lost_at: Duration,
}

impl Reno {
    fn new() -> Self {
        Self { window: 10.0 * SEGMENT as f64, threshold: f64::MAX, lost_at: Duration::ZERO }
    }

    fn acked(&mut self) {
        let segment = SEGMENT as f64;
        self.window += if self.window < self.threshold { segment } else { segment * segment / self.window };
    }

    fn lost(&mut self, now: Duration, rtt: Duration) {
        if now > self.lost_at + rtt {
            self.threshold = (self.window / 2.0).max(2.0 * SEGMENT as f64);
            (self.window, self.lost_at) = (self.threshold, now);
        }
    }
}

struct Flow {
    bound: Bound,
    in_flight: u64,
    delivered: u64,
    rtt: Duration,
}

impl Flow {
    fn new(bound: Bound) -> Self {
        Self { bound, in_flight: 0, delivered: 0, rtt: Duration::ZERO }
    }

    fn paced(smooths: bool) -> Self {
        let window = Box::new(DelayWindow::new(SEGMENT, ms(if smooths { 10 } else { 12 })));
        Self::new(Bound::Delay { window, smooths, smoothed: None, congestion: Reno::new() })
    }

    fn window(&self) -> u64 {
        match &self.bound {
            Bound::Delay { window, congestion, .. } => window.window().min(congestion.window as u64),
            Bound::Reno(reno) => reno.window as u64,
            Bound::Off => 0,
        }
    }

    fn acked(&mut self, origin: Instant, now: Duration, rtt: Duration) {
        self.rtt = rtt;
        self.delivered += SEGMENT;
        let outstanding = self.in_flight;
        self.in_flight -= SEGMENT;
        match &mut self.bound {
            Bound::Delay { window, smooths, smoothed, congestion } => {
                let mean = smoothed.map_or(rtt, |mean| (mean * 7 + rtt) / 8);
                *smoothed = Some(mean);
                let rtt = if *smooths { mean } else { rtt };
                if congestion.window < window.window() as f64 {
                    congestion.acked();
                }
                window.sample(origin + now, &Sample { rtt, outstanding, delivered: self.delivered });
            }
            Bound::Reno(reno) => reno.acked(),
            Bound::Off => {}
        }
    }

    fn lost(&mut self, now: Duration) {
        self.in_flight -= SEGMENT;
        let rtt = self.rtt;
        match &mut self.bound {
            Bound::Delay { congestion, .. } => congestion.lost(now, rtt),
            Bound::Reno(reno) => reno.lost(now, rtt),
            Bound::Off => {}
        }
    }
}

/// When the sender hears of a packet, its order, its flow, when it was sent, and whether it came.
type Heard = (Duration, u64, usize, Duration, bool);

/// A link and the flows on it.
struct Link {
    origin: Instant,
    now: Duration,
    bytes_per_second: u64,
    round_trip: Duration,
    queue_bytes: u64,
    loss_per_mille: u32,
    random: u64,
    free_at: Duration,
    flows: Vec<Flow>,
    heard: BinaryHeap<Reverse<Heard>>,
    sent: u64,
    /// Queueing delay of each packet that was sent lately.
    delays: Vec<Duration>,
}

impl Link {
    fn new(mbit: f64, round_trip: Duration, queue_bytes: u64, flows: Vec<Flow>) -> Self {
        Self {
            origin: Instant::now(),
            now: Duration::ZERO,
            bytes_per_second: (mbit * 125_000.0) as u64,
            round_trip,
            queue_bytes,
            loss_per_mille: 0,
            random: 1,
            free_at: Duration::ZERO,
            flows,
            heard: BinaryHeap::new(),
            sent: 0,
            delays: Vec::new(),
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32 % 1_000 < self.loss_per_mille
    }

    fn send(&mut self, flow: usize) {
        let waits = self.free_at.saturating_sub(self.now);
        let takes = Duration::from_secs_f64(SEGMENT as f64 / self.bytes_per_second as f64);
        let queued = (waits.as_secs_f64() * self.bytes_per_second as f64) as u64;
        let comes = queued + SEGMENT <= self.queue_bytes && !self.is_lost();
        if queued + SEGMENT <= self.queue_bytes {
            self.free_at = self.now + waits + takes;
            self.delays.push(waits);
        }
        let heard_at = self.now + waits + takes + self.round_trip;
        self.flows[flow].in_flight += SEGMENT;
        self.sent += 1;
        self.heard.push(Reverse((heard_at, self.sent, flow, self.now, comes)));
    }

    /// Runs for this long; returns the bytes that each flow delivered.
    fn run(&mut self, span: Duration) -> Vec<u64> {
        let end = self.now + span;
        let before: Vec<u64> = self.flows.iter().map(|flow| flow.delivered).collect();
        self.delays.clear();
        loop {
            for flow in 0..self.flows.len() {
                while self.flows[flow].in_flight + SEGMENT <= self.flows[flow].window() {
                    self.send(flow);
                }
            }
            let Some(Reverse((at, _, flow, sent, came))) = self.heard.pop() else { break };
            self.now = at;
            match came {
                true => self.flows[flow].acked(self.origin, at, at - sent),
                false => self.flows[flow].lost(at),
            }
            if at >= end {
                break;
            }
        }
        self.flows.iter().zip(before).map(|(flow, before)| flow.delivered - before).collect()
    }

    /// Which part of the link's rate that is, in percent.
    fn used(&self, bytes: u64, span: Duration) -> u64 {
        (bytes as f64 * 100.0 / (self.bytes_per_second as f64 * span.as_secs_f64())) as u64
    }

    /// The queueing delay that this part of the packets stays within.
    fn delay(&mut self, percent: usize) -> Duration {
        self.delays.sort();
        self.delays[(self.delays.len() - 1) * percent / 100]
    }
}

/// The link of the lane bench: 10 Mbit/s, 60 ms, a queue of 100 ms.
fn bench(flows: Vec<Flow>) -> Link {
    Link::new(10.0, ms(60), 125_000, flows)
}

#[test]
fn a_link_is_full_and_its_queue_short() {
    for smooths in [false, true] {
        let mut link = bench(vec![Flow::paced(smooths)]);
        link.run(ms(2_000));
        let bytes = link.run(ms(30_000));
        assert!(link.used(bytes[0], ms(30_000)) >= 97, "full");
        assert!(link.delay(50) <= ms(27) && link.delay(99) <= ms(35), "short");
    }
    let mut without = bench(vec![Flow::new(Bound::Reno(Reno::new()))]);
    without.run(ms(2_000));
    without.run(ms(30_000));
    assert!(without.delay(50) > ms(60), "without the window the queue fills");
}

#[test]
fn the_beginning_overshoots_briefly() {
    let mut link = bench(vec![Flow::paced(true)]);
    link.run(ms(1_000));
    assert!(link.delay(100) <= ms(50));
    link.run(ms(1_000));
    assert!(link.delay(100) <= ms(30));
}

#[test]
fn losses_cost_no_more_than_below_it() {
    let goodput = |flow| {
        let mut link = bench(vec![flow]);
        link.loss_per_mille = 10;
        link.run(ms(2_000));
        let bytes = link.run(ms(60_000))[0];
        (bytes, link.delay(99))
    };
    let (without, _) = goodput(Flow::new(Bound::Reno(Reno::new())));
    for smooths in [false, true] {
        let (with, delay) = goodput(Flow::paced(smooths));
        assert!(with * 100 >= without * 95, "{with} of {without}");
        assert!(delay <= ms(35));
    }
}

#[test]
fn beside_a_flow_that_fills_the_queue_it_keeps_a_share() {
    for smooths in [false, true] {
        let mut link = bench(vec![Flow::paced(smooths), Flow::new(Bound::Off)]);
        link.run(ms(5_000));
        link.flows[1].bound = Bound::Reno(Reno::new());
        link.run(ms(5_000));
        let bytes = link.run(ms(60_000));
        assert!(link.used(bytes[0], ms(60_000)) >= 10);
        link.flows[1].bound = Bound::Off;
        link.run(ms(15_000));
        let bytes = link.run(ms(20_000));
        assert!(link.used(bytes[0], ms(20_000)) >= 95);
        assert!(link.delay(90) <= ms(35));
    }
}

#[test]
fn two_of_them_share_a_link() {
    let mut link = bench(vec![Flow::paced(false), Flow::new(Bound::Off)]);
    link.run(ms(5_000));
    link.flows[1] = Flow::paced(false);
    link.run(ms(15_000));
    let bytes = link.run(ms(60_000));
    let shares: Vec<u64> = bytes.iter().map(|bytes| link.used(*bytes, ms(60_000))).collect();
    assert!(shares.iter().sum::<u64>() >= 95 && shares.iter().all(|share| *share >= 10), "{shares:?}");
    assert!(link.delay(50) <= ms(60));
}

#[test]
fn a_longer_route_is_learned() {
    for smooths in [false, true] {
        for longer in [80, 160, 400] {
            let mut link = Link::new(10.0, ms(60), 1_000_000, vec![Flow::paced(smooths)]);
            link.run(ms(5_000));
            link.round_trip = ms(longer);
            link.run(ms(20_000));
            let bytes = link.run(ms(20_000));
            assert!(link.used(bytes[0], ms(20_000)) >= 90, "{longer} ms");
            assert!(link.delay(90) <= ms(40), "{smooths} {longer} {:?}", link.delay(90));
            link.round_trip = ms(60);
            link.run(ms(20_000));
            link.run(ms(5_000));
            assert!(link.delay(90) <= ms(40), "and a shorter one");
        }
    }
}

#[test]
fn a_slower_link_drains() {
    for smooths in [false, true] {
        let mut link = Link::new(10.0, ms(60), 1_000_000, vec![Flow::paced(smooths)]);
        link.run(ms(5_000));
        link.bytes_per_second /= 5;
        link.run(ms(5_000));
        let bytes = link.run(ms(20_000));
        assert!(link.used(bytes[0], ms(20_000)) >= 95);
        assert!(link.delay(90) <= ms(50));
        link.bytes_per_second *= 25;
        link.run(ms(5_000));
        let bytes = link.run(ms(20_000));
        assert!(link.used(bytes[0], ms(20_000)) >= 90);
    }
}

/// 1 to 100 Mbit/s, 5 to 300 ms, a queue of 100 ms to a second.
fn paths() -> impl Strategy<Value = (f64, Duration, u64)> {
    (0.0_f64..2.0, 5_u64..300, 100_u64..1_000).prop_map(|(power, round_trip, queue_ms)| {
        let mbit = 10_f64.powf(power);
        (mbit, ms(round_trip), (mbit * 125.0 * queue_ms as f64) as u64)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_path_is_full_and_its_queue_short((mbit, round_trip, queue) in paths(), smooths in any::<bool>()) {
        let mut flow = Flow::paced(smooths);
        if let Bound::Delay { congestion, .. } = &mut flow.bound {
            // What a loss at the beginning costs below is not the window's doing.
            congestion.window = f64::MAX;
        }
        let mut link = Link::new(mbit, round_trip, queue, vec![flow]);
        // The smallest window is some segments, whatever time they take, and a round is no shorter.
        let least = Duration::from_secs_f64((SEGMENTS_MIN * SEGMENT) as f64 / link.bytes_per_second as f64);
        let span = (round_trip + least) * 100;
        link.run(span);
        let bytes = link.run(span);
        prop_assert!(link.used(bytes[0], span) >= 85, "{} %", link.used(bytes[0], span));
        prop_assert!(link.delay(90) <= ms(35) + least, "{:?}", link.delay(90));
    }

    #[test]
    fn no_samples_break_it(
        samples in prop::collection::vec((0_u64..5_000, 0_u64..2_000_000, 0_u64..10_000_000, 0_u64..10_000_000), 1..500),
    ) {
        let mut window = DelayWindow::new(SEGMENT, ms(12));
        let mut now = Instant::now();
        for (passed_ms, rtt_us, outstanding, delivered) in samples {
            now += ms(passed_ms);
            window.sample(now, &Sample { rtt: Duration::from_micros(rtt_us), outstanding, delivered });
            prop_assert!(window.window() >= SEGMENTS_MIN * SEGMENT);
        }
    }
}
