//! Guest RAM in a file: written without its zeros, and mapped copy on write under a machine's RAM.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::mm::Advice;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::checksum::Checksum;
use super::pagemap::PageMap;
use crate::memory::{GuestMemory, HUGE_PAGE, PAGE};

/// How much of RAM one machine after another may have of its own ([`MemoryFile::bring_back`]), in bytes.
const KEPT: u64 = 16 << 20;
/// How much is written, mapped or left out as one. Each run in the file is a mapping of the process's, of which a host
/// allows some 65,000 (`vm.max_map_count`).
const PIECE: usize = 64 << 10;

/// A run of RAM that is in the file. All else is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// The guest's address.
    address: u64,
    /// Where it is in the file.
    offset: u64,
    /// Its length in bytes.
    length: u64,
}

/// What the memory file is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryFile {
    /// Its length in bytes.
    length: u64,
    /// What is in it, in order.
    runs: Vec<Run>,
    /// The checksum of the runs' bytes.
    checksum: Checksum,
    /// What the file was like when it had been written.
    stamp: Option<Stamp>,
}

/// Tells a file that nobody has touched since it was written, in this run of the host, from one that must be read to
/// know: reading a guest's memory takes longer than all else that a restore does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    /// This run of the host: what a file was like before a power cut says nothing of its bytes.
    boot: String,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of its bytes, and of anything of it.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Option<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self {
            boot: boot.trim().to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The regions of RAM: address, length, and where each begins in the file, on a huge page's boundary.
fn places(memory: &GuestMemory) -> Vec<(u64, u64, u64)> {
    let mut offset = 0u64;
    let place = |region: &vm_memory::GuestRegionMmap<crate::memory::WriteLog>| {
        let (address, length) = (region.start_addr().0, region.len());
        let place = (address, length, offset);
        offset = offset.saturating_add(length).next_multiple_of(HUGE_PAGE as u64);
        place
    };
    memory.iter().map(place).collect()
}

/// Writes RAM to an empty file. What is zero stays a hole; of RAM that is `blank` where nobody has touched it, as all is but
/// that of files, those parts are not even looked at.
pub(super) fn write(memory: &GuestMemory, file: &File, blank: bool) -> io::Result<MemoryFile> {
    // A host that does not tell has all of it read.
    let touched = blank.then(PageMap::open).and_then(Result::ok);
    let places = places(memory);
    let length = places.last().map_or(0, |(_, length, offset)| offset + length);
    file.set_len(length)?;
    let (mut buffer, zeros) = (vec![0; PIECE], vec![0; PIECE]);
    let mut runs: Vec<Run> = Vec::new();
    let mut checksum = Checksum::new();
    for (start, size, base) in places {
        for at in (0..size).step_by(PIECE) {
            let length = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            if let Some(map) = &touched
                && is_untouched(map, memory, start + at, length)?
            {
                continue;
            }
            let piece = buffer.get_mut(..length).unwrap_or_default();
            memory.read_slice(piece, GuestAddress(start + at)).map_err(io::Error::other)?;
            if Some(&*piece) == zeros.get(..length) {
                continue;
            }
            file.write_all_at(piece, base + at)?;
            checksum.add(piece);
            let length = u64::try_from(length).unwrap_or(0);
            match runs.last_mut() {
                Some(run) if at > 0 && run.address + run.length == start + at => run.length += length,
                _ => runs.push(Run { address: start + at, offset: base + at, length }),
            }
        }
    }
    Ok(MemoryFile { length, runs, checksum, stamp: None })
}

/// Whether nobody has touched any of the pages at `at`.
fn is_untouched(map: &PageMap, memory: &GuestMemory, at: u64, length: usize) -> io::Result<bool> {
    let host = memory.get_host_address(GuestAddress(at)).map_err(io::Error::other)?;
    let pages = u64::try_from(length).map_err(io::Error::other)?.div_ceil(PAGE);
    let mut untouched = true;
    map.look(host, pages, |_, page| {
        untouched = page.is_untouched();
        untouched
    })?;
    Ok(untouched)
}

impl MemoryFile {
    /// Notes what the file is like, when nothing of it will change any more.
    pub(super) fn stamp(&mut self, file: &File) -> io::Result<()> {
        self.stamp = Stamp::of(&file.metadata()?);
        Ok(())
    }

    /// Whether `file` is what was written: by its stamp or, where that is not known, by all of its bytes. In words, if not.
    pub(super) fn check(&self, file: &File) -> io::Result<Result<(), String>> {
        let meta = file.metadata()?;
        if meta.len() != self.length {
            return Ok(Err(format!("it has {} bytes, and was written with {}", meta.len(), self.length)));
        }
        if self.stamp.is_some() && self.stamp == Stamp::of(&meta) {
            return Ok(Ok(()));
        }
        let (mut buffer, mut checksum) = (vec![0; PIECE], Checksum::new());
        for run in &self.runs {
            let mut at = 0;
            while at < run.length {
                let length = usize::try_from(run.length - at).unwrap_or(PIECE).min(PIECE);
                let piece = buffer.get_mut(..length).unwrap_or_default();
                file.read_exact_at(piece, run.offset.saturating_add(at))?;
                checksum.add(piece);
                at += u64::try_from(length).unwrap_or(u64::MAX);
            }
        }
        let same = checksum == self.checksum;
        Ok(if same { Ok(()) } else { Err("its bytes are not those that were written".to_owned()) })
    }

    /// How many bytes of RAM the file has.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }

    /// Maps the file under `memory`, which is new and all zeros: each page is the file's until it is written. In words, if the
    /// runs don't fit.
    pub(super) fn map_under(&self, memory: &GuestMemory, file: &File) -> io::Result<Result<(), String>> {
        let places = places(memory);
        for run in &self.runs {
            let fits = |(start, size, base): &(u64, u64, u64)| {
                let within = run.address.checked_sub(*start)?;
                let end = within.checked_add(run.length)?;
                (end <= *size && base + within == run.offset).then_some(within)
            };
            let whole = [run.address, run.offset, run.length].iter().all(|part| part.is_multiple_of(PAGE));
            let region = memory.find_region(GuestAddress(run.address));
            let (Some(within), Some(region), true) = (places.iter().find_map(fits), region, whole) else {
                return Ok(Err(format!("it names RAM at {:#x} that the machine does not have", run.address)));
            };
            let Ok(length) = usize::try_from(run.length) else { continue };
            if length == 0 {
                continue;
            }
            let host = region.get_host_address(MemoryRegionAddress(within)).map_err(io::Error::other)?;
            use rustix::mm::{MapFlags, ProtFlags};
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: the range lies whole in the mapping that `memory` owns, which nobody else knows of yet, and takes the place
            // of so many of its bytes; whoever unmaps the whole takes this with it.
            #[allow(unsafe_code)]
            unsafe { rustix::mm::mmap(host.cast(), length, protection, flags, file, run.offset) }?;
        }
        Ok(Ok(()))
    }

    /// Gives `memory`, which [`MemoryFile::map_under`] mapped and whose machine has ended, the bytes of `file` again. Pages that the
    /// process has of its own are written over, where they are: for the next machine they are in place. Of more than
    /// [`KEPT`] the rest is let go, and is the file's again.
    pub(super) fn bring_back(&self, memory: &GuestMemory, file: &File) -> io::Result<()> {
        let map = PageMap::open()?;
        let mut room = KEPT;
        for (region, (_, size, base)) in memory.iter().zip(places(memory)) {
            let host = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
            for (at, length) in map.own(host, size / PAGE)? {
                let kept = length.min(room);
                room -= kept;
                let part =
                    |at: u64| region.get_host_address(MemoryRegionAddress(at)).map_err(io::Error::other);
                let bytes = |length: u64| usize::try_from(length).map_err(io::Error::other);
                // SAFETY: the run lies in the mapping that `memory` owns. Its machine has ended: no vCPU and no device's thread touches
                // it, and no reference to it is kept anywhere.
                #[allow(unsafe_code)]
                let page = unsafe { std::slice::from_raw_parts_mut(part(at)?, bytes(kept)?) };
                file.read_exact_at(page, base + at)?;
                if kept < length {
                    let rest = part(at + kept)?.cast();
                    // SAFETY: as above; the mapping stays, with the bytes that it had at first.
                    #[allow(unsafe_code)]
                    unsafe { rustix::mm::madvise(rest, bytes(length - kept)?, Advice::LinuxDontNeed) }?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(fill: &[(u64, u8)]) -> (GuestMemory, File, MemoryFile) {
        let memory = crate::memory::allocate(4 << 20).unwrap();
        for (at, byte) in fill {
            memory.write_obj(*byte, GuestAddress(*at)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        let mut written = write(&memory, &file, true).unwrap();
        let all = write(&memory, &tempfile::tempfile().unwrap(), false).unwrap();
        assert_eq!((&all.runs, all.checksum), (&written.runs, written.checksum));
        written.stamp(&file).unwrap();
        (memory, file, written)
    }

    #[test]
    fn memory_is_written_without_its_zeros_in_as_few_runs_as_can_be() {
        let piece = PIECE as u64;
        let (_, file, written) = saved(&[(5, 1), (piece + 9, 2), (3 * piece, 3), ((4 << 20) - 1, 4)]);
        let starts: Vec<_> = written.runs.iter().map(|run| (run.address, run.length)).collect();
        assert_eq!(starts, [(0, 2 * piece), (3 * piece, piece), ((4 << 20) - piece, piece)]);
        assert_eq!(file.metadata().unwrap().len(), 4 << 20);
        assert_eq!(written.bytes(), 4 * piece);
    }

    #[test]
    fn memory_mapped_under_another_is_its_own_once_it_is_written() {
        let (_, file, written) = saved(&[(0x1234, 7)]);
        let forks = [(); 2].map(|()| crate::memory::allocate(4 << 20).unwrap());
        for fork in &forks {
            written.map_under(fork, &file).unwrap().unwrap();
            assert_eq!(fork.read_obj::<u8>(GuestAddress(0x1234)).unwrap(), 7);
        }
        forks[0].write_obj(8u8, GuestAddress(0x1234)).unwrap();
        forks[0].write_obj(9u8, GuestAddress(2 << 20)).unwrap();
        assert_eq!(forks[1].read_obj::<u8>(GuestAddress(0x1234)).unwrap(), 7);
        assert_eq!(forks[1].read_obj::<u8>(GuestAddress(2 << 20)).unwrap(), 0);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0x1234).unwrap();
        assert_eq!(byte, [7]);
    }

    #[test]
    fn file_that_was_cut_off_or_changed_is_told() {
        let (_, file, written) = saved(&[(0x1234, 7)]);
        written.check(&file).unwrap().unwrap();
        file.write_all_at(&[7], 0x1234).unwrap();
        written.check(&file).unwrap().unwrap();
        file.write_all_at(&[6], 0x1234).unwrap();
        assert!(written.check(&file).unwrap().unwrap_err().contains("not those that were written"));
        file.set_len((4 << 20) - 1).unwrap();
        assert!(written.check(&file).unwrap().unwrap_err().contains("4194303 bytes"));
    }

    #[test]
    fn runs_that_are_not_in_ram_are_refused() {
        let (memory, file, written) = saved(&[(0, 1)]);
        let bad = [
            Run { address: 4 << 20, offset: 4 << 20, length: PAGE },
            Run { address: 0, offset: 0, length: (4 << 20) + PAGE },
            Run { address: 0, offset: PAGE, length: PAGE },
            Run { address: 1, offset: 1, length: PAGE },
            Run { address: u64::MAX - PAGE + 1, offset: 0, length: PAGE },
        ];
        for run in bad {
            let file_like = MemoryFile { runs: vec![run], ..written.clone() };
            assert!(file_like.map_under(&memory, &file).unwrap().is_err(), "{run:?}");
        }
    }
}
