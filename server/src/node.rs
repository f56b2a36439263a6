//! What the parts of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lanecast_protocol::v1;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::Config;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// What the node serves beyond the core (LC-HS-014).
pub const CAPABILITIES: [v1::Capability; 2] = [v1::Capability::History, v1::Capability::Signals];

/// One node. Handlers and sessions share it as `Arc<Node>`.
#[derive(Debug)]
pub struct Node {
    /// Names this life of the node in Welcome, logs and connection ids.
    pub id: Arc<str>,
    /// The configuration, unchanged for the node's life.
    pub config: Arc<Config>,
    /// What the node counts.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// How the node ends.
    pub shutdown: Shutdown,
    /// Who may do what.
    pub auth: Arc<Auth>,
    /// What the probes are told.
    pub health: Health,
}

impl Node {
    /// A node that is not started yet.
    pub fn new(config: Config, clock: Clock) -> Self {
        Self {
            id: format!("n-{:08x}", rand::random::<u32>()).into(),
            auth: Arc::new(Auth::new(&config, clock.clone())),
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            clock,
            shutdown: Shutdown::new(),
            health: Health::default(),
        }
    }

    /// What the node accepts, as Welcome and the well-known document say it.
    pub fn limits(&self) -> v1::Limits {
        let limits = &self.config.limits;
        v1::Limits {
            record_bytes: limits.record_bytes,
            message_bytes: self.config.policies.message_bytes_max(),
            rooms: limits.rooms_per_connection,
            publishes_in_flight: limits.publishes_in_flight,
            signals_per_second: limits.signals_per_second,
            history_page: limits.history_page,
        }
    }
}

/// What the probes are told.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    degraded: AtomicBool,
}

impl Health {
    /// The engine was reached and the listener is bound: the node may get connections.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether the engine cannot be reached by any node: connections are kept, readiness stays.
    pub fn set_degraded(&self, degraded: bool) {
        self.degraded.store(degraded, Ordering::Release);
    }

    /// Whether the node was started.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether the engine cannot be reached by any node.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Acquire)
    }
}
