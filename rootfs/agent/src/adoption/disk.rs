//! The disk with what a guest is to run, which it has only since it goes on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_protocol::wire::{CASE_PATH, CaseDisk};
use rustix::mount::{MountFlags, mount};
use rustix::thread::nanosleep;
use rustix::time::Timespec;

use super::{links, refusal};
use crate::server::Refusal;

const BLOCK: &str = "/sys/block";
/// What the kernel's names of persistent memory begin with.
const PMEM: &str = "pmem";
/// The unit of a disk's size in sysfs, whatever its own block is (Documentation/ABI/stable/sysfs-block).
const SECTOR: u64 = 512;
/// How long the disk's driver may take to learn of its size.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel sends no event when a disk comes to have a size that had none: it is looked at so often.
const RECHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };

/// The kernel's names of virtio disks, by serial number.
#[derive(Debug, Default)]
pub(crate) struct Disks(BTreeMap<String, String>);

impl Disks {
    /// Asks each for its number.
    pub(super) fn look() -> Self {
        let entries = fs::read_dir(BLOCK).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let serial = fs::read_to_string(Path::new(BLOCK).join(&name).join("serial")).ok()?;
            Some((serial.trim_end_matches(['\0', '\n']).to_owned(), name))
        });
        Self(named.collect())
    }

    fn name(&self, serial: &str) -> Option<String> {
        self.0.get(serial).cloned()
    }
}

/// Mounts the disk at its place as soon as it is as large as it was said to be, and links what is on it into the root.
pub(super) fn attach(disk: &CaseDisk, known: &Disks) -> Result<(), Refusal> {
    let serial = &disk.serial;
    // Persistent memory has no serial number, and is known by its name.
    let is_memory = serial.starts_with(PMEM) && Path::new(BLOCK).join(serial).exists();
    let named = is_memory.then(|| serial.clone());
    let Some(name) = named.or_else(|| known.name(serial)).or_else(|| Disks::look().name(serial)) else {
        let message = format!("no virtio disk has the serial number {serial}");
        return Err(Refusal { errno: libc::ENODEV, message });
    };
    await_size(&name, disk.size)?;
    let device = format!("/dev/{name}");
    fs::create_dir_all(CASE_PATH).map_err(|error| refusal(CASE_PATH, &error))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let mount = |options| mount(&*device, CASE_PATH, "ext4", flags, options);
    let mounted = if is_memory {
        // What is on it is used where it lies, and not read into memory first; unless the kernel can't do that. Of its inodes those
        // are read that are asked for, and not 32 blocks around each.
        let direct = c"noload,inode_readahead_blks=0,dax=always";
        mount(direct).or_else(|_| mount(c"noload"))
    } else {
        mount(c"noload")
    };
    mounted.map_err(|error| refusal(&format!("mount {device} at {CASE_PATH}"), &error.into()))?;
    links::link(Path::new(CASE_PATH), Path::new("/"))
        .map_err(|error| refusal(&format!("link what is on {device}"), &error))
}

fn await_size(name: &str, wanted: u64) -> Result<(), Refusal> {
    let path = format!("{BLOCK}/{name}/size");
    let refuse = |error: &io::Error| refusal(&path, error);
    let file = File::open(&path).map_err(|error| refuse(&error))?;
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 32];
    loop {
        let length = file.read_at(&mut buffer, 0).map_err(|error| refuse(&error))?;
        let text = buffer.get(..length).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default();
        let sectors: u64 = text.trim().parse().map_err(|_| refuse(&io::ErrorKind::InvalidData.into()))?;
        let size = sectors.saturating_mul(SECTOR);
        if size == wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let message =
                format!("/dev/{name} has {size} bytes after {PATIENCE:?}, and was to have {wanted}");
            return Err(Refusal { errno: libc::ETIMEDOUT, message });
        }
        let _ = nanosleep(&RECHECK);
    }
}
