//! Where the machine's threads and those who control it meet: the state, and work for each vCPU.
//!
//! None of it is on the way of an exit. A vCPU is called back by its [`Kick`], and only then looks here: it does
//! the work that waits for it, and stays while the machine is paused.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::controller::{ControlError, Debugger};
use super::guest_debug::GuestDebug;
use super::hold::{Holds, Owner};
use super::kick::Kick;
use super::steps::Steps;
use crate::bell::Bell;
use crate::device::rtc::NmiMask;
use crate::dump::{self, VcpuDump};
use crate::kvm::KVM_NODE;
use crate::memory::GuestMemory;
use crate::memory::map::MemoryMap;
use crate::outcome::PowerSwitch;
use crate::trace::Recorder;

/// How long a vCPU may take to come out of the guest. It takes microseconds unless a device, or a host that has no
/// processor for it, holds it up; then whoever waits is told so rather than held up as well.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// It is built and has not been started.
    Created,
    /// Its vCPUs run the guest.
    Running,
    /// Its vCPUs are out of the guest, and stay out.
    Paused,
    /// It has ended.
    Stopped,
}

/// What work on a vCPU's own thread has in its hands.
pub(super) struct Hands<'a> {
    pub(super) vcpu: &'a mut VcpuFd,
    pub(super) debug: &'a mut GuestDebug,
    pub(super) recorder: &'a mut Recorder,
}

/// Work for one vCPU.
pub(super) type Work = Box<dyn FnOnce(&mut Hands<'_>) + Send>;

/// What the threads of a machine and its controllers share.
pub(super) struct Control {
    power: PowerSwitch,
    map: Arc<MemoryMap>,
    /// The model-specific registers that KVM keeps.
    msrs: Arc<[u32]>,
    /// The device node that the machine was made with.
    kvm_node: OnceLock<PathBuf>,
    /// The kernel's file, whose symbols name what is dumped.
    kernel: OnceLock<PathBuf>,
    /// The gate that NMIs go through.
    nmi_mask: OnceLock<NmiMask>,
    debugger: Mutex<Option<Debugger>>,
    /// Where debuggers are listened for, as gdb takes it.
    door: Mutex<Option<String>>,
    /// Holds the machine for [`super::Controller::pause`].
    pub(super) caller: Owner,
    pub(super) steps: Steps,
    kicks: Vec<Arc<Kick>>,
    desk: Mutex<Desk>,
    /// Told of each change of the desk that somebody may wait for.
    changed: Condvar,
    /// Rung at each change of the machine's state.
    bell: OnceLock<Arc<Bell>>,
}

struct Desk {
    started: bool,
    /// The machine is paused while one is left.
    holds: Holds,
    seats: Vec<Seat>,
}

/// A vCPU as the desk sees it.
#[derive(Default)]
struct Seat {
    /// Its thread is there, and takes work.
    taken: bool,
    /// It waits, out of the guest, for the end of the pause.
    parked: bool,
    /// It stays out of the guest while others go on: a debugger steps one of them.
    kept: bool,
    work: VecDeque<Work>,
}

impl Control {
    pub(super) fn new(cpus: u32, power: PowerSwitch, map: Arc<MemoryMap>, msrs: Arc<[u32]>) -> Self {
        let kicks = (0..cpus).map(|_| Arc::default()).collect();
        let seats = (0..cpus).map(|_| Seat::default()).collect();
        let desk = Mutex::new(Desk { started: false, holds: Holds::default(), seats });
        let (kvm_node, kernel, nmi_mask) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let (debugger, door) = (Mutex::default(), Mutex::default());
        let (caller, steps) = (Owner::new("caller").with_running_deadline(), Steps::default());
        let (changed, bell) = (Condvar::new(), OnceLock::new());
        Self {
            power,
            map,
            msrs,
            kvm_node,
            kernel,
            nmi_mask,
            debugger,
            door,
            caller,
            steps,
            kicks,
            desk,
            changed,
            bell,
        }
    }

    pub(super) fn cpus(&self) -> u32 {
        u32::try_from(self.kicks.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn power(&self) -> &PowerSwitch {
        &self.power
    }

    pub(super) fn memory(&self) -> &GuestMemory {
        self.map.ram()
    }

    pub(super) fn map(&self) -> &Arc<MemoryMap> {
        &self.map
    }

    pub(super) fn msrs(&self) -> &Arc<[u32]> {
        &self.msrs
    }

    pub(super) fn set_kvm_node(&self, node: PathBuf) {
        let _once = self.kvm_node.set(node);
    }

    pub(super) fn kvm_node(&self) -> &Path {
        self.kvm_node.get().map_or(Path::new(KVM_NODE), PathBuf::as_path)
    }

    /// Has dumps named by the symbols of this file.
    pub(super) fn set_kernel(&self, kernel: PathBuf) {
        let _once = self.kernel.set(kernel);
    }

    /// Has NMIs wait at this gate.
    pub(super) fn set_nmi_mask(&self, mask: NmiMask) {
        let _once = self.nmi_mask.set(mask);
    }

    pub(super) fn nmi_mask(&self) -> Option<&NmiMask> {
        self.nmi_mask.get()
    }

    /// Names what can be named in `dumps`.
    pub(super) fn name(&self, dumps: &mut [VcpuDump]) {
        if let Some(kernel) = self.kernel.get() {
            dump::name(dumps, kernel);
        }
    }

    pub(super) fn debugger(&self) -> Option<Debugger> {
        self.debugger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn door(&self) -> MutexGuard<'_, Option<String>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attach(&self, debugger: Debugger) -> Result<(), ControlError> {
        let mut slot = self.debugger.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Err(ControlError::Debugged);
        }
        *slot = Some(debugger);
        Ok(())
    }

    pub(super) fn detach(&self) {
        self.debugger.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn kick(&self, index: u32) -> Option<&Arc<Kick>> {
        self.kicks.get(usize::try_from(index).ok()?)
    }

    /// The machine runs from now on, unless it was paused before.
    pub(super) fn start(&self) {
        let mut desk = self.lock();
        desk.started = true;
        for seat in &mut desk.seats {
            seat.taken = true;
        }
        drop(desk);
        self.ring();
    }

    /// Has `bell` rung from now on at each change of the machine's state, of its holders, and when all vCPUs are out of
    /// the guest; the first one counts.
    pub(super) fn set_bell(&self, bell: Arc<Bell>) {
        let _first = self.bell.set(bell);
        self.ring();
    }

    fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// Whether every vCPU is out of the guest, and stays out.
    pub(super) fn at_rest(&self) -> bool {
        let desk = self.lock();
        desk.holds.any() && desk.seats.iter().all(|seat| seat.parked || !seat.taken)
    }

    /// Whether somebody holds the machine whose holds stop its deadline.
    pub(super) fn deadline_stands(&self) -> bool {
        self.lock().holds.stop_deadline()
    }

    /// The thread of vCPU `index` takes no more work; what waits for it is dropped, which its owners notice.
    pub(super) fn leave(&self, index: u32) {
        let undone = self.lock().seat(index).map(|seat| {
            (seat.taken, seat.parked) = (false, false);
            std::mem::take(&mut seat.work)
        });
        drop(undone);
        self.changed.notify_all();
    }

    /// Tells those who wait here to look again whether the machine has ended.
    pub(super) fn ended(&self) {
        drop(self.lock());
        self.changed.notify_all();
        self.ring();
    }

    pub(super) fn state(&self) -> MachineState {
        let desk = self.lock();
        match (self.power.ended(), desk.started, desk.holds.any()) {
            (true, ..) => MachineState::Stopped,
            (_, false, _) => MachineState::Created,
            (_, _, true) => MachineState::Paused,
            _ => MachineState::Running,
        }
    }

    /// Does what vCPU `index` was called back for, on its thread; comes back when it may enter the guest.
    pub(super) fn attend(&self, index: u32, hands: &mut Hands<'_>) {
        let mut waited = false;
        let mut desk = self.lock();
        loop {
            let paused = desk.holds.any() && !self.power.ended();
            let Some(seat) = desk.seat(index) else { return };
            let paused = paused || seat.kept && !self.power.ended();
            if let Some(work) = seat.work.pop_front() {
                drop(desk);
                work(hands);
                desk = self.lock();
                continue;
            }
            let was_parked = std::mem::replace(&mut seat.parked, paused);
            if !paused {
                break;
            }
            waited = true;
            // Told once: two that wait here and told each other each time would never rest.
            if !was_parked {
                self.changed.notify_all();
                self.ring();
            }
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
        drop(desk);
        if waited {
            // A guest with KVM's clock is told of the pause, so that its watchdogs don't bark; others have no need.
            let _no_kvmclock = hands.vcpu.kvmclock_ctrl();
        }
    }

    /// Puts `work` on the list of vCPU `index`, and calls it back for it.
    pub(super) fn post(&self, index: u32, work: Work) -> Result<(), ControlError> {
        let cpus = self.cpus();
        let mut desk = self.lock();
        if self.power.ended() {
            return Err(ControlError::Ended);
        }
        if !desk.started {
            return Err(ControlError::NotStarted);
        }
        let seat = desk.seat(index).ok_or(ControlError::NoVcpu { cpu: index, cpus })?;
        if !seat.taken {
            return Err(ControlError::Ended);
        }
        seat.work.push_back(work);
        drop(desk);
        self.changed.notify_all();
        if let Some(kick) = self.kick(index) {
            kick.kick();
        }
        Ok(())
    }

    /// Waits for the result of work that was posted to vCPU `index`.
    pub(super) fn result<R>(
        &self,
        index: u32,
        results: &std::sync::mpsc::Receiver<R>,
    ) -> Result<R, ControlError> {
        self.result_within(LIMIT, index, results)
    }

    /// As [`Control::result`], within `limit`.
    pub(super) fn result_within<R>(
        &self,
        limit: Duration,
        index: u32,
        results: &std::sync::mpsc::Receiver<R>,
    ) -> Result<R, ControlError> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        results.recv_timeout(limit).map_err(|error| match error {
            Disconnected => ControlError::Ended,
            Timeout => ControlError::NoAnswer { cpu: index, seconds: limit.as_secs() },
        })
    }

    /// Has every vCPU leave the guest and stay out for `owner`, without waiting for it. Tells whether that is new.
    pub(super) fn hold(&self, owner: &Owner) -> bool {
        let new = self.lock().holds.add(owner, Instant::now());
        for kick in &self.kicks {
            kick.kick();
        }
        self.ring();
        new
    }

    /// Holds the machine for `owner`, and waits until every vCPU is out of the guest.
    pub(super) fn pause(&self, owner: &Owner) -> Result<(), ControlError> {
        if self.power.ended() {
            return Err(ControlError::Ended);
        }
        let new = self.hold(owner);
        if !owner.pauses() {
            return Ok(());
        }
        let deadline = Instant::now() + LIMIT;
        let mut desk = self.lock();
        loop {
            if self.power.ended() {
                return Err(ControlError::Ended);
            }
            if !desk.holds.has(owner) {
                return Err(ControlError::Released);
            }
            let busy = desk.seats.iter().position(|seat| seat.taken && !seat.parked);
            let Some(busy) = busy else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Only what this call has done is undone.
                if new {
                    desk.holds.remove(owner, Instant::now());
                }
                drop(desk);
                self.changed.notify_all();
                self.ring();
                let cpu = u32::try_from(busy).unwrap_or(u32::MAX);
                return Err(ControlError::NoAnswer { cpu, seconds: LIMIT.as_secs() });
            }
            desk = self.changed.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends `owner`'s hold, if there is one; the vCPUs go on if it was the last.
    pub(super) fn resume(&self, owner: &Owner) -> Result<(), ControlError> {
        if self.power.ended() {
            return Err(ControlError::Ended);
        }
        self.lock().holds.remove(owner, Instant::now());
        self.changed.notify_all();
        self.ring();
        Ok(())
    }

    /// Says which vCPUs of a paused machine stay where they are when it goes on: those that `kept` names.
    pub(super) fn keep(&self, kept: &[bool]) {
        let mut desk = self.lock();
        for (index, seat) in desk.seats.iter_mut().enumerate() {
            seat.kept = kept.get(index).copied().unwrap_or(false);
        }
        drop(desk);
        self.changed.notify_all();
    }

    /// The names of those who hold the machine, in the order in which they came.
    pub(super) fn holders(&self) -> Vec<String> {
        self.lock().holds.names()
    }

    /// For how long the machine has been held, all in all, by those whose holds stop its deadline.
    pub(super) fn held(&self) -> Duration {
        self.lock().holds.time(Instant::now())
    }

    /// As [`Control::held`], until the hold that lasts.
    pub(super) fn held_before(&self) -> Duration {
        self.lock().holds.time_before()
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn seat(&mut self, index: u32) -> Option<&mut Seat> {
        self.seats.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(cpus: u32, power: PowerSwitch) -> Control {
        let ram = crate::memory::allocate(1 << 20).unwrap();
        let map = MemoryMap::new(crate::memory::table::Table::new(1, 36), ram, Vec::new()).unwrap();
        Control::new(cpus, power, Arc::new(map), Arc::default())
    }

    #[test]
    fn machine_goes_from_created_to_stopped() {
        let power = PowerSwitch::new();
        let control = control(1, power.clone());
        assert_eq!(control.state(), MachineState::Created);
        assert!(matches!(control.post(0, Box::new(|_| {})), Err(ControlError::NotStarted)));
        control.start();
        assert_eq!(control.state(), MachineState::Running);
        assert!(matches!(control.post(1, Box::new(|_| {})), Err(ControlError::NoVcpu { cpu: 1, cpus: 1 })));
        control.hold(&control.caller);
        assert_eq!(control.state(), MachineState::Paused);
        control.resume(&control.caller).unwrap();
        assert_eq!(control.state(), MachineState::Running);
        power.end(crate::outcome::Outcome::Stopped);
        assert_eq!(control.state(), MachineState::Stopped);
        assert!(matches!(control.pause(&control.caller), Err(ControlError::Ended)));
        assert!(matches!(control.resume(&control.caller), Err(ControlError::Ended)));
    }

    #[test]
    fn machine_paused_before_it_starts_starts_paused() {
        let control = control(2, PowerSwitch::new());
        control.pause(&control.caller).unwrap();
        assert_eq!(control.state(), MachineState::Created);
        control.start();
        assert_eq!(control.state(), MachineState::Paused);
    }

    #[test]
    fn work_for_a_thread_that_has_left_is_given_up() {
        let control = control(1, PowerSwitch::new());
        control.start();
        let (results, result) = std::sync::mpsc::channel::<()>();
        control.post(0, Box::new(move |_| results.send(()).unwrap_or_default())).unwrap();
        control.leave(0);
        assert!(matches!(control.result(0, &result), Err(ControlError::Ended)));
        assert!(matches!(control.post(0, Box::new(|_| {})), Err(ControlError::Ended)));
    }

    #[test]
    fn pause_waits_for_no_thread_that_has_left() {
        let control = control(1, PowerSwitch::new());
        control.start();
        control.leave(0);
        control.pause(&control.caller).unwrap();
    }

    #[test]
    fn machine_held_by_two_runs_when_both_have_let_go() {
        let control = control(1, PowerSwitch::new());
        let (gdb, socket) = (Owner::new("gdb"), Owner::new("socket"));
        control.pause(&gdb).unwrap();
        control.pause(&socket).unwrap();
        control.start();
        control.resume(&socket).unwrap();
        control.resume(&socket).unwrap();
        assert_eq!((control.state(), control.holders()), (MachineState::Paused, vec!["gdb".to_owned()]));
        control.resume(&gdb).unwrap();
        assert_eq!((control.state(), control.holders()), (MachineState::Running, vec![]));
    }

    #[test]
    fn pause_whose_hold_is_ended_by_another_ends_at_once() {
        let control = Arc::new(control(1, PowerSwitch::new()));
        // Its vCPU has no thread, and never parks.
        control.start();
        let (mine, others) = (Owner::new("mine"), Owner::new("other"));
        control.hold(&others);
        let waiting = std::thread::spawn({
            let (control, mine) = (control.clone(), mine.clone());
            move || control.pause(&mine)
        });
        while control.holders().len() < 2 {
            std::thread::yield_now();
        }
        control.resume(&mine).unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(ControlError::Released)));
        assert_eq!(control.holders(), ["other"]);
    }
}
