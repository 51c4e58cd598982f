//! Superblock, group descriptors and bitmaps (super.rst, group_descr.rst, bitmaps.rst).

use super::layout::Layout;
use super::spec::{
    BLOCK, BLOCKS_PER_GROUP, COMPAT_SPARSE_SUPER2, DESCRIPTOR, ERRORS_CONTINUE, EXTRA_ISIZE, FIRST_INODE,
    FLAGS_SIGNED_HASH, HASH_HALF_MD4, INCOMPAT_EXTENTS, INCOMPAT_FILETYPE, INCOMPAT_FLEX_BG, INODE,
    LOG_BLOCK_SIZE, MAGIC, NO_MOUNT_LIMIT, REVISION_DYNAMIC, RO_COMPAT_DIR_NLINK, RO_COMPAT_EXTRA_ISIZE,
    RO_COMPAT_HUGE_FILE, RO_COMPAT_LARGE_FILE, STATE_CLEAN, SUPERBLOCK_AT, put,
};

/// Every image has this identity: a file system has to have one, and the same input makes the same bytes. It is
/// a UUID of version 8 (RFC 9562 §5.8), whose bytes are for us to choose.
const UUID: [u8; 16] = *b"kiln\0\0\x80\0\x80\0rootfs";
/// The seed of hashed folders, which a guest may make.
const HASH_SEED: [u8; 16] = *b"kiln\0\0\x80\0\x80\0hashes";
/// The file system's name.
const LABEL: &[u8; 4] = b"kiln";

/// What is in use: all of it is at the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Blocks, metadata among them.
    pub(super) blocks: u32,
    /// Inodes, the reserved ones among them.
    pub(super) inodes: u32,
}

/// The image's first blocks: the superblock and the descriptors. `folders` counts those of each group.
pub(super) fn front(layout: &Layout, used: Used, folders: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    fill_superblock(&mut bytes[SUPERBLOCK_AT..], layout, used);
    for (group, folders) in (0..layout.groups).zip(folders) {
        bytes.extend_from_slice(&descriptor(layout, used, group, *folders));
    }
    bytes
}

fn fill_superblock(bytes: &mut [u8], layout: &Layout, used: Used) {
    let inodes = layout.groups * layout.inodes_per_group;
    put(bytes, 0x00, inodes.to_le_bytes());
    put(bytes, 0x04, layout.blocks.to_le_bytes());
    put(bytes, 0x0c, (layout.blocks - used.blocks).to_le_bytes());
    put(bytes, 0x10, (inodes - used.inodes).to_le_bytes());
    put(bytes, 0x18, LOG_BLOCK_SIZE.to_le_bytes());
    put(bytes, 0x1c, LOG_BLOCK_SIZE.to_le_bytes());
    put(bytes, 0x20, BLOCKS_PER_GROUP.to_le_bytes());
    put(bytes, 0x24, BLOCKS_PER_GROUP.to_le_bytes());
    put(bytes, 0x28, layout.inodes_per_group.to_le_bytes());
    put(bytes, 0x36, NO_MOUNT_LIMIT.to_le_bytes());
    put(bytes, 0x38, MAGIC.to_le_bytes());
    put(bytes, 0x3a, STATE_CLEAN.to_le_bytes());
    put(bytes, 0x3c, ERRORS_CONTINUE.to_le_bytes());
    put(bytes, 0x4c, REVISION_DYNAMIC.to_le_bytes());
    put(bytes, 0x54, FIRST_INODE.to_le_bytes());
    put(bytes, 0x58, u16::try_from(INODE).unwrap_or(0).to_le_bytes());
    put(bytes, 0x5c, COMPAT_SPARSE_SUPER2.to_le_bytes());
    put(bytes, 0x60, (INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_FLEX_BG).to_le_bytes());
    let read_only = RO_COMPAT_LARGE_FILE | RO_COMPAT_HUGE_FILE | RO_COMPAT_DIR_NLINK | RO_COMPAT_EXTRA_ISIZE;
    put(bytes, 0x64, read_only.to_le_bytes());
    put(bytes, 0x68, UUID);
    put(bytes, 0x78, *LABEL);
    put(bytes, 0xec, HASH_SEED);
    bytes[0xfc] = HASH_HALF_MD4;
    put(bytes, 0x15c, EXTRA_ISIZE.to_le_bytes());
    put(bytes, 0x15e, EXTRA_ISIZE.to_le_bytes());
    put(bytes, 0x160, FLAGS_SIGNED_HASH.to_le_bytes());
    bytes[0x174] = layout.log_flex_groups();
}

fn descriptor(layout: &Layout, used: Used, group: u32, folders: u16) -> [u8; DESCRIPTOR] {
    let free = |of: u32, used: u32| u16::try_from(of - used).unwrap_or(u16::MAX).to_le_bytes();
    let (blocks, inodes) = used_of(layout, used, group);
    let mut bytes = [0; DESCRIPTOR];
    put(&mut bytes, 0x00, (layout.block_bitmaps + group).to_le_bytes());
    put(&mut bytes, 0x04, (layout.inode_bitmaps + group).to_le_bytes());
    put(&mut bytes, 0x08, layout.inode_table(group).to_le_bytes());
    put(&mut bytes, 0x0c, free(layout.blocks_of(group), blocks));
    put(&mut bytes, 0x0e, free(layout.inodes_per_group, inodes));
    put(&mut bytes, 0x10, folders.to_le_bytes());
    bytes
}

/// Blocks and inodes of a group that are in use.
fn used_of(layout: &Layout, used: Used, group: u32) -> (u32, u32) {
    let of_group = |all: u32, each: u32| all.saturating_sub(group.saturating_mul(each)).min(each);
    (of_group(used.blocks, BLOCKS_PER_GROUP), of_group(used.inodes, layout.inodes_per_group))
}

/// A group's block bitmap and inode bitmap. Bits that stand for nothing are ones.
pub(super) fn bitmaps(layout: &Layout, used: Used, group: u32) -> ([u8; BLOCK], [u8; BLOCK]) {
    let (blocks, inodes) = used_of(layout, used, group);
    (bitmap(blocks, layout.blocks_of(group)), bitmap(inodes, layout.inodes_per_group))
}

/// A bitmap whose first `ones` bits are ones, and those from `end` on.
fn bitmap(ones: u32, end: u32) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (byte, first) in bytes.iter_mut().zip((0..).step_by(8)) {
        *byte = match first {
            _ if first + 8 <= ones || first >= end => 0xff,
            _ if first >= ones && first + 8 <= end => 0,
            _ => (0..8).filter(|bit| first + bit < ones || first + bit >= end).fold(0, |b, bit| b | 1 << bit),
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_has_ones_at_both_ends() {
        let bytes = bitmap(11, 32_750);
        assert_eq!((bytes[0], bytes[1], bytes[2]), (0xff, 0b0000_0111, 0));
        assert_eq!((bytes[4092], bytes[4093], bytes[4094], bytes[4095]), (0, 0b1100_0000, 0xff, 0xff));
        assert_eq!(bitmap(0, 32_768), [0; BLOCK]);
        assert_eq!(bitmap(32_768, 32_768), [0xff; BLOCK]);
        assert_eq!(bitmap(3, 5)[0], 0b1110_0111);
    }
}
