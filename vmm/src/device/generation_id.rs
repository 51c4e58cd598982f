//! The VM generation ID (Microsoft, "Virtual Machine Generation ID", 2012): sixteen random bytes in guest RAM, others in each
//! machine that goes on from a snapshot.
//!
//! A kernel that looks there knows by itself that there may be others of its kind, and draws other random numbers than they do.
//! ACPI's tables say where it is, and by which interrupt a machine tells that it has changed.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress};

use crate::kvm::{KvmError, Vm};
use crate::layout::{EVENT_GSI, GENERATION_ID, GENERATION_ID_SIZE};
use crate::memory::GuestMemory;

/// Makes the machine whose memory that is one of its own kind. No vCPU may run yet: the guest would read half of two.
///
/// # Errors
/// The host has no random numbers, or the memory ends before.
pub(crate) fn renew(memory: &GuestMemory) -> io::Result<()> {
    let mut id = [0; GENERATION_ID_SIZE];
    let mut rest = &mut id[..];
    while !rest.is_empty() {
        let count = match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => continue,
            count => count?,
        };
        rest = rest.get_mut(count..).unwrap_or_default();
    }
    memory.write_slice(&id, GuestAddress(GENERATION_ID)).map_err(io::Error::other)
}

/// Tells the guest that the ID is another one: one edge, which a guest that does not listen has masked.
///
/// # Errors
/// KVM refused.
pub(crate) fn announce(vm: &Vm) -> Result<(), KvmError> {
    vm.set_line(EVENT_GSI, true)?;
    vm.set_line(EVENT_GSI, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_another_each_time_and_nothing_else_changes() {
        let memory = crate::memory::allocate(2 << 20).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..16 {
            renew(&memory).unwrap();
            let mut low = vec![0; 2 << 20];
            memory.read_slice(&mut low, GuestAddress(0)).unwrap();
            let at = usize::try_from(GENERATION_ID).unwrap();
            let id: Vec<u8> = low.splice(at..at + GENERATION_ID_SIZE, []).collect();
            assert!(low.iter().all(|byte| *byte == 0));
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn memory_that_ends_before_is_refused() {
        assert!(renew(&crate::memory::allocate(64 << 10).unwrap()).is_err());
    }
}
