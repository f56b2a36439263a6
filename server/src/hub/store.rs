//! What clients are told of a store that is away: not at once, and once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Hub;

/// How long the store has to be away before clients are told: a failover or a restart is often over by then, and nobody
/// could do anything with the news.
const TOLD_AFTER: Duration = Duration::from_secs(1);

impl Hub {
    /// Follows the store for as long as the node lives; `tell` wakes the connections, which ask [`Self::is_degraded`].
    ///
    /// Cancel safety: if the future is dropped, clients are told nothing more.
    pub async fn watch_store(&self, tell: impl Fn()) {
        let mut store = self.store.subscribe();
        loop {
            // The sender lives as long as the hub, so waiting does not fail.
            let _ = store.wait_for(|reachable| !reachable).await;
            if tokio::time::timeout(TOLD_AFTER, store.wait_for(|reachable| *reachable)).await.is_ok() {
                continue;
            }
            self.tell_degraded(true, &tell);
            let _ = store.wait_for(|reachable| *reachable).await;
            self.tell_degraded(false, &tell);
        }
    }

    fn tell_degraded(&self, degraded: bool, tell: impl Fn()) {
        tracing::warn!(degraded, "clients are told of the store");
        self.degraded.store(degraded, Ordering::Release);
        self.metrics.degraded.set(degraded.into());
        tell();
    }
}
