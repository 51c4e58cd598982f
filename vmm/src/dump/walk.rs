//! The way from a linear address to a physical one, entry by entry, through the guest's own tables.
//!
//! Four ways (Intel SDM, volume 3, §4.1.1): no paging, 32-bit, PAE, and long mode with four or five levels. Rights
//! are told of by the entries themselves; they are not checked here.

use serde::{Deserialize, Serialize};

use crate::memory::Readable;
use crate::vcpu::state::{CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA, SpecialRegisters, hex};

/// An entry: it, or the page, is there.
const PRESENT: u64 = 1;
/// An entry above the last level: it maps a page itself.
const LARGE: u64 = 1 << 7;
/// An entry of eight bytes: bits 51 to 12 are an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An entry on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkEntry {
    /// The table's name: `PML5`, `PML4`, `PDPT`, `PD`, `PT`.
    pub table: String,
    /// Where the entry is, in guest-physical memory.
    #[serde(with = "hex")]
    pub address: u64,
    /// The entry.
    #[serde(with = "hex")]
    pub value: u64,
}

/// Where the way ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ends", rename_all = "kebab-case")]
pub enum WalkEnd {
    /// At a physical address.
    Mapped {
        /// The address.
        #[serde(with = "hex")]
        physical: u64,
    },
    /// At an entry that is not present: the last one of the way.
    NotPresent,
    /// At a table that is in no memory.
    NotRam {
        /// Where it would be.
        #[serde(with = "hex")]
        physical: u64,
    },
    /// At an address that long mode does not have.
    NotCanonical,
}

/// A walk through the page tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageWalk {
    /// The linear address that it is for.
    #[serde(with = "hex")]
    pub linear: u64,
    /// The entries met, from the top.
    pub entries: Vec<WalkEntry>,
    /// Where it ends.
    pub end: WalkEnd,
}

impl PageWalk {
    /// The physical address, if it ends at one.
    #[must_use]
    pub fn physical(&self) -> Option<u64> {
        match self.end {
            WalkEnd::Mapped { physical } => Some(physical),
            _ => None,
        }
    }

    /// Walks to `linear` as a processor with these registers would.
    #[must_use]
    pub fn new(memory: &(impl Readable + ?Sized), special: &SpecialRegisters, linear: u64) -> Self {
        let mut walk = Self { linear, entries: Vec::new(), end: WalkEnd::Mapped { physical: linear } };
        if special.cr0 & CR0_PG == 0 {
            return walk;
        }
        let long = special.efer & EFER_LMA != 0;
        let levels = levels(special);
        if long {
            let unused = if levels.len() == 5 { 64 - 57 } else { 64 - 48 };
            if (linear << unused).cast_signed() >> unused != linear.cast_signed() {
                walk.end = WalkEnd::NotCanonical;
                return walk;
            }
        }
        walk.end = walk.descend(memory, special, levels);
        walk
    }

    fn descend(
        &mut self,
        memory: &(impl Readable + ?Sized),
        special: &SpecialRegisters,
        levels: &[Level],
    ) -> WalkEnd {
        // The four entries of PAE's first table lie on 32 bytes, all other tables on a page.
        let pae32 = levels.len() == 3;
        let mut table = special.cr3 & if pae32 { 0xffff_ffe0 } else { ADDRESS };
        for level in levels {
            let index = (self.linear >> level.shift) & ((1 << level.bits) - 1);
            // Tables lie below 2^52: no sum wraps.
            let address = table + index * level.size;
            let value = if level.size == 4 {
                bytes_at(memory, address).map(|bytes| u32::from_le_bytes(bytes).into())
            } else {
                bytes_at(memory, address).map(u64::from_le_bytes)
            };
            let Some(value) = value else { return WalkEnd::NotRam { physical: address } };
            self.entries.push(WalkEntry { table: level.table.to_owned(), address, value });
            if value & PRESENT == 0 {
                return WalkEnd::NotPresent;
            }
            let offset = (1u64 << level.shift) - 1;
            let last = level.shift == 12;
            if last || level.large && value & LARGE != 0 && (level.size == 8 || special.cr4 & CR4_PSE != 0) {
                let frame = if level.size == 8 {
                    value & ADDRESS & !offset
                } else if last {
                    value & 0xffff_f000
                } else {
                    // PSE-36: bits 20 to 13 are bits 39 to 32 of the address.
                    value & 0xffc0_0000 | (value & 0x001f_e000) << 19
                };
                return WalkEnd::Mapped { physical: frame | self.linear & offset };
            }
            table = value & if level.size == 8 { ADDRESS } else { 0xffff_f000 };
        }
        WalkEnd::NotPresent
    }
}

fn bytes_at<const N: usize>(memory: &(impl Readable + ?Sized), address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    memory.read_at(address, &mut bytes).then_some(bytes)
}

struct Level {
    table: &'static str,
    /// The lowest bit of the linear address that it takes, and how many.
    shift: u32,
    bits: u32,
    /// An entry's size in bytes.
    size: u64,
    /// Whether its entries can map a page themselves.
    large: bool,
}

const fn level(table: &'static str, shift: u32, bits: u32, size: u64, large: bool) -> Level {
    Level { table, shift, bits, size, large }
}

const FIVE: [Level; 5] = [
    level("PML5", 48, 9, 8, false),
    level("PML4", 39, 9, 8, false),
    level("PDPT", 30, 9, 8, true),
    level("PD", 21, 9, 8, true),
    level("PT", 12, 9, 8, false),
];
const PAE: [Level; 3] =
    [level("PDPT", 30, 2, 8, false), level("PD", 21, 9, 8, true), level("PT", 12, 9, 8, false)];
const LEGACY: [Level; 2] = [level("PD", 22, 10, 4, true), level("PT", 12, 10, 4, false)];

fn levels(special: &SpecialRegisters) -> &'static [Level] {
    match (special.efer & EFER_LMA != 0, special.cr4 & CR4_PAE != 0) {
        (true, _) if special.cr4 & CR4_LA57 != 0 => &FIVE,
        (true, _) => FIVE.get(1..).unwrap_or(&FIVE),
        (_, true) => &PAE,
        _ => &LEGACY,
    }
}

/// Reads up to `length` bytes from linear address `linear` on, a page at a time; fewer where the mapping, or RAM, ends.
pub(super) fn read(
    memory: &(impl Readable + ?Sized),
    special: &SpecialRegisters,
    linear: u64,
    length: usize,
) -> Vec<u8> {
    const PAGE: u64 = 4096;
    let mut bytes = Vec::new();
    let mut at = linear;
    while bytes.len() < length {
        let Some(physical) = PageWalk::new(memory, special, at).physical() else { break };
        let rest = usize::try_from(PAGE - at % PAGE).unwrap_or(0).min(length - bytes.len());
        let mut piece = vec![0; rest];
        if !memory.read_at(physical, &mut piece) {
            break;
        }
        bytes.extend(piece);
        let Some(next) = u64::try_from(rest).ok().and_then(|rest| at.checked_add(rest)) else { break };
        at = next;
    }
    bytes
}

#[cfg(test)]
mod tests;
