//! Asking the thread of a file to wait for the disk, however often somebody asks: one request waits at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

#[derive(Debug, Default)]
struct Asked {
    /// How often it was asked.
    count: AtomicU64,
    /// A request is on its way to the thread.
    waits: AtomicBool,
}

/// The side that asks.
#[derive(Debug)]
pub(crate) struct Syncs {
    asked: Arc<Asked>,
    done: watch::Receiver<u64>,
}

/// The thread's side.
#[derive(Debug)]
pub(crate) struct Syncer {
    asked: Arc<Asked>,
    done: watch::Sender<u64>,
}

/// Tells when what was written before it was asked for is on the disk.
#[derive(Debug)]
pub(crate) struct Synced {
    at: u64,
    done: watch::Receiver<u64>,
}

/// Both sides.
pub(crate) fn syncs() -> (Syncs, Syncer) {
    let (sender, receiver) = watch::channel(0);
    let asked = Arc::<Asked>::default();
    (Syncs { asked: asked.clone(), done: receiver }, Syncer { asked, done: sender })
}

impl Syncs {
    /// Asks; `send` hands a request to the thread, unless one is on its way.
    pub(crate) fn ask(&self, send: impl FnOnce()) -> Synced {
        let at = self.asked.count.fetch_add(1, Ordering::SeqCst) + 1;
        if !self.asked.waits.swap(true, Ordering::SeqCst) {
            send();
        }
        Synced { at, done: self.done.clone() }
    }

    /// Tells when the thread is over.
    pub(crate) fn end(&self) -> Synced {
        Synced { at: u64::MAX, done: self.done.clone() }
    }
}

impl Syncer {
    /// A request came: does it for all who have asked so far.
    pub(crate) fn serve(&self, sync: impl FnOnce() -> io::Result<()>) {
        // In this order, or who asks in between would be forgotten.
        self.asked.waits.store(false, Ordering::SeqCst);
        let count = self.asked.count.load(Ordering::SeqCst);
        if let Err(error) = sync() {
            tracing::warn!(%error, "a file could not be written to the disk");
        }
        self.done.send_replace(count);
    }
}

impl Synced {
    /// Waits until the disk has it or has refused, or the thread is over. Cancel safe.
    pub(crate) async fn wait(mut self) {
        let _ = self.done.wait_for(|done| *done >= self.at).await;
    }
}
