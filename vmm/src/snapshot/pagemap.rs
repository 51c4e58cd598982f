//! Which pages of this process there are, and whose (Linux, `Documentation/admin-guide/mm/pagemap.rst`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::memory::PAGE;

/// The page is there.
const PRESENT: u64 = 1 << 63;
/// It is in swap.
const SWAPPED: u64 = 1 << 62;
/// It is a file's, or shared memory.
const OF_A_FILE: u64 = 1 << 61;

/// How many pages are asked for at a time.
const AT_ONCE: usize = 512;

/// This process's pages.
pub(super) struct PageMap(File);

/// What there is of a page.
#[derive(Clone, Copy)]
pub(super) struct Page(u64);

impl Page {
    /// Nobody has touched it: of memory that is no file's it is zero.
    pub(super) fn is_untouched(self) -> bool {
        self.0 & (PRESENT | SWAPPED) == 0
    }

    /// It is the process's own: of a private mapping of a file, one that was written.
    pub(super) fn is_own(self) -> bool {
        self.0 & SWAPPED != 0 || self.0 & PRESENT != 0 && self.0 & OF_A_FILE == 0
    }
}

impl PageMap {
    pub(super) fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// The runs of the process's own pages among the `count` from the address `host` on: where each begins from there, and its
    /// length, in bytes.
    pub(super) fn own(&self, host: *const u8, count: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        self.look(host, count, |index, page| {
            let at = index * PAGE;
            match runs.last_mut() {
                _ if !page.is_own() => {}
                Some((from, length)) if *from + *length == at => *length += PAGE,
                _ => runs.push((at, PAGE)),
            }
            true
        })?;
        Ok(runs)
    }

    /// Has `look` see `count` pages from the address `host` on, with their numbers from 0; until it wants no more.
    pub(super) fn look(
        &self,
        host: *const u8,
        count: u64,
        mut look: impl FnMut(u64, Page) -> bool,
    ) -> io::Result<()> {
        let first = u64::try_from(host.addr()).map_err(io::Error::other)? / PAGE;
        let mut entries = [0; AT_ONCE * 8];
        for from in (0..count).step_by(AT_ONCE) {
            let pages = usize::try_from(count - from).unwrap_or(AT_ONCE).min(AT_ONCE);
            let piece = entries.get_mut(..pages * 8).unwrap_or_default();
            self.0.read_exact_at(piece, (first + from) * 8)?;
            for (index, entry) in (from..).zip(piece.as_chunks().0) {
                if !look(index, Page(u64::from_le_bytes(*entry))) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
