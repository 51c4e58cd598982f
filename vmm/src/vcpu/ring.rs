//! The ring of coalesced writes: writes to zones that KVM takes without an exit, handed to the devices in their order.
//!
//! There is one a VM. Whoever comes out of the guest empties it before the exit is handled, so that a device sees all
//! writes in the order in which a vCPU made them, whether they came by an exit or not.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::kvm_coalesced_mmio;
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags};

use super::pages::{PAGE, SharedPages};
use crate::config::BusKind;

/// `kvm_coalesced_mmio_ring`: two indices, the next entry to take and the next to be written; then the entries.
const HEADER: usize = 2 * size_of::<u32>();
/// How many entries are on the page. One stays free, so that a full ring is not an empty one.
const ENTRIES: usize = (PAGE - HEADER) / size_of::<kvm_coalesced_mmio>();

/// The ring of one VM, mapped.
pub(super) struct Ring {
    page: NonNull<u8>,
    /// Whether the page is this value's mapping; not so in a test.
    mapped: bool,
    /// Held by whoever empties it.
    taking: Mutex<()>,
}

// SAFETY: the page is shared with the kernel anyway: its indices are touched only atomically, its entries only by
// the holder of the lock, between the indices.
#[allow(unsafe_code)]
unsafe impl Send for Ring {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Ring {}

impl Ring {
    /// Maps the ring of the VM that `vcpu` is one of, if it has one.
    pub(super) fn map(vcpu: &VcpuFd, pages: &SharedPages) -> io::Result<Option<Self>> {
        let Some(place) = pages.ring() else { return Ok(None) };
        let offset = u64::try_from(place.start).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed. The mapping is a new one, of a page that
        // KVM says is there.
        #[allow(unsafe_code)]
        let page = unsafe {
            let vcpu = BorrowedFd::borrow_raw(vcpu.as_raw_fd());
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), place.len(), access, MapFlags::SHARED, vcpu, offset)?
        };
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Some(Self { page, mapped: true, taking: Mutex::default() }))
    }

    fn index(&self, which: usize) -> &AtomicU32 {
        // SAFETY: the page is mapped as long as `self` lives, its first eight bytes are the two indices, and everybody
        // in this process touches them atomically.
        #[allow(unsafe_code)]
        unsafe {
            AtomicU32::from_ptr(self.page.as_ptr().cast::<u32>().add(which & 1))
        }
    }

    fn entry(&self, index: usize) -> NonNull<kvm_coalesced_mmio> {
        // SAFETY: the entries of the page begin behind the indices, and `index` stays below their number.
        #[allow(unsafe_code)]
        unsafe {
            self.page.add(HEADER).cast::<kvm_coalesced_mmio>().add(index % ENTRIES)
        }
    }

    /// Hands over the writes that are in the ring now, the oldest first. Two loads, where there are none.
    pub(super) fn take(&self, mut write: impl FnMut(BusKind, u64, &[u8])) {
        let (first, last) = (self.index(0), self.index(1));
        // The index of one who is emptying it moves on only after the device has seen the write: when they are
        // equal, all that came before this exit has been handed over.
        if first.load(Ordering::Acquire) == last.load(Ordering::Acquire) {
            return;
        }
        let _one_at_a_time = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        // What comes from now on is later than the exit that is to be handled: a flood holds nobody here.
        let end = usize::try_from(last.load(Ordering::Acquire)).unwrap_or(0) % ENTRIES;
        let mut at = usize::try_from(first.load(Ordering::Acquire)).unwrap_or(0) % ENTRIES;
        while at != end {
            // SAFETY: the entry lies between the indices: the kernel is done with it, and does not write it again before
            // the first index has moved past it.
            #[allow(unsafe_code)]
            let (entry, pio) = unsafe {
                let entry = self.entry(at).read();
                (entry, entry.__bindgen_anon_1.pio != 0)
            };
            let length = usize::try_from(entry.len).unwrap_or(0);
            if let Some(data) = entry.data.get(..length) {
                write(if pio { BusKind::Pio } else { BusKind::Mmio }, entry.phys_addr, data);
            }
            at = (at + 1) % ENTRIES;
            first.store(u32::try_from(at).unwrap_or(0), Ordering::Release);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: the mapping is this value's own, of one page, and nothing points into it any more.
            #[allow(unsafe_code)]
            let _cannot_fail = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), PAGE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page that plays the kernel's.
    #[repr(C, align(4096))]
    struct Page([u8; PAGE]);

    fn ring(page: &mut Page) -> Ring {
        Ring { page: NonNull::from(page).cast(), mapped: false, taking: Mutex::default() }
    }

    /// Writes an entry as the kernel does: nothing, and `false`, where there is no room.
    #[allow(unsafe_code)]
    fn put(ring: &Ring, address: u64, data: &[u8], pio: u32) -> bool {
        let (first, last) = (ring.index(0).load(Ordering::SeqCst), ring.index(1).load(Ordering::SeqCst));
        let next = (last + 1) % u32::try_from(ENTRIES).unwrap();
        if next == first {
            return false;
        }
        let mut entry = kvm_coalesced_mmio {
            phys_addr: address,
            len: data.len().try_into().unwrap(),
            ..Default::default()
        };
        entry.data[..data.len()].copy_from_slice(data);
        entry.__bindgen_anon_1.pio = pio;
        // SAFETY: nobody else is here.
        unsafe { ring.entry(last.try_into().unwrap()).write(entry) };
        ring.index(1).store(next, Ordering::SeqCst);
        true
    }

    fn taken(ring: &Ring) -> Vec<(BusKind, u64, Vec<u8>)> {
        let mut all = Vec::new();
        ring.take(|bus, address, data| all.push((bus, address, data.to_vec())));
        all
    }

    #[test]
    fn writes_come_out_in_order_with_their_space_and_width() {
        let mut page = Page([0; PAGE]);
        let ring = ring(&mut page);
        assert!(taken(&ring).is_empty());
        assert!(put(&ring, 0xd000_0000, &[1, 2, 3, 4], 0) && put(&ring, 0xa40, &[5], 1));
        let expected = [(BusKind::Mmio, 0xd000_0000, vec![1, 2, 3, 4]), (BusKind::Pio, 0xa40, vec![5])];
        assert_eq!(taken(&ring), expected);
        assert!(taken(&ring).is_empty());
    }

    #[test]
    fn ring_of_one_page_holds_169_and_goes_round() {
        let mut page = Page([0; PAGE]);
        let ring = ring(&mut page);
        for round in 0..5u64 {
            let fit = (0..).take_while(|n| put(&ring, round * 1000 + n, &[0], 0)).count();
            assert_eq!(fit, 169);
            let addresses: Vec<u64> = taken(&ring).into_iter().map(|(_, address, _)| address).collect();
            assert_eq!(addresses, (round * 1000..round * 1000 + 169).collect::<Vec<_>>());
        }
    }

    #[test]
    fn writes_that_come_while_it_is_emptied_wait_for_the_next_time() {
        let mut page = Page([0; PAGE]);
        let ring = ring(&mut page);
        put(&ring, 1, &[0], 0);
        let mut seen = Vec::new();
        ring.take(|_, address, _| {
            seen.push(address);
            put(&ring, address + 1, &[0], 0);
        });
        assert_eq!((seen, taken(&ring).len()), (vec![1], 1));
    }

    #[test]
    fn indices_and_lengths_that_make_no_sense_lead_nowhere() {
        let mut page = Page([0xff; PAGE]);
        let ring = ring(&mut page);
        assert!(taken(&ring).is_empty());
        ring.index(0).store(5, Ordering::SeqCst);
        assert!(taken(&ring).is_empty(), "entries of {} bytes", u32::MAX);
    }
}
