//! Machines that go on from a snapshot: one guest boots, says hello and is saved; each case has a fork of it.
//!
//! A snapshot does not know the program that is tested. That comes on a disk of its own, which the fork's agent mounts when
//! it adopts the guest: it is told then what time it is, given random numbers of its own, and an identity. What a fork can't
//! be had for is booted: a case runs either way, and sees no difference but in what it costs.

mod chassis;
mod error;
mod snapshot;

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kiln_protocol::wire::{ENTROPY, Hello};
use kiln_vmm::config::MachineConfig;
use kiln_vmm::layout::RESERVED_MEMORY;
use kiln_vmm::machine::{Machine, ReservedDisk, RestoreIo};
use kiln_vmm::snapshot::SnapshotError;

use crate::agent::{Adoption, AgentError, CaseDisk, Client};
pub use chassis::keep;
pub use error::ForkError;
pub use snapshot::Snapshot;

/// Whether cases begin from snapshots: `off` boots a machine for each.
pub const VARIABLE: &str = "KILN_SNAPSHOT";

/// How long a fork's agent may take before its guest is given up: a guest that was saved whole takes some milliseconds.
pub(crate) const ADOPTION: Duration = Duration::from_secs(30);

/// How many machines of this process went on from a snapshot.
static FORKED: AtomicUsize = AtomicUsize::new(0);

/// How many machines of this process went on from a snapshot.
pub(crate) fn count() -> usize {
    FORKED.load(Ordering::Relaxed)
}

/// Whether whoever started this process wants no snapshots.
pub(crate) fn is_off() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "off")
}

/// Where a machine begins in place of a boot.
pub(crate) struct Fork {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The disk with the program that is tested.
    pub(crate) disk: PathBuf,
    /// The machine that is booted where no fork can be had, and when a fork is reset.
    pub(crate) boot: BootInstead,
}

/// Makes the configuration of the machine that is booted in a fork's place, or says why there is none.
pub(crate) type BootInstead = Box<dyn Fn() -> Result<MachineConfig, String> + Send + Sync>;

/// What is said to the agent of a fork before anything else.
pub struct Adopting {
    hello: Hello,
    last_request: u32,
    adoption: Adoption,
}

impl Snapshot {
    /// A machine that goes on from here, on what was kept of another if there is any ([`keep`]), with `io`, and `disk` (a raw image
    /// with an ext4 file system on it) as its reserved disk. Once it has started, its agent is to adopt the guest.
    ///
    /// # Errors
    /// The snapshot was cut off or changed, is another host's, or the host has no room for a machine.
    pub fn fork(&self, disk: &Path, io: RestoreIo) -> Result<(Machine, Adopting), SnapshotError> {
        let read = |source| SnapshotError::Read { path: disk.to_owned(), source };
        let size = std::fs::metadata(disk).map_err(read)?.len();
        // Read through a disk's queue it costs more than all else that a small case does.
        let (name, size, reserved) = match self.reserved_memory() {
            Some(name) if size <= RESERVED_MEMORY => {
                (name, RESERVED_MEMORY, ReservedDisk::Memory(disk.to_owned()))
            }
            _ => (self.reserved_disk(), size, ReservedDisk::Block(disk.to_owned())),
        };
        let adoption = adoption(Some(CaseDisk { serial: name.to_owned(), size })).map_err(read)?;
        let io = RestoreIo { reserved_disk: Some(reserved), ..io };
        let machine = match chassis::take(&self.folder()) {
            Some(chassis) => Machine::restore_on_chassis(chassis, io)?,
            None => Machine::restore(&self.folder(), io)?,
        };
        FORKED.fetch_add(1, Ordering::Relaxed);
        let (hello, last_request) = self.greeting();
        Ok((machine, Adopting { hello, last_request, adoption }))
    }
}

/// An adoption like no other.
fn adoption(disk: Option<CaseDisk>) -> io::Result<Adoption> {
    let (mut entropy, mut machine_id) = (vec![0; 2 * *ENTROPY.start()], [0; 16]);
    let mut random = std::fs::File::open("/dev/urandom")?;
    random.read_exact(&mut entropy)?;
    random.read_exact(&mut machine_id)?;
    Ok(Adoption { entropy, hostname: None, machine_id: Some(machine_id), disk })
}

impl Fork {
    /// A machine that goes on from the snapshot, with `io`, whose reserved disk is this one's.
    pub(crate) fn restore(&self, io: RestoreIo) -> Result<(Machine, Adopting), SnapshotError> {
        self.snapshot.fork(&self.disk, io)
    }
}

impl Adopting {
    /// Takes up the talk with the agent at the other end of `port`, and has it adopt its guest.
    ///
    /// # Errors
    /// The guest refused (it has no such disk, or its kernel can't do it), or the agent is lost.
    pub fn adopt(self, port: UnixStream) -> Result<Client, AgentError> {
        let (client, adoption) = self.unadopted(port)?;
        client.adopt(&adoption)?;
        Ok(client)
    }

    /// Takes up the talk with the agent, and leaves to the caller when it adopts its guest, and as what.
    ///
    /// # Errors
    /// The host has no room for the thread that reads.
    pub fn unadopted(self, port: UnixStream) -> Result<(Client, Adoption), AgentError> {
        Ok((Client::of_fork(port, self.hello, self.last_request)?, self.adoption))
    }
}

/// What reads from a file that can't be there.
pub(crate) fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}
