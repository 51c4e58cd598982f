//! The guest's time: KVM's clock and the vCPUs' time stamp counters go on from where they stood.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_clock_data, kvm_device_attr};
use kvm_ioctls::{Cap, VcpuFd};
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::kvm::{KvmError, Vm};
use crate::vcpu::state::{StateError, VcpuState};

/// How far a host's counter may be from the guest's, in millionths, where KVM can't scale it: what KVM itself puts up with.
const TOLERANCE_PPM: u64 = 250;

/// A machine's time, at the moment when it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// KVM's clock, in nanoseconds since the machine's beginning (`KVM_GET_CLOCK`).
    pub clock: u64,
    /// How fast the time stamp counters count, in kHz.
    pub tsc_khz: u32,
    /// The first vCPU's time stamp counter.
    pub tsc: u64,
    /// How far each vCPU's counter is ahead of the first one's.
    pub ahead: Vec<i64>,
}

/// A vCPU's counter: how fast it is, what it says, and its offset from the host's if KVM tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    pub(super) khz: u32,
    pub(super) offset: Option<u64>,
    pub(super) value: u64,
}

impl Counter {
    pub(super) fn of(vcpu: &VcpuFd) -> Result<Self, StateError> {
        // A KVM that does not tell has one that is as fast as the host's.
        let khz = vcpu.get_tsc_khz().unwrap_or(0);
        Ok(Self { khz, offset: offset(vcpu), value: VcpuState::tsc(vcpu)? })
    }
}

impl Time {
    /// Reads the machine's time, when all its vCPUs are out of the guest. `counters` has each vCPU's, in order.
    pub(super) fn get(vm: &Vm, counters: &[Counter]) -> Result<Self, KvmError> {
        let clock = vm.fd().get_clock().map_err(KvmError::refused("KVM_GET_CLOCK"))?.clock;
        let first = counters.first();
        let base = first.and_then(|first| first.offset);
        let ahead =
            |counter: &Counter| counter.offset.zip(base).map_or(0, |(own, base)| own.wrapping_sub(base));
        Ok(Self {
            clock,
            tsc_khz: first.map_or(0, |first| first.khz),
            tsc: first.map_or(0, |first| first.value),
            ahead: counters.iter().map(|counter| ahead(counter).cast_signed()).collect(),
        })
    }

    /// Has a new vCPU's counter be as fast as it was, before it gets its state.
    pub(crate) fn set_speed(&self, vm: &Vm, vcpu: &VcpuFd) -> Result<(), SnapshotError> {
        let host = vcpu.get_tsc_khz().unwrap_or(self.tsc_khz);
        if self.tsc_khz == 0 || host == self.tsc_khz {
            return Ok(());
        }
        let apart = u64::from(host.abs_diff(self.tsc_khz)) * 1_000_000 / u64::from(self.tsc_khz);
        let scales = vm.fd().check_extension(Cap::TscControl);
        if !scales && apart > TOLERANCE_PPM {
            return Err(SnapshotError::Host {
                what: "time stamp counter".to_owned(),
                there: format!("{} kHz", self.tsc_khz),
                here: format!("{host} kHz"),
            });
        }
        Ok(vcpu.set_tsc_khz(self.tsc_khz).map_err(KvmError::refused("KVM_SET_TSC_KHZ"))?)
    }

    /// Has the machine's time go on from here: the last before its vCPUs run. `states` has each vCPU's state, in order.
    pub(crate) fn set(&self, vm: &Vm, vcpus: &[VcpuFd], states: &[VcpuState]) -> Result<(), SnapshotError> {
        self.set_counters(vcpus)?;
        // Only now does a deadline mean the same moment as when it was set.
        for (cpu, (vcpu, state)) in (0..).zip(vcpus.iter().zip(states)) {
            state.arm(vcpu).map_err(|source| SnapshotError::Vcpu { cpu, source })?;
        }
        // With KVM's flags it would add the time for which the snapshot lay on a disk, and the guest's watchdogs bark.
        let clock = kvm_clock_data { clock: self.clock, ..kvm_clock_data::default() };
        vm.fd().set_clock(&clock).map_err(KvmError::refused("KVM_SET_CLOCK"))?;
        for vcpu in vcpus {
            // A guest without KVM's clock has no need to be told.
            let _no_kvmclock = vcpu.kvmclock_ctrl();
        }
        Ok(())
    }

    /// All counters by one reckoning: KVM takes them for in step if their offsets are the same to the bit. A value that is
    /// written instead may be taken for an attempt to set them in step with a vCPU that is new, and dropped.
    fn set_counters(&self, vcpus: &[VcpuFd]) -> Result<(), SnapshotError> {
        let Some(first) = vcpus.first() else { return Ok(()) };
        let now = Counter::of(first).map_err(|source| SnapshotError::Vcpu { cpu: 0, source })?;
        let base = now.offset.map(|offset| offset.wrapping_add(self.tsc).wrapping_sub(now.value));
        for (cpu, (vcpu, ahead)) in (0..).zip(vcpus.iter().zip(&self.ahead)) {
            let ahead = ahead.cast_unsigned();
            match base {
                Some(base) => {
                    set_offset(vcpu, base.wrapping_add(ahead)).map_err(|source| StateError::Refused {
                        step: "KVM_SET_DEVICE_ATTR of the time stamp counter's offset",
                        source,
                    })
                }
                None => VcpuState::set_tsc(vcpu, self.tsc.wrapping_add(ahead)),
            }
            .map_err(|source| SnapshotError::Vcpu { cpu, source })?;
        }
        Ok(())
    }
}

/// `KVM_SET_DEVICE_ATTR` and `KVM_GET_DEVICE_ATTR` (Linux, `include/uapi/linux/kvm.h`): kvm-ioctls has them for vCPUs of
/// other architectures alone.
const SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
const GET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee2;

/// The vCPU's counter less the host's, where KVM tells (Linux 5.16).
fn offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut value = 0u64;
    request(vcpu, GET_DEVICE_ATTR, &mut value).ok().map(|()| value)
}

fn set_offset(vcpu: &VcpuFd, mut value: u64) -> io::Result<()> {
    request(vcpu, SET_DEVICE_ATTR, &mut value)
}

fn request(vcpu: &VcpuFd, request: libc::c_ulong, value: &mut u64) -> io::Result<()> {
    let attr = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw mut *value).addr().try_into().unwrap_or(0),
    };
    (&raw mut *value).expose_provenance();
    // SAFETY: the descriptor is a vCPU's, and for this attribute KVM reads or writes the eight bytes of `value`, which
    // lives and is borrowed for as long as the call.
    #[allow(unsafe_code)]
    let failed = unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw const attr) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
