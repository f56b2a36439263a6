//! How the node ends.
//!
//! ```text
//! running ──begin()──▶ draining ──all tasks ended, or deadline──▶ closed
//! ```
//!
//! Draining: `/readyz` answers 503, new WebSocket handshakes are refused, sessions send GoAway and close when their
//! client has left. Closed: whoever is still there is dropped. Probes are answered until the end, since a refused
//! connection would look like a crash.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long the end waits for tasks that were told to drop everything.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// The node's life, shared by everything that must end with it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// A node that runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts draining. Calling it again changes nothing.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Whether the node is draining or closed.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until the node drains. Cancel safe.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until the node is closed and whoever is still there must go. Cancel safe.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Spawns a task that the drain awaits. The task must end soon after [`Self::draining`], at the latest at
    /// [`Self::closed`], which drops it where it stands.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        // Dropping the handle detaches nothing: the tracker owns the task until it ends.
        drop(self.tasks.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = task => {}
            }
        }));
    }

    /// Makes the drain wait for something that is no task, for as long as the token lives.
    pub fn hold(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    /// What the drain still waits for.
    pub fn pending(&self) -> usize {
        self.tasks.len()
    }

    /// Drains: waits until all tasks and holds are gone, but not longer than the deadline, then closes and waits for
    /// the tasks that were dropped. Says how many had to be dropped.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.begin();
        self.tasks.close();
        let ended = tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok();
        let dropped = if ended { 0 } else { self.tasks.len() };
        self.closed.cancel();
        // What is left now is dropped at its next poll; the bound is for a task that never yields.
        let _ = tokio::time::timeout(CLOSE_WAIT_MAX, self.tasks.wait()).await;
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_its_tasks_end() {
        let shutdown = Shutdown::new();
        let of_task = shutdown.clone();
        shutdown.spawn(async move { of_task.draining().await });
        assert!(!shutdown.is_draining());
        assert_eq!(shutdown.drain(Duration::from_secs(10)).await, 0);
        assert!(shutdown.is_draining());
        assert_eq!(shutdown.pending(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stays_is_dropped_at_the_deadline() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending());
        assert_eq!(shutdown.drain(Duration::from_secs(10)).await, 1);
        assert_eq!(shutdown.pending(), 0);
    }
}
