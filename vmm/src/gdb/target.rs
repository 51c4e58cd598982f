//! A machine as gdb's protocol asks for it: threads, registers, memory, breakpoints, running on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints as SupportsBreakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint,
    HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::breakpoints::{Breakpoints, Hardware};
use super::registers::{VcpuRegisters, X86};
use super::wire::Words;
use super::{monitor, probe, probe::Support};
use crate::bell::Bell;
use crate::dump::{PageWalk, read_linear, write_linear};
use crate::memory::{MemoryView, Readable};
use crate::outcome::Outcome;
use crate::vcpu::state::{MpState, SpecialRegisters};
use crate::vcpu::{ControlError, Controller, DebugRequest, Owner, Trap, VcpuStop};

/// Errors as gdb's protocol has them: Linux' numbers.
const ESRCH: u8 = 3;
const EIO: u8 = 5;
const EFAULT: u8 = 14;
const EINVAL: u8 = super::wire::REFUSED;

const PAGE: u64 = 4096;
/// CR0: protected mode (Intel SDM, volume 3, §2.5).
const CR0_PE: u64 = 1;
/// A page-table entry: user-mode code may use what is below (Intel SDM, volume 3, §4.5).
const PAGE_USER: u64 = 1 << 2;

/// What the vCPUs' threads and the session share.
pub(super) struct Mailbox {
    /// Rung when there is something to look at.
    pub(super) wake: Arc<Bell>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    stops: Vec<VcpuStop>,
    /// Where the debugger's breakpoints in memory are.
    software: BTreeSet<u64>,
    /// Which vCPUs it steps.
    steps: Vec<bool>,
    /// Whether debug registers are its own.
    hardware: bool,
}

impl Mailbox {
    pub(super) fn new(wake: Arc<Bell>) -> Self {
        Self { wake, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stop if it is the debugger's: called on a vCPU's thread.
    fn told(&self, stop: &VcpuStop) -> bool {
        let mut inner = self.lock();
        let own = match stop {
            VcpuStop::Fatal { .. } => true,
            VcpuStop::Debug(stop) if stop.exception == crate::vcpu::BP => inner.software.contains(&stop.pc),
            VcpuStop::Debug(stop) => {
                let stepped = usize::try_from(stop.cpu).ok().and_then(|cpu| inner.steps.get(cpu)).copied();
                stop.is_step() && stepped == Some(true) || stop.hits() != 0 && inner.hardware
            }
        };
        if own {
            inner.stops.push(stop.clone());
            drop(inner);
            self.wake.ring();
        }
        own
    }
}

/// A machine under a debugger. When it goes, so do all traces of the debugger.
pub(super) struct DebuggedMachine {
    pub(super) controller: Controller,
    owner: Owner,
    mailbox: Arc<Mailbox>,
    pub(super) breakpoints: Breakpoints,
    /// What this host's KVM stops at.
    support: Support,
    /// Why what gdb asked for last is refused, where the protocol's crate has no word for it.
    words: Words,
    /// What is known of the vCPUs while they stand still.
    special: Vec<Option<SpecialRegisters>>,
    /// What each vCPU is to do when the machine goes on.
    steps: Vec<bool>,
    runs: Vec<bool>,
    /// Only those that are named run.
    locked: bool,
    /// What KVM was asked for last.
    requests: Vec<DebugRequest>,
    running: bool,
    /// Stops that came together with one that gdb was told of, and won't come again.
    pending: Vec<VcpuStop>,
    /// The vCPU that stopped last.
    last: u32,
}

impl DebuggedMachine {
    /// Stops the machine for a debugger.
    pub(super) fn attach(
        controller: Controller,
        owner: Owner,
        mailbox: Arc<Mailbox>,
        words: Words,
    ) -> Result<Self, ControlError> {
        let cpus = usize::try_from(controller.cpus()).unwrap_or(0);
        *mailbox.lock() = Inner::default();
        let told = mailbox.clone();
        controller.attach_debugger(&owner, move |stop| told.told(stop))?;
        let support = probe::support(controller.kvm_node());
        let machine = Self {
            controller,
            owner,
            mailbox,
            breakpoints: Breakpoints::new(support.trap),
            support,
            words,
            special: vec![None; cpus],
            steps: vec![false; cpus],
            runs: vec![false; cpus],
            locked: false,
            requests: vec![DebugRequest::default(); cpus],
            running: false,
            pending: Vec::new(),
            last: 0,
        };
        machine.controller.hold(&machine.owner)?;
        Ok(machine)
    }

    /// Whether gdb waits for the machine to stop.
    pub(super) fn running(&self) -> bool {
        self.running
    }

    /// What gdb is to be told of if the machine has stopped since it was let run.
    pub(super) fn stopped(&mut self) -> Result<Option<MultiThreadStopReason<u64>>, ControlError> {
        self.pending.append(&mut self.mailbox.lock().stops);
        if !self.running || self.pending.is_empty() {
            return Ok(None);
        }
        self.halt().map(Some)
    }

    /// Stops the machine, for the reason that it has by itself, or else for gdb's interrupt.
    pub(super) fn halt(&mut self) -> Result<MultiThreadStopReason<u64>, ControlError> {
        self.controller.hold(&self.owner)?;
        self.running = false;
        self.controller.keep_vcpus(&[]);
        self.pending.append(&mut self.mailbox.lock().stops);
        if self.pending.is_empty() {
            return Ok(MultiThreadStopReason::SignalWithThread {
                tid: self.tid(self.last),
                signal: Signal::SIGINT,
            });
        }
        let first = self.pending.remove(0);
        // A vCPU that stands before a breakpoint comes upon it again, if it is still there then.
        let breakpoints = &self.breakpoints;
        self.pending.retain(|stop| match stop {
            VcpuStop::Fatal { .. } => true,
            VcpuStop::Debug(stop) => {
                stop.is_step() || matches!(breakpoints.hit(stop.hits()), Some(Hardware::Watch { .. }))
            }
        });
        Ok(self.reason(&first))
    }

    fn watch(&self, hits: u64) -> Option<(WatchKind, u64)> {
        match self.breakpoints.hit(hits) {
            Some(Hardware::Watch { kind, start }) => Some((kind, start)),
            _ => None,
        }
    }

    fn reason(&mut self, stop: &VcpuStop) -> MultiThreadStopReason<u64> {
        let (cpu, signal) = match stop {
            VcpuStop::Fatal { cpu, outcome: Outcome::TripleFault { .. } } => (*cpu, Signal::SIGSEGV),
            VcpuStop::Fatal { cpu, .. } => (*cpu, Signal::SIGABRT),
            VcpuStop::Debug(stop) => (stop.cpu, Signal::SIGTRAP),
        };
        self.last = cpu;
        let tid = self.tid(cpu);
        let VcpuStop::Debug(stop) = stop else {
            return MultiThreadStopReason::SignalWithThread { tid, signal };
        };
        match (stop.exception == crate::vcpu::BP, self.watch(stop.hits())) {
            (true, _) => MultiThreadStopReason::SwBreak(tid),
            (_, Some((kind, addr))) => MultiThreadStopReason::Watch { tid, kind, addr },
            _ if stop.hits() != 0 => MultiThreadStopReason::HwBreak(tid),
            _ => MultiThreadStopReason::SignalWithThread { tid, signal },
        }
    }

    /// vCPUs are counted from 0, threads from 1.
    fn tid(&self, cpu: u32) -> Tid {
        usize::try_from(cpu).ok().and_then(|cpu| Tid::MIN.checked_add(cpu)).unwrap_or(Tid::MIN)
    }

    fn cpu(&self, tid: Tid) -> Option<u32> {
        u32::try_from(tid.get() - 1).ok().filter(|cpu| *cpu < self.controller.cpus())
    }

    fn slot<T>(list: &mut [T], cpu: u32) -> Option<&mut T> {
        list.get_mut(usize::try_from(cpu).ok()?)
    }

    /// How vCPU `tid` sees memory.
    fn view(&mut self, tid: Tid) -> TargetResult<SpecialRegisters, Self> {
        let cpu = self.cpu(tid).ok_or(TargetError::Errno(ESRCH))?;
        if let Some(Some(known)) = Self::slot(&mut self.special, cpu) {
            return Ok(*known);
        }
        let sregs = self.controller.run_on_vcpu(cpu, |vcpu| vcpu.get_sregs()).map_err(gone)?;
        let special = SpecialRegisters::from(sregs.map_err(|_| TargetError::Errno(EIO))?);
        if !self.running
            && let Some(slot) = Self::slot(&mut self.special, cpu)
        {
            *slot = Some(special);
        }
        Ok(special)
    }

    /// Where `linear` is in guest-physical memory, and how many bytes of its page there are from there.
    fn place(memory: &MemoryView, special: &SpecialRegisters, linear: u64) -> Option<(u64, usize)> {
        let physical = PageWalk::new(memory, special, linear).physical()?;
        Some((physical, usize::try_from(PAGE - linear % PAGE).ok()?))
    }

    /// Whether a vCPU is about to carry out what is at `linear`, or may be.
    fn anybody_at(&self, linear: u64) -> bool {
        let all = self.controller.run_on_all_vcpus(move |_, vcpu| {
            let (Ok(regs), Ok(special)) = (vcpu.get_regs(), vcpu.get_sregs()) else { return true };
            let special = SpecialRegisters::from(special);
            special.linear(&special.cs, regs.rip) == linear
        });
        all.map_or(true, |all| all.contains(&true))
    }

    fn go_on(&mut self) -> Result<(), ControlError> {
        self.special.fill(None);
        self.running = true;
        if !self.pending.is_empty() {
            // gdb is told of these first.
            return Ok(());
        }
        let software: BTreeSet<u64> = self.breakpoints.software().collect();
        let hardware = self.breakpoints.registers();
        let trap = (!software.is_empty()).then(|| self.breakpoints.trap());
        let request = |step: &bool| DebugRequest { software: trap, hardware, step: *step };
        let requests: Vec<DebugRequest> = self.steps.iter().map(request).collect();
        {
            let mut inner = self.mailbox.lock();
            (inner.software, inner.hardware) = (software, hardware.is_some());
            inner.steps.clone_from(&self.steps);
        }
        if requests != self.requests {
            self.controller.set_debug_requests(requests.clone())?;
            self.requests = requests;
        }
        let kept: Vec<bool> = if self.locked {
            self.steps.iter().zip(&self.runs).map(|(steps, runs)| !steps && !runs).collect()
        } else {
            Vec::new()
        };
        self.controller.keep_vcpus(&kept);
        self.controller.release(&self.owner)
    }
}

impl Drop for DebuggedMachine {
    fn drop(&mut self) {
        // A machine that has ended, or that a device holds up, is cleaned all the same.
        let _ended = self.controller.hold(&self.owner);
        self.breakpoints.clear(self.controller.memory());
        let nothing = vec![DebugRequest::default(); self.requests.len()];
        if self.requests != nothing {
            let _ended = self.controller.set_debug_requests(nothing);
        }
        self.controller.detach_debugger();
        self.controller.keep_vcpus(&[]);
        let _ended = self.controller.release(&self.owner);
    }
}

/// Whether user-mode code may run at `linear`: every entry on the way lets it.
fn user(memory: &impl Readable, special: &SpecialRegisters, linear: u64) -> bool {
    let walk = PageWalk::new(memory, special, linear);
    !walk.entries.is_empty() && walk.entries.iter().all(|entry| entry.value & PAGE_USER != 0)
}

fn gone(_: ControlError) -> TargetError<ControlError> {
    TargetError::Errno(ESRCH)
}

impl Target for DebuggedMachine {
    type Arch = X86;
    type Error = ControlError;

    fn base_ops(&mut self) -> BaseOps<'_, X86, ControlError> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for DebuggedMachine {
    fn read_registers(&mut self, regs: &mut VcpuRegisters, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.cpu(tid).ok_or(TargetError::Errno(ESRCH))?;
        let read = self.controller.run_on_vcpu(cpu, |vcpu| VcpuRegisters::read(vcpu)).map_err(gone)?;
        *regs = read.map_err(|_| TargetError::Errno(EIO))?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &VcpuRegisters, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.cpu(tid).ok_or(TargetError::Errno(ESRCH))?;
        let regs = regs.clone();
        let written = self.controller.run_on_vcpu(cpu, move |vcpu| regs.write(vcpu)).map_err(gone)?;
        self.special.fill(None);
        written.map_err(|error| TargetError::Errno(u8::try_from(error.errno()).unwrap_or(EIO)))
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let (special, memory) = (self.view(tid)?, self.controller.view());
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = u64::try_from(done).ok().and_then(|done| start.checked_add(done));
            let Some((at, (physical, room))) =
                at.and_then(|at| Some((at, Self::place(&memory, &special, at)?)))
            else {
                break;
            };
            let length = room.min(rest.len());
            let mut bytes = read_linear(&memory, &special, at, length);
            self.breakpoints.hide(physical, &mut bytes);
            rest.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
            done += bytes.len();
            if bytes.len() < length {
                break;
            }
        }
        if done == 0 && !data.is_empty() { Err(TargetError::Errno(EFAULT)) } else { Ok(done) }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let (special, memory) = (self.view(tid)?, self.controller.view());
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = u64::try_from(done).ok().and_then(|done| start.checked_add(done));
            let place = at.and_then(|at| Some((at, Self::place(&memory, &special, at)?)));
            let (at, (physical, room)) = place.ok_or(TargetError::Errno(EFAULT))?;
            let mut piece: Vec<u8> = rest.iter().take(room).copied().collect();
            if memory.is_rom(physical) {
                self.words.set(format!("{at:#x} is in a ROM, which can't be written"));
                return Err(TargetError::Errno(EINVAL));
            }
            self.breakpoints.write_under(physical, &mut piece);
            if write_linear(&memory, &special, at, &piece) != piece.len() {
                return Err(TargetError::Errno(EFAULT));
            }
            done += piece.len();
        }
        Ok(())
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), ControlError> {
        // The one that gdb shall look at comes first.
        let others = (0..self.controller.cpus()).filter(|cpu| *cpu != self.last);
        for cpu in std::iter::once(self.last).chain(others) {
            thread_is_active(self.tid(cpu));
        }
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for DebuggedMachine {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, ControlError> {
        let Some(cpu) = self.cpu(tid) else { return Ok(0) };
        let state = match self.controller.run_on_vcpu(cpu, |vcpu| vcpu.get_mp_state()) {
            Ok(Ok(state)) => MpState::from(state).to_string(),
            // A machine without interrupt controllers has no such state.
            Ok(Err(_)) => MpState::Runnable.to_string(),
            Err(_) => "ended".to_owned(),
        };
        let text = format!("vCPU {cpu}, {state}");
        buf.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Ok(text.len().min(buf.len()))
    }
}

impl MultiThreadResume for DebuggedMachine {
    fn resume(&mut self) -> Result<(), ControlError> {
        match self.go_on() {
            // gdb is told of that as of any stop.
            Err(ControlError::Ended) => Ok(()),
            other => other,
        }
    }

    fn clear_resume_actions(&mut self) -> Result<(), ControlError> {
        self.steps.fill(false);
        self.runs.fill(false);
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), ControlError> {
        if let Some(slot) = self.cpu(tid).and_then(|cpu| Self::slot(&mut self.runs, cpu)) {
            *slot = true;
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for DebuggedMachine {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), ControlError> {
        if let Some(slot) = self.cpu(tid).and_then(|cpu| Self::slot(&mut self.steps, cpu)) {
            *slot = true;
        }
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for DebuggedMachine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), ControlError> {
        self.locked = true;
        Ok(())
    }
}

impl SupportsBreakpoints for DebuggedMachine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for DebuggedMachine {
    /// As the vCPU that stopped last sees memory.
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        let (special, memory) = (self.view(self.tid(self.last))?, self.controller.view());
        let place = Self::place(&memory, &special, addr).ok_or(TargetError::Errno(EFAULT))?;
        if memory.is_rom(place.0) {
            self.words
                .set(format!("{addr:#x} is in a ROM, where no software breakpoint can be put: use hbreak"));
            return Ok(false);
        }
        let suits = match self.breakpoints.trap() {
            Trap::Int3 => true,
            Trap::Emulated => special.cr0 & CR0_PE != 0 && !user(&memory, &special, addr),
            // Nobody may stand in the midst of it.
            Trap::Out => !user(&memory, &special, addr) && !self.anybody_at(addr.wrapping_add(1)),
        };
        if !suits {
            return Ok(false);
        }
        Ok(self.breakpoints.add_software(self.controller.memory(), addr, place))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove_software(self.controller.memory(), addr))
    }
}

impl HwBreakpoint for DebuggedMachine {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.support.execute && self.breakpoints.add_execute(addr))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove_execute(addr))
    }
}

impl HwWatchpoint for DebuggedMachine {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.support.watch && self.breakpoints.add_watch(addr, len, kind))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove_watch(addr, len, kind))
    }
}

impl MonitorCmd for DebuggedMachine {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), ControlError> {
        monitor::answer(&self.controller, cmd, |line| {
            out.write_raw(line.as_bytes());
            // gdb has packets of a limited size.
            out.flush();
        });
        Ok(())
    }
}
