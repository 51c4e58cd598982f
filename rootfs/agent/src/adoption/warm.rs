//! What is done once before a guest is saved, so that none of those that go on from there has to.

use std::fs;
use std::io;

use kiln_protocol::wire::CASE_PATH;

use super::Disks;

/// What is opened when a program is run, or a guest adopted: with it, the kernel has looked it up before.
const PATHS: &[&str] = &["/dev/null", "/dev/urandom", "/proc/self/fd", "/etc/machine-id"];

/// Has the kernel know its disks and what an adoption opens. Gives the disks.
///
/// The kernel's `boot_id` is not to be looked at, here or at any time before a guest is saved: it is drawn at the first look,
/// and would be the same for all.
pub(crate) fn warm() -> io::Result<Disks> {
    rustix::fs::sync();
    fs::create_dir_all(CASE_PATH)?;
    for path in PATHS {
        // One that is not there is looked up as well.
        let _ = fs::metadata(path);
    }
    Ok(Disks::look())
}
