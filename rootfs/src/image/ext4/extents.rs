//! Extent trees: which blocks a file has. Each file is one run, so its tree is as flat as can be.

use super::spec::{BLOCK, EXTENT_BLOCKS, EXTENT_ENTRY, EXTENT_MAGIC, EXTENTS_IN_INODE, EXTENTS_IN_LEAF, put};

/// Extents of a file of so many blocks.
fn extents(blocks: u64) -> u64 {
    blocks.div_ceil(u64::from(EXTENT_BLOCKS))
}

/// The blocks that the tree of a file of so many blocks takes; none if the file is too large for a tree of two
/// levels, of 170 GiB.
pub(super) fn leaves(blocks: u64) -> Option<u64> {
    let extents = extents(blocks);
    if extents <= u64::from(EXTENTS_IN_INODE) {
        return Some(0);
    }
    Some(extents.div_ceil(u64::from(EXTENTS_IN_LEAF))).filter(|leaves| *leaves <= u64::from(EXTENTS_IN_INODE))
}

/// The tree of a file of `blocks` that begins at block `start`, its leaves just before it: what is in the inode,
/// and the leaves.
pub(super) fn tree(start: u32, blocks: u32) -> ([u8; 60], Vec<u8>) {
    let mut root = [0; 60];
    let all: Vec<[u8; EXTENT_ENTRY]> = (0..blocks)
        .step_by(usize::try_from(EXTENT_BLOCKS).unwrap_or(usize::MAX))
        .map(|logical| extent(logical, (blocks - logical).min(EXTENT_BLOCKS), start + logical))
        .collect();
    if all.len() <= usize::from(EXTENTS_IN_INODE) {
        fill(&mut root, EXTENTS_IN_INODE, 0, &all);
        return (root, Vec::new());
    }
    let chunks = all.chunks(usize::from(EXTENTS_IN_LEAF));
    let mut leaves = vec![0; chunks.len() * BLOCK];
    let first = start - u32::try_from(chunks.len()).unwrap_or(0);
    let mut indices = Vec::new();
    for ((chunk, leaf), at) in chunks.zip(leaves.chunks_mut(BLOCK)).zip(first..) {
        fill(leaf, EXTENTS_IN_LEAF, 0, chunk);
        // ei_block, ei_leaf_lo; the upper half of the leaf's number is 0.
        let mut index = [0; EXTENT_ENTRY];
        index[..4].copy_from_slice(&chunk[0][..4]);
        put(&mut index, 4, at.to_le_bytes());
        indices.push(index);
    }
    fill(&mut root, EXTENTS_IN_INODE, 1, &indices);
    (root, leaves)
}

/// `struct ext4_extent`: logical block, length, physical block.
fn extent(logical: u32, length: u32, physical: u32) -> [u8; EXTENT_ENTRY] {
    let mut bytes = [0; EXTENT_ENTRY];
    put(&mut bytes, 0, logical.to_le_bytes());
    put(&mut bytes, 4, u16::try_from(length).unwrap_or(0).to_le_bytes());
    put(&mut bytes, 8, physical.to_le_bytes());
    bytes
}

/// `struct ext4_extent_header`, and the entries behind it.
fn fill(node: &mut [u8], most: u16, depth: u16, entries: &[[u8; EXTENT_ENTRY]]) {
    put(node, 0, EXTENT_MAGIC.to_le_bytes());
    put(node, 2, u16::try_from(entries.len()).unwrap_or(0).to_le_bytes());
    put(node, 4, most.to_le_bytes());
    put(node, 6, depth.to_le_bytes());
    for (entry, place) in entries.iter().zip(node[EXTENT_ENTRY..].chunks_mut(EXTENT_ENTRY)) {
        place.copy_from_slice(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_takes_a_leaf_when_the_inode_is_full() {
        let four = 4 * EXTENT_BLOCKS;
        assert_eq!(
            (leaves(0), leaves(four.into()), leaves(u64::from(four) + 1)),
            (Some(0), Some(0), Some(1))
        );
        assert_eq!(leaves(340 * u64::from(EXTENT_BLOCKS) + 1), Some(2));
        assert_eq!(leaves(4 * 340 * u64::from(EXTENT_BLOCKS)), Some(4));
        assert_eq!(leaves(4 * 340 * u64::from(EXTENT_BLOCKS) + 1), None);
        assert_eq!(leaves(u64::MAX), None);
        let (root, none) = tree(100, four);
        assert_eq!((root[2], root[6], none.len()), (4, 0, 0));
        let (root, leaf) = tree(100, four + 1);
        assert_eq!((root[2], root[6], leaf.len()), (1, 1, BLOCK));
        assert_eq!(root[16..20], 99_u32.to_le_bytes());
        assert_eq!(leaf[2], 5);
        // The last extent: one block, behind four full ones.
        let last = &leaf[12 + 4 * 12..][..12];
        assert_eq!(last[..4], four.to_le_bytes());
        assert_eq!(last[4..6], [1, 0]);
        assert_eq!(last[8..], (100 + four).to_le_bytes());
    }
}
