//! A room of the reference server: its log, watermarks, live signals and subscribers.

use std::collections::{HashMap, VecDeque};

use prost::Message as _;

use super::rights::Identity;
use crate::schema::v1;
use crate::target::now_ms;

/// Events kept in rooms that the fixture does not name.
const KEPT: usize = 10_000;
/// Events kept in `conform.trim.**`.
const KEPT_TRIM: usize = 10;

/// Lanes that carry events, by index.
pub(super) const LANES: [v1::Lane; 3] = [v1::Lane::Urgent, v1::Lane::Normal, v1::Lane::Bulk];

/// Index of a lane that carries events.
pub(super) fn lane_index(lane: i32) -> Option<usize> {
    LANES.iter().position(|known| *known as i32 == lane)
}

impl Subscriber {
    /// Whether the right lets an envelope through.
    pub(super) fn sees(&self, envelope: &[u8]) -> bool {
        self.types.is_none()
            || check_envelope(envelope).is_ok_and(|(envelope, _)| self.identity.sees(&self.types, &envelope.r#type))
    }
}

/// Who subscribed, and to what.
#[derive(Clone)]
pub(super) struct Subscriber {
    pub connection: u64,
    pub handle: u64,
    pub signals: bool,
    /// Who, and the types that the right lets through.
    pub identity: Identity,
    pub types: Option<Vec<String>>,
    /// The level of its focus.
    pub focus: i32,
    /// Set by the mutant that goes on after Unsubscribed.
    pub ended: bool,
}

/// A signal's value.
pub(super) struct LiveSignal {
    pub stamp: (u64, u64),
    pub clear: bool,
    pub signal: v1::Signal,
}

/// Numbers stored for a publisher.
#[derive(Default)]
pub(super) struct Watermark {
    pub number: u64,
    pub known: HashMap<u64, (u64, u64)>,
}

/// What a room's policy says.
#[derive(Clone, Copy)]
pub(super) struct Policy {
    pub kept: usize,
    pub message_bytes: usize,
    pub lane: usize,
    pub only_lane: bool,
    pub rated: bool,
    pub durable: bool,
    pub signal_ttl_ms: u64,
    pub signal_ttl_max_ms: u64,
}

impl Policy {
    /// The fixture's policies (control.md), by the first segments of the name.
    pub(super) fn of(room: &str) -> Self {
        let plain = Self {
            kept: KEPT,
            message_bytes: super::MESSAGE_BYTES,
            lane: 1,
            only_lane: false,
            rated: false,
            durable: true,
            signal_ttl_ms: 10_000,
            signal_ttl_max_ms: 60_000,
        };
        match room.strip_prefix("conform.").and_then(|rest| rest.split('.').next()) {
            Some("trim") => Self { kept: KEPT_TRIM, ..plain },
            Some("small") => Self { message_bytes: 1024, ..plain },
            Some("urgent") => Self { lane: 0, ..plain },
            Some("bulk") => Self { lane: 2, only_lane: true, ..plain },
            Some("rate") => Self { rated: true, ..plain },
            Some("transient") => Self { durable: false, ..plain },
            Some("signal") => Self { signal_ttl_ms: 500, signal_ttl_max_ms: 1000, ..plain },
            _ => plain,
        }
    }
}

/// Where an epoch ended, and what it lost, by lane.
#[derive(Clone, Copy)]
pub(super) struct Fork {
    pub ended: u64,
    pub survived: [u64; 3],
    pub lost_through: [u64; 3],
}

/// The gap of what a lane of an ended epoch lost; `to` 0: it is not known how much.
pub(super) fn rolled_back(epoch: u64, lane: usize, from: u64, to: u64) -> v1::Gap {
    let (lane, cause) = (LANES[lane] as i32, v1::GapCause::RolledBack as i32);
    v1::Gap { lane, epoch, from, to, cause, ..v1::Gap::default() }
}

/// A log as it was when the suite had it kept.
pub(super) struct Kept {
    log: VecDeque<v1::Event>,
    heads: [u64; 3],
    order: u64,
}

/// A room.
pub(super) struct Room {
    pub epoch: u64,
    pub handle: u64,
    pub policy: Policy,
    pub log: VecDeque<v1::Event>,
    pub heads: [u64; 3],
    pub order: u64,
    pub forks: Vec<Fork>,
    pub kept: Option<Kept>,
    pub watermarks: HashMap<(String, String, usize), Watermark>,
    pub signals: HashMap<(String, String, String, String), LiveSignal>,
    pub subscribers: Vec<Subscriber>,
    pub source: u64,
    pub transients: [u64; 3],
}

impl Room {
    pub(super) fn new(name: &str, epoch: u64, handle: u64, source: u64) -> Self {
        Self {
            epoch,
            handle,
            policy: Policy::of(name),
            log: VecDeque::new(),
            heads: [0; 3],
            order: 0,
            forks: Vec::new(),
            kept: None,
            watermarks: HashMap::new(),
            signals: HashMap::new(),
            subscribers: Vec::new(),
            source,
            transients: [0; 3],
        }
    }

    /// Stores an event and returns it with its numbers.
    pub(super) fn append(&mut self, lane: usize, across_lanes: bool, mut event: v1::Event) -> v1::Event {
        self.order += 1;
        if across_lanes {
            self.heads = [self.order; 3];
        } else {
            self.heads[lane] += 1;
        }
        event.lane = LANES[lane] as i32;
        event.seq = self.heads[lane];
        event.order = self.order;
        self.log.push_back(event.clone());
        while self.log.len() > self.policy.kept {
            self.log.pop_front();
        }
        event
    }

    /// Keeps the log as it is.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Kept { log: self.log.clone(), heads: self.heads, order: self.order });
    }

    /// Goes back to the log that was kept, in another epoch; says what that loses.
    pub(super) fn go_back(&mut self) -> Vec<v1::Gap> {
        let Some(kept) = self.kept.take() else { return Vec::new() };
        let fork = Fork { ended: self.epoch, survived: kept.heads, lost_through: self.heads };
        self.forks.push(fork);
        self.epoch += 1;
        (self.log, self.heads, self.order) = (kept.log, kept.heads, kept.order);
        let lost = (0..3).filter(|lane| fork.lost_through[*lane] > fork.survived[*lane]);
        lost.map(|lane| rolled_back(fork.ended, lane, fork.survived[lane] + 1, fork.lost_through[lane])).collect()
    }

    /// What remains of a position in an earlier epoch, and what that epoch lost since (LC-RES-013). `None`: the epoch is
    /// not known.
    pub(super) fn across_forks(&self, epoch: u64, asked: [u64; 3], all: bool) -> Option<([u64; 3], Vec<v1::Gap>)> {
        let since = self.forks.iter().position(|fork| fork.ended == epoch)?;
        let (mut lanes, mut through, mut gaps) = (asked, asked, Vec::new());
        for fork in &self.forks[since..] {
            for lane in 0..3 {
                let survived = fork.survived[lane];
                let lost = if fork.ended == epoch { fork.lost_through[lane].max(asked[lane]) } else { through[lane] };
                if lost > survived && (all || asked[lane] > survived) {
                    gaps.push(rolled_back(epoch, lane, survived + 1, lost));
                }
                (through[lane], lanes[lane]) = (lost.min(survived), lanes[lane].min(survived));
            }
        }
        Some((lanes, gaps))
    }

    /// Per lane one below the first seq that the log has, the head where it has none.
    pub(super) fn before_first(&self) -> [u64; 3] {
        let mut before = self.heads;
        for event in self.log.iter().rev() {
            if let Some(lane) = lane_index(event.lane) {
                before[lane] = event.seq - 1;
            }
        }
        before
    }

    /// The position after everything whose order is at most `order`.
    pub(super) fn position_at(&self, order: u64) -> [u64; 3] {
        let mut position = self.before_first();
        for event in self.log.iter().take_while(|event| event.order <= order) {
            if let Some(lane) = lane_index(event.lane) {
                position[lane] = event.seq;
            }
        }
        position
    }

    pub(super) fn position(&self, lanes: [u64; 3]) -> v1::Position {
        v1::Position { epoch: self.epoch, urgent: lanes[0], normal: lanes[1], bulk: lanes[2] }
    }

    pub(super) fn mark(&self) -> v1::TransientMark {
        let [urgent, normal, bulk] = self.transients;
        v1::TransientMark { source: self.source, urgent, normal, bulk }
    }
}

/// Whether an event may not be sent any more.
pub(super) fn is_expired(event: &v1::Event) -> bool {
    event.expires_at_ms != 0 && event.expires_at_ms <= now_ms()
}

/// The bytes of a body inside an envelope, or why the envelope is not valid.
pub(super) fn check_envelope(bytes: &[u8]) -> Result<(v1::Envelope, usize), &'static str> {
    let envelope = v1::Envelope::decode(bytes).map_err(|_| "the envelope cannot be parsed")?;
    let body = match &envelope.body {
        Some(v1::envelope::Body::Data(data)) => data.len(),
        Some(v1::envelope::Body::Text(text)) => text.len(),
        None => 0,
    };
    let fits = envelope.r#type.len() <= 128
        && !envelope.r#type.starts_with('$')
        && envelope.key.len() <= 256
        && envelope.content_type.len() <= 256
        && envelope.headers.len() <= 32
        && envelope.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= 4096;
    if fits { Ok((envelope, body)) } else { Err("a field of the envelope is out of bounds") }
}
