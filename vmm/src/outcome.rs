//! Every way in which a machine can end.

use serde::{Deserialize, Serialize};

/// How a machine ended. A guest's failure is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest powered itself off through ACPI.
    PowerOff,
    /// The guest asked for a reset (i8042, ACPI's reset register).
    Reset,
    /// The guest wrote `value` to the debug-exit port.
    DebugExit {
        /// What was written; the exit status is `2 * value + 1`.
        value: u32,
    },
    /// A vCPU shut down: a triple fault.
    TripleFault {
        /// Which vCPU.
        cpu: u32,
    },
    /// Every vCPU halted with interrupts off: nothing but an NMI could wake the machine.
    Halted,
    /// The host ended the machine (a timeout, a signal, the end of a test).
    Stopped,
    /// KVM could not enter the guest (`KVM_EXIT_FAIL_ENTRY`).
    FailEntry {
        /// Which vCPU.
        cpu: u32,
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`).
    InternalError {
        /// Which vCPU.
        cpu: u32,
        /// `KVM_INTERNAL_ERROR_*`: 1 is an instruction that could not be emulated.
        suberror: u32,
    },
    /// An exit that this machine has no handling for.
    UnexpectedExit {
        /// Which vCPU.
        cpu: u32,
        /// The exit's name as the KVM API has it.
        exit: String,
    },
    /// `KVM_RUN` itself failed, or a thread of the machine died.
    MachineFailed {
        /// What failed.
        error: String,
    },
}

/// The handle by which a device ends the machine. The first outcome counts.
#[derive(Clone, Debug, Default)]
pub struct PowerSwitch(std::sync::Arc<std::sync::OnceLock<Outcome>>);

impl PowerSwitch {
    /// Makes the switch of a machine that runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the machine, unless it has already ended.
    pub fn end(&self, outcome: Outcome) {
        let _already_ended = self.0.set(outcome);
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.get().cloned()
    }
}
