//! Block devices, past the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Sysfs, about};

/// The unit of a disk's size and of what is read and written, in bytes (linux/types.h: `sector_t`).
const SECTOR: usize = 512;
/// What direct transfers are aligned to: no device asks for more.
const ALIGNMENT: usize = 4096;

/// A block device. What is read and written goes to it and comes from it (`O_DIRECT`), not from memory.
#[derive(Debug)]
pub struct Block {
    file: File,
    path: PathBuf,
    attributes: Sysfs,
}

impl Block {
    /// Opens the device `name`, such as `vda`: for writing too, unless it is read only.
    ///
    /// # Errors
    /// There is no such device.
    pub fn open(name: &str) -> io::Result<Self> {
        let path = Path::new("/dev").join(name);
        let attributes = Sysfs::at("class/block").folder(name);
        let writable = attributes.read("ro")? == "0";
        let file = File::options().read(true).write(writable).custom_flags(libc::O_DIRECT).open(&path);
        Ok(Self { file: file.map_err(|error| about(&path, &error))?, path, attributes })
    }

    /// What the kernel tells of it: `/sys/class/block/NAME`.
    #[must_use]
    pub fn attributes(&self) -> &Sysfs {
        &self.attributes
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.attributes.value::<u64>("size")? * 512)
    }

    /// Whether it can't be written to.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_read_only(&self) -> io::Result<bool> {
        Ok(self.attributes.read("ro")? != "0")
    }

    /// Reads `count` sectors of 512 bytes from sector `first` on.
    ///
    /// # Errors
    /// The device fails, or they leave it.
    pub fn read(&self, first: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut bounce = Bounce::new(count * SECTOR);
        let (offset, bytes) = (first * 512, bounce.bytes());
        self.file.read_exact_at(bytes, offset).map_err(|error| about(&self.path, &error))?;
        Ok(bytes.to_vec())
    }

    /// Writes `bytes`, whole sectors, from sector `first` on.
    ///
    /// # Errors
    /// The device fails or is read only, or they leave it.
    ///
    /// # Panics
    /// `bytes` are no whole number of sectors.
    pub fn write(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len().is_multiple_of(SECTOR), "{} bytes are no whole sectors", bytes.len());
        let mut bounce = Bounce::new(bytes.len());
        bounce.bytes().copy_from_slice(bytes);
        self.file.write_all_at(bounce.bytes(), first * 512).map_err(|error| about(&self.path, &error))
    }

    /// Waits until all that was written is where it outlives a loss of power.
    ///
    /// # Errors
    /// The device fails.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_all().map_err(|error| about(&self.path, &error))
    }
}

/// Memory with a stretch in it that is aligned as direct transfers want it.
struct Bounce {
    memory: Vec<u8>,
    from: usize,
    length: usize,
}

impl Bounce {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        // Room for this was added; memory whose place can't be told is refused by the device.
        let from = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, from, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.length]
    }
}
