//! Guest memory: RAM, from address 0 up to the hole for devices and on from 4 GiB; the map of it, of ROMs and of devices' windows;
//! and the log of what is written to it.

mod backing;
mod dirty;
pub(crate) mod map;
pub(crate) mod on_bus;
pub(crate) mod region;
pub(crate) mod table;
mod view;
mod written;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::config::MemoryBacking;
use crate::layout::{HOLE_END, HOLE_START};
pub use backing::MemoryError;
pub use dirty::{DirtyPages, DirtyRegion};
pub use map::MapError;
pub use table::RegionId;
pub use view::{MemoryView, Readable};
pub use written::WriteLog;

/// Guest RAM as the devices and loaders see it. A clone is another handle on the same bytes. What is written by way of it
/// is noted, while the machine's dirty log is on; whoever writes by a pointer of his own has to note it himself.
pub type GuestMemory = vm_memory::GuestMemoryMmap<WriteLog>;

/// A huge page of x86-64, in bytes.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// A page, in bytes.
pub(crate) const PAGE: u64 = 4096;

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

/// Maps `size` bytes as RAM, as a machine has it of which nothing else is said: nothing is taken from the host before
/// it is touched.
///
/// # Errors
/// The host has no room for it.
pub fn allocate(size: u64) -> Result<GuestMemory, MemoryError> {
    allocate_on(size, MemoryBacking::default())
}

/// Maps `size` bytes as RAM on `backing`.
///
/// # Errors
/// The host has no room for it, or no such pages.
pub fn allocate_on(size: u64, backing: MemoryBacking) -> Result<GuestMemory, MemoryError> {
    let room =
        |what: &'static str| MemoryError::Room { mib: size >> 20, source: std::io::Error::other(what) };
    let mut mapped = Vec::new();
    for (base, length) in regions(size) {
        let length = usize::try_from(length).map_err(|_| room("it has more than it can address"))?;
        let region = backing::map(length, base == 0, backing).map_err(|error| error.of(size))?;
        let region = GuestRegionMmap::new(region, GuestAddress(base))
            .ok_or_else(|| room("RAM ends past the last address"))?;
        mapped.push(region);
    }
    GuestMemory::from_regions(mapped).map_err(|_| room("its regions can't be put together"))
}

/// The end of RAM below the hole.
#[must_use]
pub fn end_of_low(memory: &GuestMemory) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
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
        let error = allocate(1 << 60).unwrap_err();
        assert!(error.to_string().contains("no room for 1099511627776 MiB"), "{error}");
    }
}
