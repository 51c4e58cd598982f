//! An exit's name, and what there is to say of one that ends the machine.

use kvm_bindings::{
    KVM_EXIT_AP_RESET_HOLD, KVM_EXIT_ARM_NISV, KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_LOONGARCH_IOCSR,
    KVM_EXIT_NOTIFY, KVM_EXIT_RISCV_CSR, KVM_EXIT_RISCV_SBI, KVM_EXIT_X86_BUS_LOCK, KVM_EXIT_XEN,
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_SEV_TERM,
    KVM_SYSTEM_EVENT_SUSPEND, KVM_SYSTEM_EVENT_WAKEUP,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::trace::ExitKind;

/// The kind of an exit.
pub(super) fn kind(exit: &VcpuExit<'_>) -> ExitKind {
    match exit {
        VcpuExit::IoIn(..) => ExitKind::IoIn,
        VcpuExit::IoOut(..) => ExitKind::IoOut,
        VcpuExit::MmioRead(..) => ExitKind::MmioRead,
        VcpuExit::MmioWrite(..) => ExitKind::MmioWrite,
        VcpuExit::Unknown => ExitKind::Unknown,
        VcpuExit::Exception => ExitKind::Exception,
        VcpuExit::Hypercall(_) => ExitKind::Hypercall,
        VcpuExit::Debug(_) => ExitKind::Debug,
        VcpuExit::Hlt => ExitKind::Hlt,
        VcpuExit::IrqWindowOpen => ExitKind::IrqWindowOpen,
        VcpuExit::Shutdown => ExitKind::Shutdown,
        VcpuExit::FailEntry(..) => ExitKind::FailEntry,
        VcpuExit::Intr => ExitKind::Intr,
        VcpuExit::SetTpr => ExitKind::SetTpr,
        VcpuExit::TprAccess => ExitKind::TprAccess,
        VcpuExit::S390Sieic => ExitKind::S390Sieic,
        VcpuExit::S390Reset => ExitKind::S390Reset,
        VcpuExit::Dcr => ExitKind::Dcr,
        VcpuExit::Nmi => ExitKind::Nmi,
        VcpuExit::InternalError => ExitKind::InternalError,
        VcpuExit::Osi => ExitKind::Osi,
        VcpuExit::PaprHcall => ExitKind::PaprHcall,
        VcpuExit::S390Ucontrol => ExitKind::S390Ucontrol,
        VcpuExit::Watchdog => ExitKind::Watchdog,
        VcpuExit::S390Tsch => ExitKind::S390Tsch,
        VcpuExit::Epr => ExitKind::Epr,
        VcpuExit::SystemEvent(..) => ExitKind::SystemEvent,
        VcpuExit::S390Stsi => ExitKind::S390Stsi,
        VcpuExit::IoapicEoi(_) => ExitKind::IoapicEoi,
        VcpuExit::Hyperv => ExitKind::Hyperv,
        VcpuExit::X86Rdmsr(_) => ExitKind::X86Rdmsr,
        VcpuExit::X86Wrmsr(_) => ExitKind::X86Wrmsr,
        VcpuExit::MemoryFault { .. } => ExitKind::MemoryFault,
        VcpuExit::Unsupported(reason) => by_reason(*reason),
    }
}

/// Those that the crate hands over as a number.
fn by_reason(reason: u32) -> ExitKind {
    match reason {
        KVM_EXIT_ARM_NISV => ExitKind::ArmNisv,
        KVM_EXIT_DIRTY_RING_FULL => ExitKind::DirtyRingFull,
        KVM_EXIT_AP_RESET_HOLD => ExitKind::ApResetHold,
        KVM_EXIT_X86_BUS_LOCK => ExitKind::X86BusLock,
        KVM_EXIT_XEN => ExitKind::Xen,
        KVM_EXIT_RISCV_SBI => ExitKind::RiscvSbi,
        KVM_EXIT_RISCV_CSR => ExitKind::RiscvCsr,
        KVM_EXIT_NOTIFY => ExitKind::Notify,
        KVM_EXIT_LOONGARCH_IOCSR => ExitKind::LoongarchIocsr,
        _ => ExitKind::Unlisted,
    }
}

/// What an exit that this machine has no answer to is called, with what the API says beside the name.
pub(super) fn describe(exit: &VcpuExit<'_>) -> String {
    let name = kind(exit).name();
    match exit {
        VcpuExit::Unsupported(reason) => format!("{name} (reason {reason})"),
        VcpuExit::MemoryFault { flags, gpa, size } => {
            format!("{name} of {size:#x} bytes at {gpa:#x} (flags {flags:#x})")
        }
        VcpuExit::SystemEvent(event, _) => format!("{name} of type {event}{}", system_event(*event)),
        VcpuExit::Debug(debug) => {
            format!("{name} at {:#x} (exception {}, DR6 {:#x})", debug.pc, debug.exception, debug.dr6)
        }
        _ => name.to_owned(),
    }
}

fn system_event(event: u32) -> &'static str {
    match event {
        KVM_SYSTEM_EVENT_CRASH => " (crash)",
        KVM_SYSTEM_EVENT_WAKEUP => " (wake-up)",
        KVM_SYSTEM_EVENT_SUSPEND => " (suspend)",
        KVM_SYSTEM_EVENT_SEV_TERM => " (end of an encrypted guest)",
        _ => "",
    }
}

/// The suberror of `KVM_EXIT_INTERNAL_ERROR`, and the whole of what KVM says of it.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> (u32, String) {
    // SAFETY: for this exit reason `internal` is the union's valid member, and any bytes are numbers.
    #[allow(unsafe_code)]
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata).unwrap_or(0);
    let meaning = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that it can't emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "an exception while one was delivered",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "a fault while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit of the hardware that it does not know",
        _ => "no meaning known here",
    };
    let data: Vec<String> = internal.data.iter().take(count).map(|word| format!("{word:#x}")).collect();
    let data = if data.is_empty() { String::new() } else { format!(", data {}", data.join(" ")) };
    let name = ExitKind::InternalError.name();
    (internal.suberror, format!("{name}, suberror {} ({meaning}){data}", internal.suberror))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each number below the last that the API names has a name of its own.
    #[test]
    fn every_reason_of_the_api_that_comes_as_a_number_is_named() {
        let named = [28, 31, 32, 33, 34, 35, 36, 37, 38].map(by_reason);
        assert!(!named.contains(&ExitKind::Unlisted), "{named:?}");
        assert_eq!(by_reason(KVM_EXIT_X86_BUS_LOCK).name(), "KVM_EXIT_X86_BUS_LOCK");
        assert_eq!(by_reason(4711), ExitKind::Unlisted);
    }

    #[test]
    fn unexpected_exits_are_described_by_the_names_of_the_api() {
        assert_eq!(describe(&VcpuExit::Unknown), "KVM_EXIT_UNKNOWN");
        assert_eq!(describe(&VcpuExit::SystemEvent(3, &[])), "KVM_EXIT_SYSTEM_EVENT of type 3 (crash)");
        assert_eq!(describe(&VcpuExit::Unsupported(4711)), "an exit without a name (reason 4711)");
        let fault = VcpuExit::MemoryFault { flags: 8, gpa: 0x1000, size: 0x1000 };
        assert_eq!(describe(&fault), "KVM_EXIT_MEMORY_FAULT of 0x1000 bytes at 0x1000 (flags 0x8)");
    }
}
