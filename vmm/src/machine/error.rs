//! What a machine could not do.

use std::io;

use super::backend::BackendError;
use crate::block::DiskError;
use crate::boot::BootError;
use crate::bus::BusError;
use crate::config::ConfigError;
use crate::control::EndpointError;
use crate::kvm::KvmError;
use crate::memory::{MapError, MemoryError};

/// A machine that could not be built or started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The configuration is no machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM is not there, or refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is nothing that can be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A disk can't be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A serial port or console can't be connected.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The machine can't have its name.
    #[error(transparent)]
    Name(#[from] EndpointError),
    /// Two devices want the same addresses.
    #[error("the machine's devices are in each other's way")]
    Bus(#[from] BusError),
    /// The memory map can't be.
    #[error("the machine's memory map can't be made")]
    Map(#[from] MapError),
    /// Guest RAM can't be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Threads or descriptors can't be had.
    #[error("the host refused what the machine needs")]
    Io(#[source] io::Error),
}

impl MachineError {
    /// Whether it lies with what was asked for, or with this host, and not with the machine itself.
    #[must_use]
    pub fn is_environment(&self) -> bool {
        !matches!(self, Self::Bus(_) | Self::Map(_))
            || matches!(self, Self::Map(MapError::Kvm(_) | MapError::Rom(_)))
    }
}
