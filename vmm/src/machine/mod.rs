//! A machine: built from its configuration, run, ended.

mod assembly;
mod backend;
mod chassis;
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

use kvm_ioctls::Kvm;

pub use crate::bus::{UnclaimedAccess, UnclaimedReport};
pub use crate::vcpu::{ControlError, Controller, DebugRequest, DebugStop, MachineState, Owner, VcpuStop};
pub use crate::virtio::console::ConsoleEnd;
pub use backend::BackendError;
pub use chassis::Chassis;
pub use error::MachineError;
pub use outlet::{LostOutput, STDOUT};
pub use running::{Ended, Running, Stopper};

use crate::config::{Boot, MachineConfig};
use crate::control::{Endpoint, Served, Subject};
use crate::device::probe::Doorbells;
use crate::device::pvpanic::PanicNotice;
use crate::device::rtc::NmiMask;
use crate::event_loop::EventLoop;
use crate::kvm::{self, KVM_NODE};
use crate::outcome::PowerSwitch;
use crate::snapshot::{Loaded, Restored, Saver, SnapshotError};
pub use crate::snapshot::{ReservedDisk, RestoreIo};
use crate::vcpu::Ready;
use assembly::{Begin, Used};
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
    saver: Saver,
    /// What is left to be done of a restore when it starts.
    restored: Option<Restored>,
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
        config.validate()?;
        // First: who wants a name that is taken has not touched anything else yet.
        let endpoint = config.name.as_deref().map(Endpoint::open).transpose()?;
        let mut machine = assembly::assemble(kvm::open(node)?.into(), config, io, Begin::Boot)?;
        machine.introduce(node, &config.boot);
        machine.serve(endpoint, config.memory)?;
        Ok(machine)
    }

    /// Builds a machine that goes on from the snapshot in `folder` ([`Running::save`]), as if no time had passed. It is as
    /// ready to run as a new one: who wants to look at it first holds it before its start. What the snapshot's configuration says of files is as it was when the first machine was built: serial ports and consoles are opened
    /// anew, and a kernel is not read again.
    ///
    /// Its RAM is private and on small pages, whatever its configuration says, and what it writes to disks is lost with it.
    ///
    /// # Errors
    /// See [`SnapshotError`]; [`SnapshotError::is_stale`] tells whether the snapshot is of no use any more.
    pub fn restore(folder: &Path, io: RestoreIo) -> Result<Self, SnapshotError> {
        Self::restore_on(Path::new(KVM_NODE), folder, io)
    }

    /// As [`Machine::restore`], on the KVM at `node`.
    ///
    /// # Errors
    /// As [`Machine::restore`].
    pub fn restore_on(node: &Path, folder: &Path, io: RestoreIo) -> Result<Self, SnapshotError> {
        let kvm = kvm::open(node)?;
        let snapshot = Loaded::open(&kvm, folder)?;
        Self::go_on(node, kvm.into(), snapshot, io, None)
    }

    /// As [`Machine::restore`], from the snapshot that `chassis` is of and in its place: the guest sees no difference. Only one
    /// machine can have it, and what is left of that one, if it is dismissed, is a chassis again.
    ///
    /// # Errors
    /// As [`Machine::restore`].
    pub fn restore_on_chassis(chassis: Chassis, io: RestoreIo) -> Result<Self, SnapshotError> {
        let Chassis { node, kvm, vm, vcpus, memory, place, snapshot } = chassis;
        snapshot.check()?;
        Self::go_on(&node, kvm, snapshot, io, Some(Used { vm, vcpus, memory, place }))
    }

    fn go_on(
        node: &Path,
        kvm: Arc<Kvm>,
        snapshot: Loaded,
        io: RestoreIo,
        used: Option<Used>,
    ) -> Result<Self, SnapshotError> {
        let RestoreIo { name, serial, console, ports, reserved_disk } = io;
        let config = MachineConfig { name, ..snapshot.config().clone() };
        config.validate().map_err(MachineError::from)?;
        let endpoint = config.name.as_deref().map(Endpoint::open).transpose().map_err(MachineError::from)?;
        let begin = Begin::From { snapshot: Box::new(snapshot), reserved_disk: reserved_disk.as_ref(), used };
        let mut machine = assembly::assemble(kvm, &config, MachineIo { serial, console, ports }, begin)?;
        machine.introduce(node, &config.boot);
        machine.serve(endpoint, config.memory)?;
        Ok(machine)
    }

    /// Tells its controller what else those who look at the machine may want of it.
    fn introduce(&self, node: &Path, boot: &Boot) {
        let controller = self.controller();
        controller.set_kvm_node(node.to_owned());
        controller.set_nmi_mask(&self.nmi_mask);
        if let Boot::Kernel { kernel, .. } = boot {
            controller.set_kernel(kernel.clone());
        }
    }

    /// Has the machine controlled by its name, if it has one, from now on.
    fn serve(&mut self, endpoint: Option<Endpoint>, memory: u64) -> Result<(), MachineError> {
        let Some(endpoint) = endpoint else { return Ok(()) };
        let subject = Subject::new(
            endpoint.name().to_owned(),
            self.controller(),
            memory,
            self.fittings.uart.clone(),
            self.panic_notice(),
            endpoint.debugger_socket().to_owned(),
        );
        let events = self.event_loop().map_err(MachineError::Io)?;
        self.fittings.served = Some(Served::start(&events, endpoint, subject).map_err(MachineError::Io)?);
        Ok(())
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
        if let Some(restored) = &self.restored {
            self.vcpus.set_time(restored.time(), restored.vcpus())?;
        }
        let threads = self.vcpus.start(began).map_err(MachineError::Io)?;
        Ok(Running::new(threads, controller, self.power, self.fittings, self.saver))
    }
}
