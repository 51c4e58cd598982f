//! Why a vCPU left the guest, by the names of the KVM API.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident $name:literal,)*) => {
        /// Why a vCPU left the guest. Each is `KVM_EXIT_…` of the KVM API (`Documentation/virt/kvm/api.rst`), but that
        /// accesses are told apart by direction, and that a reason which the API has no name for is [`Self::Unlisted`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ExitKind { $($(#[$meta])* $kind,)* }

        impl ExitKind {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name that the KVM API has for it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// A port was read.
    IoIn "KVM_EXIT_IO",
    /// A port was written.
    IoOut "KVM_EXIT_IO",
    /// A device's memory was read.
    MmioRead "KVM_EXIT_MMIO",
    /// A device's memory was written.
    MmioWrite "KVM_EXIT_MMIO",
    /// The host called the vCPU back.
    Intr "KVM_EXIT_INTR",
    /// The processor halted, on a machine without interrupt controllers.
    Hlt "KVM_EXIT_HLT",
    /// The processor shut down.
    Shutdown "KVM_EXIT_SHUTDOWN",
    /// The guest could not be entered.
    FailEntry "KVM_EXIT_FAIL_ENTRY",
    /// KVM could not go on.
    InternalError "KVM_EXIT_INTERNAL_ERROR",
    /// The guest told the host something about its power.
    SystemEvent "KVM_EXIT_SYSTEM_EVENT",
    /// A breakpoint, or a single step.
    Debug "KVM_EXIT_DEBUG",
    /// The guest can take an interrupt now.
    IrqWindowOpen "KVM_EXIT_IRQ_WINDOW_OPEN",
    /// The guest changed its task priority.
    SetTpr "KVM_EXIT_SET_TPR",
    /// The guest looked at its task priority.
    TprAccess "KVM_EXIT_TPR_ACCESS",
    /// The guest ended an interrupt of an I/O APIC that KVM does not have.
    IoapicEoi "KVM_EXIT_IOAPIC_EOI",
    /// The host took a non-maskable interrupt.
    Nmi "KVM_EXIT_NMI",
    /// The guest asked its hypervisor for something that KVM does not do.
    Hypercall "KVM_EXIT_HYPERCALL",
    /// The guest read a model-specific register that the host keeps.
    X86Rdmsr "KVM_EXIT_X86_RDMSR",
    /// The guest wrote a model-specific register that the host keeps.
    X86Wrmsr "KVM_EXIT_X86_WRMSR",
    /// The guest locked the bus.
    X86BusLock "KVM_EXIT_X86_BUS_LOCK",
    /// The guest did not let go of the processor.
    Notify "KVM_EXIT_NOTIFY",
    /// The guest used memory that is not there for it.
    MemoryFault "KVM_EXIT_MEMORY_FAULT",
    /// The ring of written pages is full.
    DirtyRingFull "KVM_EXIT_DIRTY_RING_FULL",
    /// An exception that the hardware did not deliver.
    Exception "KVM_EXIT_EXCEPTION",
    /// Hyper-V's interface.
    Hyperv "KVM_EXIT_HYPERV",
    /// Xen's interface.
    Xen "KVM_EXIT_XEN",
    /// An encrypted guest's processor waits to be started.
    ApResetHold "KVM_EXIT_AP_RESET_HOLD",
    /// The hardware had a reason that KVM does not know.
    Unknown "KVM_EXIT_UNKNOWN",
    /// S/390: an intercepted instruction.
    S390Sieic "KVM_EXIT_S390_SIEIC",
    /// S/390: a reset.
    S390Reset "KVM_EXIT_S390_RESET",
    /// S/390: a fault of a guest that the host controls.
    S390Ucontrol "KVM_EXIT_S390_UCONTROL",
    /// S/390: a test of a subchannel.
    S390Tsch "KVM_EXIT_S390_TSCH",
    /// S/390: information about the system.
    S390Stsi "KVM_EXIT_S390_STSI",
    /// PowerPC: a device control register.
    Dcr "KVM_EXIT_DCR",
    /// PowerPC: a call of the operating system's interface.
    Osi "KVM_EXIT_OSI",
    /// PowerPC: a hypercall.
    PaprHcall "KVM_EXIT_PAPR_HCALL",
    /// PowerPC: an external proxy's interrupt.
    Epr "KVM_EXIT_EPR",
    /// PowerPC: the watchdog.
    Watchdog "KVM_EXIT_WATCHDOG",
    /// Arm: an access without a syndrome.
    ArmNisv "KVM_EXIT_ARM_NISV",
    /// RISC-V: a call of the supervisor's interface.
    RiscvSbi "KVM_EXIT_RISCV_SBI",
    /// RISC-V: a control register.
    RiscvCsr "KVM_EXIT_RISCV_CSR",
    /// LoongArch: an I/O register.
    LoongarchIocsr "KVM_EXIT_LOONGARCH_IOCSR",
    /// A reason that has no name yet.
    Unlisted "an exit without a name",
}
