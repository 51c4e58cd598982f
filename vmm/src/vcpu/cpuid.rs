//! What `CPUID` tells the guest: all that KVM supports, with a topology of one core a vCPU.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::kvm::KvmError;

/// Leaf 1, ECX (Intel SDM, volume 2, CPUID): the local APIC's timer has TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: EBX tells how many logical processors the package has.
const HTT: u32 = 1 << 28;

/// The CPUID that every vCPU starts from.
pub(super) fn supported(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::refused("KVM_GET_SUPPORTED_CPUID"))
}

/// The first vCPU's, on a machine that has no other.
pub(crate) fn of_first(kvm: &Kvm) -> Result<CpuId, KvmError> {
    let mut cpuid = supported(kvm)?;
    adapt(&mut cpuid, kvm, 0, 1)?;
    Ok(cpuid)
}

/// Makes `cpuid` that of vCPU `index` of `cpus`.
pub(super) fn adapt(cpuid: &mut CpuId, kvm: &Kvm, index: u32, cpus: u32) -> Result<(), KvmError> {
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    adapt_entries(cpuid.as_mut_slice(), index, cpus, tsc_deadline);
    // Extended topology (leaf 0xb): a thread level of one, a core level of all. KVM lists the leaf's first
    // level alone where the host has no more.
    let mut entries: Vec<kvm_cpuid_entry2> =
        cpuid.as_slice().iter().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).copied().collect();
    if cpuid.as_slice().iter().any(|entry| entry.function == 0xb) {
        let level = |level: u32, shift, count, kind: u32| kvm_cpuid_entry2 {
            function: 0xb,
            index: level,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: level | kind << 8,
            edx: index,
            ..kvm_cpuid_entry2::default()
        };
        entries.extend([level(0, 0, 1, 1), level(1, apic_bits(cpus), cpus, 2), level(2, 0, 0, 0)]);
    }
    *cpuid = CpuId::from_entries(&entries).map_err(|_| KvmError::Capability("room for CPUID's topology"))?;
    Ok(())
}

fn adapt_entries(entries: &mut [kvm_cpuid_entry2], index: u32, cpus: u32, tsc_deadline: bool) {
    for entry in entries {
        match entry.function {
            1 => {
                // EBX: brand index and CLFLUSH size stay; logical processors, initial APIC ID.
                entry.ebx = entry.ebx & 0xffff | cpus.next_power_of_two().min(255) << 16 | index << 24;
                entry.ecx |= HYPERVISOR;
                if tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                if cpus > 1 {
                    entry.edx |= HTT;
                }
            }
            // Deterministic caches: each core has its own; the package has as many core IDs as vCPUs.
            4 if entry.eax & 0x1f != 0 => {
                let cores = (cpus.next_power_of_two() - 1).min(63);
                entry.eax = entry.eax & 0x3fff | cores << 26;
            }
            // AMD: size of the core ID's field in the APIC ID, cores in the package (APM, volume 3, E.4.7).
            0x8000_0008 => entry.ecx = apic_bits(cpus) << 12 | (cpus - 1),
            // AMD: extended APIC ID, core ID with one thread a core, node 0 of one.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
            _ => {}
        }
    }
}

/// How many bits of an APIC ID tell `cpus` vCPUs apart.
fn apic_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax: 1, ebx: 0xffff_0800, ..kvm_cpuid_entry2::default() }
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id() {
        for index in [0, 1, 253] {
            let mut entries = [leaf(1)];
            adapt_entries(&mut entries, index, 254, true);
            assert_eq!(entries[0].ebx >> 24, index);
            assert_eq!(entries[0].ebx & 0xffff, 0x0800);
            assert_ne!(entries[0].ecx & TSC_DEADLINE, 0);
            assert_ne!(entries[0].edx & HTT, 0);
        }
    }

    #[test]
    fn bits_tell_all_vcpus_apart() {
        assert_eq!([1, 2, 3, 4, 5, 254].map(apic_bits), [0, 1, 2, 2, 3, 8]);
    }
}
