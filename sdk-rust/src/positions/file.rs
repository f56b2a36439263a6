//! The file: an append-only log of where rooms stand, made anew when it has grown.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::position::Position;

use super::ROOMS_MAX;
use super::record::{self, Entry, HEADER, Header, Place};
use crate::disk;
use crate::error::{ConnectError, ConnectErrorKind};

/// The file is made anew when it is by so much larger than twice what it was made with.
const GROWTH_BYTES: u64 = 1 << 20;

/// A room and where it stands.
pub(super) type Row = (Arc<str>, Position);

/// An open file of positions. It is locked until this is dropped.
#[derive(Debug)]
pub(super) struct PositionsFile {
    path: PathBuf,
    file: File,
    /// A file beside the log that is never renamed, as the log is.
    _lock: File,
    /// Bytes that are written and whole.
    length: u64,
    /// Bytes of it that it was made with.
    made_bytes: u64,
    /// Something is missing at its end, or half of it is there: it has to be made anew.
    stale: bool,
}

impl PositionsFile {
    /// Opens the file, or makes it. Returns the rooms too, those first that were written first.
    ///
    /// A damaged file is repaired and kept aside, and reported as an error: the next opening goes on with what is intact.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Row>), ConnectError> {
        let path = disk::real_path(path).map_err(|error| unusable(path, "found", &error))?;
        let lock = lock(&path)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Bytes::new(),
            Err(error) => return Err(unusable(&path, "read", &error)),
        };
        let old = Old::read(&path, &bytes)?;
        let aside = match old.damage {
            Some(_) => Some(disk::set_aside(&path).map_err(|error| unusable(&path, "copied", &error))?),
            None => None,
        };
        let image = image(&old.rows);
        let file = disk::replace(&path, &image).map_err(|error| unusable(&path, "written", &error))?;
        if let (Some(damage), Some(aside)) = (&old.damage, aside) {
            return Err(old.report(&path, damage, &aside));
        }
        let length = image.len() as u64;
        Ok((Self { path, file, _lock: lock, length, made_bytes: length, stale: false }, old.rows))
    }

    /// Writes where some rooms stand now; after an error the file has to be [made anew](Self::wants_rewrite).
    pub(super) fn append(&mut self, rows: &[Row]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (room, position) in rows {
            record::encode(Entry::Place(Place::new(room, *position)), &mut bytes);
        }
        self.stale = true;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&bytes)?;
        self.stale = false;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether it is too large for what it keeps, or lacks something.
    pub(super) fn wants_rewrite(&self) -> bool {
        self.stale || self.length > 2 * self.made_bytes + GROWTH_BYTES
    }

    /// Makes the file anew, of all rooms.
    pub(super) fn rewrite(&mut self, rows: &[Row]) -> io::Result<()> {
        let image = image(rows);
        self.stale = true;
        self.file = disk::replace(&self.path, &image)?;
        self.stale = false;
        self.length = image.len() as u64;
        self.made_bytes = self.length;
        Ok(())
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The bytes of a new file.
fn image(rows: &[Row]) -> Vec<u8> {
    let mut bytes = record::header();
    record::encode(Entry::Made(rows.len() as u64), &mut bytes);
    for (room, position) in rows {
        record::encode(Entry::Place(Place::new(room, *position)), &mut bytes);
    }
    bytes
}

/// What a file said before it was opened this time.
struct Old {
    rows: Vec<Row>,
    damage: Option<Damage>,
}

#[derive(Debug, PartialEq, Eq)]
struct Damage {
    /// Where the first wrong byte may be.
    offset: usize,
    /// Bytes that could not be read.
    bytes: usize,
}

impl Old {
    fn read(path: &Path, bytes: &Bytes) -> Result<Self, ConnectError> {
        if bytes.is_empty() {
            return Ok(Self { rows: Vec::new(), damage: None });
        }
        let from = match record::read_header(bytes) {
            Header::Known => HEADER,
            // Perhaps it is not there at all, and a record is.
            Header::Damaged => 0,
            Header::Version(version) => {
                let detail = format!(
                    "{}: the positions have format {version}, and this version of the client knows only format 1; use the \
                     newer version, or another file. The file was not touched",
                    path.display()
                );
                return Err(ConnectError::local(ConnectErrorKind::PositionsVersion, detail));
            }
        };
        let scan = record::scan(bytes, from);
        if from == 0 && scan.records.is_empty() {
            let detail = format!("{}: this is no file of positions. The file was not touched", path.display());
            return Err(ConnectError::local(ConnectErrorKind::PositionsFile, detail));
        }
        let damage = damage(&scan, from, bytes.len());
        Ok(Self { rows: newest(scan), damage })
    }

    fn report(&self, path: &Path, damage: &Damage, aside: &Path) -> ConnectError {
        let detail = format!(
            "{}: damaged at byte {}: {} bytes cannot be read. The positions of {} rooms are intact and were kept; of others \
             an older one may be left, or none. The damaged file is now {}. Connect again to go on",
            path.display(),
            damage.offset,
            damage.bytes,
            self.rows.len(),
            aside.display(),
        );
        tracing::error!(%detail, "a file of positions is damaged");
        ConnectError::local(ConnectErrorKind::PositionsDamaged, detail).may_retry()
    }
}

/// A file comes to its name as a whole, and says how much it was made with: only what was appended can be torn.
fn damage(scan: &record::Scan, from: usize, length: usize) -> Option<Damage> {
    let made = scan.records.first().map(|found| &found.entry);
    let found = scan.records.iter().filter(|found| matches!(found.entry, Entry::Place(_))).count() as u64;
    let is_whole = matches!(made, Some(Entry::Made(rooms)) if *rooms <= found);
    let first = scan.damaged.first().map(|first| first.start);
    let offset = match (from, first) {
        (0, _) => 0,
        (_, Some(first)) => first,
        (_, None) if is_whole => return None,
        (_, None) => scan.torn.unwrap_or(length),
    };
    Some(Damage { offset, bytes: scan.damaged.iter().map(Range::len).sum() })
}

/// Where each room stood last, those first that were written first; the newest [`ROOMS_MAX`].
fn newest(scan: record::Scan) -> Vec<Row> {
    let mut rooms = BTreeMap::<String, (usize, Position)>::new();
    for (at, found) in scan.records.into_iter().enumerate() {
        if let Entry::Place(place) = found.entry {
            let position = place.position();
            rooms.insert(place.room, (at, position));
        }
    }
    let mut rows: Vec<_> = rooms.into_iter().collect();
    rows.sort_unstable_by_key(|(_, (at, _))| *at);
    let older = rows.len().saturating_sub(ROOMS_MAX);
    rows.into_iter().skip(older).map(|(room, (_, position))| (room.into(), position)).collect()
}

/// Locks the file against other clients, in this process or another: each would overwrite what the other stored.
fn lock(path: &Path) -> Result<File, ConnectError> {
    let lock = disk::lock(path).map_err(|error| unusable(&disk::lock_path(path), "locked", &error))?;
    lock.ok_or_else(|| {
        let detail = format!(
            "{}: another client has these positions open, in this process or another; close it first, or use another file",
            path.display()
        );
        ConnectError::local(ConnectErrorKind::PositionsLocked, detail).may_retry()
    })
}

fn unusable(path: &Path, verb: &str, error: &io::Error) -> ConnectError {
    let detail = format!("{}: could not be {verb}: {error}", path.display());
    ConnectError::local(ConnectErrorKind::PositionsFile, detail).may_retry()
}

#[cfg(test)]
pub(super) mod tests;
