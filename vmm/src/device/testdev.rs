//! The registers of QEMU's `pc-testdev`, which kvm-unit-tests' images for x86 are written against.
//!
//! Four ports that keep what was written, the same bytes again for who takes one at a time, a port that has KVM forget a
//! page, 24 interrupt lines as ports, and 64 KiB of memory behind MMIO.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::bus::BusDevice;
use crate::layout::{TESTDEV_IRQ_SIZE, TESTDEV_MMIO_SIZE};
use crate::memory::GuestMemory;
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};

/// The ports from [`crate::layout::TESTDEV`]: the word, the page to forget, the word byte by byte.
const FLUSH: u64 = 4;
const BYTES: u64 = 8;
const WORD_SIZE: u64 = 4;
const PAGE: u64 = 4096;

/// The interrupt controllers' pins, as levels.
pub trait Lines: Send + Sync {
    /// Raises or lowers the pin `gsi`.
    fn set(&self, gsi: u32, high: bool);
}

/// The ports from [`crate::layout::TESTDEV`].
pub struct TestPorts {
    word: [u8; 4],
    memory: GuestMemory,
}

impl TestPorts {
    /// Makes the ports of a machine with that memory.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Self {
        Self { word: [0; 4], memory }
    }

    /// Has KVM take the page at `address` out of the guest's mappings; the next access faults it in again.
    ///
    /// The protection is widened and put back: whoever else is at that page never notices.
    fn forget(&self, address: u64) {
        let page = address & !(PAGE - 1);
        let (size, at) = (usize::try_from(PAGE).unwrap_or(0), GuestAddress(page));
        if !self.memory.check_range(at, size) {
            return;
        }
        let Ok(host) = self.memory.get_host_address(at) else { return };
        use rustix::mm::MprotectFlags;
        let usual = MprotectFlags::READ | MprotectFlags::WRITE;
        for flags in [usual | MprotectFlags::EXEC, usual] {
            // SAFETY: the page is part of a mapping that `memory` owns and is readable and writable throughout; nothing
            // runs code from it.
            #[allow(unsafe_code)]
            let _a_hardened_host_refuses = unsafe { rustix::mm::mprotect(host.cast(), size, flags) };
        }
    }
}

/// Which byte of the word an offset is.
fn place(offset: u64) -> Option<usize> {
    let within = offset.checked_sub(BYTES).unwrap_or(offset);
    usize::try_from(within).ok().filter(|_| within < WORD_SIZE)
}

impl BusDevice for TestPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let word = self.word;
        super::bytes::read(offset, data, |offset| {
            if (FLUSH..BYTES).contains(&offset) {
                return 0xff;
            }
            place(offset).and_then(|place| word.get(place)).copied().unwrap_or(0xff)
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (FLUSH, [a, b, c, d]) = (offset, data) {
            self.forget(u32::from_le_bytes([*a, *b, *c, *d]).into());
            return;
        }
        let word = &mut self.word;
        super::bytes::write(offset, data, |offset, value| {
            if !(FLUSH..BYTES).contains(&offset)
                && let Some(byte) = place(offset).and_then(|place| word.get_mut(place))
            {
                *byte = value;
            }
        });
    }
}

/// The ports from [`crate::layout::TESTDEV_IRQ`]: one for each line.
pub struct TestLines {
    lines: Arc<dyn Lines>,
    /// Those that are high, from bit 0: KVM does not tell.
    high: u32,
}

impl TestLines {
    /// Makes ports that set `lines`.
    #[must_use]
    pub fn new(lines: Arc<dyn Lines>) -> Self {
        Self { lines, high: 0 }
    }
}

impl BusDevice for TestLines {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// A write of one byte sets its line; of others, nothing.
    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([level], Ok(gsi)) = (data, u32::try_from(offset))
            && gsi < u32::from(TESTDEV_IRQ_SIZE)
        {
            let bit = 1 << gsi;
            self.high = if *level != 0 { self.high | bit } else { self.high & !bit };
            self.lines.set(gsi, *level != 0);
        }
    }
}

/// The memory at [`crate::layout::TESTDEV_MMIO`].
pub struct TestMemory(Vec<u8>);

impl TestMemory {
    /// Makes it, all zeros.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; usize::try_from(TESTDEV_MMIO_SIZE).unwrap_or(0)])
    }
}

impl Default for TestMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for TestMemory {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        super::bytes::read(offset, data, |offset| {
            usize::try_from(offset).ok().and_then(|at| self.0.get(at)).copied().unwrap_or(0xff)
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        super::bytes::write(offset, data, |offset, value| {
            if let Some(byte) = usize::try_from(offset).ok().and_then(|at| self.0.get_mut(at)) {
                *byte = value;
            }
        });
    }
}

impl Persist for TestPorts {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        to_value(self.word)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        self.word = from_value(state)?;
        Ok(())
    }
}

impl Persist for TestLines {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        to_value(self.high)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        self.high = from_value::<u32>(state)? & ((1 << TESTDEV_IRQ_SIZE) - 1);
        for gsi in (0..TESTDEV_IRQ_SIZE.into()).filter(|gsi| self.high >> gsi & 1 == 1) {
            self.lines.set(gsi, true);
        }
        Ok(())
    }
}

/// Its bytes, without the zeros at the end.
impl Persist for TestMemory {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        let end = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        to_value(self.0.get(..end))
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        let bytes: Vec<u8> = from_value(state)?;
        let room = self.0.get_mut(..bytes.len());
        room.ok_or_else(|| PersistError::Refused("it has more memory than there is".to_owned()))?
            .copy_from_slice(&bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vm_memory::Bytes;

    use super::*;
    use crate::memory;

    fn read<const N: usize>(device: &mut dyn BusDevice, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        device.read(offset, &mut data);
        data
    }

    #[test]
    fn testdev_word_keeps_what_was_written_by_each_width() {
        let mut ports = TestPorts::new(memory::allocate(1 << 20).unwrap());
        ports.write(0, &[1, 2, 3, 4]);
        ports.write(1, &[0xaa, 0xbb]);
        ports.write(BYTES + 3, &[0xcc]);
        assert_eq!(read(&mut ports, 0), [1, 0xaa, 0xbb, 0xcc]);
        assert_eq!(read(&mut ports, BYTES), [1, 0xaa, 0xbb, 0xcc]);
        assert_eq!(read(&mut ports, 2), [0xbb, 0xcc]);
        assert_eq!(read(&mut ports, FLUSH), [0xff; 4]);
    }

    #[test]
    fn testdev_page_forgotten_keeps_its_bytes_and_one_that_is_not_there_does_no_harm() {
        let memory = memory::allocate(1 << 20).unwrap();
        memory.write_obj(0x5a5a_a5a5u32, GuestAddress(0x3004)).unwrap();
        let mut ports = TestPorts::new(memory.clone());
        ports.write(FLUSH, &0x3007u32.to_le_bytes());
        ports.write(FLUSH, &0xffff_f000u32.to_le_bytes());
        ports.write(FLUSH, &[0, 0]);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(0x3004)).unwrap(), 0x5a5a_a5a5);
        memory.write_obj(7u8, GuestAddress(0x3004)).unwrap();
    }

    #[derive(Default)]
    struct Pins(Mutex<Vec<(u32, bool)>>);

    impl Lines for Pins {
        fn set(&self, gsi: u32, high: bool) {
            self.0.lock().unwrap().push((gsi, high));
        }
    }

    #[test]
    fn testdev_lines_are_set_by_bytes_alone() {
        let pins = Arc::new(Pins::default());
        let mut lines = TestLines::new(pins.clone());
        lines.write(10, &[1]);
        lines.write(10, &[0]);
        lines.write(23, &[0x80]);
        lines.write(24, &[1]);
        lines.write(1, &[1, 0]);
        assert_eq!(*pins.0.lock().unwrap(), [(10, true), (10, false), (23, true)]);
    }

    #[test]
    fn testdev_memory_keeps_what_was_written_by_each_width() {
        let mut device = TestMemory::new();
        device.write(8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        device.write(9, &[0xff]);
        assert_eq!(read(&mut device, 8), [1, 0xff, 3, 4]);
        assert_eq!(read(&mut device, 0xffff), [0]);
        assert_eq!(read(&mut device, 0xffff), [0, 0xff]);
    }
}
