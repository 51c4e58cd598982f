//! What differs where the host's processor is QEMU's emulator (TCG).

use std::arch::x86_64::__cpuid;

/// The leaf with a hypervisor's signature.
const SIGNATURE_LEAF: u32 = 0x4000_0000;
/// QEMU's own, when nothing but its emulator runs the host (target/i386/cpu.c).
const SIGNATURE: &[u8; 12] = b"TCGTCGTCGTCG";

/// Whether this host runs on it. It takes a task register for one only while its type says that the task is not busy
/// (`check_io`, target/i386/tcg/seg_helper.c): that is how it keeps what `LTR` loads, while KVM always tells of a busy one, as
/// processors do. Given that back, it refuses a guest's programs each port that their kernel lets them have.
pub(super) fn is_host() -> bool {
    let leaf = __cpuid(SIGNATURE_LEAF);
    let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    words.as_flattened() == SIGNATURE
}
