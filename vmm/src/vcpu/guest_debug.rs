//! What KVM is to stop a vCPU at: for the instruction trace and for a debugger, in one request, as
//! `KVM_SET_GUEST_DEBUG` replaces all that was asked for before.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

use crate::outcome::Outcome;

/// The vectors of the exceptions that stop a vCPU (Intel SDM, volume 3, table 6-1).
pub(crate) const DB: u32 = 1;
pub(crate) const BP: u32 = 3;
/// DR6: a single step; the debug registers that were hit (Intel SDM, volume 3, §18.2.3).
const DR6_BS: u64 = 1 << 14;
const DR6_HITS: u64 = 0xf;

/// The port that [`Trap::Out`] writes to, where no machine has a device; and the instruction's length. Whatever jumps to
/// its second byte comes upon an `int3`.
pub(crate) const TRAP_PORT: u16 = 0xcc;
pub(crate) const TRAP_LENGTH: u64 = 2;

/// The instruction that a software breakpoint puts in the place of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// `int3`: KVM stops there.
    Int3,
    /// `int3` in protected mode, which a KVM that emulates supervisor-mode code can't emulate.
    Emulated,
    /// `out %al, $0xcc`, in supervisor-mode code: for a KVM under an emulator that gives every `int3` to the guest.
    Out,
}

impl Trap {
    /// Its bytes.
    #[must_use]
    pub fn code(self) -> &'static [u8] {
        match self {
            Self::Int3 | Self::Emulated => &[0xcc],
            Self::Out => &[0xe6, 0xcc],
        }
    }
}

/// What a debugger wants a vCPU to stop at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugRequest {
    /// Breakpoints in memory, of this kind.
    pub software: Option<Trap>,
    /// DR0 to DR3 and DR7, in place of the guest's own.
    pub hardware: Option<([u64; 4], u64)>,
    /// The next instruction, before which no interrupt is taken where KVM can see to that (Linux 5.16 and later).
    pub step: bool,
}

/// A breakpoint or a single step, as `KVM_EXIT_DEBUG` tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugStop {
    /// Which vCPU.
    pub cpu: u32,
    /// The exception's vector: 1 (#DB) or 3 (#BP).
    pub exception: u32,
    /// The linear address where it stopped: of the `int3`, or of what comes after a step.
    pub pc: u64,
    /// What DR6 would tell the guest; nothing for a #BP.
    pub dr6: u64,
    /// DR7 at that time.
    pub dr7: u64,
}

impl DebugStop {
    /// Whether it is a single step.
    #[must_use]
    pub fn is_step(&self) -> bool {
        self.exception == DB && self.dr6 & DR6_BS != 0
    }

    /// Which of the debug registers 0 to 3 were hit, a bit each.
    #[must_use]
    pub fn hits(&self) -> u64 {
        if self.exception == DB { self.dr6 & DR6_HITS } else { 0 }
    }
}

/// What a debugger is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuStop {
    /// A breakpoint or a single step.
    Debug(DebugStop),
    /// The vCPU can't go on: once it is let go, the machine ends.
    Fatal {
        /// Which vCPU.
        cpu: u32,
        /// How the machine ends.
        outcome: Outcome,
    },
}

/// All that one vCPU is stopped at. It belongs to the vCPU's thread.
#[derive(Default)]
pub(super) struct GuestDebug {
    traced: bool,
    wanted: DebugRequest,
}

impl GuestDebug {
    /// Has each instruction stop for the trace, or not any more.
    pub(super) fn trace(&mut self, vcpu: &VcpuFd, on: bool) -> Result<(), kvm_ioctls::Error> {
        self.traced = on;
        self.apply(vcpu, 0)
    }

    /// Sets what the debugger wants.
    pub(super) fn want(&mut self, vcpu: &VcpuFd, wanted: DebugRequest) -> Result<(), kvm_ioctls::Error> {
        self.wanted = wanted;
        self.apply(vcpu, 0)
    }

    /// Gives the guest an exception that was its own.
    pub(super) fn inject(&self, vcpu: &VcpuFd, exception: u32) -> Result<(), kvm_ioctls::Error> {
        self.apply(vcpu, if exception == BP { KVM_GUESTDBG_INJECT_BP } else { KVM_GUESTDBG_INJECT_DB })
    }

    pub(super) fn traced(&self) -> bool {
        self.traced
    }

    /// Whether a write to [`TRAP_PORT`] may be a breakpoint.
    pub(super) fn traps(&self) -> bool {
        self.wanted.software == Some(Trap::Out)
    }

    /// Whether an instruction that KVM can't emulate may be a breakpoint.
    pub(super) fn emulated(&self) -> bool {
        self.wanted.software == Some(Trap::Emulated)
    }

    /// Whether a step that the trace has noted was for the trace alone.
    pub(super) fn only_traced(&self, stop: &DebugStop) -> bool {
        !self.wanted.step && stop.hits() == 0
    }

    fn apply(&self, vcpu: &VcpuFd, inject: u32) -> Result<(), kvm_ioctls::Error> {
        vcpu.set_guest_debug(&self.request(inject))
    }

    fn request(&self, inject: u32) -> kvm_guest_debug {
        let mut debug = kvm_guest_debug::default();
        let mut control = inject;
        if self.traced || self.wanted.step {
            control |= KVM_GUESTDBG_SINGLESTEP;
        }
        if self.wanted.step {
            control |= KVM_GUESTDBG_BLOCKIRQ;
        }
        if self.wanted.software == Some(Trap::Int3) {
            control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if let Some((addresses, dr7)) = self.wanted.hardware {
            control |= KVM_GUESTDBG_USE_HW_BP;
            let [dr0, dr1, dr2, dr3] = addresses;
            debug.arch.debugreg = [dr0, dr1, dr2, dr3, 0, 0, 0, dr7];
        }
        if control != 0 {
            debug.control = control | KVM_GUESTDBG_ENABLE;
        }
        debug
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_and_debugger_are_asked_for_together() {
        let mut debug = GuestDebug::default();
        assert_eq!(debug.request(0).control, 0);
        debug.traced = true;
        assert_eq!(debug.request(0).control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
        debug.wanted =
            DebugRequest { software: Some(Trap::Int3), hardware: Some(([1, 2, 3, 4], 0x402)), step: false };
        let request = debug.request(KVM_GUESTDBG_INJECT_BP);
        let breakpoints = KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_BP;
        assert_eq!(request.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | breakpoints);
        assert_eq!(request.arch.debugreg, [1, 2, 3, 4, 0, 0, 0, 0x402]);
    }

    #[test]
    fn step_is_for_the_trace_alone_unless_the_debugger_steps_or_a_register_was_hit() {
        let stop = DebugStop { cpu: 0, exception: DB, pc: 1, dr6: DR6_BS, dr7: 0 };
        let mut debug = GuestDebug { traced: true, ..GuestDebug::default() };
        assert!(stop.is_step() && debug.only_traced(&stop));
        assert!(!debug.only_traced(&DebugStop { dr6: DR6_BS | 2, ..stop }));
        debug.wanted.step = true;
        assert!(!debug.only_traced(&stop));
        assert!(!DebugStop { exception: BP, ..stop }.is_step());
    }
}
