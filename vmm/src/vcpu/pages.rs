//! The pages that KVM shares with each vCPU's user: how many there are, and what is where.
//!
//! One, two or three: `kvm_run`; the data of port accesses; the ring of coalesced writes, which is the VM's and looks the
//! same through every vCPU. Sizes and places are what KVM says (`KVM_GET_VCPU_MMAP_SIZE`, `kvm_run.io.data_offset`,
//! `KVM_CAP_COALESCED_MMIO`); a place past the end would be a `SIGBUS`, and is refused here instead.

use std::ops::Range;

use kvm_bindings::kvm_run;
use kvm_ioctls::{Cap, Kvm};

use crate::kvm::KvmError;

/// A page of x86-64.
pub(super) const PAGE: usize = 4096;

/// Where what is in a vCPU's mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SharedPages {
    size: usize,
    /// The page that the ring is on, counted from 0.
    ring: Option<usize>,
}

impl SharedPages {
    /// Asks KVM.
    pub(super) fn of(kvm: &Kvm) -> Result<Self, KvmError> {
        let size = kvm.get_vcpu_mmap_size().map_err(KvmError::refused("KVM_GET_VCPU_MMAP_SIZE"))?;
        // The capability's value is the ring's page; without it there is none.
        let ring = usize::try_from(kvm.check_extension_int(Cap::CoalescedMmio)).ok();
        Self::new(size, ring.unwrap_or(0)).ok_or(KvmError::Capability("room for kvm_run in a vCPU's mapping"))
    }

    /// A mapping of `size` bytes with the ring on page `ring`, which no mapping has it on when it is 0: `kvm_run` is there.
    fn new(size: usize, ring: usize) -> Option<Self> {
        let whole = |page: usize| page.checked_add(1)?.checked_mul(PAGE).filter(|end| *end <= size);
        (size >= size_of::<kvm_run>() && size.is_multiple_of(PAGE))
            .then(|| Self { size, ring: (ring != 0).then_some(ring).filter(|page| whole(*page).is_some()) })
    }

    /// Whether the data of a port access, `count` elements of `width` bytes at `offset`, lies in the mapping.
    pub(super) fn holds_port_data(&self, offset: u64, width: u8, count: u32) -> bool {
        let end = u64::from(width).checked_mul(count.into()).and_then(|length| offset.checked_add(length));
        end.and_then(|end| usize::try_from(end).ok()).is_some_and(|end| end <= self.size)
    }

    /// Where the ring is, in bytes from the mapping's beginning.
    pub(super) fn ring(&self) -> Option<Range<usize>> {
        self.ring.map(|page| page * PAGE..(page + 1) * PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(count: usize, ring: usize) -> SharedPages {
        SharedPages::new(count * PAGE, ring).unwrap()
    }

    #[test]
    fn one_page_has_neither_port_data_nor_ring() {
        let pages = pages(1, 2);
        assert_eq!(pages.ring(), None);
        assert!(!pages.holds_port_data(4096, 1, 1));
        assert!(pages.holds_port_data(4095, 1, 1));
    }

    #[test]
    fn two_pages_have_port_data_or_a_ring() {
        assert_eq!(pages(2, 2).ring(), None);
        assert_eq!(pages(2, 1).ring(), Some(4096..8192));
        assert!(pages(2, 0).holds_port_data(4096, 4, 1024));
        assert!(!pages(2, 0).holds_port_data(4096, 4, 1025));
    }

    #[test]
    fn three_pages_have_both() {
        let pages = pages(3, 2);
        assert_eq!(pages.ring(), Some(8192..12288));
        assert!(pages.holds_port_data(4096, 2, 2048));
    }

    #[test]
    fn absurd_places_are_in_no_mapping() {
        let pages = pages(3, usize::MAX);
        assert_eq!(pages.ring(), None);
        assert!(!pages.holds_port_data(u64::MAX, 1, 1));
        assert!(!pages.holds_port_data(0, u8::MAX, u32::MAX));
    }

    #[test]
    fn mapping_that_does_not_hold_kvm_run_is_refused() {
        assert_eq!(SharedPages::new(0, 2), None);
        assert_eq!(SharedPages::new(size_of::<kvm_run>() - 1, 2), None);
        assert_eq!(SharedPages::new(PAGE + 1, 2), None);
    }
}
