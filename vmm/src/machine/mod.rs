//! A machine: built from its configuration, run, ended.

mod assembly;
mod backend;
mod error;
mod fittings;
mod outlet;
mod running;
mod unclaimed;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use crate::bus::{UnclaimedAccess, UnclaimedReport};
pub use crate::vcpu::{ControlError, Controller, DebugRequest, DebugStop, MachineState, Owner, VcpuStop};
pub use crate::virtio::console::ConsoleEnd;
pub use backend::BackendError;
pub use error::MachineError;
pub use outlet::{LostOutput, STDOUT};
pub use running::{Ended, Running, Stopper};

use crate::config::{Boot, MachineConfig};
use crate::control::{Endpoint, Served, Subject};
use crate::device::probe::Doorbells;
use crate::device::pvpanic::PanicNotice;
use crate::device::rtc::NmiMask;
use crate::event_loop::EventLoop;
use crate::kvm::KVM_NODE;
use crate::outcome::PowerSwitch;
use crate::vcpu::Ready;
use fittings::Fittings;

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
    fittings: Fittings,
    panic_notice: PanicNotice,
    nmi_mask: NmiMask,
    doorbell: Option<Doorbells>,
    ptys: Vec<(String, PathBuf)>,
}

impl Machine {
    /// Builds the machine: memory, devices, vCPUs, and what it boots in its memory. If it has a name
    /// ([`MachineConfig::name`]), it can be controlled from now on ([`crate::control`]).
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
        // First: who wants a name that is taken has not touched anything else yet.
        let endpoint = config.name.as_deref().map(Endpoint::open).transpose()?;
        let mut machine = assembly::assemble(node, config, io)?;
        machine.controller().set_kvm_node(node.to_owned());
        machine.controller().set_nmi_mask(&machine.nmi_mask);
        if let Boot::Kernel { kernel, .. } = &config.boot {
            machine.controller().set_kernel(kernel.clone());
        }
        if let Some(endpoint) = endpoint {
            let subject = Subject::new(
                endpoint.name().to_owned(),
                machine.controller(),
                config.memory,
                machine.fittings.uart.clone(),
                machine.panic_notice(),
                endpoint.debugger_socket().to_owned(),
            );
            let events = machine.event_loop().map_err(MachineError::Io)?;
            machine.fittings.served =
                Some(Served::start(&events, endpoint, subject).map_err(MachineError::Io)?);
        }
        Ok(machine)
    }

    /// The machine's event loop, which runs from now on until the machine's end, or until all who have it let go of it.
    ///
    /// # Errors
    /// The host has no room for a thread or its descriptors.
    pub fn event_loop(&mut self) -> std::io::Result<Arc<EventLoop>> {
        let events = match self.fittings.events.take() {
            Some(events) => events,
            None => Arc::new(EventLoop::start()?),
        };
        self.fittings.events = Some(events.clone());
        Ok(events)
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

    /// How often the guest has rung the doorbell in the probe's window, if there is a probe; also once the machine runs.
    #[must_use]
    pub fn doorbells(&self) -> Option<Doorbells> {
        self.doorbell.clone()
    }

    /// The pseudo-terminals that serial ports and consoles are connected to: the device's name, the terminal's path.
    #[must_use]
    pub fn ptys(&self) -> &[(String, PathBuf)] {
        &self.ptys
    }

    /// Has `told` hear of the guest's accesses to where no device is: at most once a second, and at the machine's end. It
    /// is called by whoever waits for that.
    pub fn tell_unclaimed(&mut self, told: impl FnMut(&UnclaimedReport) + Send + 'static) {
        self.fittings.teller.tell(Box::new(told));
    }

    /// Lets it run: every vCPU's thread is in place before the first instruction.
    ///
    /// # Errors
    /// The host has no room for the threads.
    pub fn start(self) -> Result<Running, MachineError> {
        let began = Instant::now();
        let controller = self.vcpus.controller();
        let threads = self.vcpus.start(began).map_err(MachineError::Io)?;
        Ok(Running::new(threads, controller, self.power, self.fittings))
    }
}
