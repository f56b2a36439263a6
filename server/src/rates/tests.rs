//! Who is refused, for how long, and what is remembered.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::*;
use crate::auth::Auth;
use crate::config::Config;

struct Fixture {
    rates: Rates,
    metrics: Metrics,
    clock: Clock,
    auth: Auth,
    policy: Policy,
}

impl Fixture {
    fn new(options: RateOptions, policy: Policy) -> Self {
        let clock = Clock::manual(1_800_000_000_000);
        let auth = Auth::new(&Config { dev: true, ..Config::default() }, clock.clone());
        Self { rates: Rates::new(&options, clock.clone()), metrics: Metrics::new(), clock, auth, policy }
    }

    fn identity(&self, who: &str) -> Identity {
        let header = format!("Bearer {who}");
        let judged = self.auth.bearer(Some(&header), Ipv4Addr::LOCALHOST.into());
        // Nothing is waited for where no keys are published.
        judged.now_or_never().unwrap().unwrap()
    }

    fn event(&self, who: &str, room: &str) -> Result<(), u32> {
        let taken = self.rates.event(&self.metrics, &self.identity(who), room, &self.policy);
        taken.map_err(|refusal| {
            assert_eq!(refusal.code, Code::RateLimited);
            refusal.retry_after_ms
        })
    }

    /// How many pass at once.
    fn events(&self, who: &str, room: &str) -> usize {
        (0..1_000).take_while(|_| self.event(who, room).is_ok()).count()
    }
}

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

#[test]
fn nothing_is_limited_unless_somebody_says_so() {
    let fixture = Fixture::new(RateOptions::default(), Policy::default());
    assert_eq!(fixture.events("dev:ann", "chat"), 1_000);
    assert_eq!(fixture.events("dev-key", "chat"), 1_000);
    assert!(fixture.rates.tables.lock().0.iter().all(|table| table.buckets.is_empty()));
}

#[test]
fn a_user_has_a_rate_in_each_room_of_a_policy() {
    // LC-FLOW-001
    let fixture = Fixture::new(
        RateOptions::default(),
        policy(|policy| (policy.user_events_per_minute, policy.user_events_burst) = (120, 5)),
    );
    assert_eq!(fixture.events("dev:ann", "chat"), 5);
    assert_eq!((fixture.events("dev:ann", "den"), fixture.events("dev:ben", "chat")), (5, 5));
    assert_eq!(fixture.events("dev-key", "chat"), 1_000, "a service is no user");
    fixture.clock.advance(Duration::from_millis(500));
    assert_eq!(fixture.events("dev:ann", "chat"), 1);
    assert!(fixture.event("dev:ann", "chat").is_err());
    assert_eq!(fixture.metrics.rate_limited.of(Rule::UserInRoom).get(), 5);
}

#[test]
fn rooms_api_keys_users_and_the_node_have_rates_of_their_own() {
    let room = policy(|policy| (policy.room_events_per_second, policy.room_events_burst) = (1, 4));
    let fixture = Fixture::new(RateOptions::default(), room);
    assert_eq!(fixture.events("dev:ann", "chat"), 4);
    assert_eq!(fixture.event("dev:ben", "chat"), Err(2_000), "whoever it is, and second in the line");
    assert_eq!(fixture.events("dev-key", "den"), 4);
    let options = RateOptions {
        user_events_per_minute: 60,
        user_events_burst: 3,
        api_key_events_per_second: 10,
        api_key_events_burst: 7,
        node_events_per_second: 100,
        node_events_burst: 12,
        ..RateOptions::default()
    };
    let fixture = Fixture::new(options, Policy::default());
    assert_eq!((fixture.events("dev:ann", "a"), fixture.events("dev:ann", "b")), (3, 0));
    assert_eq!(fixture.events("dev-key", "a"), 7);
    assert_eq!(fixture.events("dev:ben", "a"), 2, "the node has had enough");
    assert_eq!(fixture.event("dev:ben", "a"), Err(20));
}

#[test]
fn what_one_bucket_refuses_costs_no_token_of_another() {
    // LC-FLOW-001
    let options = RateOptions { user_events_per_minute: 60, user_events_burst: 3, ..RateOptions::default() };
    let rated = policy(|policy| (policy.room_events_per_second, policy.room_events_burst) = (1, 1));
    let fixture = Fixture::new(options, rated);
    assert_eq!(fixture.events("dev:ben", "full"), 1);
    for _ in 0..10 {
        assert!(fixture.event("dev:ann", "full").is_err());
    }
    assert_eq!(
        [fixture.events("dev:ann", "a"), fixture.events("dev:ann", "b"), fixture.events("dev:ann", "c")],
        [1; 3]
    );
    assert_eq!(fixture.events("dev:ann", "d"), 0);
}

#[test]
fn signals_and_requests_have_buckets_of_their_own() {
    let options = RateOptions { user_requests_per_minute: 60, user_requests_burst: 2, ..RateOptions::default() };
    let fixture =
        Fixture::new(options, policy(|policy| (policy.user_signals_per_second, policy.user_signals_burst) = (10, 2)));
    let (ann, service) = (fixture.identity("dev:ann"), fixture.identity("dev-key"));
    let signal =
        |room| fixture.rates.signal(&fixture.metrics, &ann, room, &fixture.policy).map_err(|r| r.retry_after_ms);
    assert_eq!([signal("a"), signal("a"), signal("a"), signal("b")], [Ok(()), Ok(()), Err(100), Ok(())]);
    let request = |who| fixture.rates.request(&fixture.metrics, who).map_err(|refusal| refusal.retry_after_ms);
    assert_eq!([request(&ann), request(&ann), request(&ann)], [Ok(()), Ok(()), Err(1_000)]);
    assert!((0..10).all(|_| request(&service).is_ok()));
    assert_eq!(fixture.events("dev:ann", "a"), 1_000);
}

#[test]
fn full_buckets_are_forgotten_and_a_full_table_refuses_newcomers_only() {
    let fixture = Fixture::new(
        RateOptions::default(),
        policy(|policy| (policy.user_events_per_minute, policy.user_events_burst) = (60, 2)),
    );
    let held = || fixture.rates.tables.lock().of(Rule::UserInRoom).buckets.len();
    assert_eq!(fixture.events("dev:ann", "chat"), 2);
    fixture.clock.advance(Duration::from_millis(1_500));
    fixture.rates.sweep();
    assert_eq!(held(), 1, "not full yet");
    fixture.clock.advance(Duration::from_millis(500));
    fixture.rates.sweep();
    assert_eq!(held(), 0);
    for room in 0..BUCKETS_MAX {
        assert_eq!(fixture.event("dev:ann", &format!("r{room}")), Ok(()));
    }
    assert_eq!(fixture.event("dev:ann", "r7"), Ok(()), "it has a bucket");
    let wait_ms = fixture.event("dev:ben", "chat").unwrap_err();
    assert!((1..=1_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(held(), BUCKETS_MAX);
    fixture.clock.advance(Duration::from_millis(1_000));
    assert_eq!(fixture.event("dev:ben", "chat"), Ok(()), "the others are full again");
    assert!(held() < 10);
}
