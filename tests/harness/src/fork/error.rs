//! Why there is no snapshot to go on from.

use std::io;

use kiln_vmm::kvm::KvmError;
use kiln_vmm::machine::MachineError;
use kiln_vmm::snapshot::SnapshotError;

use crate::agent::AgentError;

/// A snapshot that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The cache has no room for it, or can't be read.
    #[error(transparent)]
    Cache(#[from] kiln_rootfs::Error),
    /// A file of it can't be read or written.
    #[error("{what}")]
    File {
        /// Which, and what was to be done with it.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// KVM is not there.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The machine that was to be saved could not be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its guest did not come to its agent's hello, or its agent has no rest.
    #[error("the guest that was to be saved did not get ready: {source}; the last of its console:\n{tail}")]
    Guest {
        /// What its console said at last.
        tail: String,
        /// What the agent's connection said.
        source: AgentError,
    },
    /// Its kernel reported something: forks of it would be judged by what is not theirs.
    #[error("the kernel of the guest that was to be saved reported: {0}")]
    Reported(String),
    /// It could not be saved.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
