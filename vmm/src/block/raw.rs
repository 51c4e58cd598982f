//! A raw disk: a regular file or a block device, byte for byte.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use super::over::Over;

/// The unit of virtio's block addresses, and of a disk's size.
pub const SECTOR: u64 = 512;

/// Why a file can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No such file.
    #[error("disk {}: there is no such file; check the path", .0.display())]
    Missing(PathBuf),
    /// A directory, a socket, a pipe.
    #[error("disk {}: is neither a regular file nor a block device; name one that is", .0.display())]
    Kind(PathBuf),
    /// The permissions don't allow what was asked for.
    #[error("disk {}: can't be opened for {access}; mend its permissions or ask for a read-only disk", .path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// Reading, or reading and writing.
        access: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No bytes at all.
    #[error("disk {}: is empty; give it a size, a multiple of {SECTOR} bytes", .0.display())]
    Empty(PathBuf),
    /// A last sector that isn't whole.
    #[error("disk {}: its size, {size} bytes, is not a multiple of {SECTOR}; pad it to whole sectors", .path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Anything else.
    #[error("disk {}: can't be used", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An open raw disk. All access is positional, so one handle serves any number of threads.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    size: u64,
    read_only: bool,
    /// What is written, where the file must stay as it is.
    over: Option<Over>,
}

impl RawDisk {
    /// Opens a file as a disk that can be written to, and keeps in memory what is: the file is only read.
    ///
    /// # Errors
    /// As [`RawDisk::open`].
    pub fn open_over(path: &Path) -> Result<Self, DiskError> {
        let disk = Self::open(path, true)?;
        let over = Over::new().map_err(|source| DiskError::Io { path: path.into(), source })?;
        Ok(Self { read_only: false, over: Some(over), ..disk })
    }

    /// Whether what was written to it is in memory alone.
    #[must_use]
    pub fn is_ahead_of_its_file(&self) -> bool {
        self.over.as_ref().is_some_and(Over::any)
    }

    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// One clear line for each way in which the file can't be a disk.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => DiskError::Missing(path.into()),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                let access = if read_only { "reading" } else { "reading and writing" };
                DiskError::Permission { path: path.into(), access, source }
            }
            _ => DiskError::Io { path: path.into(), source },
        };
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind(path.into()));
        }
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
        // The end is the size of a block device too, whose metadata says zero.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 {
            return Err(DiskError::Empty(path.into()));
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(DiskError::Size { path: path.into(), size });
        }
        Ok(Self { file, size, read_only, over: None })
    }

    /// The size in bytes: whole sectors, at least one.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, whose bytes the disk's are, but for those that are kept in memory.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Reads `data.len()` bytes at `offset`.
    ///
    /// # Errors
    /// The file's own; `UnexpectedEof` beyond its end.
    pub fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(data.len(), offset)?;
        match &self.over {
            Some(over) => over.read(&self.file, data, offset),
            None => self.file.read_exact_at(data, offset),
        }
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The file's own; `UnexpectedEof` beyond its end, `PermissionDenied` if the disk is read-only.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.check(data.len(), offset)?;
        match &self.over {
            Some(over) => over.write((&self.file, self.size), data, offset),
            None => self.file.write_all_at(data, offset),
        }
    }

    /// Waits until everything written is on the medium.
    ///
    /// # Errors
    /// The file's own.
    pub fn flush(&self) -> io::Result<()> {
        if self.over.is_some() {
            return Ok(());
        }
        self.file.sync_data()
    }

    /// A disk never grows: what doesn't lie whole inside it is refused.
    fn check(&self, len: usize, offset: u64) -> io::Result<()> {
        let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
        if end.is_some_and(|end| end <= self.size) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(len: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; len]).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = disk(4096);
        let disk = RawDisk::open(file.path(), false).unwrap();
        assert_eq!(disk.size(), 4096);
        disk.write_at(b"kiln", 1000).unwrap();
        disk.flush().unwrap();
        let mut data = [0; 6];
        disk.read_at(&mut data, 999).unwrap();
        assert_eq!(&data, b"\x07kiln\x07");
    }

    #[test]
    fn a_disk_over_a_file_keeps_what_is_written_and_leaves_the_file() {
        let file = disk(3 * 4096 + 512);
        let [one, other] = [(); 2].map(|()| RawDisk::open_over(file.path()).unwrap());
        assert!(!one.read_only() && !one.is_ahead_of_its_file());
        one.write_at(&[1; 5000], 4000).unwrap();
        one.write_at(&[2; 512], 3 * 4096).unwrap();
        one.write_at(&[3], 4096).unwrap();
        one.flush().unwrap();
        let mut seen = vec![0; 3 * 4096 + 512];
        one.read_at(&mut seen, 0).unwrap();
        let mut wanted = vec![7; 3 * 4096 + 512];
        wanted[4000..9000].fill(1);
        wanted[3 * 4096..].fill(2);
        wanted[4096] = 3;
        assert!(seen == wanted);
        assert!(one.is_ahead_of_its_file());
        other.read_at(&mut seen, 0).unwrap();
        assert!(seen == vec![7; 3 * 4096 + 512]);
        assert!(std::fs::read(file.path()).unwrap() == seen);
        assert!(one.write_at(&[0; 2], 3 * 4096 + 511).is_err());
    }

    #[test]
    fn nothing_lies_beyond_the_end() {
        let file = disk(512);
        let disk = RawDisk::open(file.path(), false).unwrap();
        assert!(disk.write_at(&[0; 2], 511).is_err());
        assert!(disk.read_at(&mut [0; 2], u64::MAX).is_err());
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512);
    }

    #[test]
    fn a_read_only_disk_takes_no_writes() {
        let file = disk(512);
        let disk = RawDisk::open(file.path(), true).unwrap();
        assert!(disk.read_only());
        assert_eq!(disk.write_at(&[0], 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_can_not_be_a_disk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(RawDisk::open(&dir.path().join("none"), true), Err(DiskError::Missing(_))));
        assert!(matches!(RawDisk::open(dir.path(), true), Err(DiskError::Kind(_))));
        assert!(matches!(RawDisk::open(disk(0).path(), true), Err(DiskError::Empty(_))));
        let odd = RawDisk::open(disk(513).path(), true).unwrap_err();
        assert!(
            odd.to_string()
                .ends_with("its size, 513 bytes, is not a multiple of 512; pad it to whole sectors")
        );
    }
}
