//! What a subscriber measured.

use serde::Serialize;

use super::super::quantile;

/// Latencies of one kind, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    pub(super) fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let ms = |part| quantile(&micros, part) as f64 / 1e3;
        Self { p50_ms: ms(0.5), p95_ms: ms(0.95), p99_ms: ms(0.99), max_ms: ms(1.0) }
    }

    fn text(&self) -> String {
        format!("{:>9.1} {:>9.1} {:>9.1} {:>9.1}", self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms)
    }
}

/// One lane.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LaneReport {
    pub lane: &'static str,
    /// Messages that were due while it was measured; 0: no number was set.
    pub published: u64,
    pub delivered: u64,
    pub delivered_percent: f64,
    /// One way, from when a message was due.
    #[serde(flatten)]
    pub latency: Latency,
    /// Payload that arrived while it was measured.
    pub kbit_per_s: f64,
    /// What gaps of any time counted.
    pub gaps: u64,
    /// Messages that came twice.
    pub doubled: u64,
    /// Messages that came later than their time to live and a round trip.
    pub expired: u64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub transport: &'static str,
    pub seconds: u64,
    pub lanes: Vec<LaneReport>,
    /// Round trips of Ping and Pong beside it.
    pub ping: Latency,
    /// How old the newest value of a key became before the next replaced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_age: Option<Latency>,
    /// Events that were replayed meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<u64>,
    /// How the connection ended, if it was not the subscriber that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Anonymous memory of the server: when measuring began, and the most until it ended, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<(u64, u64)>,
}

impl Report {
    /// A table for people, one line for each lane.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![format!(
            "{:<12} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6}",
            self.transport,
            "published",
            "delivered %",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "max ms",
            "kbit/s",
            "gaps",
            "late"
        )];
        for lane in &self.lanes {
            lines.push(format!(
                "{:<12} {:>9} {:>11.2} {} {:>9.0} {:>6} {:>6}",
                lane.lane,
                lane.published,
                lane.delivered_percent,
                lane.latency.text(),
                lane.kbit_per_s,
                lane.gaps,
                lane.expired
            ));
        }
        lines.push(format!("{:<12} {:>9} {:>11} {}", "ping, both ways", "", "", self.ping.text()));
        if let Some(age) = &self.signal_age {
            lines.push(format!("{:<12} {:>9} {:>11} {}", "age of values", "", "", age.text()));
        }
        if let Some(replayed) = self.replayed {
            lines.push(format!("{replayed} events replayed meanwhile"));
        }
        if let Some((before, most)) = self.memory_kib {
            lines.push(format!("memory of the server {before} KiB, at most {most} KiB"));
        }
        let doubled: u64 = self.lanes.iter().map(|lane| lane.doubled).sum();
        if doubled > 0 {
            lines.push(format!("{doubled} messages came twice"));
        }
        lines.push(format!("connections closed: {}", self.closed.as_deref().unwrap_or("none")));
        lines.join("\n")
    }
}
