//! Which pages of RAM the VMM itself has written, while somebody wants to know.
//!
//! KVM sees what the guest writes, and not what devices write for it. They all write by way of
//! [`super::GuestMemory`], which tells the log of its region.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

/// A page, in bytes.
const PAGE: usize = 4096;
/// The pages of one word.
const WORD: usize = u64::BITS as usize;

/// The log of one region of RAM: a bit a page. While it is off a write costs a load of a byte; the bits take memory
/// from the first time that it is on.
#[derive(Debug, Default)]
pub struct WriteLog {
    on: AtomicBool,
    pages: usize,
    bits: OnceLock<Box<[AtomicU64]>>,
}

impl WriteLog {
    /// Begins with no page written.
    pub(super) fn start(&self) {
        let new = || (0..self.pages.div_ceil(WORD)).map(|_| AtomicU64::new(0)).collect();
        for word in self.bits.get_or_init(new) {
            word.store(0, Ordering::Relaxed);
        }
        self.on.store(true, Ordering::SeqCst);
    }

    /// Notes nothing from now on.
    pub(super) fn stop(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    /// Adds the pages that were written since the last time to `bits`, lowest bit first, and forgets them.
    pub(super) fn take(&self, bits: &mut [u64]) {
        let words = self.bits.get().map(AsRef::as_ref).unwrap_or_default();
        for (to, from) in bits.iter_mut().zip(words) {
            if from.load(Ordering::Acquire) != 0 {
                *to |= from.swap(0, Ordering::AcqRel);
            }
        }
    }

    fn mark(&self, offset: usize, length: usize) {
        let (Some(rest), Some(words)) = (length.checked_sub(1), self.bits.get()) else { return };
        for page in offset / PAGE..=offset.saturating_add(rest) / PAGE {
            let Some(word) = words.get(page / WORD) else { break };
            word.fetch_or(1 << (page % WORD), Ordering::AcqRel);
        }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteLog {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.on.load(Ordering::Relaxed) {
            self.mark(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        let word = self.bits.get().and_then(|words| words.get(page / WORD));
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (page % WORD) & 1 == 1)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for WriteLog {
    fn with_len(len: usize) -> Self {
        Self { pages: len.div_ceil(PAGE), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{
        Address, Bytes, GuestAddress, GuestMemoryBackend, GuestRegionMmap, MmapRegion, ReadVolatile,
    };

    fn taken(log: &WriteLog) -> Vec<u64> {
        let mut bits = vec![0; log.pages.div_ceil(WORD)];
        log.take(&mut bits);
        bits
    }

    #[test]
    fn pages_written_while_it_is_on_are_told_once() {
        let log = WriteLog::with_len(130 * PAGE);
        log.mark_dirty(0, 1);
        assert_eq!(taken(&log), [0; 3], "off");
        log.start();
        log.mark_dirty(PAGE - 1, 2);
        log.mark_dirty(64 * PAGE, 0);
        log.mark_dirty(129 * PAGE, PAGE);
        assert!(log.dirty_at(PAGE) && !log.dirty_at(64 * PAGE));
        assert_eq!(taken(&log), [0b11, 0, 0b10]);
        assert_eq!(taken(&log), [0; 3]);
        log.mark_dirty(0, 1);
        log.start();
        assert_eq!(taken(&log), [0; 3], "begun anew");
        log.stop();
        log.mark_dirty(0, 1);
        assert_eq!(taken(&log), [0; 3], "off again");
    }

    #[test]
    fn writes_past_the_end_mark_nothing() {
        let log = WriteLog::with_len(PAGE + 1);
        log.start();
        log.mark_dirty(usize::MAX, 5);
        log.mark_dirty(64 * PAGE, PAGE);
        assert_eq!(taken(&log), [0]);
    }

    #[test]
    fn every_way_to_write_ram_is_noted() {
        let region = MmapRegion::<WriteLog>::new(16 * PAGE).unwrap();
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        let memory = super::super::GuestMemory::from_regions(vec![region]).unwrap();
        let at = |page: usize| GuestAddress((page * PAGE).try_into().unwrap());
        let log = MmapRegion::bitmap(memory.iter().next().unwrap());
        log.start();
        memory.write_obj(1u16, at(1).unchecked_add(4095)).unwrap();
        memory.write_slice(&[1; PAGE], at(4)).unwrap();
        memory.store(1u32, at(6), Ordering::Release).unwrap();
        memory.read_exact_volatile_from(at(8), &mut [1u8; 8].as_slice(), 8).unwrap();
        for slice in memory.get_slices(at(10), PAGE) {
            [1u8; 8].as_slice().read_volatile(&mut slice.unwrap()).unwrap();
        }
        for slice in memory.get_slices(at(12), 16) {
            slice.unwrap().copy_from(&[1u8; 16]);
        }
        let _read: u64 = memory.read_obj(at(14)).unwrap();
        assert_eq!(taken(log), [0b1_0101_0101_0110]);
    }
}
