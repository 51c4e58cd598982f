//! A machine's vCPUs: ready before it runs, asked whether they sleep for ever, ended with their traces.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::{Kvm, VcpuFd};

use super::access::Buses;
use super::control::{Control, Hands};
use super::controller::Controller;
use super::cpuid;
use super::guest_debug::{GuestDebug, TRAP_PORT, VcpuStop};
use super::kick;
use super::pages::SharedPages;
use super::ring::Ring;
use super::run::{self, Next};
use super::runner::{Done, Job, Runner};
use super::setup::{self, EntryState};
use super::state::VcpuState;
use super::stops::{End, Stops, Trapped, hear};
use crate::bus::{Seen, Unclaimed};
use crate::dump::VcpuDump;
use crate::kvm::{KvmError, Vm};
use crate::outcome::{Outcome, PowerSwitch};
use crate::snapshot::{SnapshotError, Time};
use crate::trace::{Recorder, VcpuTrace};

/// RFLAGS: maskable interrupts are taken.
const RFLAGS_IF: u64 = 1 << 9;

/// A vCPU's answer to the question whether it can ever go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Idle {
    /// It was asked and has not answered.
    Unknown,
    /// It runs, or an interrupt can wake it.
    No,
    /// It halts with interrupts off, or waits for another vCPU to start it.
    ForEver,
}

/// What a vCPU's thread and its owner share.
#[derive(Default)]
struct Shared {
    /// How often the vCPU was asked, and the last question that it answered, with the answer.
    asked: AtomicU32,
    answered: AtomicU32,
    idle: AtomicU32,
    /// The thread's identity for its CPU-time clock.
    clock: AtomicU64,
}

/// A vCPU on a thread of its own.
pub(crate) struct VcpuThread {
    index: u32,
    control: Arc<Control>,
    shared: Arc<Shared>,
    runner: Runner,
}

/// A vCPU of a machine that has ended, and the thread that ran it.
pub(crate) struct Parked {
    vcpu: VcpuFd,
    runner: Runner,
}

/// What the threads of a machine have in common.
struct Group {
    /// It must outlive its vCPUs: it holds the memory that they run in.
    vm: Arc<Vm>,
    outside: Outside,
    power: PowerSwitch,
    control: Arc<Control>,
}

impl Group {
    fn stops(&self) -> Stops<'_> {
        Stops { control: &self.control }
    }
}

/// What an exit is handled with.
pub(super) struct Outside {
    pub(super) buses: Buses,
    pub(super) unclaimed: Arc<Unclaimed>,
    pub(super) pages: SharedPages,
    /// The VM's ring, if there are zones whose writes it takes.
    pub(super) ring: Option<Ring>,
}

/// vCPUs that are set up and have not run.
pub(crate) struct Ready {
    group: Arc<Group>,
    vcpus: Vec<VcpuFd>,
    /// The threads that have run them before, if any have.
    runners: Vec<Runner>,
}

impl Ready {
    /// Makes the vCPUs of a machine; the first is put at `entry`, the others wait for their start-up interrupt. Without
    /// `entry` each waits for a state ([`Ready::set_states`]).
    pub(crate) fn new(
        kvm: &Kvm,
        vm: Arc<Vm>,
        (cpus, irqchip): (u32, bool),
        entry: Option<EntryState>,
        (buses, unclaimed): (Buses, Arc<Unclaimed>),
        power: PowerSwitch,
    ) -> Result<Self, KvmError> {
        let cpuid = cpuid::supported(kvm)?;
        let vcpus = (0..cpus)
            .map(|index| {
                let vcpu = vm.create_vcpu(index)?;
                setup::processor(&vcpu, kvm, &cpuid, (index, cpus))?;
                if let Some(entry) = entry {
                    setup::common(&vcpu, irqchip)?;
                    if index == 0 {
                        setup::enter(&vcpu, entry)?;
                    }
                }
                Ok(vcpu)
            })
            .collect::<Result<Vec<_>, KvmError>>()?;
        Self::of(kvm, vm, (vcpus, Vec::new()), (buses, unclaimed), power)
    }

    /// As [`Ready::new`], of vCPUs that have run in a machine which has ended: each waits for a state.
    pub(crate) fn again(
        kvm: &Kvm,
        vm: Arc<Vm>,
        parked: Vec<Parked>,
        outside: (Buses, Arc<Unclaimed>),
        power: PowerSwitch,
    ) -> Result<Self, KvmError> {
        let (vcpus, runners): (Vec<_>, Vec<_>) =
            parked.into_iter().map(|Parked { vcpu, runner }| (vcpu, runner)).unzip();
        vcpus.iter().try_for_each(setup::used)?;
        let ready = Self::of(kvm, vm, (vcpus, runners), outside, power)?;
        if let Some(ring) = &ready.group.outside.ring {
            // What the last machine's guest wrote last is no business of this one's.
            ring.take(|_, _, _| ());
        }
        Ok(ready)
    }

    fn of(
        kvm: &Kvm,
        vm: Arc<Vm>,
        (vcpus, runners): (Vec<VcpuFd>, Vec<Runner>),
        (buses, unclaimed): (Buses, Arc<Unclaimed>),
        power: PowerSwitch,
    ) -> Result<Self, KvmError> {
        let cpus = u32::try_from(vcpus.len()).unwrap_or(u32::MAX);
        let pages = SharedPages::of(kvm)?;
        let ring = match vcpus.first() {
            Some(vcpu) if vm.coalesces() => Ring::map(vcpu, &pages).map_err(|source| KvmError::Refused {
                step: "mmap of the ring of coalesced writes",
                source,
            })?,
            _ => None,
        };
        let map = buses.map.clone();
        let outside = Outside { buses, unclaimed, pages, ring };
        let msrs = kvm.get_msr_index_list().map_err(KvmError::refused("KVM_GET_MSR_INDEX_LIST"))?;
        let control = Control::new(cpus, power.clone(), map, msrs.as_slice().into());
        let control = Arc::new(control);
        let group = Group { vm, outside, power, control };
        Ok(Self { group: Arc::new(group), vcpus, runners })
    }

    /// The handle that controls these vCPUs.
    pub(crate) fn controller(&self) -> Controller {
        Controller(self.group.control.clone())
    }

    /// Gives each vCPU the state that it had in a machine that was saved, but for the time: that is the last.
    pub(crate) fn set_states(&self, time: &Time, states: &[VcpuState]) -> Result<(), SnapshotError> {
        for (cpu, (vcpu, state)) in (0..).zip(self.vcpus.iter().zip(states)) {
            time.set_speed(&self.group.vm, vcpu)?;
            state.set_on_new(vcpu).map_err(|source| SnapshotError::Vcpu { cpu, source })?;
        }
        Ok(())
    }

    /// Has time go on from where it was; the vCPUs are to be started next.
    pub(crate) fn set_time(&self, time: &Time, states: &[VcpuState]) -> Result<(), SnapshotError> {
        time.set(&self.group.vm, &self.vcpus, states)
    }

    /// Starts the threads; each is in place, and can be called back, before any enters the guest.
    pub(crate) fn start(self, began: Instant) -> io::Result<Vec<VcpuThread>> {
        kick::install_handler()?;
        // The gate is shut while this is held; each thread says that it is there, and then waits at it.
        let gate = Arc::new(Mutex::new(()));
        let shut = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let (there, all) = mpsc::channel();
        let mut threads: Vec<VcpuThread> = Vec::new();
        let mut runners = self.runners.into_iter();
        for (index, vcpu) in (0..).zip(self.vcpus) {
            let shared = Arc::<Shared>::default();
            let Some(kick) = self.group.control.kick(index).cloned() else { break };
            let job: Job = {
                let (group, shared) = (self.group.clone(), shared.clone());
                let (there, gate) = (there.clone(), gate.clone());
                Box::new(move || {
                    let mut vcpu = vcpu;
                    let (trace, dump) = {
                        let _registered = kick.register(&mut vcpu);
                        shared.note_clock();
                        let _owner_has_given_up = there.send(());
                        drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
                        guarded(&mut vcpu, index, &group, &shared, began)
                    };
                    let dismissed = group.power.outcome() == Some(Outcome::Dismissed);
                    let vcpu = (dismissed && run::complete(&mut vcpu)).then_some(vcpu);
                    Done { trace, dump, vcpu }
                })
            };
            let runner = match runners.next() {
                Some(runner) => runner.run(job),
                None => Runner::start(index, job),
            };
            let runner = match runner {
                Ok(runner) => runner,
                Err(error) => {
                    // Those that are there go through the gate of a machine that has ended.
                    self.group.power.end(Outcome::MachineFailed { error: error.to_string() });
                    drop(shut);
                    for thread in threads {
                        thread.join();
                    }
                    return Err(error);
                }
            };
            threads.push(VcpuThread { index, control: self.group.control.clone(), shared, runner });
        }
        for _ in &threads {
            let _a_thread_is_there = all.recv();
        }
        self.group.control.start();
        drop(shut);
        Ok(threads)
    }
}

/// Runs the vCPU; a panic of a device's ends the machine, not the process.
fn guarded(
    vcpu: &mut VcpuFd,
    index: u32,
    group: &Group,
    shared: &Shared,
    began: Instant,
) -> (VcpuTrace, Option<VcpuDump>) {
    let mut recorder = Recorder::new(index, began);
    let body = std::panic::AssertUnwindSafe(|| run(vcpu, index, group, shared, &mut recorder));
    let why = std::panic::catch_unwind(body).unwrap_or_else(|_| {
        let error = format!("the thread of vCPU {index} panicked");
        group.power.end(Outcome::MachineFailed { error: error.clone() });
        Some(error)
    });
    group.control.leave(index);
    group.control.steps.end();
    let dump = group.power.outcome().filter(Outcome::wants_explaining).and_then(|_| {
        let why = why.unwrap_or_else(|| "the machine ended".to_owned());
        VcpuDump::take(vcpu, index, why, &group.control.map().view()).ok()
    });
    (recorder.trace(), dump)
}

/// Runs the vCPU until the machine ends; tells why, if it was this vCPU that ended it.
fn run(
    vcpu: &mut VcpuFd,
    index: u32,
    group: &Group,
    shared: &Shared,
    recorder: &mut Recorder,
) -> Option<String> {
    let mut debug = GuestDebug::default();
    let mut mmio = Seen::new(&group.outside.buses.mmio);
    // A machine may start paused.
    group.control.attend(index, &mut Hands { vcpu, recorder, debug: &mut debug });
    while !group.power.ended() {
        let hands = &mut Hands { vcpu, recorder, debug: &mut debug };
        if let Err((outcome, why)) = turn(index, group, shared, hands, &mut mmio) {
            group.power.end(outcome);
            return Some(why);
        }
    }
    None
}

/// One entry into the guest, and what it takes before the next.
#[inline]
fn turn(
    index: u32,
    group: &Group,
    shared: &Shared,
    hands: &mut Hands<'_>,
    mmio: &mut Seen,
) -> Result<(), End> {
    let (outside, stops) = (&group.outside, group.stops());
    if outside.buses.map.is_asked() {
        outside.settle(mmio, hands.recorder)?;
    }
    match run::once(hands.vcpu, index, outside, mmio, hands.recorder) {
        Next::GoOn => return Ok(()),
        Next::Called => {}
        Next::Debug(stop) => return stops.debug(hands, stop),
        Next::Trap(value) if !hands.debug.traps() => {
            // With no debugger it is a port like any other.
            return outside.write_port(mmio, hands.recorder, (index, TRAP_PORT), value);
        }
        Next::Trap(value) => {
            if let Trapped::Guests(step) = stops.trap(hands, index)? {
                outside.write_port(mmio, hands.recorder, (index, TRAP_PORT), value)?;
                step.map_or(Ok(()), |step| stops.debug(hands, step))?;
            }
        }
        Next::End(outcome, why) => {
            if stops.emulated(hands, &outcome) {
                return Ok(());
            }
            if outcome.wants_explaining() {
                hear(&group.control, hands, &VcpuStop::Fatal { cpu: index, outcome: outcome.clone() });
            }
            return Err((outcome, why));
        }
    }
    // It was called back.
    kick::heard(hands.vcpu);
    shared.answer(hands.vcpu);
    group.control.attend(index, hands);
    Ok(())
}

impl Shared {
    /// Answers the question that this vCPU was called back for, if there is one.
    fn answer(&self, vcpu: &VcpuFd) {
        let asked = self.asked.load(Ordering::SeqCst);
        if asked == self.answered.load(Ordering::SeqCst) {
            return;
        }
        let idle = if sleeps_for_ever(vcpu) { Idle::ForEver } else { Idle::No };
        self.idle.store(idle as u32, Ordering::SeqCst);
        self.answered.store(asked, Ordering::SeqCst);
    }

    fn note_clock(&self) {
        let mut clock = 0;
        // SAFETY: the calling thread is alive, and the clock's number is written to a live variable.
        #[allow(unsafe_code)]
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } != 0;
        if !failed {
            self.clock.store(u64::from(clock.cast_unsigned()), Ordering::SeqCst);
        }
    }
}

fn sleeps_for_ever(vcpu: &VcpuFd) -> bool {
    let (Ok(state), Ok(regs), Ok(events)) = (vcpu.get_mp_state(), vcpu.get_regs(), vcpu.get_vcpu_events())
    else {
        return false;
    };
    match state.mp_state {
        KVM_MP_STATE_HALTED => regs.rflags & RFLAGS_IF == 0 && events.nmi.pending == 0,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
        _ => false,
    }
}

impl VcpuThread {
    /// How much CPU time the vCPU has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let clock = self.shared.clock.load(Ordering::SeqCst);
        let Ok(clock) = u32::try_from(clock) else { return Duration::ZERO };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the time is written to a live variable; a clock whose thread has ended is an error.
        #[allow(unsafe_code)]
        let failed = unsafe { libc::clock_gettime(clock.cast_signed(), &raw mut time) } != 0;
        if failed {
            return Duration::ZERO;
        }
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// Asks the vCPU whether it can ever go on; see [`VcpuThread::idle`].
    pub(crate) fn ask(&self) {
        self.shared.idle.store(Idle::Unknown as u32, Ordering::SeqCst);
        self.shared.asked.fetch_add(1, Ordering::SeqCst);
        self.kick();
    }

    /// The answer to the last question.
    pub(crate) fn idle(&self) -> Idle {
        if self.shared.answered.load(Ordering::SeqCst) != self.shared.asked.load(Ordering::SeqCst) {
            return Idle::Unknown;
        }
        if self.shared.idle.load(Ordering::SeqCst) == Idle::ForEver as u32 { Idle::ForEver } else { Idle::No }
    }

    /// Calls the vCPU out of the guest, for good if the machine has ended.
    pub(crate) fn kick(&self) {
        if let Some(kick) = self.control.kick(self.index) {
            kick.kick();
        }
    }

    /// Waits until the vCPU of a machine that has ended is done: what it did, and where it stood if that explains the end. Of a
    /// machine that was dismissed the vCPU is left, out of the guest and with nothing half done.
    pub(crate) fn join(self) -> (VcpuTrace, Option<VcpuDump>, Option<Parked>) {
        let Self { index, runner, .. } = self;
        match runner.done() {
            Some(Done { trace, dump, vcpu }) => (trace, dump, vcpu.map(|vcpu| Parked { vcpu, runner })),
            None => (VcpuTrace { index, ..VcpuTrace::default() }, None, None),
        }
    }
}
