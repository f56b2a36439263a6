//! The wire log of a case: what went over each connection, for the report of a failure.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Lines kept per case; older ones are dropped, counted.
const LINES_MAX: usize = 400;
/// Bytes kept per line.
const LINE_BYTES_MAX: usize = 600;

/// A bounded log, shared by the connections of a case.
#[derive(Clone)]
pub struct WireLog(Arc<Mutex<Lines>>);

struct Lines {
    started: Instant,
    dropped: usize,
    lines: std::collections::VecDeque<String>,
}

impl Default for WireLog {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lines { started: Instant::now(), dropped: 0, lines: Default::default() })))
    }
}

impl WireLog {
    /// Adds a line with the time since the case began.
    pub fn add(&self, connection: &str, direction: &str, text: &str) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = format!("{:>8.1} ms {connection} {direction} {text}", log.started.elapsed().as_secs_f64() * 1e3);
        if line.len() > LINE_BYTES_MAX {
            let end = (0..=LINE_BYTES_MAX).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
            let left_out = line.len() - end;
            line.truncate(end);
            line.push_str(&format!("… ({left_out} bytes more)"));
        }
        if log.lines.len() == LINES_MAX {
            log.lines.pop_front();
            log.dropped += 1;
        }
        log.lines.push_back(line);
    }

    /// The log as text.
    pub fn text(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if log.dropped > 0 {
            text.push_str(&format!("({} earlier lines dropped)\n", log.dropped));
        }
        for line in &log.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
