//! The cache's limit: what has not been used for longest goes first, and what is in use stays.

use std::cmp::Reverse;

use super::{Cache, Entry, pin};
use crate::{Error, size};

/// Sets the limit: `K`, `M`, `G` are binary, a bare number is MiB; `none` for no limit.
pub const LIMIT_VARIABLE: &str = "KILN_CACHE_LIMIT";
/// The limit if nobody sets one: room for QEMU, some kernels with their modules, and a few built ones.
const LIMIT: u64 = 20 << 30;

impl Cache {
    /// Takes away what has not been used for longest until what is left is within the cache's limit.
    ///
    /// # Errors
    /// The cache can't be read.
    pub(crate) fn make_room(&self) -> Result<(), Error> {
        self.limit.map_or(Ok(()), |limit| self.shrink(limit).map(drop))
    }

    /// Takes away what has not been used for longest until what is left is at most `limit` bytes; what any process
    /// uses stays. Returns what went.
    ///
    /// # Errors
    /// The cache can't be read.
    pub fn shrink(&self, limit: u64) -> Result<Vec<Entry>, Error> {
        let mut gone = self.beyond(limit)?;
        gone.retain(|entry| {
            let claimed = pin::claim(&entry.path);
            claimed.is_some() && self.take_away(&entry.path).is_ok()
        });
        Ok(gone)
    }

    /// What would have to go for the rest to be at most `limit` bytes.
    ///
    /// # Errors
    /// The cache can't be read.
    pub fn beyond(&self, limit: u64) -> Result<Vec<Entry>, Error> {
        let mut entries = self.entries().map_err(Error::io("read", self.root()))?;
        // Half-built entries and locks look after themselves.
        entries.retain(|entry| !entry.path.starts_with(self.tmp()));
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
