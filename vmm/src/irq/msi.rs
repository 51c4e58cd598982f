//! Message-signalled interrupts: a write to the local APICs that KVM carries out when an eventfd is counted up.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Interrupt;
use crate::kvm::{KvmError, Vm};

/// A message, as a device is given it (Intel SDM, volume 3, §11.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    /// Where it is written: 0xfeexxxxx, with the destination in bits 12 to 19.
    pub address: u64,
    /// What is written: the vector in bits 0 to 7, how it is delivered in bits 8 to 15.
    pub data: u32,
}

/// An interrupt that is a message, which the guest chooses.
pub trait MessageInterrupt: Interrupt {
    /// Has the interrupt be `msi` from now on. Before the first time, what is raised is lost.
    ///
    /// # Errors
    /// KVM refused it.
    fn route(&self, msi: Msi) -> io::Result<()>;
}

/// A message behind an eventfd, with a number of its own in the VM's table.
pub(crate) struct MsiIrqfd {
    vm: Arc<Vm>,
    line: EventFd,
    gsi: u32,
}

impl MsiIrqfd {
    /// A message that is none yet.
    pub(crate) fn new(vm: Arc<Vm>) -> Result<Self, KvmError> {
        let line = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let line = line.map_err(|source| KvmError::Refused { step: "an eventfd", source })?;
        let gsi = vm.connect_message(&line)?;
        Ok(Self { vm, line, gsi })
    }
}

impl Interrupt for MsiIrqfd {
    fn trigger(&self) -> io::Result<()> {
        self.line.write(1)
    }
}

impl MessageInterrupt for MsiIrqfd {
    fn route(&self, msi: Msi) -> io::Result<()> {
        self.vm.route_message(self.gsi, msi).map_err(io::Error::other)
    }
}

impl Drop for MsiIrqfd {
    fn drop(&mut self) {
        self.vm.disconnect_message(&self.line, self.gsi);
    }
}
