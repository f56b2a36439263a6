//! What the node says about itself: log lines and metrics.
//!
//! Promises: labels come from closed sets, so that no client can make the number of series grow; every series exists
//! from the start, at zero. Refuses: user ids, room names and addresses as labels.

mod board;
pub mod labels;
pub mod metrics;
mod series;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

pub use board::{Board, Figures, LaneFigures};
pub use metrics::Metrics;
pub use series::{Labels, Series};

/// Starts writing log lines to standard error. `RUST_LOG` is not asked: the configuration says it.
///
/// # Errors
/// Where a subscriber is installed already, or the filter cannot be read.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| error.to_string())?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    done.map_err(|error| error.to_string())
}

/// Says what is wrong with filter directives.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}
