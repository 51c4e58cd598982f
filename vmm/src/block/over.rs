//! What is written to a disk that must stay as it is: kept in memory, by pages, over the disk's own bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::MemfdFlags;

/// What is kept as one.
const PAGE: u64 = 4096;

/// The pages that were written, in a file in memory, which takes of the host what is in it and is gone with this.
#[derive(Debug)]
pub(super) struct Over {
    pages: File,
    /// A bit a page, lowest first: it is there. Grows no longer than the disk has pages.
    written: Mutex<Vec<u64>>,
}

impl Over {
    pub(super) fn new() -> io::Result<Self> {
        let pages = rustix::fs::memfd_create("kiln-disk", MemfdFlags::CLOEXEC)?;
        Ok(Self { pages: pages.into(), written: Mutex::default() })
    }

    /// Whether anything was written.
    pub(super) fn any(&self) -> bool {
        !self.written.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Reads `data` at `offset`, of `under` what was not written. All of it lies on the disk.
    pub(super) fn read(&self, under: &File, data: &mut [u8], offset: u64) -> io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        each_page(data.len(), offset, |page, at, from, to| {
            let file = if has(&written, page) { &self.pages } else { under };
            file.read_exact_at(data.get_mut(from..to).unwrap_or_default(), at)
        })
    }

    /// Writes `data` at `offset`. A page of which it is a part is completed from `under`, a disk of `size` bytes.
    pub(super) fn write(&self, (under, size): (&File, u64), data: &[u8], offset: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        each_page(data.len(), offset, |page, at, from, to| {
            let (start, end) = (page * PAGE, (page * PAGE + PAGE).min(size));
            let whole = usize::try_from(end - start).unwrap_or(0);
            if !has(&written, page) && to - from < whole {
                let mut rest = vec![0; whole];
                under.read_exact_at(&mut rest, start)?;
                self.pages.write_all_at(&rest, start)?;
            }
            self.pages.write_all_at(data.get(from..to).unwrap_or_default(), at)?;
            let word = usize::try_from(page / 64).map_err(io::Error::other)?;
            if written.len() <= word {
                written.resize(word + 1, 0);
            }
            if let Some(bits) = written.get_mut(word) {
                *bits |= 1 << (page % 64);
            }
            Ok(())
        })
    }
}

fn has(written: &[u64], page: u64) -> bool {
    let word = usize::try_from(page / 64).ok().and_then(|word| written.get(word));
    word.is_some_and(|bits| bits >> (page % 64) & 1 == 1)
}

/// Calls `piece(page, offset, start, end)` for each page of the `length` bytes at `offset`, where `start..end` is the piece's
/// place in those bytes.
fn each_page(
    length: usize,
    offset: u64,
    mut piece: impl FnMut(u64, u64, usize, usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        let at = offset.saturating_add(u64::try_from(done).map_err(io::Error::other)?);
        let room = usize::try_from(PAGE - at % PAGE).map_err(io::Error::other)?;
        let end = done.saturating_add(room).min(length);
        piece(at / PAGE, at, done, end)?;
        done = end;
    }
    Ok(())
}
