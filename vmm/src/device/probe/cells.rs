//! Memory that takes accesses of one width alone: what of a guest's access reaches a device in which pieces, the guest
//! sees by it.

use crate::bus::{AccessSizes, BusDevice, Width};

/// How many bytes there are.
const CELLS: usize = 16;

/// Bytes in cells of one width. An access that is not of one whole cell is lost: its width is the bus's to see to.
pub struct Cells {
    width: Width,
    bytes: [u8; CELLS],
}

impl Cells {
    /// Cells of `width`, all zeros.
    #[must_use]
    pub fn new(width: Width) -> Self {
        Self { width, bytes: [0; CELLS] }
    }

    fn cell(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let offset = usize::try_from(offset).ok()?;
        if length != self.width.bytes() || !offset.is_multiple_of(length) {
            return None;
        }
        self.bytes.get_mut(offset..)?.get_mut(..length)
    }
}

impl BusDevice for Cells {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(cell) = self.cell(offset, data.len()) {
            data.copy_from_slice(cell);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(cell) = self.cell(offset, data.len()) {
            cell.copy_from_slice(data);
        }
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes::only(self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_what_comes_by_their_width_and_nothing_else() {
        let mut cells = Cells::new(Width::Double);
        cells.write(4, &[1, 2, 3, 4]);
        for (offset, length) in [(4, 2), (5, 4), (4, 8), (16, 4), (u64::MAX, 4)] {
            cells.write(offset, &[9; 8][..length]);
            let mut data = [0xff; 8];
            cells.read(offset, &mut data[..length]);
            assert_eq!(data, [0xff; 8]);
        }
        let mut data = [0; 4];
        cells.read(4, &mut data);
        assert_eq!(data, [1, 2, 3, 4]);
    }
}
