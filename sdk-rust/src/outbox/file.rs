//! The outbox file: an append-only log of what was queued and what has ended, rewritten when half of it is dead.
//!
//! An embedded database would do more than is needed and less: those at hand keep a commit from a killed process only if
//! they also wait for the disk, and refuse a file with one wrong page as a whole. Here one `write` per batch survives
//! the process, and every intact record of a damaged file can be read.
//!
//! The log is rewritten into a new file that takes the old one's name, at every opening and when the dead part is large.
//! So the file is at most about twice as large as what it keeps, and the name always stands for a whole file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::record::{self, Entry, HEADER, Header, Identity, Item};
use crate::disk;
use crate::error::{ConnectError, ConnectErrorKind};

/// Numbers reserved at a time. After a power loss the file may be older than what was sent, so numbers go on above what
/// was reserved, and the reservation is on the disk before any of its numbers is sent.
const RESERVED: u64 = 1 << 16;
/// The log is rewritten when this many bytes are dead, and more than are alive.
const DEAD_BYTES: u64 = 1 << 20;
/// Where rewriting has failed so far, a file so many times as large takes nothing before it has worked.
const DEAD_FACTOR_MAX: u64 = 4;

/// Whether writing waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboxSync {
    /// A publish is queued once the operating system has it: it survives the end of the process, also by `kill -9` or a
    /// crash, and may be lost when the whole machine loses its power in the next seconds. The default.
    #[default]
    Process,
    /// A publish is queued once it is on the disk (`fdatasync`, one for all that are queued at the time): it survives a
    /// loss of power as well, and costs some milliseconds.
    Disk,
}

/// A change of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// A publish is queued.
    Queue(Item),
    /// The publish with this id has ended.
    End(u64),
    /// Whose publishes these are.
    User(String),
}

/// What an opened file says.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) instance: String,
    pub(crate) start: u64,
    /// No publish so far has a higher number.
    pub(crate) floor: u64,
    pub(crate) user: Option<String>,
    /// What has not ended, oldest first.
    pub(crate) items: Vec<Item>,
}

/// An open outbox file. It is locked until this is dropped.
#[derive(Debug)]
pub(crate) struct OutboxFile {
    path: PathBuf,
    file: File,
    /// A file beside the log that is never renamed, as the log is.
    _lock: File,
    sync: OutboxSync,
    identity: Identity,
    /// Bytes that are written and whole.
    length: u64,
    /// What has not ended: where its record is.
    live: BTreeMap<u64, Range<u64>>,
    live_bytes: u64,
    /// Half a batch could not be removed from its end, or its identity is not this one: it has to be rewritten first.
    stale: bool,
}

impl OutboxFile {
    /// Opens the file, or makes it.
    ///
    /// A damaged file is repaired and kept aside, and reported as an error: the next opening goes on with what is intact.
    pub(crate) fn open(path: &Path, sync: OutboxSync) -> Result<(Self, Contents), ConnectError> {
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
        let identity = Identity {
            instance: old.identity.instance.clone(),
            start: old.identity.start + 1,
            reserved: old.floor + RESERVED,
            user: old.identity.user.clone(),
        };
        let image = Image::new(&identity, old.items.iter().map(|(id, (place, _))| (*id, &bytes[place.clone()])));
        let file = image.replace(&path).map_err(|error| unusable(&path, "written", &error))?;
        if let (Some(damage), Some(aside)) = (&old.damage, aside) {
            return Err(old.report(&path, damage, &aside));
        }
        let contents = Contents {
            instance: identity.instance.clone(),
            start: identity.start,
            floor: old.floor,
            user: identity.user.clone(),
            items: old.items.into_values().map(|(_, item)| item).collect(),
        };
        let mut this = Self {
            path,
            file,
            _lock: lock,
            sync,
            identity,
            length: 0,
            live: BTreeMap::new(),
            live_bytes: 0,
            stale: false,
        };
        this.take(image);
        Ok((this, contents))
    }

    /// Writes changes, all or none: after an error no publish of them is in the file. What ends, and whose the publishes
    /// are, is remembered all the same, for the next rewriting.
    pub(crate) fn write(&mut self, changes: &[Change]) -> io::Result<()> {
        let written = self.try_write(changes);
        for change in changes {
            match change {
                Change::Queue(_) => {}
                Change::End(id) => {
                    if let Some(place) = self.live.remove(id) {
                        self.live_bytes -= place.end - place.start;
                    }
                }
                Change::User(user) if written.is_err() => {
                    self.identity.user = Some(user.clone());
                    self.stale = true;
                }
                Change::User(_) => {}
            }
        }
        written
    }

    fn try_write(&mut self, changes: &[Change]) -> io::Result<()> {
        if self.stale || self.length > DEAD_FACTOR_MAX * DEAD_BYTES.max(self.live_bytes) {
            self.rewrite()?;
        }
        let batch = Batch::new(self.length, &self.identity, changes);
        if let Err(error) = self.append(&batch) {
            self.stale = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += batch.bytes.len() as u64;
        self.identity = batch.identity;
        for (id, place) in batch.queued {
            self.live_bytes += place.end - place.start;
            self.live.insert(id, place);
        }
        Ok(())
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&batch.bytes)?;
        if batch.reserves || (self.sync == OutboxSync::Disk && batch.counts) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Waits until what was written is on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether the file has become too large for what it keeps.
    pub(crate) fn is_bloated(&self) -> bool {
        let dead_bytes = self.length.saturating_sub(self.live_bytes);
        dead_bytes > DEAD_BYTES.max(self.live_bytes)
    }

    /// Writes what has not ended into a new file, which takes the old one's place.
    pub(crate) fn rewrite(&mut self) -> io::Result<()> {
        let bytes = fs::read(&self.path)?;
        let records = self.live.iter().map(|(id, place)| {
            let place = place.start as usize..place.end as usize;
            bytes.get(place).map(|record| (*id, record)).ok_or(ErrorKind::UnexpectedEof)
        });
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let image = Image::new(&self.identity, records.into_iter());
        self.file = image.replace(&self.path)?;
        self.take(image);
        Ok(())
    }

    /// The file is this image now.
    fn take(&mut self, image: Image) {
        self.length = image.bytes.len() as u64;
        self.live_bytes = image.places.values().map(|place| place.end - place.start).sum();
        self.live = image.places;
        self.stale = false;
    }
}

/// What a file said before it was opened this time.
struct Old {
    identity: Identity,
    floor: u64,
    /// By id, with the place of the record.
    items: BTreeMap<u64, (Range<usize>, Item)>,
    damage: Option<Damage>,
}

#[derive(Debug)]
struct Damage {
    /// Where the first wrong byte may be.
    offset: usize,
    /// Bytes that could not be read.
    bytes: usize,
    /// The instance id was lost.
    instance: bool,
}

impl Old {
    fn read(path: &Path, bytes: &Bytes) -> Result<Self, ConnectError> {
        let mut from = 0;
        if !bytes.is_empty() {
            match record::read_header(bytes) {
                Header::Known => from = HEADER,
                // Perhaps it is not there at all, and a record is.
                Header::Damaged => {}
                Header::Version(version) => {
                    let detail = format!(
                        "{}: the outbox has format {version}, and this version of the client knows only format 1; \
                         use the newer version, or another file. The file was not touched",
                        path.display()
                    );
                    return Err(ConnectError::local(ConnectErrorKind::OutboxVersion, detail));
                }
            }
        }
        let mut scan = record::scan(bytes, from);
        if from == 0 && !bytes.is_empty() {
            if scan.records.is_empty() {
                let detail = format!("{}: this is no outbox. The file was not touched", path.display());
                return Err(ConnectError::local(ConnectErrorKind::OutboxFile, detail));
            }
            if scan.damaged.first().is_none_or(|first| first.start > 0) {
                scan.damaged.insert(0, 0..0);
            }
        }
        // A file comes to its name as a whole, with its identity at both ends: only what was appended can be torn.
        let identities = scan.records.iter().filter(|found| matches!(found.entry, Entry::Identity(_))).count();
        if identities < 2 && !bytes.is_empty() && scan.damaged.is_empty() {
            let end = scan.torn.unwrap_or(bytes.len());
            scan.damaged.push(end..bytes.len());
        }
        Self::collect(scan, bytes.is_empty())
    }

    fn collect(scan: record::Scan, is_new: bool) -> Result<Self, ConnectError> {
        let (mut identity, mut items, mut floor) = (None::<Identity>, BTreeMap::new(), 0);
        for found in scan.records {
            match found.entry {
                Entry::Identity(newer) => {
                    floor = floor.max(newer.reserved);
                    identity = Some(newer);
                }
                Entry::Item(item) => {
                    floor = floor.max(item.number);
                    items.insert(item.id, (found.place, item));
                }
                Entry::Ended(id) => drop(items.remove(&id)),
            }
        }
        let lost_instance = identity.is_none() && !is_new;
        let identity = match identity {
            Some(identity) => identity,
            None => Identity { instance: new_instance()?, ..Identity::default() },
        };
        let bytes = scan.damaged.iter().map(Range::len).sum();
        let damage = scan.damaged.first().map(|first| Damage { offset: first.start, bytes, instance: lost_instance });
        if damage.is_some() {
            // Each record raises the highest number by one at most, and a reservation by as much as one reserves.
            floor += bytes as u64 + RESERVED;
        }
        Ok(Self { identity, floor, items, damage })
    }

    fn report(&self, path: &Path, damage: &Damage, aside: &Path) -> ConnectError {
        let instance = if damage.instance {
            "; the id of the instance is lost too, so what was on its way may be stored twice"
        } else {
            ""
        };
        let detail = format!(
            "{}: damaged at byte {}: {} bytes cannot be read, and what they held is lost{instance}. {} unsettled publishes \
             are intact and were kept. The damaged file is now {}. Connect again to go on",
            path.display(),
            damage.offset,
            damage.bytes,
            self.items.len(),
            aside.display(),
        );
        tracing::error!(%detail, "an outbox file is damaged");
        ConnectError::local(ConnectErrorKind::OutboxDamaged, detail).may_retry()
    }
}

/// A random instance id (LC-HS-021).
pub(crate) fn new_instance() -> Result<String, ConnectError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| ConnectError::local(ConnectErrorKind::NoRuntime, error.to_string()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The bytes of a new file.
struct Image {
    bytes: Vec<u8>,
    places: BTreeMap<u64, Range<u64>>,
}

impl Image {
    fn new<'a>(identity: &Identity, records: impl Iterator<Item = (u64, &'a [u8])>) -> Self {
        let (mut bytes, mut places) = (record::header(), BTreeMap::new());
        record::encode(Entry::Identity(identity.clone()), &mut bytes);
        for (id, record) in records {
            let at = bytes.len() as u64;
            bytes.extend(record);
            places.insert(id, at..bytes.len() as u64);
        }
        // Again, and far from the first where there is much to lose: without it a damaged file loses its instance.
        record::encode(Entry::Identity(identity.clone()), &mut bytes);
        Self { bytes, places }
    }

    /// Makes a file of it that takes the place of the one at the path.
    fn replace(&self, path: &Path) -> io::Result<File> {
        disk::replace(path, &self.bytes)
    }
}

/// The bytes of some changes.
struct Batch {
    bytes: Vec<u8>,
    identity: Identity,
    queued: Vec<(u64, Range<u64>)>,
    /// Numbers were reserved.
    reserves: bool,
    /// Something in it is reported once it is written.
    counts: bool,
}

impl Batch {
    fn new(offset: u64, identity: &Identity, changes: &[Change]) -> Self {
        let mut this =
            Self { bytes: Vec::new(), identity: identity.clone(), queued: Vec::new(), reserves: false, counts: false };
        for change in changes {
            this.add(offset, change);
        }
        this
    }

    fn add(&mut self, offset: u64, change: &Change) {
        match change {
            Change::Queue(item) => {
                if item.number > self.identity.reserved {
                    self.identity.reserved = item.number + RESERVED;
                    self.reserves = true;
                    self.identify();
                }
                let at = offset + self.bytes.len() as u64;
                record::encode(Entry::Item(item.clone()), &mut self.bytes);
                self.queued.push((item.id, at..offset + self.bytes.len() as u64));
                self.counts = true;
            }
            Change::End(id) => record::encode(Entry::Ended(*id), &mut self.bytes),
            Change::User(user) => {
                self.identity.user = Some(user.clone());
                self.identify();
            }
        }
    }

    fn identify(&mut self) {
        record::encode(Entry::Identity(self.identity.clone()), &mut self.bytes);
    }
}

/// Locks the outbox against other clients, in this process or another: two publishers must never share an instance.
fn lock(path: &Path) -> Result<File, ConnectError> {
    let lock = disk::lock(path).map_err(|error| unusable(&disk::lock_path(path), "locked", &error))?;
    lock.ok_or_else(|| {
        let detail = format!(
            "{}: another client has this outbox open, in this process or another; close it first, or use another file",
            path.display()
        );
        ConnectError::local(ConnectErrorKind::OutboxLocked, detail).may_retry()
    })
}

fn unusable(path: &Path, verb: &str, error: &io::Error) -> ConnectError {
    let detail = format!("{}: could not be {verb}: {error}", path.display());
    ConnectError::local(ConnectErrorKind::OutboxFile, detail).may_retry()
}

#[cfg(test)]
mod tests;
