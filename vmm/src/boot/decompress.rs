//! The payload of a bzImage, decompressed on the host by what it begins with.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use super::BootError;

/// More than any kernel: a hostile payload can't grow the process without bound.
const VMLINUX_MAX: usize = 1 << 30;
/// What a chunk of the kernel's LZ4 format decompresses to at most (lib/decompress_unlz4.c).
const LZ4_CHUNK: usize = 8 << 20;

/// A payload that can't be decompressed here. The image can still be booted: it decompresses itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecompressError {
    #[error("the payload's compression is unknown")]
    Unknown,
    #[error("the payload is damaged")]
    Damaged(#[source] io::Error),
    #[error("the payload holds no ELF")]
    NoElf,
}

impl DecompressError {
    /// Whether the payload may be sound, and only not known here.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// The error of the image at `path`.
    pub(super) fn of(self, path: &Path) -> BootError {
        let what = match self {
            Self::Damaged(why) => format!("its payload: {why}"),
            other => other.to_string(),
        };
        BootError::Damaged { path: path.to_owned(), what }
    }
}

/// Decompresses `payload`, which is a compressed ELF, followed (but for gzip) by its size in four bytes.
pub(super) fn vmlinux(payload: &[u8]) -> Result<Vec<u8>, DecompressError> {
    let without_size = payload.get(..payload.len().saturating_sub(4)).unwrap_or_default();
    let vmlinux = match payload {
        [0x1f, 0x8b, ..] => read(flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(lzma_rust2::XzReader::new(without_size, false)),
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => {
            lz4(rest.get(..rest.len().saturating_sub(4)).unwrap_or_default())
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            // It refuses windows that a kernel may well be compressed with.
            let decoder = ruzstd::decoding::StreamingDecoder::new(without_size)
                .map_err(|_| DecompressError::Unknown)?;
            read(decoder)
        }
        [0x7f, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        _ => return Err(DecompressError::Unknown),
    }
    .map_err(DecompressError::Damaged)?;
    if vmlinux.starts_with(b"\x7fELF") { Ok(vmlinux) } else { Err(DecompressError::NoElf) }
}

fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(VMLINUX_MAX as u64 + 1).read_to_end(&mut out)?;
    if out.len() > VMLINUX_MAX { Err(too_large()) } else { Ok(out) }
}

/// The kernel's LZ4 is the legacy frame: chunks, each after its compressed length in four bytes.
fn lz4(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    let (mut out, mut room) = (Vec::new(), vec![0; LZ4_CHUNK]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
        if length == 0 {
            break;
        }
        let chunk = after.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let written = lz4_flex::block::decompress_into(chunk, &mut room).map_err(io::Error::other)?;
        if written == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        out.extend_from_slice(room.get(..written).unwrap_or_default());
        if out.len() > VMLINUX_MAX {
            return Err(too_large());
        }
        rest = after.get(length..).unwrap_or_default();
    }
    Ok(out)
}

fn too_large() -> io::Error {
    io::Error::other("it holds more than any kernel")
}

/// A file without a name that holds `bytes`.
pub(super) fn in_memory_file(bytes: &[u8]) -> io::Result<File> {
    let descriptor = rustix::fs::memfd_create("vmlinux", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf() -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend((0..100_000u32).flat_map(u32::to_le_bytes));
        bytes
    }

    fn with_size(mut stream: Vec<u8>, size: usize) -> Vec<u8> {
        stream.extend(u32::try_from(size).unwrap().to_le_bytes());
        stream
    }

    #[test]
    fn gzip_payload() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&elf()).unwrap();
        assert_eq!(vmlinux(&encoder.finish().unwrap()).unwrap(), elf());
    }

    #[test]
    fn lz4_payload_of_many_chunks() {
        let mut stream = vec![0x02, 0x21, 0x4c, 0x18];
        for chunk in elf().chunks(60_000) {
            let packed = lz4_flex::block::compress(chunk);
            stream.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            stream.extend(packed);
        }
        assert_eq!(vmlinux(&with_size(stream, elf().len())).unwrap(), elf());
    }

    #[test]
    fn zstd_payload() {
        let stream = ruzstd::encoding::compress_to_vec(&*elf(), ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(vmlinux(&with_size(stream, elf().len())).unwrap(), elf());
    }

    #[test]
    fn xz_payload() {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(&elf()).unwrap();
        assert_eq!(vmlinux(&with_size(encoder.finish().unwrap(), elf().len())).unwrap(), elf());
    }

    #[test]
    fn payload_of_anything_else_is_refused() {
        assert!(matches!(vmlinux(b""), Err(DecompressError::Unknown)));
        assert!(matches!(vmlinux(b"BZh9 something"), Err(DecompressError::Unknown)));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"no kernel").unwrap();
        assert!(matches!(vmlinux(&encoder.finish().unwrap()), Err(DecompressError::NoElf)));
    }

    #[test]
    fn truncated_payload_is_damaged() {
        let mut stream = vec![0x02, 0x21, 0x4c, 0x18];
        stream.extend(1000u32.to_le_bytes());
        stream.extend([0; 10]);
        assert!(matches!(vmlinux(&stream), Err(DecompressError::Damaged(_))));
        assert!(matches!(vmlinux(&[0x1f, 0x8b, 8, 0]), Err(DecompressError::Damaged(_))));
    }
}
