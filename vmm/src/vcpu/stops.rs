//! What becomes of a vCPU that stops: the trace's step, a debugger's breakpoint or step, or the guest's own exception.

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::VcpuExit;

use super::control::{Control, Hands};
use super::guest_debug::{BP, DebugStop, TRAP_LENGTH, VcpuStop};
use super::kick;
use super::state::SpecialRegisters;
use crate::outcome::Outcome;
use crate::trace::ExitKind;

/// How the machine ends over a stop, and why.
pub(super) type End = (Outcome, String);

/// What stops are seen to with.
pub(super) struct Stops<'a> {
    pub(super) control: &'a Control,
}

/// Whose a write to the port of breakpoints is.
pub(super) enum Trapped {
    /// A debugger's.
    Debuggers,
    /// The guest's own, to be carried out, and the step that it was, if somebody steps.
    Guests(Option<DebugStop>),
}

/// Tells the debugger of a stop. If it is the debugger's own, the machine is held, and this comes back when the vCPU may
/// go on; if not, or nobody listens, it says so.
pub(super) fn hear(control: &Control, hands: &mut Hands<'_>, stop: &VcpuStop) -> Option<bool> {
    let debugger = control.debugger()?;
    if !(debugger.told)(stop) {
        return Some(false);
    }
    let (VcpuStop::Debug(DebugStop { cpu, .. }) | VcpuStop::Fatal { cpu, .. }) = stop;
    control.hold(&debugger.owner);
    control.attend(*cpu, hands);
    Some(true)
}

fn refused(step: &str, cpu: u32) -> impl FnOnce(kvm_ioctls::Error) -> End {
    move |error| {
        let error = format!("{step} of vCPU {cpu}: {error}");
        (Outcome::MachineFailed { error: error.clone() }, error)
    }
}

impl Stops<'_> {
    /// Sees to a breakpoint or a step that KVM tells of.
    pub(super) fn debug(&self, hands: &mut Hands<'_>, stop: DebugStop) -> Result<(), End> {
        if hands.debug.traced() && stop.is_step() {
            if !self.control.steps.note(stop.cpu, stop.pc) {
                hands.debug.trace(hands.vcpu, false).map_err(refused("KVM_SET_GUEST_DEBUG", stop.cpu))?;
            }
            if hands.debug.only_traced(&stop) {
                return Ok(());
            }
        }
        match hear(self.control, hands, &VcpuStop::Debug(stop)) {
            Some(true) => Ok(()),
            // The guest's own `int3` or trap: while a debugger listens, KVM takes it for the debugger's.
            Some(false) => {
                let injected = hands.debug.inject(hands.vcpu, stop.exception);
                injected.map_err(refused("KVM_SET_GUEST_DEBUG", stop.cpu))
            }
            None => {
                let exit = format!("{} at {:#x}", ExitKind::Debug.name(), stop.pc);
                Err((Outcome::UnexpectedExit { cpu: stop.cpu, exit: exit.clone() }, exit))
            }
        }
    }

    /// Sees to an end that may be a debugger's breakpoint: an instruction that KVM can't emulate. Tells whether it was.
    pub(super) fn emulated(&self, hands: &mut Hands<'_>, outcome: &Outcome) -> bool {
        let Outcome::InternalError { cpu, suberror: KVM_INTERNAL_ERROR_EMULATION } = *outcome else {
            return false;
        };
        if !hands.debug.emulated() {
            return false;
        }
        let (Ok(regs), Ok(special)) = (hands.vcpu.get_regs(), hands.vcpu.get_sregs()) else { return false };
        let special = SpecialRegisters::from(special);
        let pc = special.linear(&special.cs, regs.rip);
        let stop = DebugStop { cpu, exception: BP, pc, dr6: 0, dr7: 0 };
        hear(self.control, hands, &VcpuStop::Debug(stop)) == Some(true)
    }

    /// Finds out whose a write to [`super::guest_debug::TRAP_PORT`] is: if it is a debugger's breakpoint, the machine is held.
    pub(super) fn trap(&self, hands: &mut Hands<'_>, cpu: u32) -> Result<Trapped, End> {
        if !hands.debug.traps() {
            return Ok(Trapped::Guests(None));
        }
        // KVM steps over the instruction as late as it enters the guest again, or has done so by now: after this it has.
        kick::call_back(hands.vcpu);
        let step = match hands.vcpu.run() {
            Ok(VcpuExit::Debug(debug)) => {
                let (exception, pc, dr6, dr7) = (debug.exception, debug.pc, debug.dr6, debug.dr7);
                Some(DebugStop { cpu, exception, pc, dr6, dr7 })
            }
            _ => None,
        };
        let mut regs = hands.vcpu.get_regs().map_err(refused("KVM_GET_REGS", cpu))?;
        let special = hands.vcpu.get_sregs().map_err(refused("KVM_GET_SREGS", cpu))?;
        let special = SpecialRegisters::from(special);
        let rip = regs.rip.wrapping_sub(TRAP_LENGTH);
        let pc = special.linear(&special.cs, rip);
        let stop = VcpuStop::Debug(DebugStop { cpu, exception: BP, pc, dr6: 0, dr7: 0 });
        let Some(debugger) = self.control.debugger().filter(|debugger| (debugger.told)(&stop)) else {
            return Ok(Trapped::Guests(step));
        };
        regs.rip = rip;
        hands.vcpu.set_regs(&regs).map_err(refused("KVM_SET_REGS", cpu))?;
        // Its caller looks at the desk next.
        self.control.hold(&debugger.owner);
        Ok(Trapped::Debuggers)
    }
}
