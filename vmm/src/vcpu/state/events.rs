//! Events on their way to a vCPU, and its debug registers, as typed values.

use kvm_bindings::{kvm_debugregs, kvm_vcpu_events};
use serde::{Deserialize, Serialize};

use super::hex;

/// What is on its way to the vCPU (`KVM_GET_VCPU_EVENTS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// An exception.
    pub exception: ExceptionEvent,
    /// A maskable interrupt.
    pub interrupt: InterruptEvent,
    /// Non-maskable interrupts.
    pub nmi: NmiEvent,
    /// The page that its start-up interrupt has it begin at.
    pub sipi_vector: u32,
    /// System management mode.
    pub smi: SmiEvent,
    /// Whether it is about to shut down.
    pub triple_fault: bool,
    /// Which of these KVM takes when they are written (`KVM_VCPUEVENT_VALID_*`).
    pub valid: u32,
}

/// An exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionEvent {
    /// It is being delivered.
    pub injected: bool,
    /// It waits.
    pub pending: bool,
    /// Its vector.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error_code: Option<u32>,
    /// What comes with it (CR2, DR6), if KVM keeps that apart.
    pub payload: Option<u64>,
}

/// A maskable interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptEvent {
    /// It is being delivered.
    pub injected: bool,
    /// Its vector.
    pub vector: u8,
    /// It is an instruction's.
    pub soft: bool,
    /// None is taken yet: the instruction before was an `sti` (2) or loaded SS (1).
    pub shadow: u8,
}

/// Non-maskable interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NmiEvent {
    /// One is being delivered.
    pub injected: bool,
    /// How many wait.
    pub pending: u8,
    /// None is taken: one is being handled.
    pub masked: bool,
}

/// System management mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmiEvent {
    /// The vCPU is in it.
    pub smm: bool,
    /// It will be.
    pub pending: bool,
    /// It came while an NMI was handled.
    pub inside_nmi: bool,
    /// An INIT waits for its end.
    pub latched_init: bool,
}

impl From<kvm_vcpu_events> for Events {
    fn from(kvm: kvm_vcpu_events) -> Self {
        let (exception, interrupt, nmi, smi) = (kvm.exception, kvm.interrupt, kvm.nmi, kvm.smi);
        Self {
            exception: ExceptionEvent {
                injected: exception.injected != 0,
                pending: exception.pending != 0,
                vector: exception.nr,
                error_code: (exception.has_error_code != 0).then_some(exception.error_code),
                payload: (kvm.exception_has_payload != 0).then_some(kvm.exception_payload),
            },
            interrupt: InterruptEvent {
                injected: interrupt.injected != 0,
                vector: interrupt.nr,
                soft: interrupt.soft != 0,
                shadow: interrupt.shadow,
            },
            nmi: NmiEvent { injected: nmi.injected != 0, pending: nmi.pending, masked: nmi.masked != 0 },
            sipi_vector: kvm.sipi_vector,
            smi: SmiEvent {
                smm: smi.smm != 0,
                pending: smi.pending != 0,
                inside_nmi: smi.smm_inside_nmi != 0,
                latched_init: smi.latched_init != 0,
            },
            triple_fault: kvm.triple_fault.pending != 0,
            valid: kvm.flags,
        }
    }
}

impl From<Events> for kvm_vcpu_events {
    fn from(own: Events) -> Self {
        let mut kvm = Self::default();
        kvm.exception.injected = own.exception.injected.into();
        kvm.exception.pending = own.exception.pending.into();
        kvm.exception.nr = own.exception.vector;
        kvm.exception.has_error_code = own.exception.error_code.is_some().into();
        kvm.exception.error_code = own.exception.error_code.unwrap_or(0);
        kvm.exception_has_payload = own.exception.payload.is_some().into();
        kvm.exception_payload = own.exception.payload.unwrap_or(0);
        kvm.interrupt.injected = own.interrupt.injected.into();
        kvm.interrupt.nr = own.interrupt.vector;
        kvm.interrupt.soft = own.interrupt.soft.into();
        kvm.interrupt.shadow = own.interrupt.shadow;
        kvm.nmi.injected = own.nmi.injected.into();
        kvm.nmi.pending = own.nmi.pending;
        kvm.nmi.masked = own.nmi.masked.into();
        kvm.sipi_vector = own.sipi_vector;
        kvm.smi.smm = own.smi.smm.into();
        kvm.smi.pending = own.smi.pending.into();
        kvm.smi.smm_inside_nmi = own.smi.inside_nmi.into();
        kvm.smi.latched_init = own.smi.latched_init.into();
        kvm.triple_fault.pending = own.triple_fault.into();
        kvm.flags = own.valid;
        kvm
    }
}

/// The debug registers (`KVM_GET_DEBUGREGS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugRegisters {
    /// DR0 to DR3: addresses.
    #[serde(with = "hex::array")]
    pub db: [u64; 4],
    /// What happened.
    #[serde(with = "hex")]
    pub dr6: u64,
    /// What is looked for.
    #[serde(with = "hex")]
    pub dr7: u64,
}

impl From<kvm_debugregs> for DebugRegisters {
    fn from(kvm: kvm_debugregs) -> Self {
        Self { db: kvm.db, dr6: kvm.dr6, dr7: kvm.dr7 }
    }
}

impl From<DebugRegisters> for kvm_debugregs {
    fn from(own: DebugRegisters) -> Self {
        Self { db: own.db, dr6: own.dr6, dr7: own.dr7, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_from_json_and_from_kvm() {
        let own = Events {
            exception: ExceptionEvent {
                injected: true,
                vector: 14,
                error_code: Some(2),
                payload: Some(u64::MAX),
                ..ExceptionEvent::default()
            },
            interrupt: InterruptEvent { vector: 0x30, shadow: 2, ..InterruptEvent::default() },
            nmi: NmiEvent { injected: false, pending: 2, masked: true },
            sipi_vector: 0x9a,
            smi: SmiEvent { latched_init: true, ..SmiEvent::default() },
            triple_fault: true,
            valid: 0x1f,
        };
        assert_eq!(Events::from(kvm_vcpu_events::from(own)), own);
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<Events>(&text).unwrap(), own);
    }
}
