//! What is done once before a guest is saved, so that none of those that go on from there has to.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use kiln_protocol::wire::CASE_PATH;
use rustix::thread::nanosleep;
use rustix::time::Timespec;

use super::Disks;

/// What is opened when a program is run, or a guest adopted: with it, the kernel has looked it up before.
const PATHS: &[&str] = &["/dev/null", "/dev/urandom", "/proc/self/fd", "/etc/machine-id"];

/// Virtio devices that are persistent memory, and the block device that comes of the first.
const PMEM_DRIVER: &str = "/sys/bus/virtio/drivers/virtio_pmem";
const PMEM: &str = "/sys/block/pmem0";
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(10);
const RECHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Waits for persistent memory to be there: its driver goes about it on a thread of its own, and nobody is to be saved in the middle
/// of that.
fn await_memory() {
    let mut devices = fs::read_dir(PMEM_DRIVER).into_iter().flatten().flatten();
    if !devices.any(|entry| entry.file_name().to_string_lossy().starts_with("virtio")) {
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    while !fs::exists(PMEM).unwrap_or(true) && Instant::now() < deadline {
        let _ = nanosleep(&RECHECK);
    }
}

/// Has the kernel know its disks and what an adoption opens. Gives the disks.
///
/// The kernel's `boot_id` is not to be looked at, here or at any time before a guest is saved: it is drawn at the first look,
/// and would be the same for all.
pub(crate) fn warm() -> io::Result<Disks> {
    await_memory();
    rustix::fs::sync();
    fs::create_dir_all(CASE_PATH)?;
    for path in PATHS {
        // One that is not there is looked up as well.
        let _ = fs::metadata(path);
    }
    Ok(Disks::look())
}
