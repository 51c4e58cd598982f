//! What the header of a bzImage says (Documentation/arch/x86/boot.rst).

use super::Banner;

/// Where the header's fields are in the image.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const PROTOCOL: usize = 0x206;
const VERSION_POINTER: usize = 0x20e;
const XLOADFLAGS: usize = 0x236;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The pointer to the version's text counts from here.
const SETUP: usize = 0x200;
const SECTOR: usize = 512;
/// How many sectors of setup an image has that says zero.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// The first protocols with a payload's place, and with `xloadflags`.
const WITH_PAYLOAD: u16 = 0x208;
const WITH_XLOADFLAGS: u16 = 0x20c;
/// `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;

/// What a payload is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// lzma, the format before xz.
    Lzma,
    /// xz.
    Xz,
    /// lzop's format.
    Lzo,
    /// LZ4's legacy frame.
    Lz4,
    /// Zstandard.
    Zstd,
    /// Not at all.
    None,
}

impl Compression {
    /// By what the payload begins with, as the kernel tells them (lib/decompress.c).
    fn of(payload: &[u8]) -> Option<Self> {
        const KINDS: &[(&[u8], Compression)] = &[
            (&[0x1f, 0x8b], Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (&[0x5d, 0, 0], Compression::Lzma),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
            (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (b"\x7fELF", Compression::None),
        ];
        KINDS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, kind)| *kind)
    }

    /// Its usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::None => "none",
        }
    }
}

/// A bzImage's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage {
    /// The boot protocol's version, major and minor.
    pub protocol: (u8, u8),
    /// What the setup code says of the kernel.
    pub banner: Option<Banner>,
    /// What the kernel in it is compressed with; `None` if that is not known.
    pub compression: Option<Compression>,
    /// How large the kernel in it is, in bytes, by what its build wrote behind it.
    pub decompressed: Option<u64>,
    /// Whether it can be entered in 64-bit mode (`XLF_KERNEL_64`).
    pub entry_64: bool,
}

impl BzImage {
    /// Reads the header of the image that `bytes` are; `None` if they are no bzImage.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(MAGIC.0..)?.get(..MAGIC.1.len())? != MAGIC.1 {
            return None;
        }
        let protocol = half(bytes, PROTOCOL)?;
        let [minor, major] = protocol.to_le_bytes();
        let pointer = usize::from(half(bytes, VERSION_POINTER)?);
        let version = (pointer != 0).then(|| bytes.get(SETUP + pointer..)).flatten();
        let payload = (protocol >= WITH_PAYLOAD).then(|| payload(bytes)).flatten();
        let compression = payload.and_then(Compression::of);
        let size =
            payload.and_then(|payload| payload.last_chunk::<4>()).map(|size| u32::from_le_bytes(*size));
        let decompressed = match compression {
            // Nothing is written behind what is not compressed.
            Some(Compression::None) => payload.and_then(|payload| u64::try_from(payload.len()).ok()),
            Some(_) => size.map(u64::from),
            None => None,
        };
        let flags = if protocol >= WITH_XLOADFLAGS { half(bytes, XLOADFLAGS)? } else { 0 };
        Some(Self {
            protocol: (major, minor),
            banner: version.and_then(Banner::parse),
            compression,
            decompressed,
            entry_64: flags & XLF_KERNEL_64 != 0,
        })
    }
}

fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let sectors = match *bytes.get(SETUP_SECTORS)? {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let code = (usize::from(sectors) + 1) * SECTOR;
    let start = code.checked_add(usize::try_from(word(bytes, PAYLOAD_OFFSET)?).ok()?)?;
    let end = start.checked_add(usize::try_from(word(bytes, PAYLOAD_LENGTH)?).ok()?)?;
    bytes.get(start..end)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
