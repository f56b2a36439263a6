//! Files that outlive the process: what the outbox and the positions have in common.
//!
//! Each is an append-only log of checksummed [records](record), which is rewritten into a new file that takes the old one's
//! name. So the name always stands for a whole file, and only what was appended can be torn.

pub(crate) mod record;
mod sync;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

pub(crate) use self::sync::{Synced, Syncer, Syncs, syncs};

/// Damaged files that are kept; a further one takes the place of the last.
pub(crate) const DAMAGED_FILES_MAX: u32 = 8;

/// The path without symbolic links, so that a file has one lock whatever it is called.
pub(crate) fn real_path(path: &Path) -> io::Result<PathBuf> {
    if path.try_exists()? {
        return path.canonicalize();
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(folder.canonicalize()?.join(name))
}

/// A name beside the path.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Where the lock of a file is: a file beside it that is never renamed, as the file is.
pub(crate) fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// Locks a file against other clients, in this process or another, until what this returns is dropped; `None`: another
/// has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(lock_path(path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Makes a file of these bytes that takes the place of the one at the path. A crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = beside(path, ".new");
    let written = write(&new, bytes).and_then(|file| fs::rename(&new, path).map(|()| file));
    match &written {
        Ok(_) => sync_folder(path),
        // A disk that is full needs the room.
        Err(_) => drop(fs::remove_file(&new)),
    }
    written
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    // What is in it is as private as the application's own data.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Puts a new name on the disk. The file is in its place whether that works or not, so there is no going back.
fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Some(folder) = path.parent()
        && let Err(error) = File::open(folder).and_then(|folder| folder.sync_all())
    {
        tracing::warn!(%error, folder = %folder.display(), "a folder could not be written to the disk");
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// Copies a damaged file to where it is kept.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut aside = beside(path, ".damaged-1");
    for number in 2..=DAMAGED_FILES_MAX {
        if !aside.try_exists()? {
            break;
        }
        aside = beside(path, &format!(".damaged-{number}"));
    }
    fs::copy(path, &aside)?;
    File::open(&aside)?.sync_all()?;
    Ok(aside)
}
