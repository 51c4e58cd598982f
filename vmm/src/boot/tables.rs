//! The processor's own tables: GDT and the initial page tables.

use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::layout::{GDT, PAGE_TABLES};
use crate::memory::GuestMemory;
use crate::vcpu::gdt;

const PAGE: u64 = 0x1000;
/// How many GiB are mapped.
const GIBS: u64 = 4;
// Entries of page tables (Intel SDM, volume 3, §4.5.4).
const PRESENT_WRITABLE: u64 = 0b11;
/// A page of 2 MiB.
const LARGE: u64 = 1 << 7;

/// Whether `size` bytes at `address` would lie on the tables.
pub(super) fn overlap(address: u64, size: usize, long: bool) -> bool {
    let end = address.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
    let on = |at: u64, length: u64| address < at + length && end > at;
    on(GDT, 5 * 8) || long && on(PAGE_TABLES, (2 + GIBS) * PAGE)
}

pub(super) fn write_gdt(memory: &GuestMemory, long: bool) -> Result<(), BootError> {
    write(memory, GDT, &gdt(long))
}

/// Maps the first 4 GiB one to one, in pages of 2 MiB.
pub(super) fn write_page_tables(memory: &GuestMemory) -> Result<(), BootError> {
    let (pdpt, directories) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
    write(memory, PAGE_TABLES, &[pdpt | PRESENT_WRITABLE])?;
    let entries: Vec<u64> = (0..GIBS).map(|gib| (directories + gib * PAGE) | PRESENT_WRITABLE).collect();
    write(memory, pdpt, &entries)?;
    let pages: Vec<u64> = (0..GIBS * 512).map(|page| page << 21 | LARGE | PRESENT_WRITABLE).collect();
    write(memory, directories, &pages)
}

fn write(memory: &GuestMemory, address: u64, entries: &[u64]) -> Result<(), BootError> {
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(address)).map_err(|_| BootError::Tables("page tables"))
}
