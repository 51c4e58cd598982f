//! Where things are: all metadata at the front, then one run of data blocks, then what is free.
//!
//! Superblock and descriptors, every group's block bitmap, every group's inode bitmap, every group's inodes.
//! Both bitmaps are therefore a run of ones followed by zeros.

use super::spec::{
    BLOCK_BYTES, BLOCKS_MAX, BLOCKS_PER_GROUP, DESCRIPTORS_PER_BLOCK, INODES_PER_BLOCK, INODES_PER_GROUP_MAX,
};
use crate::Error;

/// Inodes that are free in every image.
const FREE_INODES: u64 = 256;
/// One inode for so many bytes, as `mke2fs` has them.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Blocks that are free in an image whose size nobody asked for: 32 MiB.
const FREE_BLOCKS: u64 = (32 << 20) / BLOCK_BYTES;
/// An image whose size nobody asked for is so many blocks, times any number: 1 MiB.
const ROUND_TO: u64 = (1 << 20) / BLOCK_BYTES;

/// What has to find its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Blocks of files, folders, links and extent trees.
    pub(super) blocks: u64,
    /// Inodes up to the last that is in use.
    pub(super) inodes: u64,
}

/// The geometry of an image. Numbers are of blocks, but for the inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) blocks: u32,
    pub(super) groups: u32,
    pub(super) inodes_per_group: u32,
    /// Blocks of descriptors; they begin at block 1.
    pub(super) descriptor_blocks: u32,
    pub(super) block_bitmaps: u32,
    pub(super) inode_bitmaps: u32,
    pub(super) inode_tables: u32,
    /// The first block of content.
    pub(super) data: u32,
}

impl Layout {
    /// The layout for `size` bytes, or for a size that leaves room.
    pub(super) fn fit(needs: Needs, size: Option<u64>) -> Result<Self, Error> {
        let Some(size) = size else {
            let free = (needs.blocks / 4).max(FREE_BLOCKS);
            let wanted = needs.blocks.checked_add(free).ok_or(Error::TooLarge)?;
            return Self::least(needs.inodes, wanted, ROUND_TO);
        };
        let layout = Self::new(size / BLOCK_BYTES, needs.inodes);
        if size / BLOCK_BYTES > BLOCKS_MAX {
            return Err(Error::TooLarge);
        }
        match layout {
            Some(layout) if u64::from(layout.data) + needs.blocks <= u64::from(layout.blocks) => Ok(layout),
            _ => {
                let least = Self::full(needs)?;
                Err(Error::TooSmall { size, needed_kib: u64::from(least.blocks) * (BLOCK_BYTES / 1024) })
            }
        }
    }

    /// The layout with no block to spare.
    pub(super) fn full(needs: Needs) -> Result<Self, Error> {
        Self::least(needs.inodes, needs.blocks, 1)
    }

    /// The smallest layout of a multiple of `round_to` blocks that has `wanted` of them for content.
    fn least(inodes: u64, wanted: u64, round_to: u64) -> Result<Self, Error> {
        let mut blocks = round_to;
        loop {
            // More blocks may need more metadata; it is a small part of them, so this comes to an end.
            let layout = Self::new(blocks, inodes);
            let needed = match layout {
                Some(layout) => u64::from(layout.data) + wanted,
                None => blocks + 1,
            };
            match layout {
                _ if needed > BLOCKS_MAX => return Err(Error::TooLarge),
                Some(layout) if needed <= blocks => return Ok(layout),
                _ => blocks = needed.next_multiple_of(round_to),
            }
        }
    }

    /// The layout of so many blocks, with room for so many inodes; none if the metadata alone is more.
    fn new(blocks: u64, inodes: u64) -> Option<Self> {
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0)?;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let by_size = u64::from(blocks) * BLOCK_BYTES / BYTES_PER_INODE;
        let wanted = inodes.checked_add(FREE_INODES)?.max(by_size);
        let per_group = wanted.div_ceil(u64::from(groups)).next_multiple_of(u64::from(INODES_PER_BLOCK));
        let inodes_per_group = u32::try_from(per_group).ok().filter(|n| *n <= INODES_PER_GROUP_MAX)?;
        let descriptor_blocks = groups.div_ceil(DESCRIPTORS_PER_BLOCK);
        let block_bitmaps = 1 + descriptor_blocks;
        let inode_bitmaps = block_bitmaps.checked_add(groups)?;
        let inode_tables = inode_bitmaps.checked_add(groups)?;
        let table_blocks = groups.checked_mul(inodes_per_group / INODES_PER_BLOCK)?;
        let data = inode_tables.checked_add(table_blocks).filter(|data| *data <= blocks)?;
        Some(Self {
            blocks,
            groups,
            inodes_per_group,
            descriptor_blocks,
            block_bitmaps,
            inode_bitmaps,
            inode_tables,
            data,
        })
    }

    /// The first block of a group's inodes.
    pub(super) fn inode_table(&self, group: u32) -> u32 {
        self.inode_tables + group * (self.inodes_per_group / INODES_PER_BLOCK)
    }

    /// The blocks that a group has: the last may be cut short.
    pub(super) fn blocks_of(&self, group: u32) -> u32 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    /// `s_log_groups_per_flex`: all groups are one, for all have their metadata in one place; at least 16, as
    /// `mke2fs` has them.
    pub(super) fn log_flex_groups(&self) -> u8 {
        let log = self.groups.next_power_of_two().trailing_zeros();
        u8::try_from(log.max(4)).unwrap_or(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_without_a_size_leaves_a_quarter_and_at_least_32_mib_free() {
        for blocks in [1, 10_000, 200_000, 50_000_000] {
            let layout = Layout::fit(Needs { blocks, inodes: 100 }, None).unwrap();
            let free = u64::from(layout.blocks - layout.data) - blocks;
            assert!(free >= blocks / 4 && free >= 8192, "{layout:?}");
            assert_eq!(layout.blocks % 256, 0);
            assert!(free < blocks / 4 + 8192 + 600, "{layout:?}");
        }
    }

    #[test]
    fn layout_of_a_size_that_is_too_small_says_what_is_enough() {
        for (blocks, inodes) in [(1, 12), (5_000, 700), (200_000, 40_000), (3_000_000, 20)] {
            let needs = Needs { blocks, inodes };
            let Err(Error::TooSmall { needed_kib, .. }) = Layout::fit(needs, Some(4096)) else {
                panic!("4 KiB are enough for {needs:?}");
            };
            let layout = Layout::fit(needs, Some(needed_kib << 10)).unwrap();
            assert_eq!(u64::from(layout.blocks) * 4, needed_kib);
            assert!(matches!(Layout::fit(needs, Some((needed_kib - 4) << 10)), Err(Error::TooSmall { .. })));
        }
    }

    #[test]
    fn layout_of_16_tib_is_the_largest() {
        let needs = Needs { blocks: 1, inodes: 12 };
        assert_eq!(Layout::fit(needs, Some((1 << 44) - 4096)).unwrap().blocks, u32::MAX);
        assert!(matches!(Layout::fit(needs, Some(1 << 44)), Err(Error::TooLarge)));
        assert!(matches!(Layout::fit(needs, Some(u64::MAX)), Err(Error::TooLarge)));
        assert!(matches!(Layout::fit(Needs { blocks: 1 << 33, ..needs }, None), Err(Error::TooLarge)));
        assert!(matches!(Layout::fit(Needs { blocks: u64::MAX, ..needs }, None), Err(Error::TooLarge)));
    }

    #[test]
    fn layout_for_many_inodes_takes_the_groups_that_they_need() {
        let layout = Layout::fit(Needs { blocks: 1, inodes: 100_000 }, None).unwrap();
        assert!(u64::from(layout.groups) * u64::from(layout.inodes_per_group) >= 100_256);
    }
}
