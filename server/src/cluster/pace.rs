//! Sending the connections of a node away at a rate that the other nodes can take.
//!
//! GoAway goes out in batches over a window, each with a short retry time of the client's own, so that clients come
//! back at no more than the rate at which they were told. They keep their positions and resume elsewhere; until then
//! they are served here.

use std::sync::Arc;
use std::time::Duration;

use lanecast_protocol::v1;

use crate::config::Drain;
use crate::node::Node;
use crate::session::Command;

/// Time between two batches, ms.
const BATCH_EVERY_MS: u64 = 100;
/// The longest retry time of a client, ms: it blurs the batches.
const RETRY_MS_MAX: u64 = 1_000;

/// How the connections of a node are told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Connections that are told together.
    batch: usize,
    /// The longest retry time, ms.
    retry_ms: u32,
    /// Whether the deadline leaves less time than the rate asks for.
    hurried: bool,
}

impl Plan {
    fn new(connections: usize, drain: &Drain) -> Self {
        // Whoever is told last still needs time to come back before the deadline.
        let usable_ms = drain.deadline_ms.saturating_sub(drain.deadline_ms / 5);
        let retry_ms = RETRY_MS_MAX.min(u64::from(drain.spread_ms) / 4).min(usable_ms / 4);
        let wanted_ms = (connections as u64 * 1_000).div_ceil(u64::from(drain.rate_per_second));
        let window_ms = wanted_ms.max(u64::from(drain.spread_ms) - retry_ms);
        let told_ms = window_ms.min(usable_ms - retry_ms);
        let batch = (connections as u64 * BATCH_EVERY_MS).div_ceil(told_ms.max(BATCH_EVERY_MS));
        Self {
            batch: usize::try_from(batch).unwrap_or(usize::MAX).max(1),
            retry_ms: retry_ms as u32,
            hurried: told_ms < wanted_ms,
        }
    }
}

/// Waits until the node drains, then tells each connection once to leave, those too that were being welcomed
/// (LC-LIFE-020, LC-LIFE-021). Ends when the time that they were given is over.
pub(super) async fn send_away(node: &Arc<Node>) {
    node.shutdown.draining().await;
    node.cluster.renew.notify_one();
    let began = node.clock.elapsed();
    let (_, connections) = node.registry.staying(0);
    let drain = &node.config.drain;
    let plan = Plan::new(connections, drain);
    tracing::info!(connections, batch = plan.batch, every_ms = BATCH_EVERY_MS, "sending the connections away");
    if plan.hurried {
        tracing::warn!("drain.deadline_ms is too short for drain.rate_per_second: the connections leave faster");
    }
    loop {
        let passed_ms = (node.clock.elapsed() - began).as_millis() as u64;
        let left_ms = drain.deadline_ms.saturating_sub(passed_ms);
        let (entries, _) = node.registry.staying(plan.batch);
        for entry in entries {
            entry.command(Command::GoAway(v1::GoAway {
                retry_after_ms: rand::random_range(0..=plan.retry_ms),
                reason: v1::GoAwayReason::Draining.into(),
                address: String::new(),
                closes_in_ms: u32::try_from(left_ms).unwrap_or(u32::MAX),
            }));
        }
        if left_ms == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(BATCH_EVERY_MS.min(left_ms))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(connections: usize, deadline_ms: u64, spread_ms: u32, rate_per_second: u32) -> Plan {
        Plan::new(connections, &Drain { deadline_ms, spread_ms, rate_per_second })
    }

    #[test]
    fn the_rate_holds_while_the_deadline_allows() {
        let defaults = Drain::default();
        let ten_thousand = Plan::new(10_000, &defaults);
        assert!(ten_thousand.batch as u64 * 1_000 / BATCH_EVERY_MS <= u64::from(defaults.rate_per_second));
        assert!(!ten_thousand.hurried);
        // A few leave over the spread all the same.
        assert_eq!(plan(100, 20_000, 5_000, 1_000), Plan { batch: 3, retry_ms: 1_000, hurried: false });
        // All are told while there is time to leave, rate or not.
        let hurried = plan(10_000, 2_000, 5_000, 1_000);
        assert!(hurried.hurried);
        assert!(10_000_u64.div_ceil(hurried.batch as u64) * BATCH_EVERY_MS <= 2_000, "{hurried:?}");
    }

    #[test]
    fn without_time_all_are_told_at_once() {
        assert_eq!(plan(50, 0, 5_000, 10), Plan { batch: 50, retry_ms: 0, hurried: true });
        assert_eq!(plan(0, 0, 0, 1), Plan { batch: 1, retry_ms: 0, hurried: false });
        assert_eq!(plan(7, 1_000, 0, 1_000).retry_ms, 0);
    }
}
