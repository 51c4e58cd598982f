//! Snapshots: a machine's whole state in a folder, and machines that go on from it.
//!
//! A snapshot is a folder with two files. `state.json` has the machine's configuration, what the host was like, the vCPUs, the
//! interrupt controllers, the time, and each device's state by name. `memory` is guest RAM, its zeros left out as
//! holes. [`crate::machine::Running::save`] makes one and ends the machine; [`crate::machine::Machine::restore`]
//! makes a machine that goes on from there, in this process or another, as often as one likes. RAM is mapped copy on write: machines
//! restored from one snapshot share what none of them has written, and each takes of the host what it dirties.
//!
//! - **Nothing is lost, nothing is done twice.** vCPUs are out of the guest, with their accesses to devices over; a virtio device ends
//!   between two requests and says how far it came in each ring; what interrupts were on their way have arrived.
//! - **The guest's time goes on where it stood**: KVM's clock, the time stamp counters, timers. The clock of the RTC
//!   is the host's, as ever.
//! - **Disks**: a disk's file must be what it was when the snapshot was made. What a restored machine writes to a disk stays in its own
//!   memory. The reserved disk ([`crate::config::MachineConfig::reserved_disk`]) is empty in the snapshot, and each restored
//!   machine can have another file there ([`ReservedDisk`]).
//! - **Ports**: a stream of the host's is another one in each restored machine. A guest that has a port open finds it open, and is told nothing.
//! - **A snapshot that was cut off or changed, or is of another version or host, is refused in words** ([`SnapshotError`]),
//!   to be made anew. Its files are never written again: who wants another makes another folder, and removes this one.
//! - **A page that no machine has written is the file's**, for as long as the machine lives: to remove the folder does no harm, to
//!   cut off its `memory` does. So the folder is its owner's alone, its files are read only and opened once; who cuts one off all the same
//!   has the machine fail or, where a thread of the process comes upon the page, the process die of SIGBUS, which says why.
//!
//! What machines restored from one snapshot have in common is as secret as the snapshot: the kernel's random seeds, its
//! address layout, its stack canaries. Each has a generation ID of its own, by which a kernel that looks there draws new random
//! numbers soon after it goes on. Whoever forks another, or can't wait for that, reseeds it.

pub(crate) mod checksum;
mod early;
mod error;
mod file;
mod host;
mod interrupts;
mod load;
mod lost_pages;
mod memory;
mod pagemap;
pub(crate) mod persist;
mod save;
#[cfg(test)]
mod tests;
mod time;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::MachineConfig;
use crate::vcpu::state::VcpuState;
use crate::virtio::console::ConsoleEnd;
use checksum::Checksum;
pub use error::SnapshotError;
pub use host::identity;
pub use interrupts::{Interrupts, IoApic, Pic, Pit, PitChannel};
pub(crate) use load::{Loaded, Restored};
use memory::MemoryFile;
pub use persist::{Persist, PersistError};
pub(crate) use save::{Part, Saver};
pub use time::Time;

/// The version of the files, and of what machines save. A change of any device's state, of the addresses of devices, or
/// of how a restore goes about it counts it up; a test notices the first.
pub const SCHEMA: u32 = 3;

/// The host's ends of what a restored machine is connected to.
pub struct RestoreIo {
    /// The name by which it can be controlled ([`MachineConfig::name`]): its own, whatever the saved machine's was.
    pub name: Option<String>,
    /// Takes what the guest writes to COM1, if its configuration says so.
    pub serial: Box<dyn std::io::Write + Send>,
    /// The virtio console, for a machine that has one; without it the console's output is lost.
    pub console: Option<ConsoleEnd>,
    /// One stream for each of the machine's ports, in order.
    pub ports: Vec<UnixStream>,
    /// What the reserved disk is from now on: a raw image, which is only read. Without one it stays empty.
    pub reserved_disk: Option<ReservedDisk>,
}

/// A raw image in the reserved disk's place, and how the guest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReservedDisk {
    /// As the disk, which has its size from now on, and which reads it.
    Block(PathBuf),
    /// As persistent memory: it is mapped, and nothing of it is read or copied. It has at most
    /// [`RESERVED_MEMORY`](crate::layout::RESERVED_MEMORY) bytes, and the guest finds zeros behind its end.
    Memory(PathBuf),
}

/// All of a machine but its RAM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The version of kiln that made it.
    kiln: String,
    host: host::Facts,
    config: MachineConfig,
    /// The checksum of where devices and ROMs are, and of what is in a ROM.
    places: Checksum,
    memory: MemoryFile,
    vcpus: Vec<VcpuState>,
    interrupts: Option<Interrupts>,
    time: Time,
    /// What the disks' files were like, in order.
    disks: Vec<save::DiskStamp>,
    devices: BTreeMap<String, Value>,
}
