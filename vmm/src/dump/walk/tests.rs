//! Walks through tables of each kind, whole and broken.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::GuestMemory;

const CR0_PE: u64 = 1;

const CR3: u64 = 0x1000;

fn memory(entries: &[(u64, u64)]) -> GuestMemory {
    let memory = crate::memory::allocate(1 << 20).unwrap();
    for (address, value) in entries {
        memory.write_obj(*value, GuestAddress(*address)).unwrap();
    }
    memory
}

fn special(cr4: u64, efer: u64) -> SpecialRegisters {
    SpecialRegisters { cr0: CR0_PE | CR0_PG, cr3: CR3, cr4, efer, ..SpecialRegisters::default() }
}

fn long() -> SpecialRegisters {
    special(CR4_PAE, EFER_LMA)
}

#[test]
fn without_paging_linear_is_physical() {
    let walk = PageWalk::new(&memory(&[]), &SpecialRegisters::default(), 0xffff_fff0);
    assert_eq!((walk.physical(), walk.entries.len()), (Some(0xffff_fff0), 0));
}

#[test]
fn four_levels_lead_to_a_small_page() {
    let memory =
        memory(&[(0x1ff8, 0x2003), (0x2ff0, 0x3003), (0x3008, 0x4003), (0x4010, 0x8000_0000_0005_5063)]);
    let walk = PageWalk::new(&memory, &long(), 0xffff_ffff_8020_2abc);
    assert_eq!(walk.physical(), Some(0x5_5abc));
    let tables: Vec<&str> = walk.entries.iter().map(|entry| entry.table.as_str()).collect();
    assert_eq!(tables, ["PML4", "PDPT", "PD", "PT"]);
    assert_eq!((walk.entries[3].address, walk.entries[3].value), (0x4010, 0x8000_0000_0005_5063));
}

#[test]
fn large_pages_end_the_walk_early() {
    let memory = memory(&[(0x1000, 0x2003), (0x2000, 0x3003), (0x2008, 0x4000_0083), (0x3008, 0x20_0083)]);
    assert_eq!(PageWalk::new(&memory, &long(), 0x20_1234).physical(), Some(0x20_1234));
    assert_eq!(PageWalk::new(&memory, &long(), 0x4123_4567).physical(), Some(0x4123_4567));
}

#[test]
fn five_levels_begin_one_table_higher() {
    let memory = memory(&[(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x83)]);
    let walk = PageWalk::new(&memory, &special(CR4_PAE | CR4_LA57, EFER_LMA), 0x1234);
    assert_eq!((walk.physical(), walk.entries.len()), (Some(0x1234), 3));
}

#[test]
fn pae_begins_with_four_entries_on_32_bytes() {
    let mut special = special(CR4_PAE, 0);
    special.cr3 = 0x1020;
    let memory = memory(&[(0x1038, 0x2001), (0x2000, 0x3003), (0x3000, 0x7003)]);
    assert_eq!(PageWalk::new(&memory, &special, 0xc000_0042).physical(), Some(0x7042));
}

#[test]
fn legacy_paging_has_pages_of_4_mib_only_with_pse() {
    let memory = memory(&[(0x1000, 0x0000_2003_0040_2083), (0x2000, 0x9003)]);
    // PSE: 4 MiB, and bits above 32 from the entry's middle.
    assert_eq!(PageWalk::new(&memory, &special(CR4_PSE, 0), 0x1_2345).physical(), Some(0x1_0041_2345));
    assert_eq!(PageWalk::new(&memory, &special(0, 0), 0x40_0042).physical(), Some(0x9042));
}

#[test]
fn broken_tables_end_where_they_break() {
    let memory = memory(&[(0x1000, 0x2003), (0x1008, 0x000f_ffff_ffff_f003), (0x2000, 0x3002)]);
    let walk = PageWalk::new(&memory, &long(), 0x1234);
    assert_eq!((&walk.end, walk.entries.len()), (&WalkEnd::NotPresent, 2));
    let walk = PageWalk::new(&memory, &long(), 1 << 39);
    assert_eq!(walk.end, WalkEnd::NotRam { physical: 0x000f_ffff_ffff_f000 });
    assert_eq!(PageWalk::new(&memory, &long(), 1 << 47).end, WalkEnd::NotCanonical);
    let mut nowhere = long();
    nowhere.cr3 = u64::MAX;
    assert!(matches!(PageWalk::new(&memory, &nowhere, u64::MAX).end, WalkEnd::NotRam { .. }));
}

#[test]
fn reading_stops_where_the_mapping_does() {
    let memory = memory(&[(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x5003)]);
    memory.write_slice(b"end", GuestAddress(0x5ffd)).unwrap();
    assert_eq!(read(&memory, &long(), 0xffd, 16), b"end");
    assert_eq!(read(&memory, &long(), 0x1000, 16), b"");
    assert_eq!(read(&memory, &SpecialRegisters::default(), (1 << 20) - 2, 16), b"\0\0");
}
