//! Positions that outlive the process: up to where each room was handled, in a file.
//!
//! ```text
//!  owner task: where a room begins ──▶ ┌───────┐ ──▶ thread: all that changed, in one write
//!  reader: what it acknowledged ─────▶ │ Table │ ◀── written, so that the reader hands out what follows
//!                                      └───────┘
//! ```
//!
//! A reader waits for the file and no task waits for the disk: the thread writes, and what changed meanwhile goes in its next
//! write, one position for each room.

mod file;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use lanecast_protocol::position::Position;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use self::file::{PositionsFile, Row};
use crate::disk::{Synced, Syncer, Syncs, syncs};
use crate::error::{ConnectError, ConnectErrorKind};

/// Rooms whose position is kept. Beyond them the one that was stored longest ago, and is not subscribed, is forgotten.
const ROOMS_MAX: usize = 10_000;

/// What is known of a room.
#[derive(Debug, Default)]
struct Kept {
    position: Option<Position>,
    /// The number of the change that made it so; 0: it was in the file.
    change: u64,
    /// Subscriptions that have it: one, or two while an old one ends.
    bookmarks: u32,
    /// The reader that waits for the file.
    reader: Option<Waker>,
}

#[derive(Debug, Default)]
struct Table {
    rooms: BTreeMap<Arc<str>, Kept>,
    /// Those that changed since the thread looked.
    changed: BTreeSet<Arc<str>>,
    /// Number of the last change.
    changes: u64,
    sync_asked: bool,
    over: bool,
}

impl Table {
    fn store(&mut self, room: &Arc<str>, position: Position) {
        self.changes += 1;
        let kept = self.rooms.entry(room.clone()).or_default();
        (kept.position, kept.change) = (Some(position), self.changes);
        self.changed.insert(room.clone());
        if self.rooms.len() > ROOMS_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let idle = self.rooms.iter().filter(|(_, kept)| kept.bookmarks == 0);
        let Some((oldest, _)) = idle.min_by_key(|(_, kept)| kept.change) else { return };
        let oldest = oldest.clone();
        tracing::warn!(room = %oldest, "the position of a room is forgotten, as there are too many");
        self.rooms.remove(&oldest);
        self.changed.remove(&oldest);
    }

    /// What changed, for the thread.
    fn take_changed(&mut self) -> Vec<Row> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .filter_map(|room| self.rooms.get(&room)?.position.map(|position| (room, position)))
            .collect()
    }

    /// All rooms, those first that changed first.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> =
            self.rooms.iter().filter_map(|(room, kept)| Some((kept.change, room, kept.position?))).collect();
        rows.sort_by_key(|(change, _, _)| *change);
        rows.into_iter().map(|(_, room, position)| (room.clone(), position)).collect()
    }
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// There is something to do for the thread.
    work: Condvar,
    /// Number of the last change that the thread has dealt with.
    written: watch::Sender<u64>,
    syncs: Syncs,
}

/// The positions of a client. All clones speak of the same file.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    shared: Arc<Shared>,
}

impl Positions {
    /// Opens the file, or makes it, and starts the thread that writes it.
    pub(crate) fn open(path: &Path) -> Result<Self, ConnectError> {
        let (file, rows) = PositionsFile::open(path)?;
        let mut table = Table::default();
        for (room, position) in rows {
            table.changes += 1;
            let kept = Kept { position: Some(position), change: table.changes, ..Kept::default() };
            table.rooms.insert(room, kept);
        }
        let written = watch::Sender::new(table.changes);
        let (syncs, syncer) = syncs();
        let shared = Arc::new(Shared { table: Mutex::new(table), work: Condvar::new(), written, syncs });
        let thread = thread::Builder::new().name("lanecast-positions".into());
        let started = thread.spawn({
            let shared = shared.clone();
            move || shared.run(file, &syncer)
        });
        started.map_err(|error| ConnectError::local(ConnectErrorKind::NoRuntime, error.to_string()))?;
        Ok(Self { shared })
    }

    /// Keeps the place of a subscription of a room.
    pub(crate) fn bookmark(&self, room: Arc<str>) -> Bookmark {
        self.shared.table.lock().rooms.entry(room.clone()).or_default().bookmarks += 1;
        Bookmark { positions: self.clone(), room }
    }

    /// A room stands here now.
    pub(crate) fn store(&self, room: &Arc<str>, position: Position) {
        self.shared.table.lock().store(room, position);
        self.shared.work.notify_one();
    }

    /// Puts everything so far on the disk.
    pub(crate) fn sync(&self) -> Synced {
        self.shared.syncs.ask(|| {
            self.shared.table.lock().sync_asked = true;
            self.shared.work.notify_one();
        })
    }

    /// What changes from now on is kept no more. Resolves when the rest is written, and the file unlocked.
    pub(crate) fn finish(&self) -> Synced {
        self.shared.table.lock().over = true;
        self.shared.work.notify_one();
        self.shared.syncs.end()
    }
}

impl Shared {
    /// Writes what changes, until it is over.
    fn run(&self, mut file: PositionsFile, syncer: &Syncer) {
        loop {
            let mut table = self.table.lock();
            self.work.wait_while(&mut table, |table| table.changed.is_empty() && !table.sync_asked && !table.over);
            let (rows, change, over) = (table.take_changed(), table.changes, table.over);
            let syncs = std::mem::take(&mut table.sync_asked);
            let all = file.wants_rewrite().then(|| table.rows());
            drop(table);
            let written = match all {
                Some(all) => file.rewrite(&all),
                None if rows.is_empty() => Ok(()),
                None => file.append(&rows),
            };
            if let Err(error) = written {
                // Readers go on: at worst more comes twice. The next write brings everything.
                tracing::warn!(%error, "a file of positions could not be written");
            }
            self.tell(&rows, change, over);
            if syncs {
                syncer.serve(|| file.sync());
            }
            if over {
                break;
            }
        }
    }

    /// Everything up to this change is dealt with.
    fn tell(&self, rows: &[Row], change: u64, over: bool) {
        let mut table = self.table.lock();
        self.written.send_replace(change);
        let readers: Vec<_> = match over {
            true => table.rooms.values_mut().filter_map(|kept| kept.reader.take()).collect(),
            false => rows.iter().filter_map(|(room, _)| table.rooms.get_mut(room)?.reader.take()).collect(),
        };
        drop(table);
        for reader in readers {
            reader.wake();
        }
    }
}

/// The place of one subscription.
#[derive(Debug)]
pub(crate) struct Bookmark {
    positions: Positions,
    room: Arc<str>,
}

impl Bookmark {
    /// Where the room stands, if that is known.
    pub(crate) fn position(&self) -> Option<Position> {
        self.positions.shared.table.lock().rooms.get(&self.room)?.position
    }

    /// Everything up to here is handled.
    pub(crate) fn store(&self, position: Position) {
        self.positions.store(&self.room, position);
    }

    /// Ready when the file has what was stored last, or does not take it. One caller at a time is woken.
    pub(crate) fn poll_written(&self, cx: &Context<'_>) -> Poll<()> {
        let mut table = self.positions.shared.table.lock();
        let (written, over) = (*self.positions.shared.written.borrow(), table.over);
        match table.rooms.get_mut(&self.room) {
            Some(kept) if kept.change > written && !over => {
                kept.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// As [`Self::poll_written`], for any number of callers: of what is stored when it is first polled. Cancel safe.
    pub(crate) fn written(&self) -> impl Future<Output = ()> + Send + use<> {
        let (positions, room) = (self.positions.clone(), self.room.clone());
        async move {
            let change = {
                let table = positions.shared.table.lock();
                table.rooms.get(&room).filter(|_| !table.over).map_or(0, |kept| kept.change)
            };
            let mut written = positions.shared.written.subscribe();
            // Its sender is held by `positions`.
            let _ = written.wait_for(|written| *written >= change).await;
        }
    }
}

impl Drop for Bookmark {
    fn drop(&mut self) {
        let mut table = self.positions.shared.table.lock();
        let Some(kept) = table.rooms.get_mut(&self.room) else { return };
        kept.bookmarks -= 1;
        if kept.bookmarks == 0 && kept.position.is_none() {
            table.rooms.remove(&self.room);
        }
    }
}

/// The owner task's hold: when it ends, however that comes, so does the thread.
#[derive(Debug)]
pub(crate) struct Hold(pub(crate) Positions);

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.0.finish());
    }
}

#[cfg(test)]
mod tests;
