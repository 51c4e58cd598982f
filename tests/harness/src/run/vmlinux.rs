//! Kernels decompressed once for all runs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_rootfs::cache::{Cache, Key};
use kiln_vmm::boot::{self, BootError};

/// The ELF's name in its entry.
const VMLINUX: &str = "vmlinux";

/// Why there is no ELF of a kernel.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// The file is no kernel or can't be read.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The cache can't be written.
    #[error(transparent)]
    Cache(#[from] kiln_rootfs::Error),
}

/// The ELF of a bzImage, kept in the cache; none if the kernel is an ELF, or decompresses itself.
///
/// The image is known by device, inode, size and times: a file that was written anew is decompressed anew.
///
/// # Errors
/// The file is no kernel, or the cache can't be written.
pub fn vmlinux_of(cache: &Cache, kernel: &Path) -> Result<Option<PathBuf>, VmlinuxError> {
    let mut magic = Vec::new();
    if let Ok(file) = File::open(kernel) {
        let _ = file.take(4).read_to_end(&mut magic);
    }
    if magic == b"\x7fELF" {
        return Ok(None);
    }
    // Whatever is wrong with the file, the one who parses it says it better.
    let identity = fs::metadata(kernel)
        .map(|m| format!("{:x} {:x} {:x} {}.{}", m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
    let key = Key::new("vmlinux-1").field("image", identity.unwrap_or_default().as_bytes());
    // An entry with nothing in it is for an image that decompresses itself.
    let entry = cache.entry("vmlinux", &key, |dir| -> Result<(), VmlinuxError> {
        let Some(kept) = boot::vmlinux_of(kernel, dir)? else { return Ok(()) };
        let place = dir.join(VMLINUX);
        fs::rename(&kept, &place).map_err(|source| BootError::Keep { path: place, source })?;
        Ok(())
    })?;
    Ok(Some(entry.join(VMLINUX)).filter(|path| path.is_file()))
}
