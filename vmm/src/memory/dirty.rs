//! Which pages of guest RAM were written.

use serde::{Deserialize, Serialize};

use super::PAGE;

/// The pages of guest RAM that were written since the log was started or last fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyPages {
    /// One each for the regions of RAM, by address.
    pub regions: Vec<DirtyRegion>,
}

/// The pages of one region of RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyRegion {
    /// Its first guest-physical address.
    pub base: u64,
    /// Its size in bytes.
    pub size: u64,
    /// A bit for each page of 4 KiB, the lowest first: set if it was written.
    pub bits: Vec<u64>,
}

impl DirtyPages {
    /// The guest-physical addresses of the pages, in order.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        self.regions.iter().flat_map(|region| {
            (0..).zip(&region.bits).flat_map(move |(word, bits): (u64, &u64)| {
                let set = (0..64).filter(move |bit| bits >> bit & 1 == 1);
                set.map(move |bit| region.base + (word * 64 + bit) * PAGE)
            })
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        let bits = self.regions.iter().flat_map(|region| &region.bits);
        bits.map(|bits| u64::from(bits.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_pages_of_their_region() {
        let region = |base, bits: &[u64]| DirtyRegion { base, size: 0, bits: bits.to_vec() };
        let pages = DirtyPages { regions: vec![region(0, &[1, 1 << 63]), region(1 << 32, &[0b110])] };
        let addresses: Vec<u64> = pages.addresses().collect();
        assert_eq!(addresses, [0, 127 * PAGE, (1 << 32) + PAGE, (1 << 32) + 2 * PAGE]);
        assert_eq!(pages.count(), 4);
    }
}
