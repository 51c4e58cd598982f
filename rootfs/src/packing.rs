//! The compressions that packages and modules come in, told by a file name's ending.

use std::io::{self, Read};

/// The most memory that a decompressor takes for what it may refer back to, in KiB: xz's largest preset takes
/// 64 MiB, and a hostile file asks for 4 GiB.
const XZ_MEMORY: u32 = 256 << 10;

/// What a file is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Xz,
    Gzip,
    Zstd,
    None,
}

/// The endings that tell of a compression.
pub(crate) const ENDINGS: &[(&str, Packing)] =
    &[(".xz", Packing::Xz), (".gz", Packing::Gzip), (".zst", Packing::Zstd)];

impl Packing {
    /// The compression of a file of that name, and its name without.
    pub(crate) fn of(name: &str) -> (Self, &str) {
        let packed =
            ENDINGS.iter().find_map(|(ending, packing)| Some((*packing, name.strip_suffix(ending)?)));
        packed.unwrap_or((Self::None, name))
    }

    /// What `packed` is, decompressed as it is read.
    pub(crate) fn open<'a>(self, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, XZ_MEMORY)),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Zstd => {
                Box::new(ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?)
            }
            Self::None => Box::new(packed),
        })
    }
}
