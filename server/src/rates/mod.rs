//! How much anyone may ask of the node: token buckets by user, room, API key and node (LC-FLOW-001).
//!
//! Promises: a request that is refused takes no token from any bucket, and is told when one will be there. What the
//! engine is asked costs a token whatever it answers, since that is what the rates protect. Buckets that are full again
//! are forgotten; a table in which none is full refuses who has no bucket in it, and forgets nobody early.
//! Refuses: knowing other nodes. A user who is connected to two has twice the rate.

mod bucket;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Refusal;
use parking_lot::Mutex;

pub use bucket::{Bucket, Rate, wait_ms};

use crate::auth::Identity;
use crate::clock::Clock;
use crate::config::RateOptions;
use crate::policy::Policy;
use crate::telemetry::Metrics;
use crate::telemetry::labels::{Labels as _, Rule};

/// Buckets of a rule that are not full, at most: some 3 MB.
const BUCKETS_MAX: usize = 100_000;
/// A full table is searched for full buckets no more often than this.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;

/// The rates of a node and its buckets.
#[derive(Debug)]
pub struct Rates {
    user: Option<Rate>,
    api_key: Option<Rate>,
    node: Option<Rate>,
    requests: Option<Rate>,
    clock: Clock,
    tables: Mutex<Tables>,
    /// Buckets are found by a keyed hash of their names, which nobody outside can make collide.
    hasher: RandomState,
}

/// A bucket that is asked for a token.
type Asked = (Rule, Rate, u64);

impl Rates {
    /// As the configuration says.
    pub fn new(options: &RateOptions, clock: Clock) -> Self {
        Self {
            user: Rate::per_minute(options.user_events_per_minute, options.user_events_burst),
            api_key: Rate::per_second(options.api_key_events_per_second, options.api_key_events_burst),
            node: Rate::per_second(options.node_events_per_second, options.node_events_burst),
            requests: Rate::per_minute(options.user_requests_per_minute, options.user_requests_burst),
            clock,
            tables: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// A token for an event that is otherwise allowed.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub fn event(&self, metrics: &Metrics, identity: &Identity, room: &str, policy: &Policy) -> Result<(), Refusal> {
        let in_room = Rate::per_minute(policy.user_events_per_minute, policy.user_events_burst);
        let of_room = Rate::per_second(policy.room_events_per_second, policy.room_events_burst);
        let (user, service) = (&*identity.user, &*identity.service);
        self.take(
            metrics,
            &[
                self.ask(Rule::UserInRoom, in_room.filter(|_| !user.is_empty()), (user, room)),
                self.ask(Rule::User, self.user.filter(|_| !user.is_empty()), (user, "")),
                self.ask(Rule::ApiKey, self.api_key.filter(|_| !service.is_empty()), (service, "")),
                self.ask(Rule::Room, of_room, ("", room)),
                self.ask(Rule::Node, self.node, ("", "")),
            ],
        )
    }

    /// A token for a signal that is otherwise allowed.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub fn signal(&self, metrics: &Metrics, identity: &Identity, room: &str, policy: &Policy) -> Result<(), Refusal> {
        let in_room = Rate::per_second(policy.user_signals_per_second, policy.user_signals_burst);
        let in_room = in_room.filter(|_| !identity.user.is_empty());
        self.take(metrics, &[self.ask(Rule::UserSignals, in_room, (&identity.user, room))])
    }

    /// A token for a request that reads: a subscription, or a page of history.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub fn request(&self, metrics: &Metrics, identity: &Identity) -> Result<(), Refusal> {
        let requests = self.requests.filter(|_| !identity.user.is_empty());
        self.take(metrics, &[self.ask(Rule::UserRequests, requests, (&identity.user, ""))])
    }

    /// Forgets buckets that are full again.
    pub fn sweep(&self) {
        let now_ns = self.now_ns();
        let mut tables = self.tables.lock();
        for rule in Rule::ALL {
            tables.of(*rule).sweep(now_ns);
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn ask(&self, rule: Rule, rate: Option<Rate>, name: (&str, &str)) -> Option<Asked> {
        rate.map(|rate| (rule, rate, self.hasher.hash_one(name)))
    }

    /// Takes a token from each bucket, or from none.
    fn take(&self, metrics: &Metrics, asked: &[Option<Asked>]) -> Result<(), Refusal> {
        if asked.iter().all(Option::is_none) {
            return Ok(());
        }
        let now_ns = self.now_ns();
        let mut tables = self.tables.lock();
        let mut refused: Option<(Rule, u64)> = None;
        for (rule, rate, name) in asked.iter().flatten().copied() {
            // Of signals the newest replaces those that were refused.
            let in_line = rule != Rule::UserSignals;
            let wait_ns = tables.of(rule).check(rate, name, now_ns, in_line);
            if wait_ns > refused.map_or(0, |(_, longest_ns)| longest_ns) {
                refused = Some((rule, wait_ns));
            }
        }
        if let Some((rule, wait_ns)) = refused {
            metrics.rate_limited.of(rule).inc();
            return Err(Refusal::new(Code::RateLimited, too_many(rule)).retry_after(wait_ms(wait_ns)));
        }
        for (rule, rate, name) in asked.iter().flatten().copied() {
            tables.of(rule).buckets.entry(name).or_default().take(rate, now_ns);
        }
        Ok(())
    }
}

const fn too_many(rule: Rule) -> &'static str {
    match rule {
        Rule::User => "too many events of this user",
        Rule::UserInRoom => "too many events of this user in this room",
        Rule::UserSignals => "too many signals of this user in this room",
        Rule::UserRequests => "too many requests of this user",
        Rule::ApiKey => "too many events of this API key",
        Rule::Room => "too many events in this room",
        Rule::Node => "too many events for this node",
    }
}

/// The buckets of each rule.
#[derive(Debug, Default)]
struct Tables([Table; Rule::ALL.len()]);

impl Tables {
    fn of(&mut self, rule: Rule) -> &mut Table {
        &mut self.0[rule.index()]
    }
}

/// The buckets of a rule that are not full, but for those that filled up since the last sweep.
#[derive(Debug, Default)]
struct Table {
    buckets: HashMap<u64, Bucket>,
    swept_at_ns: u64,
}

impl Table {
    /// How long a request must wait for a token of the bucket, ns; 0: it is there. `in_line`: what was refused before it
    /// will come again.
    fn check(&mut self, rate: Rate, name: u64, now_ns: u64, in_line: bool) -> u64 {
        if let Some(bucket) = self.buckets.get_mut(&name) {
            return match bucket.wait_ns(rate, now_ns) {
                0 => 0,
                _ if in_line => bucket.refuse(rate, now_ns),
                wait_ns => wait_ns,
            };
        }
        if self.buckets.len() < BUCKETS_MAX {
            return 0;
        }
        let next_ns = self.swept_at_ns.saturating_add(SWEEP_EVERY_NS);
        if now_ns >= next_ns {
            self.sweep(now_ns);
        }
        if self.buckets.len() < BUCKETS_MAX { 0 } else { SWEEP_EVERY_NS.min(next_ns.abs_diff(now_ns)).max(1) }
    }

    fn sweep(&mut self, now_ns: u64) {
        self.swept_at_ns = now_ns;
        self.buckets.retain(|_, bucket| !bucket.is_full(now_ns));
    }
}

#[cfg(test)]
mod tests;
