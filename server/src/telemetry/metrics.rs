//! The node's metrics, and the events that log and count together.

use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::labels::{
    Cap, Drop, DropReason, Encoding, EngineCall, GapCause, NodeMessage, PublishResult, Reload, ReplayOutcome, Route,
    Rule, Source, StatusClass, TlsFailure, Transport,
};
use super::series::Series;

/// Everything that the node counts. Hot paths count without a lock.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// TCP connections open now.
    pub sockets: Gauge,
    /// Connections refused because there were too many.
    pub connections_refused: Series<Cap, Counter>,
    /// Sockets closed before they brought a request.
    pub sockets_dropped: Series<Drop, Counter>,
    /// Connections of clients now.
    pub connections: Series<(Transport, Encoding), Gauge>,
    /// Handshakes refused: the HTTP request or the Hello.
    pub handshakes_refused: Series<Code, Counter>,
    /// Connections that the node closed with a code.
    pub closes: Series<Code, Counter>,
    /// Frames received.
    pub frames_in: Series<Lane, Counter>,
    /// Frames sent.
    pub frames_out: Series<Lane, Counter>,
    /// Writes to transports; `frames_out` divided by it says how well frames coalesce.
    pub writes: Counter,
    /// Bytes in the queues of connections now.
    pub queue_bytes: Series<Lane, Gauge>,
    /// How long frames waited in the queue of their connection, in seconds.
    pub queue_age: Series<Lane, Histogram>,
    /// What was dropped without being delivered.
    pub drops: Series<(Lane, DropReason), Counter>,
    /// From receiving a publish to handing its event to a transport, in seconds.
    pub publish_to_deliver: Series<Lane, Histogram>,
    /// From giving an event to the engine to its answer, in seconds: what waits for a store, and the store.
    pub append: Series<Lane, Histogram>,
    /// Subscriptions that asked for a position.
    pub replays: Series<ReplayOutcome, Counter>,
    /// Gaps sent.
    pub gaps: Series<(GapCause, Lane), Counter>,
    /// Publishes.
    pub publishes: Series<PublishResult, Counter>,
    /// Requests refused because they were beyond a rate.
    pub rate_limited: Series<Rule, Counter>,
    /// Keys of the published set that are in use.
    pub jwks_keys: Gauge,
    /// Reads of the published key set that failed.
    pub jwks_failures: Counter,
    /// Revocations that hold, as far as this node knows.
    pub revocations: Gauge,
    /// Calls of the engine that failed.
    pub engine_errors: Series<EngineCall, Counter>,
    /// Messages of other nodes.
    pub node_messages: Series<NodeMessage, Counter>,
    /// Reads for connections whose lane had had no room: they catch up instead of following.
    pub catch_ups: Series<(Lane, Source), Counter>,
    /// Openings of rooms for subscribers.
    pub room_opens: Series<Source, Counter>,
    /// Reads of rooms for subscribers.
    pub room_reads: Series<Source, Counter>,
    /// Calls of the engine that were made again after a failure.
    pub retries: Series<EngineCall, Counter>,
    /// 1 while clients are told that the store cannot be reached.
    pub degraded: Gauge,
    /// TLS handshakes of the HTTP port that came to nothing.
    pub tls_handshakes_failed: Series<TlsFailure, Counter>,
    /// QUIC handshakes of which no connection came: they took too long, failed, or the session was refused.
    pub quic_handshakes_failed: Counter,
    /// Urgent events that were sent a second time since their acknowledgement was overdue (LC-QUIC-014).
    pub urgent_copies: Counter,
    /// Certificates that were replaced while the node ran.
    pub certificate_reloads: Series<Reload, Counter>,
    /// When the certificate ends, in seconds since the Unix epoch; 0 without one.
    pub certificate_expires: Gauge,
    /// HTTP requests answered.
    pub http_requests: Series<(Route, StatusClass), Counter>,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("lanecast");
        let r = &mut registry;
        let counter = Counter::default;
        let gauge = Gauge::default;
        Self {
            sockets: registered(r, "sockets", "TCP connections open now"),
            connections_refused: Series::register(
                r,
                "connections_refused",
                "Connections above a cap, refused",
                counter,
            ),
            sockets_dropped: Series::register(
                r,
                "sockets_dropped",
                "Sockets closed before they brought a request",
                counter,
            ),
            connections: Series::register(r, "connections", "Connections of clients now", gauge),
            handshakes_refused: Series::register(r, "handshakes_refused", "Handshakes refused", counter),
            closes: Series::register(r, "closes", "Connections that the node closed with a code", counter),
            frames_in: Series::register(r, "frames_in", "Frames received", counter),
            frames_out: Series::register(r, "frames_out", "Frames sent", counter),
            writes: registered(r, "writes", "Writes to transports"),
            queue_bytes: Series::register(r, "queue_bytes", "Bytes in the queues of connections now", gauge),
            queue_age: Series::register(r, "queue_age_seconds", "How long frames waited in their queue", latency),
            drops: Series::register(r, "drops", "What was dropped without being delivered", counter),
            publish_to_deliver: Series::register(
                r,
                "publish_to_deliver_seconds",
                "From receiving a publish to handing its event to a transport",
                latency,
            ),
            append: Series::register(r, "append_seconds", "From giving an event to the engine to its answer", latency),
            replays: Series::register(r, "replays", "Subscriptions that asked for a position", counter),
            gaps: Series::register(r, "gaps", "Gaps sent", counter),
            publishes: Series::register(r, "publishes", "Publishes", counter),
            rate_limited: Series::register(r, "rate_limited", "Requests beyond a rate, refused", counter),
            jwks_keys: registered(r, "jwks_keys", "Keys of the published set that are in use"),
            jwks_failures: registered(r, "jwks_failures", "Reads of the published key set that failed"),
            revocations: registered(r, "revocations", "Revocations that this node knows"),
            engine_errors: Series::register(r, "engine_errors", "Calls of the engine that failed", counter),
            node_messages: Series::register(r, "node_messages", "Messages of other nodes", counter),
            catch_ups: Series::register(r, "catch_ups", "Reads for connections that had been held back", counter),
            room_opens: Series::register(r, "room_opens", "Openings of rooms for subscribers", counter),
            room_reads: Series::register(r, "room_reads", "Reads of rooms for subscribers", counter),
            retries: Series::register(r, "retries", "Calls of the engine that were made again", counter),
            degraded: registered(r, "degraded", "1 while clients are told that the store cannot be reached"),
            tls_handshakes_failed: Series::register(r, "tls_handshakes_failed", "TLS handshakes that failed", counter),
            quic_handshakes_failed: registered(r, "quic_handshakes_failed", "QUIC handshakes that came to nothing"),
            urgent_copies: registered(
                r,
                "urgent_copies",
                "Urgent events sent again, their acknowledgement being overdue",
            ),
            certificate_reloads: Series::register(r, "certificate_reloads", "Certificates replaced", counter),
            certificate_expires: registered(
                r,
                "certificate_expires_timestamp_seconds",
                "When the certificate ends, as Unix time; 0 without one",
            ),
            http_requests: Series::register(r, "http_requests", "HTTP requests answered", counter),
            registry,
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// A handshake was refused: counted and logged.
    pub fn handshake_refused(&self, code: Code, why: &dyn std::fmt::Display, peer: std::net::SocketAddr) {
        self.handshakes_refused.of(code).inc();
        tracing::debug!(%code, %why, %peer, "handshake refused");
    }

    /// A call of the engine failed: counted and logged.
    pub fn engine_failed(&self, call: EngineCall, room: &str, error: &dyn std::fmt::Display) {
        self.engine_errors.of(call).inc();
        tracing::warn!(call = call.word(), room, %error, "engine call failed");
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From 50 µs, below which nothing is delivered, to 26 s, in steps of two.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

fn registered<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start() {
        let metrics = Metrics::new();
        let text = metrics.encode();
        for line in [
            "lanecast_connections{transport=\"websocket\",encoding=\"binary\"} 0",
            "lanecast_drops_total{lane=\"signal\",reason=\"conflated\"} 0",
            "lanecast_gaps_total{cause=\"unknown\",lane=\"urgent\"} 0",
            "lanecast_handshakes_refused_total{code=\"ORIGIN\"} 0",
            "lanecast_room_reads_total{source=\"shared\"} 0",
            "lanecast_retries_total{call=\"read\"} 0",
            "lanecast_catch_ups_total{lane=\"bulk\",source=\"cache\"} 0",
            "lanecast_degraded 0",
            "lanecast_certificate_reloads_total{result=\"failed\"} 0",
            "lanecast_certificate_expires_timestamp_seconds 0",
            "lanecast_jwks_failures_total 0",
            "lanecast_writes_total 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn counts_land_in_their_series() {
        let metrics = Metrics::new();
        metrics.drops.of((Lane::Bulk, DropReason::Expired)).inc_by(3);
        metrics.publish_to_deliver.of(Lane::Urgent).observe(0.001);
        let text = metrics.encode();
        assert!(text.contains("lanecast_drops_total{lane=\"bulk\",reason=\"expired\"} 3\n"), "{text}");
        assert!(text.contains("lanecast_publish_to_deliver_seconds_count{lane=\"urgent\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
