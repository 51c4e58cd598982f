//! Guest RAM: from address 0 up to the hole for devices, and on from 4 GiB.

use std::io;

use rustix::mm::Advice;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use crate::layout::{HOLE_END, HOLE_START};

/// Guest RAM as the devices and loaders see it. A clone is another handle on the same bytes.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// A transparent huge page of x86-64.
const HUGE_PAGE: usize = 2 << 20;
/// How often an aligned place is looked for.
const TRIES: usize = 4;

/// Where `size` bytes of RAM lie: address and length of each region, in order.
#[must_use]
pub fn regions(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(HOLE_START);
    let mut regions = vec![(0, low)];
    if size > low {
        regions.push((HOLE_END, size - low));
    }
    regions
}

/// Maps `size` bytes of anonymous memory as RAM: nothing is taken from the host before the guest touches it.
///
/// # Errors
/// The host has no room for it.
pub fn allocate(size: u64) -> io::Result<GuestMemory> {
    let mut mapped = Vec::new();
    for (base, length) in regions(size) {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let region = map(length)?;
        advise_huge_pages(&region, if base == 0 { HUGE_PAGE } else { 0 });
        let region = GuestRegionMmap::new(region, GuestAddress(base))
            .ok_or_else(|| io::Error::other("RAM ends past the last address"))?;
        mapped.push(region);
    }
    GuestMemory::from_regions(mapped).map_err(io::Error::other)
}

/// The end of RAM below the hole.
#[must_use]
pub fn end_of_low(memory: &GuestMemory) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// Maps a region, on a huge page's boundary if the host has it so.
///
/// Mappings are placed downwards, each right below the last: when one is off the boundary, a filler of as many
/// bytes puts the next one on it. Where that does not work out, RAM is only slower.
fn map(length: usize) -> io::Result<MmapRegion> {
    let new = |length| MmapRegion::new(length).map_err(io::Error::other);
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
/// first: tables and parameters lie there, a few small pages, and clearing 2 MiB for them costs more than all else
/// that a payload does. A host that has none says so, and nothing is lost.
fn advise_huge_pages(region: &MmapRegion, from: usize) {
    let first = from.min(region.size());
    let whole = [(0, first, Advice::LinuxNoHugepage), (first, region.size() - first, Advice::LinuxHugepage)];
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

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn ram_leaves_the_hole_free() {
        assert_eq!(regions(1 << 20), [(0, 1 << 20)]);
        assert_eq!(regions(HOLE_START), [(0, HOLE_START)]);
        assert_eq!(regions(5 << 30), [(0, HOLE_START), (HOLE_END, (5 << 30) - HOLE_START)]);
    }

    #[test]
    fn ram_is_there_below_and_above_the_hole_and_not_in_it() {
        let memory = allocate(HOLE_START + (4 << 20)).unwrap();
        memory.write_obj(7u8, GuestAddress(HOLE_START - 1)).unwrap();
        memory.write_obj(8u8, GuestAddress(HOLE_END + (4 << 20) - 1)).unwrap();
        assert!(memory.write_obj(9u8, GuestAddress(HOLE_START)).is_err());
        assert!(memory.write_obj(9u8, GuestAddress(HOLE_END + (4 << 20))).is_err());
        assert_eq!(end_of_low(&memory), HOLE_START);
    }

    #[test]
    fn more_than_the_host_has_room_for_is_an_error() {
        assert!(allocate(1 << 60).is_err());
    }
}
