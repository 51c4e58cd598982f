//! All of a vCPU's state, read and written in the order that KVM wants.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_sregs, kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{DebugRegisters, Events, MpState, Registers, SpecialRegisters, emulator, hex};

/// `IA32_TSC_DEADLINE`: arms a timer, so that the local APIC and the counter must be in place before it.
const TSC_DEADLINE: u32 = 0x6e0;

/// The registers that count time: `IA32_TIME_STAMP_COUNTER`, `IA32_MPERF`, `IA32_APERF`, Hyper-V's reference counter
/// and runtime of the vCPU.
const TIMES: [u32; 5] = [0x10, 0xe7, 0xe8, 0x4000_0020, 0x4000_0010];
/// `IA32_TIME_STAMP_COUNTER`.
const TSC: u32 = 0x10;
/// KVM's wall clock, by both its numbers: to write one makes KVM write the time into guest memory.
const WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
/// EFER: the guest runs guests of its own (AMD APM, volume 2, §3.1.7).
const EFER_SVME: u64 = 1 << 12;
/// CR4: likewise (Intel SDM, volume 3, §2.5).
const CR4_VMXE: u64 = 1 << 13;
/// `IA32_SYSENTER_ESP` and `IA32_SYSENTER_EIP`.
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
/// The types of a 64-bit task state segment whose task runs, and of one that `LTR` may load (Intel SDM, volume 3, §3.5).
const BUSY_TSS: u8 = 0xb;
const AVAILABLE_TSS: u8 = 0x9;
/// The local APIC's current count (Intel SDM, volume 3, §11.5.4).
const LAPIC_TIMER: std::ops::Range<usize> = 0x390..0x394;

/// All that a vCPU has, but what is in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// What it is doing.
    pub mp_state: MpState,
    /// The general registers.
    pub registers: Registers,
    /// Segment, table and control registers.
    pub special: SpecialRegisters,
    /// Floating-point and vector registers: the processor's own `XSAVE` area, in its standard format (Intel SDM, volume
    /// 1, §13.4).
    #[serde(with = "hex::bytes")]
    pub xsave: Vec<u8>,
    /// The extended control registers, by number; none where the guest has no XSAVE.
    pub xcrs: BTreeMap<u32, u64>,
    /// The debug registers.
    pub debug: DebugRegisters,
    /// The local APIC's registers as they lie in memory (Intel SDM, volume 3, §11.4.1); none on a machine without it.
    pub lapic: Option<Lapic>,
    /// The model-specific registers that KVM keeps, by number.
    pub msrs: BTreeMap<u32, u64>,
    /// What is on its way to it.
    pub events: Events,
}

/// What of a model-specific register stays as it is while the vCPU stands still, and when it is written back.
fn still(index: u32, value: Option<&u64>) -> Option<u64> {
    match index {
        _ if TIMES.contains(&index) => None,
        // Of these AMD's processors have the lower half: KVM keeps no more of what is written.
        SYSENTER_ESP | SYSENTER_EIP => value.map(|value| value & u64::from(u32::MAX)),
        _ => value.copied(),
    }
}

/// A local APIC's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lapic(#[serde(with = "hex::bytes")] pub Vec<u8>);

impl Lapic {
    /// All but the timer's count.
    fn still(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        (self.0.get(..LAPIC_TIMER.start), self.0.get(LAPIC_TIMER.end..))
    }
}

/// A state that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// KVM refused a step.
    #[error("KVM refused {step}")]
    Refused {
        /// The request's name in the KVM API.
        step: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// KVM does not take a value of a model-specific register.
    #[error("KVM takes no {value:#x} for model-specific register {index:#x}")]
    Msr {
        /// Which register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// A part of the state has not the size that KVM wants.
    #[error("{part} of {length} bytes: KVM's has {wanted}")]
    Size {
        /// Which part.
        part: &'static str,
        /// How large it is.
        length: usize,
        /// How large it must be.
        wanted: usize,
    },
}

fn refused(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> StateError {
    move |error| StateError::Refused { step, source: io::Error::from_raw_os_error(error.errno()) }
}

impl VcpuState {
    /// Reads all of a vCPU's state; `msrs` are the numbers of the model-specific registers to read.
    ///
    /// It must be out of the guest, and an access that it was in the middle of must be over: true of work that is
    /// done by [`crate::machine::Controller::run_on_vcpu`].
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn get(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, StateError> {
        // Asking for this one first makes KVM settle what is in flight.
        let mp_state = vcpu.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?;
        let xcrs = vcpu.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
        let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
        Ok(Self {
            mp_state: mp_state.into(),
            registers: vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?.into(),
            special: vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?.into(),
            xsave: from_words(&vcpu.get_xsave().map_err(refused("KVM_GET_XSAVE"))?.region),
            xcrs: xcrs.xcrs.iter().take(count).map(|xcr| (xcr.xcr, xcr.value)).collect(),
            debug: vcpu.get_debug_regs().map_err(refused("KVM_GET_DEBUGREGS"))?.into(),
            lapic: match vcpu.get_lapic() {
                Ok(lapic) => Some(Lapic(lapic.regs.iter().map(|byte| byte.cast_unsigned()).collect())),
                // There is none.
                Err(error) if error.errno() == libc::EINVAL => None,
                Err(error) => return Err(refused("KVM_GET_LAPIC")(error)),
            },
            msrs: get_msrs(vcpu, msrs)?,
            events: vcpu.get_vcpu_events().map_err(refused("KVM_GET_VCPU_EVENTS"))?.into(),
        })
    }

    /// Writes all of a vCPU's state.
    ///
    /// # Errors
    /// See [`StateError`]; the vCPU then has a part of the state.
    pub fn set(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        self.set_with(vcpu, &self.msrs)
    }

    /// Writes the state to a vCPU of another machine, but for what tells the time and what waits for it
    /// ([`VcpuState::arm`]).
    pub(crate) fn set_on_new(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let keep =
            |index: u32| index != TSC_DEADLINE && !TIMES.contains(&index) && !WALL_CLOCK.contains(&index);
        let msrs = self.msrs.iter().filter(|(index, _)| keep(**index)).map(|(&index, &value)| (index, value));
        self.set_with(vcpu, &msrs.collect())
    }

    /// Writes the timer's deadline, once the time stamp counter says again what it said.
    pub(crate) fn arm(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let deadline = self.msrs.get_key_value(&TSC_DEADLINE).map(|(&index, &value)| (index, value));
        set_msrs(vcpu, &deadline.into_iter().collect())
    }

    /// The time stamp counter.
    pub(crate) fn tsc(vcpu: &VcpuFd) -> Result<u64, StateError> {
        Ok(get_msrs(vcpu, &[TSC])?.get(&TSC).copied().unwrap_or(0))
    }

    /// Sets the time stamp counter. What it says next is more.
    pub(crate) fn set_tsc(vcpu: &VcpuFd, value: u64) -> Result<(), StateError> {
        let entry = kvm_msr_entry { index: TSC, data: value, ..kvm_msr_entry::default() };
        match vcpu.set_msrs(&list(&[entry])?).map_err(refused("KVM_SET_MSRS"))? {
            1 => Ok(()),
            _ => Err(StateError::Msr { index: TSC, value }),
        }
    }

    /// What this vCPU is in the middle of that is no part of its state here, if it is.
    pub(crate) fn more_than_this(&self) -> Option<&'static str> {
        if self.special.efer & EFER_SVME != 0 || self.special.cr4 & CR4_VMXE != 0 {
            return Some("it runs virtual machines of its own");
        }
        self.events.smi.smm.then_some("it is in system management mode")
    }

    fn set_with(&self, vcpu: &VcpuFd, msrs: &BTreeMap<u32, u64>) -> Result<(), StateError> {
        vcpu.set_mp_state(self.mp_state.into()).map_err(refused("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.registers.into()).map_err(refused("KVM_SET_REGS"))?;
        let mut special: kvm_sregs = self.special.into();
        if special.tr.type_ == BUSY_TSS && emulator::is_host() {
            special.tr.type_ = AVAILABLE_TSS;
        }
        vcpu.set_sregs(&special).map_err(refused("KVM_SET_SREGS"))?;
        let mut xsave = kvm_xsave::default();
        to_words("the XSAVE area", &self.xsave, &mut xsave.region)?;
        // SAFETY: KVM reads as many bytes as the area of this process's guests has: the 4096 of the structure, since
        // nobody here asks for the features that make it larger (`ARCH_REQ_XCOMP_GUEST_PERM`).
        #[allow(unsafe_code)]
        unsafe { vcpu.set_xsave(&xsave) }.map_err(refused("KVM_SET_XSAVE"))?;
        self.set_xcrs(vcpu)?;
        vcpu.set_debug_regs(&self.debug.into()).map_err(refused("KVM_SET_DEBUGREGS"))?;
        if let Some(Lapic(bytes)) = &self.lapic {
            let mut lapic = kvm_lapic_state::default();
            let size =
                StateError::Size { part: "the local APIC", length: bytes.len(), wanted: lapic.regs.len() };
            if bytes.len() != lapic.regs.len() {
                return Err(size);
            }
            lapic.regs.iter_mut().zip(bytes).for_each(|(to, from)| *to = from.cast_signed());
            vcpu.set_lapic(&lapic).map_err(refused("KVM_SET_LAPIC"))?;
        }
        set_msrs(vcpu, msrs)?;
        vcpu.set_vcpu_events(&self.events.into()).map_err(refused("KVM_SET_VCPU_EVENTS"))
    }

    /// What differs between two states of a vCPU that stood still in between: nothing of what runs by itself, the
    /// counters of time and the local APIC's timer. Names each part, with both values where it is one register.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let parts = [
            (self.mp_state != other.mp_state, "mp_state"),
            (self.registers != other.registers, "general registers"),
            (self.special != other.special, "special registers"),
            (self.xsave != other.xsave, "XSAVE area"),
            (self.xcrs != other.xcrs, "extended control registers"),
            (self.debug != other.debug, "debug registers"),
            (self.events != other.events, "events"),
            (self.lapic.as_ref().map(Lapic::still) != other.lapic.as_ref().map(Lapic::still), "local APIC"),
        ];
        let indices: BTreeSet<u32> = self.msrs.keys().chain(other.msrs.keys()).copied().collect();
        let msr = |index: &u32| {
            let (own, other) = (self.msrs.get(index), other.msrs.get(index));
            (still(*index, own) != still(*index, other))
                .then(|| format!("model-specific register {index:#x}: {own:x?} and {other:x?}"))
        };
        let parts = parts.into_iter().filter(|(differs, _)| *differs).map(|(_, part)| part.to_owned());
        parts.chain(indices.iter().filter_map(msr)).collect()
    }

    fn set_xcrs(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        if self.xcrs.is_empty() {
            return Ok(());
        }
        let mut xcrs = kvm_xcrs::default();
        let wanted = xcrs.xcrs.len();
        if self.xcrs.len() > wanted {
            return Err(StateError::Size {
                part: "a list of extended control registers",
                length: self.xcrs.len(),
                wanted,
            });
        }
        for (slot, (&xcr, &value)) in xcrs.xcrs.iter_mut().zip(&self.xcrs) {
            *slot = kvm_xcr { xcr, value, reserved: 0 };
        }
        xcrs.nr_xcrs = u32::try_from(self.xcrs.len()).unwrap_or(0);
        vcpu.set_xcrs(&xcrs).map_err(refused("KVM_SET_XCRS"))
    }
}

/// How many registers are asked for at a time.
const AT_ONCE: usize = 64;

/// Reads registers, but those that KVM lists and this vCPU does not have.
fn get_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<BTreeMap<u32, u64>, StateError> {
    let mut values = BTreeMap::new();
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<kvm_msr_entry> = rest
            .iter()
            .take(AT_ONCE)
            .map(|&index| kvm_msr_entry { index, ..kvm_msr_entry::default() })
            .collect();
        let mut msrs = list(&entries)?;
        // It stops at the first that it can't read.
        let read = vcpu.get_msrs(&mut msrs).map_err(refused("KVM_GET_MSRS"))?;
        values.extend(msrs.as_slice().iter().take(read).map(|entry| (entry.index, entry.data)));
        rest = rest.get(if read < entries.len() { read + 1 } else { read }..).unwrap_or(&[]);
    }
    Ok(values)
}

/// Writes registers, the timer's deadline last. One that KVM does not let anybody write is none the worse if it has
/// the value already.
fn set_msrs(vcpu: &VcpuFd, values: &BTreeMap<u32, u64>) -> Result<(), StateError> {
    let entry = |(&index, &data): (&u32, &u64)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    let (last, first): (Vec<_>, Vec<_>) =
        values.iter().map(entry).partition(|entry| entry.index == TSC_DEADLINE);
    for entries in [first, last] {
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let some = rest.get(..AT_ONCE.min(rest.len())).unwrap_or(rest);
            let written = vcpu.set_msrs(&list(some)?).map_err(refused("KVM_SET_MSRS"))?;
            if let Some(refused) = some.get(written) {
                let has = get_msrs(vcpu, &[refused.index])?;
                if has.get(&refused.index) != Some(&refused.data) {
                    return Err(StateError::Msr { index: refused.index, value: refused.data });
                }
            }
            rest = rest.get(if written < some.len() { written + 1 } else { written }..).unwrap_or(&[]);
        }
    }
    Ok(())
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, StateError> {
    Msrs::from_entries(entries).map_err(|_| StateError::Size {
        part: "a list of model-specific registers",
        length: entries.len(),
        wanted: AT_ONCE,
    })
}

fn from_words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn to_words(part: &'static str, bytes: &[u8], words: &mut [u32]) -> Result<(), StateError> {
    let wanted = size_of_val(words);
    if bytes.len() != wanted {
        return Err(StateError::Size { part, length: bytes.len(), wanted });
    }
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*chunk);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xsave_area_of_another_size_is_refused_by_its_name() {
        let mut words = [0; 4];
        to_words("the area", &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 1], &mut words).unwrap();
        assert_eq!(words, [1, 2, 3, 0x100_0004]);
        assert_eq!(from_words(&words).len(), 16);
        let error = to_words("the area", &[0; 15], &mut words).unwrap_err();
        assert_eq!(error.to_string(), "the area of 15 bytes: KVM's has 16");
    }
}
