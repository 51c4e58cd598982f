//! A machine: built from its configuration, run, ended.

mod assembly;
mod backend;
mod error;
mod outlet;
mod running;
mod unclaimed;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use crate::bus::{UnclaimedAccess, UnclaimedReport};
pub use crate::vcpu::{ControlError, Controller, DebugStop, MachineState, Owner};
pub use crate::virtio::console::ConsoleEnd;
pub use backend::BackendError;
pub use error::MachineError;
pub use running::{Ended, Running, Stopper};

use crate::config::{Boot, MachineConfig};
use crate::device::pvpanic::PanicNotice;
use crate::device::rtc::NmiMask;
use crate::device::uart::Uart;
use crate::kvm::KVM_NODE;
use crate::outcome::PowerSwitch;
use crate::vcpu::Ready;
use crate::virtio::mmio::MmioTransport;
use outlet::Drain;
use unclaimed::UnclaimedTeller;

/// The host's ends of what a machine is connected to.
pub struct MachineIo {
    /// Takes what the guest writes to COM1, if [`MachineConfig::com1`] says so.
    pub serial: Box<dyn Write + Send>,
    /// The virtio console, for a machine that has one; without it the console's output is lost.
    pub console: Option<ConsoleEnd>,
    /// One stream for each of [`MachineConfig::ports`], in order.
    pub ports: Vec<UnixStream>,
}

/// A machine that is ready to run.
pub struct Machine {
    vcpus: Ready,
    power: PowerSwitch,
    uart: Arc<Mutex<Uart>>,
    virtio: Vec<Arc<Mutex<MmioTransport>>>,
    drains: Vec<Drain>,
    panic_notice: PanicNotice,
    nmi_mask: NmiMask,
    ptys: Vec<(String, PathBuf)>,
    teller: UnclaimedTeller,
}

impl Machine {
    /// Builds the machine: memory, devices, vCPUs, and what it boots in its memory.
    ///
    /// # Errors
    /// See [`MachineError`].
    pub fn new(config: &MachineConfig, io: MachineIo) -> Result<Self, MachineError> {
        Self::new_on(Path::new(KVM_NODE), config, io)
    }

    /// As [`Machine::new`], on the KVM at `node`.
    ///
    /// # Errors
    /// See [`MachineError`].
    pub fn new_on(node: &Path, config: &MachineConfig, io: MachineIo) -> Result<Self, MachineError> {
        let machine = assembly::assemble(node, config, io)?;
        if let Boot::Kernel { kernel, .. } = &config.boot {
            machine.controller().set_kernel(kernel.clone());
        }
        Ok(machine)
    }

    /// Checks all of a machine that can be checked without KVM: for whoever sends it elsewhere. With `and_load`, that
    /// what it boots fits its memory, too, which costs a copy of it.
    ///
    /// # Errors
    /// What [`Machine::new`] would say.
    pub fn check(config: &MachineConfig, and_load: bool) -> Result<(), MachineError> {
        assembly::check(config, and_load)
    }

    /// The handle that controls it, also once it runs.
    #[must_use]
    pub fn controller(&self) -> Controller {
        self.vcpus.controller()
    }

    /// What the guest says at the pvpanic port, also once the machine runs and after its end.
    #[must_use]
    pub fn panic_notice(&self) -> PanicNotice {
        self.panic_notice.clone()
    }

    /// Whether the guest masks NMIs by the clock's index port, also once the machine runs.
    #[must_use]
    pub fn nmi_mask(&self) -> NmiMask {
        self.nmi_mask.clone()
    }

    /// The pseudo-terminals that serial ports and consoles are connected to: the device's name, the terminal's path.
    #[must_use]
    pub fn ptys(&self) -> &[(String, PathBuf)] {
        &self.ptys
    }

    /// Has `told` hear of the guest's accesses to where no device is: at most once a second, and at the machine's end. It
    /// is called by whoever waits for that.
    pub fn tell_unclaimed(&mut self, told: impl FnMut(&UnclaimedReport) + Send + 'static) {
        self.teller.tell(Box::new(told));
    }

    /// Lets it run: every vCPU's thread is in place before the first instruction.
    ///
    /// # Errors
    /// The host has no room for the threads.
    pub fn start(self) -> Result<Running, MachineError> {
        let began = Instant::now();
        let controller = self.vcpus.controller();
        let threads = self.vcpus.start(began).map_err(MachineError::Io)?;
        let devices = (self.uart, self.virtio, self.drains);
        Ok(Running::new(threads, controller, self.power, devices, self.teller))
    }
}
