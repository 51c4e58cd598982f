//! The PIO and MMIO buses: which device a guest's access goes to.

use std::sync::{Arc, Mutex, PoisonError};

/// A device as a bus sees it: it knows offsets into its range, never its address.
///
/// An access lies whole inside the range that the device was put on the bus with. `data` has 1, 2, 4 or 8
/// bytes, little-endian.
pub trait BusDevice: Send {
    /// Answers a read of `data.len()` bytes at `offset`; `data` comes filled with all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes a write of `data.len()` bytes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that a bus and the rest of the machine share.
pub type Shared<D> = Arc<Mutex<D>>;

/// A range that can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range is empty or ends past the bus's last address.
    #[error("device {name} asks for {size:#x} addresses at {base:#x}, which is no range")]
    NoRange {
        /// The device's name.
        name: String,
        /// The range's first address.
        base: u64,
        /// How many addresses it has.
        size: u64,
    },
    /// Another device is there.
    #[error("device {name} at {base:#x} would overlap device {other}")]
    Overlap {
        /// The device's name.
        name: String,
        /// The range's first address.
        base: u64,
        /// Who is there.
        other: String,
    },
}

struct Range {
    base: u64,
    /// The last address.
    last: u64,
    name: Arc<str>,
    device: Shared<dyn BusDevice>,
}

/// One address space's devices, put there before the machine runs.
#[derive(Default)]
pub struct Bus {
    /// By address; none overlaps another.
    ranges: Vec<Range>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at the `size` addresses from `base`.
    ///
    /// # Errors
    /// The range is none, or is taken.
    pub fn insert(
        &mut self,
        name: &str,
        (base, size): (u64, u64),
        device: Shared<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let no_range = || BusError::NoRange { name: name.to_owned(), base, size };
        let last = size.checked_sub(1).and_then(|rest| base.checked_add(rest)).ok_or_else(no_range)?;
        let index = self.ranges.partition_point(|range| range.last < base);
        if let Some(next) = self.ranges.get(index)
            && next.base <= last
        {
            return Err(BusError::Overlap { name: name.to_owned(), base, other: next.name.to_string() });
        }
        self.ranges.insert(index, Range { base, last, name: name.into(), device });
        Ok(())
    }

    /// Reads `data.len()` bytes at `address`: all ones from nothing. Tells which device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Option<&Arc<str>> {
        data.fill(0xff);
        let range = self.find(address, data.len())?;
        range.device.lock().unwrap_or_else(PoisonError::into_inner).read(address - range.base, data);
        Some(&range.name)
    }

    /// Writes `data` at `address`; to nothing, it is lost. Tells which device took it.
    pub fn write(&self, address: u64, data: &[u8]) -> Option<&Arc<str>> {
        let range = self.find(address, data.len())?;
        range.device.lock().unwrap_or_else(PoisonError::into_inner).write(address - range.base, data);
        Some(&range.name)
    }

    /// The range that holds all of an access.
    fn find(&self, address: u64, length: usize) -> Option<&Range> {
        let index = self.ranges.partition_point(|range| range.last < address);
        let range = self.ranges.get(index).filter(|range| range.base <= address)?;
        let rest = u64::try_from(length).ok()?.checked_sub(1)?;
        (rest <= range.last - address).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the offset, and remembers writes.
    #[derive(Default)]
    struct Echo(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap_or(0xee));
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn device() -> Shared<Echo> {
        Shared::default()
    }

    #[test]
    fn access_reaches_the_device_whose_range_holds_it() {
        let mut bus = Bus::new();
        let (low, high) = (device(), device());
        bus.insert("high", (0x20, 8), high.clone()).unwrap();
        bus.insert("low", (0x10, 8), low.clone()).unwrap();
        let mut data = [0; 2];
        assert_eq!(bus.read(0x26, &mut data).map(|name| &**name), Some("high"));
        assert_eq!(data, [6, 6]);
        assert_eq!(bus.write(0x10, &[1]).map(|name| &**name), Some("low"));
        assert_eq!(low.lock().unwrap().0, [(0, vec![1])]);
        assert!(high.lock().unwrap().0.is_empty());
    }

    #[test]
    fn nothing_reads_as_all_ones_and_takes_no_write() {
        let mut bus = Bus::new();
        bus.insert("one", (0x10, 8), device()).unwrap();
        for address in [0, 0xf, 0x18, u64::MAX] {
            let mut data = [0; 1];
            assert!(bus.read(address, &mut data).is_none());
            assert_eq!(data, [0xff]);
            assert!(bus.write(address, &[1]).is_none());
        }
    }

    #[test]
    fn access_that_leaves_the_range_reaches_nobody() {
        let mut bus = Bus::new();
        bus.insert("one", (0x10, 8), device()).unwrap();
        let mut data = [0; 4];
        assert!(bus.read(0x16, &mut data).is_none());
        assert_eq!(data, [0xff; 4]);
        assert!(bus.write(0xe, &[0; 4]).is_none());
    }

    #[test]
    fn overlap_is_refused_by_name() {
        let mut bus = Bus::new();
        bus.insert("one", (0x10, 8), device()).unwrap();
        for range in [(0x10, 8), (0xf, 2), (0x17, 1), (0, 0x100)] {
            let error = bus.insert("two", range, device()).unwrap_err();
            assert!(matches!(&error, BusError::Overlap { other, .. } if other == "one"), "{error}");
        }
        bus.insert("two", (0x18, 1), device()).unwrap();
        bus.insert("three", (0xf, 1), device()).unwrap();
    }

    #[test]
    fn range_without_addresses_or_past_the_end_is_refused() {
        let mut bus = Bus::new();
        assert!(matches!(bus.insert("x", (5, 0), device()), Err(BusError::NoRange { .. })));
        assert!(matches!(bus.insert("x", (u64::MAX, 2), device()), Err(BusError::NoRange { .. })));
        bus.insert("x", (u64::MAX, 1), device()).unwrap();
    }
}
