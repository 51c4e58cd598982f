//! Why there is no snapshot, or none that can be restored.

use std::io;
use std::path::PathBuf;

use super::persist::PersistError;
use crate::kvm::KvmError;
use crate::machine::MachineError;
use crate::vcpu::ControlError;
use crate::vcpu::state::StateError;

/// A snapshot that could not be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file can't be read.
    #[error("can't read snapshot {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A file or folder can't be written.
    #[error("can't write snapshot {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The folder is not its user's alone: what is in it could be anybody's.
    #[error(
        "snapshot {path} belongs to, or can be written by, another user: it is not trusted; make it anew"
    )]
    Owner {
        /// The folder.
        path: PathBuf,
    },
    /// A file was cut off or changed.
    #[error("snapshot {path} is damaged: {what}; make it anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It has another form than this version of kiln reads.
    #[error("snapshot {path} is of version {there}, and this kiln reads version {here}: make it anew")]
    Version {
        /// The file.
        path: PathBuf,
        /// The snapshot's version.
        there: u32,
        /// [`super::SCHEMA`].
        here: u32,
    },
    /// It was made on another host, or by another kernel.
    #[error(
        "the snapshot was made on another host: its {what} was {there} there, and is {here} here; make it anew"
    )]
    Host {
        /// What differs.
        what: String,
        /// What it was.
        there: String,
        /// What it is.
        here: String,
    },
    /// This kiln puts a machine of that configuration together in another way.
    #[error(
        "the snapshot was made by kiln {made_by}, whose machines have their devices elsewhere: make it anew"
    )]
    Map {
        /// The version that made it.
        made_by: String,
    },
    /// A disk's file is not what it was.
    #[error("disk {path} was changed since the snapshot was made: put it back, or make the snapshot anew")]
    Disk {
        /// The file.
        path: PathBuf,
    },
    /// What is to be the reserved disk of a machine that has none.
    #[error("the machine of this snapshot has no reserved disk: none can be put into it")]
    NoReservedDisk,
    /// A device does not give or take its state.
    #[error("the state of device {device}")]
    Device {
        /// The device's name.
        device: String,
        /// Why not.
        #[source]
        source: PersistError,
    },
    /// What a debugger puts into memory and registers would be saved as the guest's own.
    #[error(
        "a debugger is attached to the machine, whose breakpoints would be saved as the guest's: detach it first"
    )]
    Debugged,
    /// ROMs came or went while it ran.
    #[error("the machine's ROMs are not those that it was built with: it can't be saved")]
    Roms,
    /// The machine is in a state that snapshots don't hold.
    #[error("vCPU {cpu} can't be saved: {why}")]
    Unsaved {
        /// Which vCPU.
        cpu: u32,
        /// What it is in the middle of.
        why: &'static str,
    },
    /// A vCPU does not give or take its state.
    #[error("the state of vCPU {cpu}")]
    Vcpu {
        /// Which vCPU.
        cpu: u32,
        /// Why not.
        #[source]
        source: StateError,
    },
    /// The machine could not be held.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// KVM is not there, or refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The machine could not be built.
    #[error(transparent)]
    Machine(Box<MachineError>),
}

impl From<MachineError> for SnapshotError {
    fn from(error: MachineError) -> Self {
        match error {
            // What went wrong with the snapshot itself needs no second wrapping.
            MachineError::Snapshot(error) => *error,
            error => Self::Machine(Box::new(error)),
        }
    }
}

impl SnapshotError {
    /// Whether the snapshot itself is of no use (damaged, of another version or host), so that it should be made anew; if not, it
    /// lies with this attempt.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Damaged { .. }
            | Self::Version { .. }
            | Self::Host { .. }
            | Self::Map { .. }
            | Self::Disk { .. }
            | Self::Owner { .. }
            | Self::Device { .. }
            | Self::Vcpu { .. } => true,
            Self::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
