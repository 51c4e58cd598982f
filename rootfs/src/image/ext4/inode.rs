//! Inodes: what a file is (inodes.rst). Owners are root, times are 0.

use super::spec::{EXTRA_ISIZE, FLAG_EXTENTS, INODE, put};

/// An inode's fields that are not 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    /// Type and permissions.
    pub(super) mode: u32,
    /// Names that it has.
    pub(super) links: u16,
    /// Bytes of content.
    pub(super) size: u64,
    /// Blocks, with those of the extent tree.
    pub(super) blocks: u64,
    /// Where its content is.
    pub(super) place: Place,
}

/// The meaning of `i_block`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The root of an extent tree.
    Extents([u8; 60]),
    /// A link's target, or a device's number.
    Itself([u8; 60]),
}

impl Inode {
    /// As it is in the table.
    pub(super) fn to_bytes(self) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        let (flags, block) = match self.place {
            Place::Extents(root) => (FLAG_EXTENTS, root),
            Place::Itself(block) => (0, block),
        };
        let size = self.size.to_le_bytes();
        // i_blocks counts sectors.
        let sectors = (self.blocks * 8).to_le_bytes();
        put(&mut bytes, 0x00, u16::try_from(self.mode).unwrap_or(0).to_le_bytes());
        bytes[0x04..0x08].copy_from_slice(&size[..4]);
        put(&mut bytes, 0x1a, self.links.to_le_bytes());
        bytes[0x1c..0x20].copy_from_slice(&sectors[..4]);
        put(&mut bytes, 0x20, flags.to_le_bytes());
        put(&mut bytes, 0x28, block);
        bytes[0x6c..0x70].copy_from_slice(&size[4..]);
        bytes[0x74..0x76].copy_from_slice(&sectors[4..6]);
        put(&mut bytes, 0x80, EXTRA_ISIZE.to_le_bytes());
        bytes
    }
}

/// A device's number in `i_block`: 8 bits each for the old form, else the new one behind a word of 0.
pub(super) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut block = [0; 60];
    if major < 256 && minor < 256 {
        put(&mut block, 0, ((major << 8) | minor).to_le_bytes());
    } else {
        let number = (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12);
        put(&mut block, 4, number.to_le_bytes());
    }
    block
}

/// A short link's target in `i_block`.
pub(super) fn fast_link(target: &str) -> [u8; 60] {
    let mut block = [0; 60];
    for (place, byte) in block.iter_mut().zip(target.bytes()) {
        *place = byte;
    }
    block
}
