//! The cache's limit: what has not been used for longest goes first, and what is in use stays.

use std::cmp::Reverse;
use std::fs;

use super::{Cache, Entry, Lock, pin};
use crate::{Error, size};

/// Sets the limit: `K`, `M`, `G` are binary, a bare number is MiB; `none` for no limit.
pub const LIMIT_VARIABLE: &str = "KILN_CACHE_LIMIT";
/// The limit if nobody sets one: room for QEMU, some kernels with their modules, and a few built ones.
const LIMIT: u64 = 20 << 30;

impl Cache {
    /// Takes away what has not been used for longest until what is left is within the cache's limit. What can't be
    /// read or removed stays: nobody's work fails for it.
    pub fn make_room(&self) {
        if let Some(gone) = self.limit.and_then(|limit| self.beyond(limit).ok()) {
            self.discard(gone);
        }
    }

    /// Takes away `entries`, but those that any process uses. Returns what stayed.
    pub fn discard(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let stays = |entry: &Entry| {
            let claimed = pin::claim(&entry.path);
            // One that is gone already is as good.
            entry.path.symlink_metadata().is_ok()
                && (claimed.is_none() || self.take_away(&entry.path).is_err())
        };
        entries.into_iter().filter(stays).collect()
    }

    /// Whether a process makes something in this cache at this moment.
    #[must_use]
    pub fn is_in_the_making(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.tmp()) else { return false };
        let mut locks = entries.flatten().map(|entry| entry.path());
        locks.any(|path| {
            path.extension().is_some_and(|e| e == "lock") && matches!(Lock::try_take(&path), Ok(None))
        })
    }

    /// What would have to go for the rest to be at most `limit` bytes.
    ///
    /// # Errors
    /// The cache can't be read.
    pub fn beyond(&self, limit: u64) -> Result<Vec<Entry>, Error> {
        let mut entries = self.entries().map_err(Error::io("read", self.root()))?;
        entries.sort_by_key(|entry| Reverse(entry.used));
        let mut sum: u64 = 0;
        let fits = entries.iter().take_while(|entry| {
            sum = sum.saturating_add(entry.size);
            sum <= limit
        });
        let kept = fits.count();
        let mut gone = entries.split_off(kept);
        gone.reverse();
        Ok(gone)
    }
}

/// The limit that the environment sets, or the usual one.
pub(super) fn chosen() -> Result<Option<u64>, Error> {
    let Some(text) = std::env::var_os(LIMIT_VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(Some(LIMIT));
    };
    let text = text.to_string_lossy();
    if text == "none" {
        return Ok(None);
    }
    size::parse(&text).map(Some).map_err(|why| Error::Variable {
        name: LIMIT_VARIABLE,
        value: text.into_owned(),
        why,
    })
}
