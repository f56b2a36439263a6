//! What the parts of a node share.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use lanecast_protocol::session::server as session;
use lanecast_protocol::v1;

use crate::admission::Admission;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::config::{Config, EngineKind, Redis};
use crate::engine::{EngineSink, MemoryEngine, MemoryOptions, RedisEngine, RedisOptions};
use crate::health::Health;
use crate::hub::Hub;
use crate::rates::Rates;
use crate::session::Registry;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;
use crate::tls::Tls;
use crate::trace::Traces;

/// What the node serves beyond the core (LC-HS-014).
fn capabilities(config: &Config) -> Vec<v1::Capability> {
    use v1::Capability::{Credit, Focus, Fragments, History, Refresh, Signals};
    let mut capabilities = vec![History, Signals, Refresh, Credit, Focus, Fragments];
    if config.engine.kind == EngineKind::Redis && config.redis.replicas > 0 {
        capabilities.push(v1::Capability::Replicated);
    }
    capabilities
}

/// Bytes of a lane that wait in a session at most, and of a room's turn: at 10 Mbit/s they are 7 ms, which a long replay
/// of one room may delay another one. What was read from a room is also beyond the reach of trimming and expiry by the
/// log, and is memory that a slow client holds.
const LANE_BYTES: usize = 8 * 1024;

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
    /// Who may open one more connection.
    pub admission: Admission,
    /// Who may do what.
    pub auth: Arc<Auth>,
    /// How much anyone may ask.
    pub rates: Rates,
    /// What the probes are told.
    pub health: Arc<Health>,
    /// Rooms with local subscribers, and the engine behind them.
    pub hub: Arc<Hub>,
    /// The connections of clients.
    pub registry: Registry,
    /// This node among the others.
    pub cluster: Cluster,
    /// Where the time of the newest events went.
    pub traces: Arc<Traces>,
    /// What is the same for all sessions.
    pub session: Arc<session::Config>,
    /// The certificate, if there is one: the configured one, or in development one signed by itself.
    pub tls: Option<Arc<Tls>>,
    /// Where QUIC is served, once it is.
    pub quic_address: OnceLock<SocketAddr>,
    /// Whether each record is written by itself: the other half of the coalescing bench, never for use.
    pub one_write_each: bool,
}

impl Node {
    /// A node that is not started yet, with the engine that the configuration names.
    ///
    /// # Errors
    /// Why the engine cannot be used until somebody changes something.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, String> {
        if config.engine.kind == EngineKind::Memory {
            return Ok(Self::new(config, clock));
        }
        let node = Self::without_engine(config, clock);
        let sink = Arc::clone(&node.hub) as Arc<dyn EngineSink>;
        let engine = RedisEngine::start(redis_options(&node.config.redis)?, node.clock.clone(), sink).await?;
        node.hub.connect(Arc::new(engine));
        Ok(node)
    }

    /// A node on the memory engine that is not started yet.
    pub fn new(config: Config, clock: Clock) -> Self {
        let node = Self::without_engine(config, clock);
        let engine = &node.config.engine;
        let bytes_max = usize::try_from(engine.bytes_max).unwrap_or(usize::MAX);
        let options = MemoryOptions { rooms_max: engine.rooms_max, bytes_max, ..MemoryOptions::default() };
        let sink = Arc::clone(&node.hub) as Arc<dyn EngineSink>;
        node.hub.connect(Arc::new(MemoryEngine::new(options, node.clock.clone(), sink)));
        node
    }

    /// A node to whose hub an engine must be connected first of all.
    pub(crate) fn without_engine(config: Config, clock: Clock) -> Self {
        let id: Arc<str> = format!("n-{:08x}", rand::random::<u32>()).into();
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::default());
        let traces = Arc::new(Traces::new(clock.clone(), config.dev || config.telemetry.traces));
        let (for_hub, policies) = (Arc::clone(&traces), config.policies.clone());
        let hub = Hub::new(clock.clone(), Arc::clone(&metrics), Arc::clone(&health), policies, for_hub);
        Self {
            admission: Admission::new(&config, Arc::clone(&metrics)),
            auth: Arc::new(Auth::new(&config, clock.clone())),
            rates: Rates::new(&config.rates, clock.clone()),
            session: Arc::new(session_config(&id, &config)),
            tls: certificate(&config, &clock).map(Arc::new),
            quic_address: OnceLock::new(),
            registry: Registry::new(config.dev),
            config: Arc::new(config),
            metrics,
            clock,
            shutdown: Shutdown::new(),
            health,
            hub: Arc::new(hub),
            cluster: Cluster::default(),
            traces,
            one_write_each: false,
            id,
        }
    }

    /// What the node accepts, as Welcome and the well-known document say it.
    pub fn limits(&self) -> v1::Limits {
        self.session.limits
    }

    /// Tells the connections of a store that is away, for as long as the node lives.
    pub async fn watch_store(&self) {
        self.hub.watch_store(|| self.registry.wake_all()).await;
    }

    /// The certificate of the HTTP port, if that speaks TLS.
    pub fn tls_of_http(&self) -> Option<&Tls> {
        self.tls.as_deref().filter(|_| self.config.speaks_tls())
    }

    /// Follows the files of the certificate, for as long as the node lives.
    pub async fn watch_certificate(&self) {
        if let Some(tls) = &self.tls {
            tls.watch(&self.metrics).await;
        }
    }

    /// What has to be done every few seconds for as long as the node lives.
    pub async fn housekeep(&self) {
        self.hub.sweep().await;
        self.rates.sweep();
        self.hub.engine().sweep();
        self.auth.revocations.sweep(self.clock.now_ms());
    }
}

fn certificate(config: &Config, clock: &Clock) -> Option<Tls> {
    let made = match &config.certificate {
        Some(of) => Tls::of_files(of.files.clone(), Arc::clone(&of.pair), clock.clone()),
        None if config.dev => Tls::development(config.lan, clock.clone()),
        None => return None,
    };
    made.inspect_err(|error| tracing::error!(error, "the node has no certificate")).ok()
}

fn redis_options(redis: &Redis) -> Result<RedisOptions, String> {
    let url = match &redis.url_file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| format!("redis.url_file {} cannot be read: {error}", file.display()))?,
        None => redis.url.clone(),
    };
    Ok(RedisOptions {
        url: url.trim_end().into(),
        prefix: redis.prefix.as_str().into(),
        partitions: redis.partitions,
        beside_others: redis.beside_others,
        group_events_max: redis.group_events_max,
        replicas: redis.replicas,
        ..RedisOptions::default()
    })
}

fn session_config(id: &str, config: &Config) -> session::Config {
    let limits = &config.limits;
    let heartbeat = &config.heartbeat;
    session::Config {
        node: id.to_owned(),
        capabilities: capabilities(config),
        limits: v1::Limits {
            record_bytes: limits.record_bytes,
            message_bytes: config.policies.message_bytes_max(),
            rooms: limits.rooms_per_connection,
            publishes_in_flight: limits.publishes_in_flight,
            signals_per_second: limits.signals_per_second,
            history_page: limits.history_page,
        },
        heartbeat: v1::Heartbeat {
            ping_after_ms: heartbeat.ping_after_ms,
            pong_within_ms: heartbeat.pong_within_ms,
            idle_close_ms: heartbeat.idle_close_ms,
        },
        reconnect: v1::ReconnectWindow { min_ms: config.reconnect.min_ms, max_ms: config.reconnect.max_ms },
        hello_within_ms: heartbeat.hello_timeout_ms.into(),
        no_progress_ms: heartbeat.no_progress_ms.into(),
        lane_bytes: LANE_BYTES,
        bulk_bytes_per_second: limits.bulk_bytes_per_second,
    }
}
