//! The numbers of the format, from the kernel's `Documentation/filesystems/ext4`; each says its page.

/// Bytes of a block (blocks.rst, the usual size).
pub(super) const BLOCK: usize = 4096;
/// [`BLOCK`] where offsets into the image are counted.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// `s_log_block_size`: a block is 2^(10 + this) bytes (super.rst).
pub(super) const LOG_BLOCK_SIZE: u32 = 2;
/// A group's blocks have their bitmap in one block (blockgroup.rst).
pub(super) const BLOCKS_PER_GROUP: u32 = 8 * 4096;
/// A group's inodes have their bitmap in one block (blockgroup.rst).
pub(super) const INODES_PER_GROUP_MAX: u32 = 8 * 4096;
/// Without the feature `64bit`, blocks have 32-bit numbers (blocks.rst).
pub(super) const BLOCKS_MAX: u64 = 0xffff_ffff;

/// Where in the image the superblock is (super.rst).
pub(super) const SUPERBLOCK_AT: usize = 1024;
/// `s_magic` (super.rst).
pub(super) const MAGIC: u16 = 0xef53;
/// `s_state`: cleanly unmounted (super.rst).
pub(super) const STATE_CLEAN: u16 = 1;
/// `s_errors`: continue (super.rst).
pub(super) const ERRORS_CONTINUE: u16 = 1;
/// `s_rev_level`: inodes of any size (super.rst).
pub(super) const REVISION_DYNAMIC: u32 = 1;
/// `s_max_mnt_count`: no check after so many mounts (super.rst; -1 as 16 bits).
pub(super) const NO_MOUNT_LIMIT: u16 = 0xffff;
/// `s_def_hash_version`: half MD4 (super.rst).
pub(super) const HASH_HALF_MD4: u8 = 1;
/// `s_flags`: hashes are of signed chars, as x86 has them (super.rst).
pub(super) const FLAGS_SIGNED_HASH: u32 = 1;

/// `COMPAT_SPARSE_SUPER2`: backups only in the groups of `s_backup_bgs` (super.rst). Ours names none.
pub(super) const COMPAT_SPARSE_SUPER2: u32 = 0x200;
/// `INCOMPAT_FILETYPE`: directory entries know their inode's type (super.rst).
pub(super) const INCOMPAT_FILETYPE: u32 = 0x2;
/// `INCOMPAT_EXTENTS` (super.rst).
pub(super) const INCOMPAT_EXTENTS: u32 = 0x40;
/// `INCOMPAT_FLEX_BG`: a group's bitmaps and inodes may lie in another group (super.rst).
pub(super) const INCOMPAT_FLEX_BG: u32 = 0x200;
/// `RO_COMPAT_LARGE_FILE`: files of 2 GiB and more (super.rst).
pub(super) const RO_COMPAT_LARGE_FILE: u32 = 0x2;
/// `RO_COMPAT_HUGE_FILE`: `i_blocks` has 48 bits (super.rst).
pub(super) const RO_COMPAT_HUGE_FILE: u32 = 0x8;
/// `RO_COMPAT_DIR_NLINK`: a folder with too many subfolders has 1 as its links (super.rst).
pub(super) const RO_COMPAT_DIR_NLINK: u32 = 0x20;
/// `RO_COMPAT_EXTRA_ISIZE`: inodes have the fields behind the first 128 bytes (super.rst).
pub(super) const RO_COMPAT_EXTRA_ISIZE: u32 = 0x40;

/// Bytes of a group's descriptor without the feature `64bit` (group_descr.rst).
pub(super) const DESCRIPTOR: usize = 32;
/// Groups whose descriptors are in one block.
pub(super) const DESCRIPTORS_PER_BLOCK: u32 = 4096 / 32;

/// Bytes of an inode (inodes.rst).
pub(super) const INODE: usize = 256;
/// Inodes of one block.
pub(super) const INODES_PER_BLOCK: u32 = 4096 / 256;
/// `i_extra_isize`: bytes of the fields behind the first 128 (inodes.rst).
pub(super) const EXTRA_ISIZE: u16 = 32;
/// The root folder's inode (special_inodes.rst).
pub(super) const ROOT_INODE: u32 = 2;
/// The first inode that is not reserved, and by custom that of `lost+found` (special_inodes.rst).
pub(super) const FIRST_INODE: u32 = 11;
/// `EXT4_EXTENTS_FL`: `i_block` is an extent tree (inodes.rst).
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
/// More links than this are not counted (directory.rst, `RO_COMPAT_DIR_NLINK` in super.rst).
pub(super) const LINKS_MAX: usize = 65_000;
/// Targets shorter than `i_block` are in it (inodes.rst, symbolic links).
pub(super) const FAST_LINK: usize = 60;

/// `eh_magic` (ifork.rst, extent tree).
pub(super) const EXTENT_MAGIC: u16 = 0xf30a;
/// Bytes of an extent tree's header, and of each of its entries (ifork.rst).
pub(super) const EXTENT_ENTRY: usize = 12;
/// The most blocks of an extent (ifork.rst, `ee_len`).
pub(super) const EXTENT_BLOCKS: u32 = 32_768;
/// Extents that are in the inode itself (ifork.rst).
pub(super) const EXTENTS_IN_INODE: u16 = 4;
/// Extents that are in one block of the tree (ifork.rst).
pub(super) const EXTENTS_IN_LEAF: u16 = 340;

/// `file_type` of a directory entry (directory.rst).
pub(super) mod file_type {
    pub(in super::super) const REGULAR: u8 = 1;
    pub(in super::super) const DIRECTORY: u8 = 2;
    pub(in super::super) const CHARACTER: u8 = 3;
    pub(in super::super) const LINK: u8 = 7;
}

/// Writes little-endian numbers at offsets of a structure, as all of the format's are.
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, number: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&number);
}
