//! What of a host a snapshot depends on: it goes on only where processor and KVM are what they were.

use std::collections::BTreeMap;
use std::path::Path;

use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;

use super::checksum::Checksum;
use super::{SCHEMA, SnapshotError};
use crate::kvm::{self, KvmError};
use crate::vcpu::cpuid_of_first;

/// Facts of a host, by name.
pub(super) type Facts = BTreeMap<String, String>;

/// AMD's extended topology: tells of the processor that asked (APM, volume 3, E.4.24).
const AMD_TOPOLOGY: u32 = 0x8000_0026;

/// The facts that are looked at before a snapshot is restored. Not the speed of the time stamp counter, which differs a
/// little with each start of a host: [`super::Time`] looks at that.
pub(super) fn facts(kvm: &Kvm) -> Result<Facts, KvmError> {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let msrs = kvm.get_msr_index_list().map_err(KvmError::refused("KVM_GET_MSR_INDEX_LIST"))?;
    let msrs: Vec<u8> = msrs.as_slice().iter().flat_map(|index| index.to_le_bytes()).collect();
    let mut facts = Facts::new();
    let mut fact = |name: &str, value: String| facts.insert(name.to_owned(), value);
    fact("kernel", format!("{} {}", text(name.release()), text(name.version())));
    fact("processor", sum_of(&cpuid_of_first(kvm)?).to_string());
    fact("model-specific registers of KVM", Checksum::of(&msrs).to_string());
    let microcode = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/microcode/version");
    fact("microcode", microcode.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()));
    Ok(facts)
}

/// The first fact that differs.
pub(super) fn compare(there: &Facts, here: &Facts) -> Result<(), SnapshotError> {
    let unknown = || "unknown".to_owned();
    for name in there.keys().chain(here.keys()) {
        let (there, here) = (there.get(name), here.get(name));
        if there != here {
            return Err(SnapshotError::Host {
                what: name.clone(),
                there: there.cloned().unwrap_or_else(unknown),
                here: here.cloned().unwrap_or_else(unknown),
            });
        }
    }
    Ok(())
}

fn sum_of(cpuid: &CpuId) -> Checksum {
    let mut sum = Checksum::new();
    for entry in cpuid.as_slice() {
        let edx = if entry.function == AMD_TOPOLOGY { 0 } else { entry.edx };
        let words = [entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, edx];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        sum.add(&bytes);
    }
    sum
}

/// All that decides whether a snapshot made now can be restored on this host later, beside the machine's own
/// configuration: for the key under which a cache keeps snapshots. Facts by name, among them the form of the files and the parameters
/// of KVM's modules. What they say differs between two hosts, two kernels, two versions of kiln's snapshots, and not between two
/// processes or two builds of kiln that have these in common.
///
/// # Errors
/// There is no KVM at `node`.
pub fn identity(node: &Path) -> Result<BTreeMap<String, String>, KvmError> {
    let mut facts = facts(&kvm::open(node)?)?;
    facts.insert("schema".to_owned(), SCHEMA.to_string());
    for module in ["kvm", "kvm_intel", "kvm_amd"] {
        let folder = Path::new("/sys/module").join(module).join("parameters");
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            // One that may not be read says nothing to anybody here.
            if let Ok(value) = std::fs::read_to_string(entry.path()) {
                let name = format!("{module}.{}", entry.file_name().to_string_lossy());
                facts.insert(name, value.trim().to_owned());
            }
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kernel: &str) -> Facts {
        [("kernel", kernel), ("microcode", "1")].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    }

    #[test]
    fn host_with_another_kernel_is_named_with_both() {
        compare(&facts("6.1"), &facts("6.1")).unwrap();
        let error = compare(&facts("6.1"), &facts("6.12")).unwrap_err().to_string();
        assert!(
            error.contains("kernel") && error.contains("6.1 there") && error.contains("6.12 here"),
            "{error}"
        );
        assert!(compare(&facts("6.1"), &Facts::new()).is_err());
        assert!(compare(&Facts::new(), &facts("6.1")).is_err());
    }
}
