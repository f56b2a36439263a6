//! What the SDK has to say, handed to the application.
//!
//! Lines wait in a bounded queue and leave from a thread of their own, so that a slow or failing sink delays nothing of the
//! SDK, and never runs while a lock is held.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Once};

use parking_lot::{Condvar, Mutex};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::{ErrorKind, FfiError};

/// Lines that wait for the sink. Beyond them the oldest is dropped, and the number of those that were is a line of its own.
const LINES_MAX: usize = 1024;
/// Bytes of a line; the rest is cut off.
const LINE_BYTES_MAX: usize = 2048;
/// What the SDK's own targets begin with. Its libraries are not asked: at level debug they would push its lines out.
const TARGETS: &str = "lanecast";

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, uniffi::Enum)]
pub enum LogLevel {
    /// Something failed that should not.
    Error,
    /// Something is wrong outside.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer of the application wants to know.
    Debug,
    /// What a developer of the SDK wants to know.
    Trace,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            Level::DEBUG => Self::Debug,
            _ => Self::Trace,
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Where the lines go.
#[uniffi::export(foreign)]
pub trait LogSink: Send + Sync {
    /// Takes a line. Called from a thread of the SDK's, one line at a time. What it throws is dropped.
    ///
    /// # Errors
    ///
    /// None that anybody hears of.
    fn log(&self, level: LogLevel, target: String, line: String) -> Result<(), FfiError>;
}

/// Hands the SDK's lines of this level and those that matter more to a sink, which takes the place of the one before; `None`:
/// to nobody. One sink for the process.
///
/// # Errors
///
/// Of kind `Invalid` if the process has another subscriber of Rust's `tracing`.
#[uniffi::export]
pub fn set_log_sink(level: LogLevel, sink: Option<Arc<dyn LogSink>>) -> Result<(), FfiError> {
    static INSTALL: Once = Once::new();
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    INSTALL.call_once(|| *INSTALLED.lock() = set_global_default(Lines).is_ok());
    if !*INSTALLED.lock() {
        return Err(FfiError::local(ErrorKind::Invalid, "the process has another subscriber of tracing"));
    }
    LOG.level.store(if sink.is_some() { level as u8 + 1 } else { 0 }, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
    let mut queue = LOG.queue.lock();
    let begins = sink.is_some() && !queue.has_thread;
    queue.has_thread |= begins;
    let former = std::mem::replace(&mut queue.sink, sink);
    drop(queue);
    // Outside of the lock: the last handle of a foreign object calls back when it goes.
    drop(former);
    LOG.changed.notify_one();
    if begins && std::thread::Builder::new().name("lanecast-log".into()).spawn(hand_over).is_err() {
        LOG.queue.lock().has_thread = false;
        return Err(FfiError::local(ErrorKind::NoRuntime, "no thread for the log"));
    }
    Ok(())
}

struct Log {
    /// 0: none; else one more than a [`LogLevel`].
    level: AtomicU8,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    sink: Option<Arc<dyn LogSink>>,
    has_thread: bool,
    lines: VecDeque<Line>,
    /// Lines that were dropped since the sink was told.
    dropped: u64,
}

struct Line {
    level: LogLevel,
    target: String,
    text: String,
}

static LOG: Log = Log { level: AtomicU8::new(0), queue: Mutex::new(Queue::new()), changed: Condvar::new() };

impl Queue {
    const fn new() -> Self {
        Self { sink: None, has_thread: false, lines: VecDeque::new(), dropped: 0 }
    }

    fn put(&mut self, line: Line) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    fn take(&mut self) -> Option<Line> {
        match std::mem::take(&mut self.dropped) {
            0 => self.lines.pop_front(),
            dropped => {
                let text = format!("{dropped} lines were dropped, because the log's sink is slow");
                Some(Line { level: LogLevel::Warn, target: module_path!().into(), text })
            }
        }
    }
}

/// The life of the thread: as long as there is a sink.
fn hand_over() {
    while let Some((sink, line)) = next() {
        // A sink that fails is the application's own affair; the next line may go through.
        let _ = sink.log(line.level, line.target, line.text);
    }
}

fn next() -> Option<(Arc<dyn LogSink>, Line)> {
    let mut queue = LOG.queue.lock();
    loop {
        let Some(sink) = queue.sink.clone() else {
            queue.has_thread = false;
            queue.lines.clear();
            return None;
        };
        if let Some(line) = queue.take() {
            return Some((sink, line));
        }
        drop(sink);
        LOG.changed.wait(&mut queue);
    }
}

/// Puts the SDK's lines into the queue.
struct Lines;

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        if metadata.is_event() && metadata.target().starts_with(TARGETS) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (LogLevel::from(*metadata.level()) as u8) < LOG.level.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        let level = LOG.level.load(Ordering::Relaxed);
        Some(levels.into_iter().rfind(|one| (*one as u8) < level).map_or(LevelFilter::OFF, Into::into))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let (level, target) = ((*event.metadata().level()).into(), event.metadata().target().to_owned());
        LOG.queue.lock().put(Line { level, target, text: text.0 });
        LOG.changed.notify_one();
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The sentence of an event, and its values.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        self.0.truncate(self.0.floor_char_boundary(LINE_BYTES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_are_dropped_and_counted() {
        let mut queue = Queue::new();
        for number in 0..LINES_MAX + 3 {
            queue.put(Line { level: LogLevel::Info, target: String::new(), text: number.to_string() });
        }
        let mut next = || queue.take().map(|line| line.text);
        assert!(next().unwrap().starts_with("3 lines were dropped"));
        assert_eq!((next(), next()), (Some("3".into()), Some("4".into())));
        assert_eq!(std::iter::from_fn(next).count(), LINES_MAX - 2);
    }
}
