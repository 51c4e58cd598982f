//! The PIO and MMIO buses: which device a guest's access goes to.

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
