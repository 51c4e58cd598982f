//! The handle by which a machine that runs is controlled: by its owner, its control socket, its debugger.

use std::io::{self, Write};
use std::sync::{Arc, MutexGuard, mpsc};
use std::time::Duration;

use kvm_ioctls::VcpuFd;

use super::control::{Control, Hands, LIMIT, MachineState};
use super::guest_debug::{DebugRequest, VcpuStop};
use super::hold::Owner;
use super::state::{StateError, VcpuState};
use crate::bell::Bell;
use crate::device::rtc::NmiMask;
use crate::dump::VcpuDump;
use crate::memory::{GuestMemory, MapError};
use crate::outcome::Outcome;
use crate::snapshot::SnapshotError;
use crate::trace::Trace;

/// What could not be done with a machine.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It does not run yet.
    #[error("the machine has not been started")]
    NotStarted,
    /// It does not run any more.
    #[error("the machine has ended")]
    Ended,
    /// The hold was ended before all vCPUs were out of the guest.
    #[error("the pause was ended from elsewhere before every vCPU had left the guest")]
    Released,
    /// One debugger at a time.
    #[error("a debugger is attached to the machine already")]
    Debugged,
    /// There is no such vCPU.
    #[error("there is no vCPU {cpu}: the machine has {cpus}, counted from 0")]
    NoVcpu {
        /// Which was named.
        cpu: u32,
        /// How many there are.
        cpus: u32,
    },
    /// A vCPU did not come out of the guest in time: a device or the host holds it up.
    #[error("vCPU {cpu} did not answer within {seconds} s: a device, or a busy host, holds it up")]
    NoAnswer {
        /// Which vCPU.
        cpu: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A vCPU's state can't be read or written.
    #[error("the state of vCPU {cpu} can't be had")]
    State {
        /// Which vCPU.
        cpu: u32,
        /// Why not.
        #[source]
        source: StateError,
    },
    /// There must be a state for each vCPU.
    #[error("{given} states for {cpus} vCPUs")]
    States {
        /// How many were given.
        given: usize,
        /// How many vCPUs there are.
        cpus: u32,
    },
    /// The memory map can't be changed so, or its log not be had.
    #[error("the machine's memory map")]
    Map(#[from] MapError),
    /// KVM refused a request.
    #[error("KVM refused {step} of vCPU {cpu}")]
    Refused {
        /// The request's name in the KVM API.
        step: &'static str,
        /// Which vCPU.
        cpu: u32,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Who is told of stops, and whose hold they are.
#[derive(Clone)]
pub(super) struct Debugger {
    pub(super) owner: Owner,
    pub(super) told: Arc<dyn Fn(&VcpuStop) -> bool + Send + Sync>,
}

/// Controls a machine from any thread but those of its vCPUs and devices. A clone is another handle on the same machine.
#[derive(Clone)]
pub struct Controller(pub(super) Arc<Control>);

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("cpus", &self.cpus()).field("state", &self.state()).finish()
    }
}

impl Controller {
    /// How many vCPUs the machine has.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.0.cpus()
    }

    /// What the machine is doing.
    #[must_use]
    pub fn state(&self) -> MachineState {
        self.0.state()
    }

    /// Holds the machine for `owner`. When it returns every vCPU is out of `KVM_RUN`, and stays out until nobody holds the
    /// machine any more; accesses to devices that were under way are over. A machine that has not been started will
    /// start paused. An owner that holds it already only waits.
    ///
    /// Devices with threads of their own (virtio) finish what the guest asked of them before; no more kicks come. The
    /// guest's clock goes on; the deadline of [`crate::machine::Running::wait`] stands still, unless the owner says otherwise.
    ///
    /// # Errors
    /// The machine has ended; the hold was ended meanwhile; or a vCPU is held up by a device: in that case the hold is taken back.
    pub fn hold(&self, owner: &Owner) -> Result<(), ControlError> {
        self.0.pause(owner)
    }

    /// Ends `owner`'s hold, if there is one. The machine goes on if nobody else holds it ([`Controller::holders`]).
    ///
    /// # Errors
    /// The machine has ended.
    pub fn release(&self, owner: &Owner) -> Result<(), ControlError> {
        self.0.resume(owner)
    }

    /// The names of those who hold the machine, in the order in which they came.
    #[must_use]
    pub fn holders(&self) -> Vec<String> {
        self.0.holders()
    }

    /// Pauses the machine: [`Controller::hold`] for an owner that all callers of this method share. The deadline of
    /// [`crate::machine::Running::wait`] comes nearer as ever: a program that never resumes is no person who looks.
    ///
    /// # Errors
    /// As [`Controller::hold`].
    pub fn pause(&self) -> Result<(), ControlError> {
        self.hold(&self.0.caller)
    }

    /// Ends the hold of [`Controller::pause`].
    ///
    /// # Errors
    /// The machine has ended.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.release(&self.0.caller)
    }

    /// Whether somebody holds the machine whose holds make the deadline of [`crate::machine::Running::wait`] stand still.
    #[must_use]
    pub fn deadline_stands(&self) -> bool {
        self.0.deadline_stands()
    }

    /// Whether every vCPU is out of the guest, and stays out.
    pub(crate) fn at_rest(&self) -> bool {
        self.0.at_rest()
    }

    /// Has `bell` rung at each change of the machine's state; only the first one is.
    pub(crate) fn set_bell(&self, bell: Arc<Bell>) {
        self.0.set_bell(bell);
    }

    /// For how long the deadline of [`crate::machine::Running::wait`] has stood still until now.
    pub(crate) fn held(&self) -> Duration {
        self.0.held()
    }

    /// As [`Controller::held`], until the hold that lasts at this moment, if one does.
    pub(crate) fn held_before(&self) -> Duration {
        self.0.held_before()
    }

    /// Says which vCPUs of a paused machine stay where they are when it goes on, by their index; none if the list is
    /// empty. A vCPU that runs at this moment runs on.
    pub fn keep_vcpus(&self, kept: &[bool]) {
        self.0.keep(kept);
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.power().outcome()
    }

    /// Has `bell` rung when the machine ends, or at once if it has.
    pub(crate) fn tell_of_the_end(&self, bell: &Arc<Bell>) {
        self.0.power().tell(bell);
    }

    /// Ends the machine as [`Outcome::Stopped`], unless it has already ended.
    pub fn stop(&self) {
        self.end(Outcome::Stopped);
    }

    /// Lets the machine go as [`Outcome::Dismissed`], unless it has already ended: nothing more is wanted of its guest, and
    /// another machine of its snapshot may have what is left ([`crate::machine::Running::wait_and_keep`]).
    pub fn dismiss(&self) {
        self.end(Outcome::Dismissed);
    }

    /// Ends the machine as its reset line would ([`Outcome::Reset`]), unless it has already ended.
    pub fn reset(&self) {
        self.end(Outcome::Reset);
    }

    /// Whether a debugger looks at the machine.
    pub(crate) fn is_debugged(&self) -> bool {
        self.0.debugger().is_some() || self.0.door().is_some()
    }

    /// Has the threads of a machine that was ended by its power switch notice it while they are paused.
    pub(crate) fn wake(&self) {
        self.0.ended();
    }

    /// Names what can be named in `dumps`.
    pub(crate) fn name(&self, dumps: &mut [VcpuDump]) {
        self.0.name(dumps);
    }

    /// The device node that the machine was made with.
    pub(crate) fn kvm_node(&self) -> &std::path::Path {
        self.0.kvm_node()
    }

    /// Says which device node the machine was made with.
    pub(crate) fn set_kvm_node(&self, node: std::path::PathBuf) {
        self.0.set_kvm_node(node);
    }

    /// Has dumps named by the symbols of `kernel`.
    pub(crate) fn set_kernel(&self, kernel: std::path::PathBuf) {
        self.0.set_kernel(kernel);
    }

    fn end(&self, outcome: Outcome) {
        self.0.power().end(outcome);
        self.0.ended();
    }

    /// Has NMIs wait at this gate while the guest has closed it.
    pub(crate) fn set_nmi_mask(&self, mask: &NmiMask) {
        let control = Arc::downgrade(&self.0);
        mask.connect(move |cpu| {
            let give = |hands: &mut Hands<'_>| {
                // KVM has no reason to refuse one that it took before.
                let _refused = hands.vcpu.nmi();
            };
            // A machine that has ended takes none.
            let _ended = control.upgrade().map(|control| control.post(cpu, Box::new(give)));
        });
        self.0.set_nmi_mask(mask.clone());
    }

    /// Gives vCPU `cpu` a non-maskable interrupt. A paused machine takes it when it goes on; a guest that masks them by
    /// the clock's index port (`--device rtc`), when it has opened that again.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`], or KVM refused.
    pub fn nmi(&self, cpu: u32) -> Result<(), ControlError> {
        // A vCPU that is not there is told of first.
        self.run_on_vcpu(cpu, |_| ())?;
        if self.0.nmi_mask().is_some_and(|mask| mask.keeps(cpu)) {
            return Ok(());
        }
        self.run_on_vcpu(cpu, |vcpu| vcpu.nmi())?.map_err(refused("KVM_NMI", cpu))
    }

    /// Does `work` on the thread of vCPU `cpu`, out of the guest, and returns its result: also while the machine is
    /// paused, and on a vCPU that halts. The guest goes on afterwards, unless the machine is paused.
    ///
    /// # Errors
    /// There is no such vCPU, the machine does not run, or the vCPU is held up by a device; `work` may be done later then.
    pub fn run_on_vcpu<R: Send + 'static>(
        &self,
        cpu: u32,
        work: impl FnOnce(&mut VcpuFd) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        let (results, result) = mpsc::sync_channel(1);
        self.0.post(cpu, Box::new(move |hands| drop(results.send(work(hands.vcpu)))))?;
        self.0.result(cpu, &result)
    }

    /// Does `work` on the thread of every vCPU, told its index, all at once; returns the results in order. Only a
    /// paused machine's results are of one moment.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`].
    pub fn run_on_all_vcpus<R: Send + 'static>(
        &self,
        work: impl Fn(u32, &mut VcpuFd) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>, ControlError> {
        self.on_all(move |cpu, hands| work(cpu, hands.vcpu))
    }

    fn on_all<R: Send + 'static>(
        &self,
        work: impl Fn(u32, &mut Hands<'_>) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>, ControlError> {
        self.on_all_within(LIMIT, work)
    }

    /// Does `work` on every vCPU, and waits for no result longer than `limit`.
    fn on_all_within<R: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(u32, &mut Hands<'_>) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>, ControlError> {
        let work = Arc::new(work);
        let posted = (0..self.cpus()).map(|cpu| {
            let (work, (results, result)) = (work.clone(), mpsc::sync_channel(1));
            self.0.post(cpu, Box::new(move |hands| drop(results.send(work(cpu, hands)))))?;
            Ok(result)
        });
        let results = posted.collect::<Result<Vec<_>, ControlError>>()?;
        (0..).zip(&results).map(|(cpu, result)| self.0.result_within(limit, cpu, result)).collect()
    }

    /// Has `told` hear of every breakpoint and single step that a vCPU stops at, and of what would end the machine. Where
    /// nobody does, a breakpoint or step ends the machine as an unexpected exit.
    ///
    /// It is told on the vCPU's thread, and answers whether the stop is its own. If it is, the whole machine is held for
    /// `owner` as soon as it has answered: [`Controller::hold`] waits for that, [`Controller::release`] goes on. It must
    /// do neither itself: it passes the stop on, to a thread that may. If it is not, the exception is the guest's.
    ///
    /// # Errors
    /// There is a debugger already.
    pub fn attach_debugger(
        &self,
        owner: &Owner,
        told: impl Fn(&VcpuStop) -> bool + Send + Sync + 'static,
    ) -> Result<(), ControlError> {
        self.0.attach(Debugger { owner: owner.clone(), told: Arc::new(told) })
    }

    /// Has no debugger attach from now on; `owner` holds the machine.
    ///
    /// # Errors
    /// [`SnapshotError::Debugged`]: there is one, or what one wanted is still in place. Or as [`Controller::run_on_vcpu`].
    pub(crate) fn keep_debuggers_out(&self, owner: &Owner) -> Result<(), SnapshotError> {
        self.attach_debugger(owner, |_| false).map_err(|_| SnapshotError::Debugged)?;
        let wanted = self.on_all(|_, hands| hands.debug.wanted())?;
        if wanted.contains(&true) { Err(SnapshotError::Debugged) } else { Ok(()) }
    }

    /// Where the machine's debuggers are listened for, as gdb takes it; who opens or closes that door holds this.
    pub(crate) fn door(&self) -> MutexGuard<'_, Option<String>> {
        self.0.door()
    }

    /// Tells the debugger of nothing any more. What it wanted stays as it is ([`Controller::set_debug_requests`]).
    pub fn detach_debugger(&self) {
        self.0.detach();
    }

    /// Has KVM stop the vCPUs at what a debugger wants, one request each, in place of what it wanted before.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`]; there are not as many requests as vCPUs; or KVM refused.
    pub fn set_debug_requests(&self, requests: Vec<DebugRequest>) -> Result<(), ControlError> {
        if u32::try_from(requests.len()).ok() != Some(self.cpus()) {
            return Err(ControlError::States { given: requests.len(), cpus: self.cpus() });
        }
        let set = self.on_all(move |cpu, hands| {
            let request = usize::try_from(cpu).ok().and_then(|cpu| requests.get(cpu)).copied();
            hands
                .debug
                .want(hands.vcpu, request.unwrap_or_default())
                .map_err(refused("KVM_SET_GUEST_DEBUG", cpu))
        })?;
        set.into_iter().collect()
    }

    /// Traces the instructions of all vCPUs: a line each, `CPU RIP` (decimal, then 16 hexadecimal digits), for the one
    /// that each is about to carry out, beginning with the one that it stands at. After `limit` lines, or when `sink` takes
    /// no more, the guest goes on at full speed. A step costs an exit: the guest is thousands of times slower.
    ///
    /// Meanwhile a debugger is told of breakpoints, and of the steps that it asked for.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`], or KVM can't step a vCPU.
    pub fn trace_instructions(&self, limit: u64, sink: Box<dyn Write + Send>) -> Result<(), ControlError> {
        self.0.steps.begin(limit, sink);
        let control = Arc::downgrade(&self.0);
        let begun = self.on_all(move |cpu, hands| {
            let rip = hands.vcpu.get_regs().map_err(refused("KVM_GET_REGS", cpu))?.rip;
            let more = control.upgrade().is_some_and(|control| control.steps.note(cpu, rip));
            hands.debug.trace(hands.vcpu, more).map_err(refused("KVM_SET_GUEST_DEBUG", cpu))
        });
        let begun = begun.and_then(|each| each.into_iter().collect());
        if begun.is_err() {
            self.0.steps.end();
        }
        begun
    }

    /// Ends the instruction trace, if there is one.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`], or KVM refused.
    pub fn end_instruction_trace(&self) -> Result<(), ControlError> {
        self.0.steps.end();
        let ended = self.on_all(|cpu, hands| {
            if hands.debug.traced() {
                hands.debug.trace(hands.vcpu, false).map_err(refused("KVM_SET_GUEST_DEBUG", cpu))?;
            }
            Ok(())
        })?;
        ended.into_iter().collect()
    }

    /// Lays every vCPU open: registers, code, stack, with names where the kernel's file has symbols. Only a paused
    /// machine's dumps are of one moment.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`], or KVM does not tell a vCPU's registers.
    pub fn dump(&self) -> Result<Vec<VcpuDump>, ControlError> {
        let (paused, memory) = (self.state() == MachineState::Paused, self.view());
        let taken = self.run_on_all_vcpus(move |cpu, vcpu| {
            let why = if paused { "the machine is paused" } else { "it was looked at while it ran" };
            VcpuDump::take(vcpu, cpu, why.to_owned(), &memory).map_err(refused("KVM_GET_REGS", cpu))
        })?;
        let mut dumps = taken.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.0.name(&mut dumps);
        Ok(dumps)
    }

    /// Reads the state of every vCPU, in order. Only a paused machine's states are of one moment.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`], or KVM does not tell a part of a state.
    pub fn vcpu_states(&self) -> Result<Vec<VcpuState>, ControlError> {
        let msrs = self.0.msrs().clone();
        let states = self.run_on_all_vcpus(move |_, vcpu| VcpuState::get(vcpu, &msrs))?;
        (0..)
            .zip(states)
            .map(|(cpu, state)| state.map_err(|source| ControlError::State { cpu, source }))
            .collect()
    }

    /// Gives every vCPU a state, in order. The machine should be paused: a vCPU that runs goes on from it at once.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`]; there are not as many states as vCPUs; or KVM does not take a part of a state.
    pub fn set_vcpu_states(&self, states: Vec<VcpuState>) -> Result<(), ControlError> {
        if u32::try_from(states.len()).ok() != Some(self.cpus()) {
            return Err(ControlError::States { given: states.len(), cpus: self.cpus() });
        }
        for (cpu, state) in (0..).zip(states) {
            self.run_on_vcpu(cpu, move |vcpu| state.set(vcpu))?
                .map_err(|source| ControlError::State { cpu, source })?;
        }
        Ok(())
    }

    /// Guest RAM. What is read while the machine runs may be half written.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        self.0.memory()
    }

    /// What the machine has done until now.
    ///
    /// # Errors
    /// As [`Controller::run_on_vcpu`].
    pub fn trace(&self) -> Result<Trace, ControlError> {
        self.trace_within(LIMIT)
    }

    /// As [`Controller::trace`], with that limit for a vCPU's answer.
    pub(crate) fn trace_within(&self, limit: Duration) -> Result<Trace, ControlError> {
        let vcpus = self.on_all_within(limit, |_, hands| hands.recorder.trace())?;
        Ok(Trace { vcpus })
    }
}

/// A request that KVM refused.
pub(super) fn refused(step: &'static str, cpu: u32) -> impl FnOnce(kvm_ioctls::Error) -> ControlError {
    move |error| ControlError::Refused { step, cpu, source: io::Error::from_raw_os_error(error.errno()) }
}

/// The handle on a machine of one vCPU that is never started.
#[cfg(fuzzing)]
pub(crate) fn unstarted(memory: GuestMemory) -> Option<Controller> {
    let table = crate::memory::table::Table::new(1, 36);
    let map = crate::memory::map::MemoryMap::new(table, memory, Vec::new()).ok()?;
    let power = crate::outcome::PowerSwitch::new();
    Some(Controller(Arc::new(Control::new(1, power, Arc::new(map), Arc::default()))))
}
