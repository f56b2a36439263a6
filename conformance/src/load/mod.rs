//! The raw client as a load generator. Its figures are for people; only `mixed`, `siege` and `stall` judge.

mod consumer;
mod fanout;
mod idle;
mod lanes;
pub(crate) mod link;
mod mixed;
mod process;
mod siege;
mod stall;
mod storm;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
pub use lanes::Lanes;
pub use stall::Stall;

use crate::client::Transport;
use crate::target::Target;
use crate::verdict::Outcome;

/// Publishes to one room with many subscribers: latency at a given rate, or deliveries at saturation.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Fanout {
    /// Connections subscribed to the room.
    #[arg(long, default_value_t = 100)]
    pub subscribers: usize,
    /// Connections that publish to it.
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
    /// Events per second of all publishers together, sent at their times whatever the server does; 0: as many as it
    /// takes.
    #[arg(long, default_value_t = 100)]
    pub rate: u64,
    /// Bytes of an event's body.
    #[arg(long, default_value_t = 100)]
    pub bytes: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Publishes transient events instead of durable ones.
    #[arg(long)]
    pub transient: bool,
    /// Process of the server, for its CPU time; known if the suite started it.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Opens connections in three rooms each, sends each one event per room, and prints what memory they cost.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Idle {
    /// Connections.
    #[arg(long, default_value_t = 1_000)]
    pub connections: usize,
    /// Connections that share their three rooms; 0: all of them.
    #[arg(long, default_value_t = 0)]
    pub group: usize,
    /// Process of the server; known if the suite started it.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Opens and joins connections as fast as the server lets them.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Storm {
    /// Connections to open in all.
    #[arg(long, default_value_t = 2_000)]
    pub connections: usize,
    /// Connections that are on their way at once.
    #[arg(long, default_value_t = 64)]
    pub at_once: usize,
}

/// Publishes durable events of all lanes, transient ones and signals from one client to another, and fails unless all
/// arrive as they must.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Mixed {
    /// Events to publish.
    #[arg(long, default_value_t = 10_000)]
    pub events: u64,
}

/// Measures what healthy clients notice of handshakes that never finish and of connections that say nothing, and fails
/// if their 99th percentile doubles.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Siege {
    /// Handshakes that never finish, half of them over QUIC where the server has it.
    #[arg(long, default_value_t = 200)]
    pub handshakes: usize,
    /// Connections that say nothing.
    #[arg(long, default_value_t = 1_000)]
    pub idle: usize,
    /// Turns without and with them.
    #[arg(long, default_value_t = 4)]
    pub turns: usize,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// What to do to the server.
#[derive(Clone, Debug)]
pub enum Load {
    /// One room, many subscribers.
    Fanout(Fanout),
    /// Many connections that do nothing.
    Idle(Idle),
    /// Many connections at once.
    Storm(Storm),
    /// Everything from one client to another.
    Mixed(Mixed),
    /// Healthy clients beside peers that never finish.
    Siege(Siege),
    /// All lanes at once, by latency.
    Lanes(Lanes),
    /// One subscriber that stops reading.
    Stall(Stall),
}

/// Runs a load and returns its table. `pid` is the server that the suite started.
pub async fn run(target: Arc<Target>, transport: Transport, load: Load, pid: Option<u32>) -> Outcome<String> {
    match load {
        Load::Fanout(plan) => fanout::run(target, transport, &plan, plan.pid.or(pid)).await,
        Load::Idle(plan) => idle::run(target, transport, plan.connections, plan.group, plan.pid.or(pid)).await,
        Load::Mixed(plan) => mixed::run(target, transport, plan.events).await,
        Load::Siege(Siege { handshakes, idle, turns, seconds }) => {
            siege::run(target, transport, siege::Plan { handshakes, idle, turns, seconds }).await
        }
        Load::Lanes(plan) => lanes::run(target, transport, Lanes { pid: plan.pid.or(pid), ..plan }).await,
        Load::Stall(plan) => stall::run(target, transport, Stall { pid: plan.pid.or(pid), ..plan }).await,
        Load::Storm(plan) => storm::run(target, transport, plan.connections, plan.at_once).await,
    }
}

/// Microseconds since the Unix epoch: a clock that all processes of a machine share.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// A table of two columns.
fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect::<String>().trim_end().to_owned()
}

/// The value below which that part of the sorted values lies.
fn quantile(sorted: &[u64], part: f64) -> u64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)), (50, 99, 100));
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
