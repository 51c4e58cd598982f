//! Telling kernels apart by what they begin with.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::BootError;
use super::bzimage::BzImage;
use super::multiboot::{self, Header};

/// More than any kernel image there is: what is read into memory is bounded.
const IMAGE_MAX: u64 = 1 << 30;

/// A kernel, told by content.
pub(super) enum KernelFile {
    Elf(File),
    Multiboot(File, Header),
    BzImage(BzImage),
}

impl KernelFile {
    /// Opens `path` and looks at its first bytes.
    pub(super) fn open(path: &Path) -> Result<Self, BootError> {
        let mut file = open(path, "kernel")?;
        let read = |source| BootError::Read { what: "kernel", path: path.to_owned(), source };
        let mut magic = Vec::new();
        Read::by_ref(&mut file).take(4).read_to_end(&mut magic).map_err(read)?;
        file.rewind().map_err(read)?;
        if let Some(header) = multiboot::find(&file).map_err(read)? {
            return Ok(Self::Multiboot(file, header));
        }
        if magic == b"\x7fELF" {
            return Ok(Self::Elf(file));
        }
        let mut bytes = Vec::new();
        file.take(IMAGE_MAX).read_to_end(&mut bytes).map_err(read)?;
        if is_arm64_image(&bytes) {
            let what = "an arm64 Image".to_owned();
            return Err(BootError::Architecture { path: path.to_owned(), what });
        }
        BzImage::parse(bytes, path).map(Self::BzImage)
    }
}

/// Opens a file, which must be a regular one with something in it.
pub(super) fn open(path: &Path, what: &'static str) -> Result<File, BootError> {
    let error = |source| BootError::Read { what, path: path.to_owned(), source };
    // Asked before it is opened: opening a named pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(error)?;
    if meta.is_dir() {
        return Err(error(std::io::ErrorKind::IsADirectory.into()));
    }
    if !meta.is_file() {
        return Err(error(std::io::Error::other("it is no regular file")));
    }
    if meta.len() == 0 {
        return Err(error(std::io::Error::other("it is empty")));
    }
    File::open(path).map_err(error)
}

/// The magic number of Documentation/arch/arm64/booting.rst.
fn is_arm64_image(bytes: &[u8]) -> bool {
    bytes.get(0x38..0x3c) == Some(b"ARM\x64")
}
