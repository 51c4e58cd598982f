//! One address space's ranges: none overlaps another, and none is where KVM itself answers.

use std::sync::{Arc, PoisonError};

use super::sizes::AccessSizes;
use super::{BusDevice, Shared};

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
    /// A device that takes nothing narrower than its registers, in a range that they don't fill.
    #[error(
        "device {name} at {base:#x} takes no access below {width} bytes: its {size:#x} addresses are no multiple of that"
    )]
    Ragged {
        /// The device's name.
        name: String,
        /// The range's first address.
        base: u64,
        /// How many addresses it has.
        size: u64,
        /// The narrowest access that it takes, in bytes.
        width: usize,
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
    /// KVM answers there itself: no access would ever reach the device.
    #[error("device {name} at {base:#x} would never be seen: {owner}, which KVM itself emulates, is there")]
    Reserved {
        /// The device's name.
        name: String,
        /// The range's first address.
        base: u64,
        /// What KVM has there.
        owner: &'static str,
    },
}

/// A device's place.
#[derive(Clone)]
pub(super) struct Range {
    pub(super) base: u64,
    /// The last address.
    pub(super) last: u64,
    pub(super) name: Arc<str>,
    pub(super) sizes: AccessSizes,
    pub(super) device: Shared<dyn BusDevice>,
}

/// One address space's devices.
#[derive(Clone, Default)]
pub struct Bus {
    /// By address; none overlaps another.
    ranges: Vec<Range>,
    /// First and last addresses of what KVM answers itself.
    reserved: Vec<(u64, u64, &'static str)>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps devices off the `size` addresses from `base`, which KVM's `owner` answers without an exit.
    ///
    /// # Errors
    /// The range is none.
    pub fn reserve(&mut self, owner: &'static str, (base, size): (u64, u64)) -> Result<(), BusError> {
        let last = last(owner, base, size)?;
        self.reserved.push((base, last, owner));
        Ok(())
    }

    /// Puts `device` at the `size` addresses from `base`.
    ///
    /// # Errors
    /// The range is none, does not fit the accesses that the device takes, or is taken.
    pub fn insert(
        &mut self,
        name: &str,
        range: (u64, u64),
        device: Shared<dyn BusDevice>,
    ) -> Result<(), BusError> {
        self.insert_again(name.into(), range, device)
    }

    /// As [`Bus::insert`], for a device that had another place before: it is known by the `name` that it had there.
    pub(crate) fn insert_again(
        &mut self,
        name: Arc<str>,
        (base, size): (u64, u64),
        device: Shared<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let last = last(&name, base, size)?;
        let sizes = device.lock().unwrap_or_else(PoisonError::into_inner).sizes();
        if !sizes.fill(size) {
            return Err(BusError::Ragged { name: name.to_string(), base, size, width: sizes.min() });
        }
        if let Some((.., owner)) = self.reserved.iter().find(|(from, to, _)| *from <= last && base <= *to) {
            return Err(BusError::Reserved { name: name.to_string(), base, owner });
        }
        let index = self.ranges.partition_point(|range| range.last < base);
        if let Some(next) = self.ranges.get(index)
            && next.base <= last
        {
            return Err(BusError::Overlap { name: name.to_string(), base, other: next.name.to_string() });
        }
        self.ranges.insert(index, Range { base, last, name, sizes, device });
        Ok(())
    }

    /// Takes away the device whose range begins at `base`; tells whether there was one.
    pub fn remove(&mut self, base: u64) -> bool {
        let index = self.ranges.iter().position(|range| range.base == base);
        index.map(|index| self.ranges.remove(index)).is_some()
    }

    /// The range that `address` lies in, or the first above it.
    pub(super) fn at_or_above(&self, address: u64) -> Option<&Range> {
        self.ranges.get(self.ranges.partition_point(|range| range.last < address))
    }
}

/// The last of `size` addresses from `base`.
fn last(name: &str, base: u64, size: u64) -> Result<u64, BusError> {
    size.checked_sub(1).and_then(|rest| base.checked_add(rest)).ok_or_else(|| BusError::NoRange {
        name: name.to_owned(),
        base,
        size,
    })
}
