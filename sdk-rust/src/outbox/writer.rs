//! The thread that writes an outbox file, so that no task waits for a disk.
//!
//! ```text
//!  owner task ── changes ──▶ thread: all that wait, in one write ── written, failed, ended ──▶ owner task
//! ```
//!
//! Both queues are bounded by the outbox: a publish is in the first until it is written and only then sent, so that its
//! end comes after; each change makes at most one report.

use std::sync::mpsc;
use std::thread;

use tokio::sync::mpsc as reports;

use super::file::{Change, OutboxFile};
use super::record::Item;
use crate::disk::{Synced, Syncer, Syncs, syncs};
use crate::error::{ConnectError, ConnectErrorKind};

/// Changes written at a time, so that the first of them need not wait for ever.
const BATCH_MAX: usize = 1024;

/// What the thread is asked for.
#[derive(Debug)]
enum Request {
    Change(Change),
    /// A change whose end is reported.
    End(u64),
    /// Wait for the disk.
    Sync,
}

/// What became of the changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// The publish with this id is in the file.
    Written(u64),
    /// It is not, and will not be.
    Failed(u64, String),
    /// That the publish with this id has ended is in the file, or cannot be written at present.
    Ended(u64),
}

/// The owner task's side of the thread. It ends, and unlocks the file, when this is [finished](Self::finish) or dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `None`: finished.
    requests: Option<mpsc::Sender<Request>>,
    syncs: Syncs,
    reports: reports::UnboundedReceiver<Report>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(file: OutboxFile) -> Result<Self, ConnectError> {
        let (requests, requested) = mpsc::channel();
        let (reporter, reports) = reports::unbounded_channel();
        let (syncs, syncer) = syncs();
        let thread = thread::Builder::new().name("lanecast-outbox".into());
        let started = thread.spawn(move || run(file, &requested, &reporter, &syncer));
        started.map_err(|error| ConnectError::local(ConnectErrorKind::NoRuntime, error.to_string()))?;
        Ok(Self { requests: Some(requests), syncs, reports })
    }

    /// Writes a publish down; reported as `Written` or `Failed`.
    pub(crate) fn queue(&self, item: Item) {
        self.ask(Request::Change(Change::Queue(item)));
    }

    /// Writes down that a publish is stored. Not reported: if it is forgotten, the publish is sent again and is a duplicate.
    pub(crate) fn stored(&self, id: u64) {
        self.ask(Request::Change(Change::End(id)));
    }

    /// Writes down that a publish has ended without being stored; reported as `Ended`.
    pub(crate) fn ended(&self, id: u64) {
        self.ask(Request::End(id));
    }

    /// Writes down whose publishes these are.
    pub(crate) fn user(&self, user: &str) {
        self.ask(Request::Change(Change::User(user.to_owned())));
    }

    /// Puts everything so far on the disk.
    pub(crate) fn sync(&self) -> Synced {
        self.syncs.ask(|| self.ask(Request::Sync))
    }

    /// The next report; `None`: the thread is over, and the file unlocked. Cancel safe.
    pub(crate) async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// No more changes: the thread ends after those that it has.
    pub(crate) fn finish(&mut self) {
        self.requests = None;
    }

    fn ask(&self, request: Request) {
        // The thread ends only after this sender.
        let _ = self.requests.as_ref().map(|requests| requests.send(request));
    }
}

fn run(
    mut file: OutboxFile,
    requests: &mpsc::Receiver<Request>,
    reports: &reports::UnboundedSender<Report>,
    syncer: &Syncer,
) {
    while let Ok(first) = requests.recv() {
        let mut changes = Vec::new();
        let mut on_written = Vec::new();
        let mut syncs = false;
        for request in [first].into_iter().chain(requests.try_iter()).take(BATCH_MAX) {
            match request {
                Request::Change(change) => {
                    if let Change::Queue(item) = &change {
                        on_written.push(Report::Written(item.id));
                    }
                    changes.push(change);
                }
                Request::End(id) => {
                    on_written.push(Report::Ended(id));
                    changes.push(Change::End(id));
                }
                Request::Sync => syncs = true,
            }
        }
        let written = file.write(&changes);
        if let Err(error) = &written {
            tracing::warn!(%error, "an outbox file could not be written");
        }
        for report in on_written {
            // An owner that is gone needs no report; what it asked for is carried out.
            let _ = reports.send(match (&written, report) {
                (Err(error), Report::Written(id)) => Report::Failed(id, error.to_string()),
                (_, report) => report,
            });
        }
        if syncs {
            syncer.serve(|| file.sync());
        }
        if file.is_bloated()
            && let Err(error) = file.rewrite()
        {
            tracing::warn!(%error, "an outbox file could not be rewritten");
        }
    }
}
