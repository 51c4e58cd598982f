//! The pages that machines of a snapshot write first: noted by one of them, brought for the next ones all at once.
//!
//! What a machine writes after a restore is a page fault and two exits for each page, and more than half of what a fork costs
//! until it has answered its first question. The pages are the same each time. Linux tells which pages of a private mapping are
//! a process's own ([`super::pagemap`]), and brings many of them in one request (`MADV_POPULATE_WRITE`, Linux 5.14). It is
//! a hint and nothing more: a file that is missing, damaged or of another snapshot is none.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::mm::Advice;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::checksum::Checksum;
use super::pagemap::PageMap;
use crate::memory::{GuestMemory, PAGE};

/// The file, in a snapshot's folder.
const NAME: &str = "early-pages";
/// Its first line; the version is that of its form.
const HEAD: &[u8] = b"kiln early pages 1\n";
/// More than any machine may take of the host before it has done anything.
const MOST: u64 = 8 << 20;
/// No file is longer: as many runs as there can be pages, twice eight bytes each, and what is before them.
const FILE_MOST: u64 = MOST / PAGE * 16 + 64;

/// Pages of RAM that lie behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pages {
    /// The guest's address of the first.
    address: u64,
    /// Their length in bytes.
    length: u64,
}

/// Notes in `folder` which pages of `memory` are its machine's own by now; tells how many they are.
pub(super) fn note(memory: &GuestMemory, folder: &Path) -> io::Result<u64> {
    let pages = own(memory)?;
    let count = pages.iter().map(|pages| pages.length / PAGE).sum();
    let mut body = Vec::new();
    for Pages { address, length } in pages {
        body.extend(address.to_le_bytes());
        body.extend(length.to_le_bytes());
    }
    let making = folder.join(format!(".{NAME}.{}", std::process::id()));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&making)?;
        file.write_all(&[HEAD, format!("{}\n", Checksum::of(&body)).as_bytes(), &body].concat())?;
        // Whoever reads it sees the old one or the new one.
        std::fs::rename(&making, folder.join(NAME))
    };
    write().inspect_err(|_| {
        let _not_there = std::fs::remove_file(&making);
    })?;
    Ok(count)
}

/// Brings the pages that are noted in `folder`, if any are.
pub(super) fn bring(memory: &GuestMemory, folder: &Path) {
    let Some(pages) = read(&folder.join(NAME)) else { return };
    for Pages { address, length } in pages {
        let Some(region) = memory.find_region(GuestAddress(address)) else { return };
        let within = address - region.start_addr().0;
        let fits = within.checked_add(length).is_some_and(|end| end <= region.len());
        let (Ok(host), Ok(length), true) =
            (region.get_host_address(MemoryRegionAddress(within)), usize::try_from(length), fits)
        else {
            return;
        };
        // SAFETY: the range lies in the mapping that `memory` owns; its pages come into being with the bytes that they have.
        #[allow(unsafe_code)]
        let brought = unsafe { rustix::mm::madvise(host.cast(), length, Advice::LinuxPopulateWrite) };
        // An older kernel, or one without room: they come when they are written.
        if brought.is_err() {
            return;
        }
    }
}

fn read(path: &Path) -> Option<Vec<Pages>> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.len() > FILE_MOST {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let rest = bytes.strip_prefix(HEAD)?;
    let (sum, body) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'\n')?)?;
    let body = body.get(1..)?;
    if Checksum::of(body).to_string().as_bytes() != sum {
        return None;
    }
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    let (pairs, []) = body.as_chunks::<16>() else { return None };
    let pages = pairs.iter().map(|pair| {
        let (address, length) = pair.split_at(8);
        let pages = Pages { address: word(address)?, length: word(length)? };
        let whole = [pages.address, pages.length].iter().all(|part| part.is_multiple_of(PAGE));
        (whole && pages.length > 0).then_some(pages)
    });
    let pages: Vec<Pages> = pages.collect::<Option<_>>()?;
    let mut sum = 0u64;
    for one in &pages {
        sum = sum.checked_add(one.length)?;
    }
    (sum <= MOST).then_some(pages)
}

/// The pages that are the process's own, up to [`MOST`].
fn own(memory: &GuestMemory) -> io::Result<Vec<Pages>> {
    let map = PageMap::open()?;
    let (mut found, mut room) = (Vec::new(), MOST);
    for region in memory.iter() {
        let host = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
        for (at, length) in map.own(host, region.len() / PAGE)? {
            let length = length.min(room);
            room -= length;
            if length > 0 {
                found.push(Pages { address: region.start_addr().0 + at, length });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::config::{HugePages, MemoryBacking};

    fn memory() -> GuestMemory {
        let backing = MemoryBacking { huge_pages: HugePages::Off, ..MemoryBacking::default() };
        crate::memory::allocate_on(4 << 20, backing).unwrap()
    }

    #[test]
    fn pages_that_one_has_written_are_the_next_ones_before_it_asks() {
        let folder = tempfile::tempdir().unwrap();
        let one = memory();
        for at in [0x1000u64, 0x2fff, 0x8000, (4 << 20) - 1] {
            one.write_obj(1u8, GuestAddress(at)).unwrap();
        }
        assert_eq!(note(&one, folder.path()).unwrap(), 4);
        let noted = own(&one).unwrap();
        let next = memory();
        bring(&next, folder.path());
        assert_eq!(own(&next).unwrap(), noted);
        assert_eq!(
            noted[..2],
            [Pages { address: 0x1000, length: 0x2000 }, Pages { address: 0x8000, length: 0x1000 }]
        );
        assert_eq!(next.read_obj::<u8>(GuestAddress(0x1000)).unwrap(), 0, "bytes are not noted");
    }

    #[test]
    fn notes_that_are_missing_damaged_or_of_another_machine_bring_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let none = |why: &str| {
            let memory = memory();
            bring(&memory, folder.path());
            assert_eq!(own(&memory).unwrap(), [], "{why}");
        };
        none("there is none");
        let one = memory();
        one.write_obj(1u8, GuestAddress(0)).unwrap();
        note(&one, folder.path()).unwrap();
        let path = folder.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            none("it was cut off");
        }
        let with = |body: &[u64]| {
            let body: Vec<u8> = body.iter().flat_map(|word| word.to_le_bytes()).collect();
            let text = [HEAD, format!("{}\n", Checksum::of(&body)).as_bytes(), &body].concat();
            std::fs::write(&path, text).unwrap();
        };
        for bad in [
            [4 << 20, PAGE],
            [0, 8 << 20],
            [(4 << 20) - PAGE, 2 * PAGE],
            [0, 0],
            [1, PAGE],
            [0, 1],
            [0, u64::MAX - PAGE + 1],
            [u64::MAX - PAGE + 1, PAGE],
        ] {
            with(&bad);
            none("it is not in RAM");
        }
        with(&[0, PAGE]);
        let memory = memory();
        bring(&memory, folder.path());
        assert_eq!(own(&memory).unwrap(), [Pages { address: 0, length: PAGE }]);
    }
}
