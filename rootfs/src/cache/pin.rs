//! Entries in use: held by a lock on their folder for as long as this process lives, so that nobody makes room by
//! taking them away.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;

/// The folders that this process holds.
static PINS: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());

/// Holds the folder `entry` until this process ends, and marks it as used just now. Whether it is there.
pub(super) fn hold(entry: &Path) -> bool {
    let Some(folder) = open(entry).filter(|folder| is_at(folder, entry)) else { return false };
    keep(entry, Some(folder));
    true
}

/// The folder `path`, held; none if it is not there, or somebody is about to remove it.
pub(super) fn open(path: &Path) -> Option<File> {
    let folder = File::open(path).ok()?;
    lock_shared(&folder).then_some(folder)
}

/// Keeps what [`open`] has opened, which is at `entry` now, until this process ends, and marks it as used just now.
pub(super) fn keep(entry: &Path, folder: Option<File>) {
    let Some(folder) = folder else { return };
    // Somebody else's cache is not ours to mark.
    let _ = folder.set_modified(SystemTime::now());
    PINS.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.to_owned(), folder);
}

/// Keeps others from removing what is open here; not so where somebody is about to. A file system without locks makes
/// it no worse.
pub(super) fn lock_shared(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK)
}

/// The folder locked for its removal; none if it is in use or gone.
pub(super) fn claim(entry: &Path) -> Option<File> {
    let folder = File::open(entry).ok()?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive).ok()?;
    is_at(&folder, entry).then_some(folder)
}

/// The folder, which this process may hold, locked for its replacement.
///
/// # Errors
/// Another process holds it.
pub(super) fn take_over(entry: &Path) -> Result<File, Error> {
    let own = PINS.lock().unwrap_or_else(PoisonError::into_inner).remove(entry);
    if let Some(folder) = &own {
        // Not only closed: a program that was just started has the descriptor, too.
        let _ = flock(folder, FlockOperation::Unlock);
    }
    claim(entry).ok_or_else(|| {
        if own.is_some() {
            hold(entry);
        }
        Error::file(entry, "it is to be replaced, and another process uses it: try again when that has ended")
    })
}

/// Whether the open folder is the one that has that name now.
fn is_at(folder: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (folder.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}
