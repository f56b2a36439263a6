//! The one log behind the nodes, with the truth about it: what it ever stored, and what it lost.

use std::collections::{BTreeMap, BTreeSet};

use lanecast_protocol::log::{Append, Outcome, Retention, RoomLog, epoch_candidate};
use lanecast_protocol::position::{DurableLane, PerLane, Position};

const SNAPSHOTS_MAX: usize = 6;

#[derive(Clone)]
struct State {
    log: RoomLog,
    /// The life of the store in which the log's epoch was opened.
    life: u64,
    /// The payload of each seq.
    truth: PerLane<Vec<u64>>,
}

pub struct Store {
    state: State,
    /// The present life: another one after every restart and promotion.
    life: u64,
    snapshots: Vec<State>,
    /// What (epoch, lane, seq) ever named.
    pub names: BTreeMap<(u64, DurableLane, u64), u64>,
    /// Payloads that a rollback took.
    pub lost: BTreeSet<u64>,
    /// Highest seq of each lane that was ever trimmed.
    pub trimmed: PerLane<u64>,
    retention: Retention,
}

impl Store {
    pub fn new(now_ms: u64, retention: Retention) -> Self {
        let log = RoomLog::new(epoch_candidate(now_ms, 0), retention);
        Self {
            state: State { log, life: 0, truth: PerLane::default() },
            life: 0,
            snapshots: Vec::new(),
            names: BTreeMap::new(),
            lost: BTreeSet::new(),
            trimmed: PerLane::default(),
            retention,
        }
    }

    pub fn log(&self) -> &RoomLog {
        &self.state.log
    }

    pub fn truth(&self) -> &PerLane<Vec<u64>> {
        &self.state.truth
    }

    /// What every script does first: a node that sees another life than the log's opens an epoch. Returns whether it
    /// did.
    pub fn contact(&mut self, now_ms: u64, seen: &[Position]) -> bool {
        let opened = self.state.life != self.life;
        if opened {
            self.state.log.open_epoch(epoch_candidate(now_ms, 0), seen);
            self.state.life = self.life;
        } else {
            self.state.log.raise_lost_through(seen);
        }
        self.state.log.trim(now_ms);
        self.note_trimmed();
        opened
    }

    pub fn append(&mut self, now_ms: u64, append: Append, payload: u64) -> Result<Outcome, String> {
        let lane = append.lane;
        let outcome = self.state.log.append(now_ms, append);
        if let Outcome::Stored(numbers) = outcome {
            let truth = &mut self.state.truth;
            if truth.iter().any(|(_, payloads)| payloads.contains(&payload)) {
                return Err(format!("publish {payload} is stored twice"));
            }
            truth[lane].push(payload);
            if truth[lane].len() as u64 != numbers.seq {
                return Err(format!("{lane} got seq {} as number {}", numbers.seq, truth[lane].len()));
            }
            let sum: usize = truth.iter().map(|(_, payloads)| payloads.len()).sum();
            if sum as u64 != numbers.order {
                return Err(format!("order {} as number {sum}", numbers.order));
            }
            if self.names.insert((numbers.epoch, lane, numbers.seq), payload).is_some() {
                return Err(format!("{} {lane} {} names two events", numbers.epoch, numbers.seq));
            }
        }
        self.note_trimmed();
        Ok(outcome)
    }

    fn note_trimmed(&mut self) {
        let oldest = self.state.log.head().oldest;
        for lane in DurableLane::ALL {
            self.trimmed[lane] = self.trimmed[lane].max(oldest.seq(lane));
        }
    }

    pub fn snapshot(&mut self, at: usize) {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            self.snapshots.remove(at % SNAPSHOTS_MAX);
        }
        self.snapshots.push(self.state.clone());
    }

    /// Goes back to a snapshot, or restarts with everything if there is none.
    pub fn roll_back(&mut self, at: usize) {
        self.life += 1;
        if self.snapshots.is_empty() {
            return;
        }
        // What was written after the snapshot is gone, later snapshots with it.
        let at = at % self.snapshots.len();
        let restored = self.snapshots[at].clone();
        self.snapshots.truncate(at + 1);
        self.replace(restored);
    }

    /// Loses everything.
    pub fn wipe(&mut self, now_ms: u64) {
        self.life += 1;
        self.snapshots.clear();
        let log = RoomLog::new(epoch_candidate(now_ms, 0), self.retention);
        self.replace(State { log, life: self.life, truth: PerLane::default() });
    }

    fn replace(&mut self, restored: State) {
        let gone: BTreeSet<u64> = self.state.truth.iter().flat_map(|(_, payloads)| payloads.iter().copied()).collect();
        let kept: BTreeSet<u64> = restored.truth.iter().flat_map(|(_, payloads)| payloads.iter().copied()).collect();
        self.lost.extend(gone.difference(&kept));
        self.state = restored;
    }

    pub fn check_order_of_publishers(&self, instance_and_rank: impl Fn(u64) -> (u64, u64)) -> Result<(), String> {
        for (lane, payloads) in self.state.truth.iter() {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for payload in payloads {
                let (instance, rank) = instance_and_rank(*payload);
                if let Some(before) = last.insert(instance, rank)
                    && before >= rank
                {
                    return Err(format!("{lane}: publish {payload} of instance {instance} is out of order"));
                }
            }
        }
        Ok(())
    }
}
