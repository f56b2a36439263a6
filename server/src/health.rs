//! What the probes are told.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const NEVER_REACHED: u8 = 0;
const REACHED: u8 = 1;
const AWAY: u8 = 2;

/// Whether a balancer should send connections to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The listener is not bound, or the engine's store was never reached.
    Starting,
    /// The store answers, but this node does not learn what happens in it.
    Subscriber,
    /// The store is away, as far as this node can tell for everybody.
    Degraded,
    /// All is well.
    Ready,
}

/// What the probes are told, and who says it: start-up [`set_started`](Self::set_started), the engine's sink the rest.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    store: AtomicU8,
    following: AtomicBool,
}

impl Health {
    /// The listener is bound.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether the store behind the engine can be reached (E60). A store that was never there cannot be lost.
    pub fn set_reachable(&self, reachable: bool) {
        if reachable {
            self.store.store(REACHED, Ordering::Release);
        } else {
            let _ = self.store.compare_exchange(REACHED, AWAY, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether what happens in the store reaches this node (E61).
    pub fn set_following(&self, following: bool) {
        self.following.store(following, Ordering::Release);
    }

    /// Whether the store was lost and is not back.
    pub fn is_degraded(&self) -> bool {
        self.store.load(Ordering::Acquire) == AWAY
    }

    /// What all of it comes to.
    pub fn readiness(&self) -> Readiness {
        let store = self.store.load(Ordering::Acquire);
        if !self.started.load(Ordering::Acquire) || store == NEVER_REACHED {
            Readiness::Starting
        } else if store == AWAY {
            Readiness::Degraded
        } else if !self.following.load(Ordering::Acquire) {
            Readiness::Subscriber
        } else {
            Readiness::Ready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_all_of_it_is_there() {
        let health = Health::default();
        health.set_started();
        health.set_reachable(false);
        assert_eq!(health.readiness(), Readiness::Starting, "what was never reached is not lost");
        health.set_reachable(true);
        assert_eq!(health.readiness(), Readiness::Subscriber);
        health.set_following(true);
        assert_eq!(health.readiness(), Readiness::Ready);
        health.set_following(false);
        health.set_reachable(false);
        assert_eq!(health.readiness(), Readiness::Degraded, "the store's loss explains the other");
        assert!(health.is_degraded());
    }

    #[test]
    fn a_store_alone_is_no_node() {
        let health = Health::default();
        health.set_reachable(true);
        health.set_following(true);
        assert_eq!(health.readiness(), Readiness::Starting);
    }
}
