//! The scheduler beside a slow model that does what the words say, and what must hold of whatever it does.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const LANES: [Lane; 5] = Lane::ALL;

/// What waits, by lane: bytes of records.
type Waiting = [VecDeque<usize>; 5];

/// One record that left.
#[derive(Clone, Copy, Debug)]
struct Left {
    lane: Lane,
    bytes: usize,
    /// Whether a shared lane waited that might leave, or was held.
    contended: bool,
}

/// The words of the module, step by step: a bucket of tokens that are given one by one, and rounds that are all walked.
struct Model {
    /// Half tokens.
    bucket: i64,
    deficits: [usize; 3],
    turn: usize,
    earned: bool,
}

impl Model {
    fn new() -> Self {
        Self { bucket: 2 * 65_536, deficits: [0; 3], turn: 0, earned: false }
    }

    fn pick(&mut self, heads: &Heads, lanes: Lanes) -> Option<Lane> {
        let ready = |lane: Lane| heads[lane.index()] > 0 && lanes.contains(lane);
        let shared = [Lane::Normal, Lane::Signal, Lane::Bulk];
        for at in 0..3 {
            if heads[shared[at].index()] == 0 {
                self.deficits[at] = 0;
            }
        }
        let others =
            shared.iter().any(|&lane| heads[lane.index()] > 0 && (lanes.contains(lane) || lanes.is_held(lane)));
        let urgent = heads[Lane::Urgent.index()];
        let lane = if ready(Lane::Control) {
            Lane::Control
        } else if ready(Lane::Urgent) && (!others || self.bucket >= (2 * urgent as i64).min(2 * 65_536)) {
            Lane::Urgent
        } else if shared.iter().any(|&lane| ready(lane)) {
            self.round_robin(heads, lanes)
        } else {
            return None;
        };
        for _ in 0..heads[lane.index()] {
            if lane == Lane::Urgent && others {
                self.bucket -= 2;
            }
        }
        for _ in 0..heads[lane.index()] {
            if self.bucket < 2 * 65_536 {
                self.bucket += 1;
            }
        }
        Some(lane)
    }

    fn round_robin(&mut self, heads: &Heads, lanes: Lanes) -> Lane {
        loop {
            let (lane, quantum) = [(Lane::Normal, 2_048), (Lane::Signal, 1_024), (Lane::Bulk, 512)][self.turn];
            let head = heads[lane.index()];
            if head > 0 && lanes.contains(lane) {
                if !self.earned {
                    self.deficits[self.turn] += quantum;
                    self.earned = true;
                }
                if head <= self.deficits[self.turn] {
                    self.deficits[self.turn] -= head;
                    return lane;
                }
            }
            self.turn = (self.turn + 1) % 3;
            self.earned = false;
        }
    }
}

/// A scheduler and what waits for it.
#[derive(Default)]
struct Line {
    scheduler: Scheduler,
    waiting: Waiting,
    left: Vec<Left>,
}

impl Line {
    fn heads(&self) -> Heads {
        LANES.map(|lane| self.waiting[lane.index()].front().copied().unwrap_or(0))
    }

    fn push(&mut self, lane: Lane, bytes: usize) {
        self.waiting[lane.index()].push_back(bytes);
    }

    fn pop(&mut self, lanes: Lanes) -> Option<Lane> {
        let heads = self.heads();
        let contended =
            SHARED.iter().any(|&(lane, _)| heads[lane.index()] > 0 && (lanes.contains(lane) || lanes.is_held(lane)));
        let lane = self.scheduler.pick(&heads, lanes)?;
        let bytes = self.waiting[lane.index()].pop_front().expect("it has a head");
        self.left.push(Left { lane, bytes, contended });
        Some(lane)
    }

    /// Keeps these lanes busy with records of these sizes until so many bytes have left; returns them by lane.
    fn saturate(&mut self, lanes: &[Lane], sizes: &[usize], bytes: usize) -> [usize; 5] {
        let mut sizes = sizes.iter().cycle();
        let (mut sums, mut left) = ([0; 5], 0);
        while left < bytes {
            for &lane in lanes {
                while self.waiting[lane.index()].len() < 2 {
                    self.push(lane, *sizes.next().expect("it cycles"));
                }
            }
            let lane = self.pop(Lanes::ALL).expect("something waits");
            let last = self.left.last().expect("it left").bytes;
            sums[lane.index()] += last;
            left += last;
        }
        sums
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..600usize, 2 => 1..5_000usize, 1 => 1..100_000usize]
}

fn some_lanes() -> impl Strategy<Value = Lanes> {
    prop_oneof![
        3 => Just(Lanes::ALL),
        2 => prop::collection::vec(0..3u8, 5).prop_map(|how| {
            let lanes = LANES.into_iter().zip(how);
            lanes.fold(Lanes::ALL, |lanes, (lane, how)| match how {
                0 => lanes.without(lane),
                1 if SHARED.iter().any(|(shared, _)| *shared == lane) => lanes.hold(lane),
                _ => lanes,
            })
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, usize),
    Pop(Lanes),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..5usize, size()).prop_map(|(lane, bytes)| Step::Push(lane, bytes)),
        some_lanes().prop_map(Step::Pop),
    ];
    prop::collection::vec(step, 1..600)
}

proptest! {
    /// The same lanes leave as in the model, strictly where they are strict, and always something if anything may.
    #[test]
    fn it_does_what_the_words_say(steps in steps()) {
        // LC-LANE-005, LC-LANE-006, LC-LANE-007
        let (mut line, mut model) = (Line::default(), Model::new());
        for step in steps {
            let lanes = match step {
                Step::Push(lane, bytes) => {
                    line.push(LANES[lane], bytes);
                    continue;
                }
                Step::Pop(lanes) => lanes,
            };
            let heads = line.heads();
            let expected = model.pick(&heads, lanes);
            let left = line.pop(lanes);
            prop_assert_eq!(left, expected);
            let may = |lane: Lane| heads[lane.index()] > 0 && lanes.contains(lane);
            if let Some(lane) = left {
                prop_assert!(may(lane));
                prop_assert!(lane == Lane::Control || !may(Lane::Control), "control is strict");
            } else {
                let only_urgent = LANES.into_iter().all(|lane| lane == Lane::Urgent || !may(lane));
                let held = SHARED.iter().any(|&(lane, _)| heads[lane.index()] > 0 && lanes.is_held(lane));
                prop_assert!(only_urgent && (!may(Lane::Urgent) || held), "the line stands still");
            }
        }
    }

    /// In every stretch in which shared lanes wait all the time urgent has its burst and half of what leaves, at most.
    #[test]
    fn urgent_keeps_to_its_bucket_in_every_window(steps in steps()) {
        // LC-LANE-006
        let mut line = Line::default();
        for step in steps {
            match step {
                Step::Push(lane, bytes) => line.push(LANES[lane], bytes),
                Step::Pop(lanes) => drop(line.pop(lanes)),
            }
        }
        while line.pop(Lanes::ALL).is_some() {}
        for from in 0..line.left.len() {
            let (mut urgent, mut all) = (0, 0);
            for left in line.left[from..].iter().take_while(|left| left.contended) {
                all += left.bytes;
                urgent += if left.lane == Lane::Urgent { left.bytes } else { 0 };
                prop_assert!(2 * urgent <= 2 * URGENT_BURST_BYTES + all, "{urgent} of {all} bytes since {from}");
            }
        }
    }

    /// Shared lanes that always wait have their weights, to within a round and a record.
    #[test]
    fn lanes_share_by_weight(
        sizes in prop::collection::vec(size(), 3..40),
        which in prop::sample::subsequence(SHARED.to_vec(), 2..=3),
        urgent in any::<bool>(),
    ) {
        // LC-LANE-007
        let mut lanes: Vec<Lane> = which.iter().map(|(lane, _)| *lane).collect();
        if urgent {
            lanes.push(Lane::Urgent);
        }
        let sums = Line::default().saturate(&lanes, &sizes, 8 << 20);
        let shared: usize = which.iter().map(|(lane, _)| sums[lane.index()]).sum();
        let weights: usize = which.iter().map(|(_, weight)| weight).sum();
        let slack = 2 * sizes.iter().max().unwrap() + 4 * 2_048;
        for (lane, weight) in which {
            let fair = shared * weight / weights;
            prop_assert!(sums[lane.index()].abs_diff(fair) <= slack, "{lane:?} has {sums:?}, fair is {fair}");
        }
    }

    /// A record at the head of a shared lane waits for no more than its weight says, whatever the others send.
    #[test]
    fn nobody_starves(sizes in prop::collection::vec(size(), 3..40), bytes in size(), at in 0..3usize) {
        let mut line = Line::default();
        let (lane, weight) = SHARED[at];
        let mut others = LANES.to_vec();
        others.retain(|other| *other != lane && *other != Lane::Control);
        line.saturate(&others, &sizes, 1 << 20);
        line.push(lane, bytes);
        let largest = *sizes.iter().max().unwrap();
        let rounds = bytes.div_ceil(weight * QUANTUM_BYTES) + 1;
        let others_max = rounds * (7 - weight) * QUANTUM_BYTES + 3 * largest;
        let all_max = 2 * others_max + 2 * URGENT_BURST_BYTES + 2 * largest;
        let (mut shared, mut all) = (0, 0);
        while !line.waiting[lane.index()].is_empty() {
            line.saturate(&others, &sizes, 1);
            let left = line.left.last().expect("one left");
            if left.lane != lane {
                all += left.bytes;
                shared += if left.lane == Lane::Urgent { 0 } else { left.bytes };
            }
            prop_assert!(shared <= others_max, "{shared} bytes of shared lanes, {others_max} are fair");
            prop_assert!(all <= all_max, "{all} bytes in all, {all_max} are fair");
        }
    }
}

#[test]
fn urgent_beyond_its_half_leaves_the_others_theirs() {
    // LC-LANE-006
    let sums = Line::default().saturate(&[Lane::Urgent, Lane::Normal, Lane::Bulk], &[500, 3_000, 60_000], 64 << 20);
    let share = |lane: Lane| sums[lane.index()] as f64 / sums.iter().sum::<usize>() as f64;
    assert!((share(Lane::Urgent) - 0.5).abs() < 0.01, "{sums:?}");
    assert!((share(Lane::Normal) - 0.4).abs() < 0.01, "{sums:?}");
    assert!((share(Lane::Bulk) - 0.1).abs() < 0.01, "{sums:?}");
}

#[test]
fn a_spare_urgent_message_leaves_at_once() {
    // LC-LANE-005
    let mut line = Line::default();
    for round in 0..10_000 {
        line.push(Lane::Normal, 500);
        line.push(Lane::Bulk, 4_000);
        assert_ne!(line.pop(Lanes::ALL), None);
        if round % 4 == 0 {
            line.push(Lane::Urgent, 200);
            assert_eq!(line.pop(Lanes::ALL), Some(Lane::Urgent), "round {round}");
        }
    }
}

#[test]
fn urgent_that_nobody_waits_beside_is_free() {
    let mut line = Line::default();
    line.push(Lane::Normal, 100);
    for _ in 0..100 {
        line.push(Lane::Urgent, 50_000);
        assert_eq!(line.pop(Lanes::ALL.without(Lane::Normal)), Some(Lane::Urgent), "normal could not leave anyway");
    }
    line.push(Lane::Urgent, 60_000);
    assert_eq!(line.pop(Lanes::ALL), Some(Lane::Urgent), "the bucket is still full");
}

#[test]
fn urgent_waits_for_lanes_that_wait_for_room() {
    // LC-LANE-006
    let mut line = Line::default();
    let held = Lanes::ALL.hold(Lane::Normal).hold(Lane::Signal).hold(Lane::Bulk);
    line.push(Lane::Normal, 1_000);
    let mut urgent = 0;
    line.push(Lane::Urgent, 1_000);
    while line.pop(held).is_some() {
        urgent += 1_000;
        line.push(Lane::Urgent, 1_000);
    }
    assert!((2 * URGENT_BURST_BYTES - 2_000..=2 * URGENT_BURST_BYTES).contains(&urgent), "{urgent}");
    line.push(Lane::Control, 10);
    assert_eq!(line.pop(held), Some(Lane::Control));
    assert_eq!(line.pop(Lanes::ALL), Some(Lane::Normal), "there is room again, and it is its turn");
}

#[test]
fn a_lane_that_may_not_leave_keeps_its_place_and_earns_nothing() {
    let mut line = Line::default();
    let without_bulk = Lanes::ALL.without(Lane::Bulk);
    line.push(Lane::Bulk, 10_000);
    for _ in 0..1_000 {
        line.push(Lane::Normal, 1_000);
        assert_eq!(line.pop(without_bulk), Some(Lane::Normal));
    }
    let mut before = 0;
    loop {
        line.push(Lane::Normal, 1_000);
        match line.pop(Lanes::ALL) {
            Some(Lane::Normal) => before += 1_000,
            other => break assert_eq!(other, Some(Lane::Bulk)),
        }
    }
    assert!((32_000..=44_000).contains(&before), "four times 10,000, not at once and not after all: {before}");
}
