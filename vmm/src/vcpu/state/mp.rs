//! What a vCPU is doing, as KVM has it (`KVM_GET_MP_STATE`).

use std::fmt;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, kvm_mp_state,
};
use serde::{Deserialize, Serialize};

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MpState {
    /// It runs.
    Runnable,
    /// It has not been started.
    Uninitialized,
    /// It has had its INIT, and waits for its start-up interrupt.
    InitReceived,
    /// It halts until an interrupt comes.
    Halted,
    /// It has had its start-up interrupt.
    SipiReceived,
    /// A state that KVM knows on other architectures alone.
    Other(u32),
}

impl From<kvm_mp_state> for MpState {
    fn from(kvm: kvm_mp_state) -> Self {
        match kvm.mp_state {
            KVM_MP_STATE_RUNNABLE => Self::Runnable,
            KVM_MP_STATE_UNINITIALIZED => Self::Uninitialized,
            KVM_MP_STATE_INIT_RECEIVED => Self::InitReceived,
            KVM_MP_STATE_HALTED => Self::Halted,
            KVM_MP_STATE_SIPI_RECEIVED => Self::SipiReceived,
            other => Self::Other(other),
        }
    }
}

impl From<MpState> for kvm_mp_state {
    fn from(own: MpState) -> Self {
        let mp_state = match own {
            MpState::Runnable => KVM_MP_STATE_RUNNABLE,
            MpState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
            MpState::InitReceived => KVM_MP_STATE_INIT_RECEIVED,
            MpState::Halted => KVM_MP_STATE_HALTED,
            MpState::SipiReceived => KVM_MP_STATE_SIPI_RECEIVED,
            MpState::Other(other) => other,
        };
        Self { mp_state }
    }
}

impl fmt::Display for MpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runnable => f.write_str("running"),
            Self::Uninitialized => f.write_str("not started"),
            Self::InitReceived => f.write_str("waits for its start-up interrupt"),
            Self::Halted => f.write_str("halted"),
            Self::SipiReceived => f.write_str("starting"),
            Self::Other(state) => write!(f, "state {state}"),
        }
    }
}
