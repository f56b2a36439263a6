//! Keys that somebody else publishes: a JSON Web Key Set in a file, or behind a URL, read again and again.
//!
//! ```text
//! start ──▶ read ──ok──▶ keys, as old as this read ◀──┐
//!             │ no                                     │ every so often, or for a token
//!             └──▶ the last good keys hold on, ────────┘ that names an unknown key
//!                  until they are too old
//! ```
//!
//! Promises: a failed read never costs the keys that are known, until they are older than
//! `tokens.jwks_age_max_ms`; a token with an unknown key has the set read again, at most every
//! [`ASKED_EVERY_MS`], and waits for it no longer than [`ASKED_WITHIN`].
//! Refuses: redirects, bodies above [`SET_BYTES_MAX`], and more keys than [`SET_KEYS_MAX`](super::keys::SET_KEYS_MAX).

mod fetch;
#[cfg(test)]
mod tests;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use self::fetch::{Fetched, Fetcher};
use super::keys::{Key, read_set};
use crate::clock::Clock;
use crate::config::TokenOptions;
use crate::telemetry::Metrics;

/// Bytes of a set at most.
pub const SET_BYTES_MAX: usize = 256 * 1024;
/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After a failure a URL is asked again after about this long, ms.
const RETRY_MS: std::ops::RangeInclusive<u64> = 5_000..=15_000;
/// Tokens with unknown keys have the set read this often at most, ms: whoever makes up key ids must not make the node a
/// burden to the issuer.
const ASKED_EVERY_MS: u64 = 10_000;
/// How long such a token waits for the read.
const ASKED_WITHIN: Duration = Duration::from_secs(3);
/// Bounds of what a server may say of how long its answer is fresh.
const FRESH_FOR: std::ops::RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_secs(24 * 3_600);

/// Where the set is.
enum Source {
    File(PathBuf),
    Url(Fetcher),
}

/// What was read last.
#[derive(Debug, Default)]
struct Known {
    keys: Arc<[Key]>,
    /// When they were found to be the present ones, node's clock, ms; `None`: never.
    checked_at_ms: Option<u64>,
}

/// A set and its keeper.
pub struct Jwks {
    source: Source,
    clock: Clock,
    refresh: Duration,
    age_max_ms: u64,
    known: RwLock<Known>,
    /// Counts reads, failed ones too.
    reads: watch::Sender<u64>,
    /// When a token may have the set read again, ms since the clock was made.
    asked_from_ms: AtomicU64,
    asked: Notify,
    /// The last trouble in the log, so that one is told once.
    told: Mutex<String>,
}

impl Jwks {
    /// As the configuration says; `None` without a source.
    pub fn new(options: &TokenOptions, clock: Clock) -> Option<Self> {
        let source = match (&options.jwks_file, &options.jwks_url) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(url)) => Source::Url(Fetcher::new(url)),
            (None, None) => return None,
        };
        Some(Self {
            source,
            clock,
            refresh: Duration::from_millis(options.jwks_refresh_ms),
            age_max_ms: options.jwks_age_max_ms,
            known: RwLock::default(),
            reads: watch::Sender::new(0),
            asked_from_ms: AtomicU64::new(0),
            asked: Notify::new(),
            told: Mutex::default(),
        })
    }

    /// The keys, unless they are too old to be believed.
    pub fn keys(&self) -> Arc<[Key]> {
        let known = self.known.read();
        let fresh = known.checked_at_ms.is_some_and(|at| at.saturating_add(self.age_max_ms) > self.clock.now_ms());
        if fresh { Arc::clone(&known.keys) } else { Arc::default() }
    }

    /// Has the set read for a token whose key is unknown, and waits for that; not so soon after another read. Cancel safe.
    pub async fn look_again(&self) {
        let mut reads = self.reads.subscribe();
        if self.elapsed_ms() < self.asked_from_ms.load(Ordering::Relaxed) {
            return;
        }
        self.asked.notify_one();
        // A read that takes longer is too late for this token, and in time for the next one.
        let _ = tokio::time::timeout(ASKED_WITHIN, reads.changed()).await;
    }

    /// Waits until the set was read once, well or not. Cancel safe.
    pub async fn read_once(&self) {
        let _ = self.reads.subscribe().wait_for(|reads| *reads > 0).await;
    }

    /// Reads the set for as long as the node lives.
    pub async fn keep(&self, metrics: &Metrics) {
        let mut seen = None;
        loop {
            self.asked_from_ms.store(self.elapsed_ms().saturating_add(ASKED_EVERY_MS), Ordering::Relaxed);
            let pause = match self.read(&mut seen).await {
                Ok(pause) => {
                    self.told.lock().clear();
                    pause
                }
                Err(why) => {
                    metrics.jwks_failures.inc();
                    self.tell(&why);
                    match self.source {
                        Source::File(_) => LOOK_EVERY,
                        Source::Url(_) => Duration::from_millis(rand::random_range(RETRY_MS)),
                    }
                }
            };
            metrics.jwks_keys.set(self.keys().len() as i64);
            self.reads.send_modify(|reads| *reads += 1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    /// Reads once; says when to read again. `seen` is what a file was like that need not be read again.
    async fn read(&self, seen: &mut Option<Stamp>) -> Result<Duration, String> {
        let (keys, pause) = match &self.source {
            Source::File(path) => {
                let (path, former) = (path.clone(), *seen);
                let read = tokio::task::spawn_blocking(move || read_file(&path, former)).await;
                let Some((stamp, bytes)) = read.map_err(|error| error.to_string())?? else {
                    self.known.write().checked_at_ms = Some(self.clock.now_ms());
                    return Ok(LOOK_EVERY);
                };
                let keys = read_set(&bytes)?;
                *seen = Some(stamp);
                (keys, LOOK_EVERY)
            }
            Source::Url(fetcher) => {
                let Fetched { bytes, fresh_for } = fetcher.fetch().await?;
                let pause = fresh_for.map(|fresh| fresh.clamp(*FRESH_FOR.start(), *FRESH_FOR.end()));
                (read_set(&bytes)?, pause.unwrap_or(self.refresh))
            }
        };
        tracing::debug!(keys = keys.len(), "the key set was read");
        *self.known.write() = Known { keys: keys.into(), checked_at_ms: Some(self.clock.now_ms()) };
        Ok(pause)
    }

    fn tell(&self, why: &str) {
        let mut told = self.told.lock();
        if *told != why {
            let known = self.keys().len();
            tracing::warn!(source = %self.source, why, keys = known, "the key set cannot be read; the last one goes on");
            why.clone_into(&mut told);
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<std::time::SystemTime>,
    bytes: u64,
}

/// Reads a file, unless it is as it was.
pub fn read_file(path: &Path, former: Option<Stamp>) -> Result<Option<(Stamp, Vec<u8>)>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut file = std::fs::File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let stamp = Stamp { modified: metadata.modified().ok(), bytes: metadata.len() };
    if former == Some(stamp) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.by_ref().take(SET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > SET_BYTES_MAX {
        return Err(format!("has more than {SET_BYTES_MAX} bytes"));
    }
    Ok(Some((stamp, bytes)))
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(fetcher) => write!(f, "{fetcher}"),
        }
    }
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwks").field("source", &format_args!("{}", self.source)).finish_non_exhaustive()
    }
}
