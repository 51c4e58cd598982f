//! Guest-physical memory as it can be read from outside: RAM and ROMs.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::GuestMemory;
use super::region::Rom;

/// Something with bytes at guest-physical addresses.
pub trait Readable {
    /// Copies the bytes from `address` on; not all of them may be one region's, or there: then none is told, and `false`.
    fn read_at(&self, address: u64, to: &mut [u8]) -> bool;
}

impl Readable for GuestMemory {
    fn read_at(&self, address: u64, to: &mut [u8]) -> bool {
        self.read_slice(to, GuestAddress(address)).is_ok()
    }
}

/// RAM, and the ROMs of a moment.
#[derive(Clone)]
pub struct MemoryView {
    ram: GuestMemory,
    roms: Vec<(u64, Arc<Rom>)>,
}

impl MemoryView {
    pub(crate) fn new(ram: GuestMemory, roms: Vec<(u64, Arc<Rom>)>) -> Self {
        Self { ram, roms }
    }

    /// RAM alone, which can be written as well.
    #[must_use]
    pub fn ram(&self) -> &GuestMemory {
        &self.ram
    }

    /// Whether a ROM is at `address`.
    #[must_use]
    pub fn is_rom(&self, address: u64) -> bool {
        let at = |(base, rom): &(u64, Arc<Rom>)| {
            address.checked_sub(*base).is_some_and(|offset| rom.read(offset, &mut [0]))
        };
        self.roms.iter().any(at)
    }
}

impl Readable for MemoryView {
    fn read_at(&self, address: u64, to: &mut [u8]) -> bool {
        let in_rom = |(base, rom): &(u64, Arc<Rom>)| {
            address.checked_sub(*base).is_some_and(|offset| rom.read(offset, to))
        };
        // ROMs are few, and lie where no RAM is.
        self.roms.iter().any(in_rom) || self.ram.read_at(address, to)
    }
}
