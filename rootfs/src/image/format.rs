//! The forms that an image can have.

/// The form of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An initial RAM disk: a cpio archive in the kernel's `newc` format.
    Initramfs(Compression),
    /// A disk with one ext4 file system and no partitions.
    Ext4 {
        /// The image's size in bytes, rounded down to 4 KiB; without it, its content and a quarter more, at least
        /// 32 MiB.
        size: Option<u64>,
    },
}

impl Default for Format {
    fn default() -> Self {
        Self::Initramfs(Compression::None)
    }
}

impl Format {
    /// The image's name in the cache.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initramfs(Compression::None) => "initrd.cpio",
            Self::Initramfs(Compression::Gzip) => "initrd.cpio.gz",
            Self::Initramfs(Compression::Zstd) => "initrd.cpio.zst",
            Self::Ext4 { .. } => "rootfs.ext4",
        }
    }
}

/// How an initial RAM disk is compressed. A kernel without the decompressor takes it for no disk at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip; every distribution's kernel has it (`CONFIG_RD_GZIP`).
    Gzip,
    /// Zstandard (`CONFIG_RD_ZSTD`, Linux 5.9).
    Zstd,
}
