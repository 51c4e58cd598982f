//! How RAM is mapped: on which pages, private or shared, and whether it is there at once.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::Advice;
use vm_memory::{FileOffset, MmapRegion};

use super::written::WriteLog;
use super::{HUGE_PAGE, PAGE};
use crate::config::{HugePages, MemoryBacking};

/// How often an aligned place is looked for.
const TRIES: usize = 4;
/// Where the host tells of its huge pages of 2 MiB.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Guest RAM that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has no room for it.
    #[error("the host has no room for {mib} MiB of guest memory")]
    Room {
        /// How much was asked for.
        mib: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host has not enough huge pages set aside.
    #[error(
        "{mib} MiB of guest memory need {needed} huge pages of 2 MiB, and this host has {free} free: \
         reserve them with `sysctl vm.nr_hugepages={reserve}`"
    )]
    HugePages {
        /// How much was asked for.
        mib: u64,
        /// How many pages that is.
        needed: u64,
        /// How many are free and not promised to others.
        free: u64,
        /// How many the host would have to have in all.
        reserve: u64,
    },
    /// The host's kernel has no such pages.
    #[error("this host's kernel has no huge pages of 2 MiB")]
    NoHugePages,
}

/// Why a region can't be mapped.
#[derive(Debug)]
pub(super) enum Refusal {
    Room(io::Error),
    HugePages,
}

impl Refusal {
    /// What it means for all of RAM.
    pub(super) fn of(self, size: u64) -> MemoryError {
        match self {
            Self::Room(source) => MemoryError::Room { mib: size >> 20, source },
            Self::HugePages => no_huge_pages(size, Path::new(POOL)),
        }
    }
}

/// What is to be said of huge pages that a host with that `pool` does not have.
fn no_huge_pages(size: u64, pool: &Path) -> MemoryError {
    let read =
        |name: &str| -> Option<u64> { std::fs::read_to_string(pool.join(name)).ok()?.trim().parse().ok() };
    let (Some(free), Some(promised), Some(all)) =
        (read("free_hugepages"), read("resv_hugepages"), read("nr_hugepages"))
    else {
        return MemoryError::NoHugePages;
    };
    let free = free.saturating_sub(promised);
    let needed = size.div_ceil(HUGE_PAGE as u64);
    let reserve = all + needed.saturating_sub(free);
    MemoryError::HugePages { mib: size >> 20, needed, free, reserve }
}

/// Maps a region of RAM; the `first` one has the guest's tables at its beginning.
pub(super) fn map(
    length: usize,
    first: bool,
    backing: MemoryBacking,
) -> Result<MmapRegion<WriteLog>, Refusal> {
    if backing.huge_pages == HugePages::Explicit {
        let region = explicit(length, backing.shared)?;
        // The pages are this machine's by now. That it may have them (a control group can forbid it) shows only when they are
        // touched, and then with a signal.
        populate(&region).map_err(|_| Refusal::HugePages)?;
        return Ok(region);
    }
    let region = if backing.shared { shared(length) } else { private(length) }.map_err(Refusal::Room)?;
    let small = match backing.huge_pages {
        HugePages::Transparent if first => HUGE_PAGE.min(length),
        HugePages::Transparent => 0,
        _ => length,
    };
    advise(&region, small);
    if backing.prefault {
        populate(&region).map_err(Refusal::Room)?;
    }
    Ok(region)
}

/// Pages that were set aside, all of them taken out of the host's pool now: without `MAP_NORESERVE`, which would have a
/// guest die at the first one that is missing.
fn explicit(length: usize, shared: bool) -> Result<MmapRegion<WriteLog>, Refusal> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let mapped = if shared {
        let file =
            memfd(length, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).map_err(|error| match error {
                Errno::NOMEM | Errno::NOSPC | Errno::INVAL | Errno::NODEV | Errno::NOSYS => {
                    Refusal::HugePages
                }
                other => Refusal::Room(other.into()),
            })?;
        MmapRegion::build(Some(file), length, protection, libc::MAP_SHARED)
    } else {
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        MmapRegion::build(None, length, protection, flags)
    };
    // The host says the same of too few pages and of none at all.
    mapped.map_err(|_| Refusal::HugePages)
}

/// A file in memory of `length` bytes, which nobody who gets hold of it can cut off.
fn memfd(length: usize, flags: MemfdFlags) -> Result<FileOffset, Errno> {
    let file = rustix::fs::memfd_create("kiln-ram", flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, u64::try_from(length).map_err(|_| Errno::FBIG)?)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(FileOffset::new(File::from(file), 0))
}

fn shared(length: usize) -> io::Result<MmapRegion<WriteLog>> {
    let file = memfd(length, MemfdFlags::empty())?;
    aligned(length, |length| {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_NORESERVE | libc::MAP_SHARED;
        MmapRegion::build(Some(file.clone()), length, protection, flags).map_err(io::Error::other)
    })
}

fn private(length: usize) -> io::Result<MmapRegion<WriteLog>> {
    aligned(length, |length| MmapRegion::new(length).map_err(io::Error::other))
}

/// Maps a region, on a huge page's boundary if the host has it so.
///
/// Mappings are placed downwards, each right below the last: when one is off the boundary, a filler of as many
/// bytes puts the next one on it. Where that does not work out, RAM is only slower.
fn aligned(
    length: usize,
    new: impl Fn(usize) -> io::Result<MmapRegion<WriteLog>>,
) -> io::Result<MmapRegion<WriteLog>> {
    let mut region = new(length)?;
    if length < HUGE_PAGE {
        return Ok(region);
    }
    for _ in 0..TRIES {
        let past = region.as_ptr().addr() % HUGE_PAGE;
        if past == 0 {
            break;
        }
        drop(region);
        let filler = new(past)?;
        region = new(length)?;
        drop(filler);
    }
    Ok(region)
}

/// Asks for huge pages: a guest's boot takes a few dozen page faults with them, tens of thousands without. Not for the
/// first `small` bytes: in the first 2 MiB lie tables and parameters, a few small pages, and clearing 2 MiB for them costs
/// more than all else that a payload does. A host that has none says so, and nothing is lost.
fn advise(region: &MmapRegion<WriteLog>, small: usize) {
    let small = small.min(region.size());
    let whole = [(0, small, Advice::LinuxNoHugepage), (small, region.size() - small, Advice::LinuxHugepage)];
    for (offset, length, advice) in whole {
        if length == 0 {
            continue;
        }
        // SAFETY: the range is part of the mapping that `region` owns, and the advice changes no byte of it.
        #[allow(unsafe_code)]
        let _no_huge_pages =
            unsafe { rustix::mm::madvise(region.as_ptr().byte_add(offset).cast(), length, advice) };
    }
}

/// Has all of a region's pages be there. Before Linux 5.14 by touching each, as the guest would.
fn populate(region: &MmapRegion<WriteLog>) -> io::Result<()> {
    // SAFETY: the range is the mapping that `region` owns; its pages come into being with the bytes that they have.
    #[allow(unsafe_code)]
    let populated =
        unsafe { rustix::mm::madvise(region.as_ptr().cast(), region.size(), Advice::LinuxPopulateWrite) };
    match populated {
        Err(Errno::INVAL) => touch(region),
        other => Ok(other?),
    }
}

/// Writes to every page. The memory is new, so that all of it is zero.
fn touch(region: &MmapRegion<WriteLog>) -> io::Result<()> {
    use vm_memory::{Bytes, VolatileMemory};
    let page = usize::try_from(PAGE).map_err(io::Error::other)?;
    let whole = region.as_volatile_slice();
    (0..region.size()).step_by(page).try_for_each(|at| whole.write_obj(0u8, at)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
