//! The contract suite: each clause of [`Engine`]'s docs, checked on any engine.
//!
//! ```ignore
//! engine_contract!(memory, MemorySubject);
//! ```
//!
//! A clause is a function that answers what it found wrong, so that the suite can also be run on engines with planted
//! bugs and be shown to find them.

mod clauses;
pub(super) mod recorder;

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lanecast_protocol::log::{Append, Numbers, Origin, Outcome, Publisher, Retention, Start};
use lanecast_protocol::lossy::SignalKey;
use lanecast_protocol::position::DurableLane;

use self::recorder::Recorder;
use super::{Engine, EngineSink, MemoryEngine, MemoryOptions, Opened, Revocation, Signal, Transient};
use crate::clock::Clock;

/// What a clause found: nothing, or what is wrong.
pub(super) type Found = Result<(), String>;
type Clause = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// An engine that the suite can start.
#[async_trait]
pub(super) trait Subject: Send + Sync {
    /// Starts an engine that has nothing of what earlier ones had.
    async fn start(&self, options: MemoryOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Started;

    /// Whether the engine holds the rooms itself, so that their bounds are its own (E50 to E52).
    fn holds_rooms(&self) -> bool {
        true
    }
}

/// An engine under test.
pub(super) struct Started {
    pub(super) engine: Arc<dyn Engine>,
    /// Waits until everything that happened was told to the sink.
    pub(super) settle: Settle,
}

/// What [`Started::settle`] is.
pub(super) type Settle = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// For an engine that tells at once.
pub(super) fn settled() -> Settle {
    Box::new(|| Box::pin(std::future::ready(())))
}

pub(super) struct MemorySubject;

#[async_trait]
impl Subject for MemorySubject {
    async fn start(&self, options: MemoryOptions, clock: Clock, sink: Arc<dyn EngineSink>) -> Started {
        Started { engine: Arc::new(MemoryEngine::new(options, clock, sink)), settle: settled() }
    }
}

/// The time at which every clause begins.
const START_MS: u64 = 1_700_000_000_000;
const KEEP: Retention = Retention { events_max: 1000, age_ms_max: 60_000 };
const ROOM: &str = "room";

/// An engine under test and what it told.
pub(super) struct Bench {
    subject: &'static dyn Subject,
    engine: Arc<dyn Engine>,
    settle: Settle,
    clock: Clock,
    sink: Arc<Recorder>,
}

impl Bench {
    pub(super) async fn new(subject: &'static dyn Subject) -> Self {
        Self::with(subject, Clock::manual(START_MS), MemoryOptions::default()).await
    }

    async fn with(subject: &'static dyn Subject, clock: Clock, options: MemoryOptions) -> Self {
        let sink = Arc::new(Recorder::default());
        let Started { engine, settle } = subject.start(options, clock.clone(), sink.clone()).await;
        Self { subject, engine, settle, clock, sink }
    }

    /// Another engine with other bounds.
    async fn bounded(&self, options: MemoryOptions) -> Self {
        Self::with(self.subject, self.clock.clone(), options).await
    }

    fn advance(&self, ms: u64) {
        self.clock.advance(std::time::Duration::from_millis(ms));
    }

    async fn append(&self, room: &str, item: Append) -> Result<Outcome, String> {
        let mut outcomes = self.engine.append(room, KEEP, vec![item]).await;
        match outcomes.pop() {
            Some(outcome) if outcomes.is_empty() => outcome.map_err(|error| error.to_string()),
            _ => Err("one outcome was expected".into()),
        }
    }

    /// Stores one event in each of the lanes.
    async fn store(&self, room: &str, lanes: &[DurableLane]) -> Result<Vec<Numbers>, String> {
        let mut numbers = Vec::new();
        for lane in lanes {
            numbers.push(stored(self.append(room, self.item(*lane)).await?)?);
        }
        Ok(numbers)
    }

    fn item(&self, lane: DurableLane) -> Append {
        self.item_from(lane, Origin::Unmarked)
    }

    fn item_from(&self, lane: DurableLane, origin: Origin) -> Append {
        let time_ms = self.clock.now_ms();
        let tail = Bytes::from(format!("{lane} at {time_ms}"));
        Append { lane, origin, time_ms, expires_at_ms: 0, event_type: "msg".into(), tail }
    }

    async fn read(&self, lane: DurableLane, after: u64) -> Result<(u64, Vec<u64>), String> {
        let read = self.engine.read(ROOM, lane, after, 1000, usize::MAX).await.map_err(|error| error.to_string())?;
        Ok((read.first, read.records.iter().map(|record| record.seq).collect()))
    }

    async fn order(&self, room: &str) -> Result<u64, String> {
        Ok(self.engine.head(room).await.map_err(|error| error.to_string())?.order)
    }

    async fn open(&self, start: Start) -> Result<Opened, String> {
        self.engine.open(ROOM, start, None).await.map_err(|error| error.to_string())
    }

    async fn subscribe(&self, room: &str) -> Found {
        self.engine.subscribe(room).await.map_err(|error| error.to_string())
    }

    async fn transient(&self, lane: DurableLane) -> Found {
        let event = Transient { lane, expires_at_ms: 0, event_type: "t".into(), tail: Bytes::from("tail") };
        self.engine.publish_transient(ROOM, event).await.map_err(|error| error.to_string())
    }

    async fn live(&self) -> Result<Vec<u64>, String> {
        let live = self.engine.live_signals(ROOM).await.map_err(|error| error.to_string())?;
        Ok(live.iter().map(|signal| signal.counter).collect())
    }

    async fn told(&self) -> Vec<recorder::Told> {
        (self.settle)().await;
        self.sink.take()
    }
}

fn numbered(instance: &str, number: u64, after: u64) -> Origin {
    Origin::Numbered { publisher: Publisher { user: "ann".into(), instance: instance.into() }, number, after }
}

fn keyed(api_key: &str, key: &str, body: u8) -> Origin {
    Origin::Keyed { api_key: api_key.into(), key: key.into(), body: [body; 32] }
}

fn signal(key: &str, start: u64, counter: u64, expires_at_ms: u64) -> Signal {
    let key = SignalKey { sender: "ann".into(), kind: "typing".into(), key: key.into() };
    Signal { key, start, counter, expires_at_ms, clear: false, tail: Bytes::from("tail") }
}

fn revocation(user: &str, issued_through_ms: u64, until_ms: u64) -> Revocation {
    let subject = super::Subject::User(user.into());
    Revocation { subject, issued_through_ms, until_ms, changed_ms: 0, lifted: false }
}

fn stored(outcome: Outcome) -> Result<Numbers, String> {
    match outcome {
        Outcome::Stored(numbers) => Ok(numbers),
        other => Err(format!("expected Stored, got {other:?}")),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Found {
    if got == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {got:?}")) }
}

fn holds(what: &str, fact: bool) -> Found {
    if fact { Ok(()) } else { Err(what.to_owned()) }
}

/// Hands the names of all clauses to a macro, behind its own arguments.
macro_rules! with_clauses {
    ($then:ident $args:tt) => {
        $then! { $args
            e1_outcomes_are_one_for_each_item_in_order
            e2_numbers_run_on_by_lane_and_room
            e3_what_was_stored_is_there
            e4_a_used_number_is_a_duplicate
            e5_a_missing_number_is_waited_for
            e6_an_idempotency_key_is_used_once
            e7_retention_keeps_so_many
            e7_retention_keeps_so_long
            e8_a_read_has_no_hole_and_is_bounded
            e8_what_was_trimmed_is_seen
            e9_history_merges_the_lanes
            e9_history_says_what_is_missing
            e10_a_new_room_is_there_and_empty
            e11_the_head_and_the_oldest_position
            e12_live_beginning_count_and_duration
            e13_a_position_of_the_epoch
            e14_a_position_of_an_unknown_epoch
            e15_a_position_beyond_the_head
            e16_a_forgotten_room_has_a_greater_epoch
            e20_what_is_stored_is_told_once_in_order
            e20_what_is_not_stored_is_not_told
            e21_only_subscribed_rooms_are_told
            e22_events_are_told_in_the_epoch_that_was_told
            e23_a_glance_is_what_was_told
            e24_nothing_is_jumped_over_while_all_is_well
            e30_transients_are_told_and_counted
            e30_transients_leave_no_trace_in_the_log
            e31_opening_gives_the_mark_of_its_moment
            e32_missed_transients_are_known_exactly_or_not_at_all
            e33_no_transient_is_missed_in_silence
            e40_the_newest_signal_wins
            e41_live_signals_are_the_newest_of_each_key
            e42_a_clear_ends_the_value_for_good
            e43_an_expired_signal_is_gone
            e44_a_full_table_refuses_further_keys
            e50_rooms_are_bounded
            e51_bytes_are_bounded
            e52_sweep_forgets_only_what_nobody_needs
            e60_that_the_store_is_there_is_told_once
            e61_that_a_node_follows_the_store_is_told_once
            e70_leases_are_listed_until_they_end
            e71_messages_reach_the_nodes_once
            e80_a_revocation_takes_the_place_of_earlier_ones
            e81_changes_are_read_once_in_their_order
            e81_many_changes_come_in_pages
            e82_revocations_are_bounded_and_never_forgotten_early
            e83_what_is_handed_in_is_taken_where_it_is_newer
        }
    };
}

macro_rules! clause_table {
    (() $($clause:ident)*) => {
        /// All clauses, by name.
        pub(super) const CLAUSES: &[(&str, Clause)] =
            &[$((stringify!($clause), |bench| Box::pin(clauses::$clause(bench)))),*];
    };
}

with_clauses! { clause_table () }

macro_rules! clause_tests {
    (($subject:expr) $($clause:ident)*) => {
        $(#[tokio::test]
        async fn $clause() {
            if is_bound(stringify!($clause)) && !$subject.holds_rooms() {
                return;
            }
            let bench = Bench::new(&$subject).await;
            if let Err(wrong) = clauses::$clause(&bench).await {
                panic!("{wrong}");
            }
        })*
    };
}

/// Makes one test of each clause for an engine.
macro_rules! engine_contract {
    ($name:ident, $subject:expr) => {
        mod $name {
            use super::*;
            with_clauses! { clause_tests ($subject) }
        }
    };
}

engine_contract!(memory, MemorySubject);
engine_contract!(on_redis, crate::engine::redis::tests::RedisSubject);

/// Whether a clause speaks of the bounds of an engine that holds the rooms itself.
fn is_bound(clause: &str) -> bool {
    ["e50_", "e51_", "e52_"].iter().any(|bound| clause.starts_with(bound))
}

#[test]
fn every_sentence_of_the_trait_has_a_clause() {
    let docs = include_str!("mod.rs");
    let ids: Vec<&str> = docs
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("/// - **E")?.split_once("**"))
        .map(|(id, _)| id)
        .collect();
    assert!(ids.len() > 20, "{ids:?}");
    for id in &ids {
        assert!(CLAUSES.iter().any(|(name, _)| name.starts_with(&format!("e{id}_"))), "E{id} has no clause");
    }
    for (name, _) in CLAUSES {
        let id = name.split('_').next().unwrap().trim_start_matches('e');
        assert!(ids.contains(&id), "{name} stands for no sentence");
    }
}
