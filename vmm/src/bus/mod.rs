//! The PIO and MMIO buses: which device a guest's access goes to, and in which pieces.
//!
//! A device reaches guest memory and interrupt lines, never a bus: an access can't lead to another one.

mod access;
mod published;
mod sizes;
mod table;
mod unclaimed;

use std::sync::{Arc, Mutex};

pub use access::Taken;
pub(crate) use published::{Published, Seen};
pub use sizes::{AccessSizes, Width};
pub use table::{Bus, BusError};
pub(crate) use unclaimed::Unclaimed;
pub use unclaimed::{UnclaimedAccess, UnclaimedReport};

/// A device as a bus sees it: it knows offsets into its range, never its address.
///
/// An access lies whole inside the range that the device was put on the bus with. `data` has 1, 2, 4 or 8
/// bytes, little-endian.
pub trait BusDevice: Send {
    /// Answers a read of `data.len()` bytes at `offset`; `data` comes filled with all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes a write of `data.len()` bytes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
    /// Which accesses it takes; asked once, when it is put on a bus. All, unless it says otherwise.
    fn sizes(&self) -> AccessSizes {
        AccessSizes::ANY
    }
}

/// A device that a bus and the rest of the machine share.
pub type Shared<D> = Arc<Mutex<D>>;

#[cfg(test)]
mod tests;
