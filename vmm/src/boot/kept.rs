//! Kernels decompressed once: the ELF is kept beside its image's identity.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::BootError;
use super::file::{self, KernelFile};
use super::slim::slim;

/// The ELF of the bzImage `image`, kept in `folder`: decompressed now, or found there. None if the image is an
/// ELF already, or can't be decompressed here (it will do that itself).
///
/// The image is known by device, inode, size and time of change: a file that was written anew is decompressed
/// anew.
///
/// # Errors
/// `image` is no kernel or can't be read, or `folder` can't be written.
pub fn vmlinux_of(image: &Path, folder: &Path) -> Result<Option<PathBuf>, BootError> {
    let read = |source| BootError::Read { what: "kernel", path: image.to_owned(), source };
    let meta = file::open(image, "kernel")?.metadata().map_err(read)?;
    let (seconds, nanoseconds) = (meta.mtime(), meta.mtime_nsec());
    let name = format!("{:x}-{:x}-{:x}-{seconds:x}.{nanoseconds:x}", meta.dev(), meta.ino(), meta.size());
    let kept = folder.join(name);
    if kept.is_file() {
        return Ok(Some(kept));
    }
    let KernelFile::BzImage(parsed) = KernelFile::open(image)? else { return Ok(None) };
    let vmlinux = match parsed.vmlinux() {
        Some(Ok(vmlinux)) => vmlinux,
        Some(Err(error)) if !error.is_unknown() => return Err(error.of(image)),
        Some(Err(_)) | None => return Ok(None),
    };
    let vmlinux = slim(&vmlinux).unwrap_or(vmlinux);
    keep(folder, &kept, &vmlinux).map_err(|source| BootError::Keep { path: folder.to_owned(), source })?;
    Ok(Some(kept))
}

/// Writes a file of its own name and then gives it the one that counts: what is there is whole.
fn keep(folder: &Path, kept: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    static PARTS: AtomicU64 = AtomicU64::new(0);
    let mut part = kept.as_os_str().to_owned();
    part.push(format!(".{}.{}.part", std::process::id(), PARTS.fetch_add(1, Ordering::Relaxed)));
    let part = PathBuf::from(part);
    let written = File::create_new(&part)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&part, kept));
    if written.is_err() {
        let _gone = fs::remove_file(&part);
    }
    written
}
