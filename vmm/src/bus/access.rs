//! An access's way to the devices: in one piece as a rule, in several across an edge or where a device wants that.

use std::sync::{Arc, PoisonError};

use super::sizes::Piece;
use super::table::{Bus, Range};

/// Who had an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken<'a> {
    /// The device that had it, the first where there were several; none where there is nothing.
    pub device: Option<&'a Arc<str>>,
    /// Whether some of its bytes were nobody's: they read as all ones, and are lost when written.
    pub nobodys: bool,
    /// Whether a write was narrower than the device takes: it is lost.
    pub refused: bool,
}

impl<'a> Taken<'a> {
    #[inline]
    fn whole(range: &'a Range) -> Self {
        Self { device: Some(&range.name), nobodys: false, refused: false }
    }
}

impl Bus {
    /// Reads `data.len()` bytes at `address`: all ones from nothing. Tells who answered.
    #[inline]
    pub fn read(&self, address: u64, data: &mut [u8]) -> Taken<'_> {
        data.fill(0xff);
        match self.whole(address, data.len()) {
            Some(range) => {
                range.read(address - range.base, data);
                Taken::whole(range)
            }
            None => self.read_in_pieces(address, data),
        }
    }

    /// Writes `data` at `address`; to nothing, it is lost. Tells who took it.
    #[inline]
    pub fn write(&self, address: u64, data: &[u8]) -> Taken<'_> {
        match self.whole(address, data.len()) {
            Some(range) => {
                range.write(address - range.base, data);
                Taken::whole(range)
            }
            None => self.write_in_pieces(address, data),
        }
    }

    /// The range that takes an access as it is.
    #[inline]
    fn whole(&self, address: u64, length: usize) -> Option<&Range> {
        let range = self.at_or_above(address).filter(|range| range.base <= address)?;
        let rest = u64::try_from(length).ok()?.checked_sub(1)?;
        (rest <= range.last - address && range.sizes.takes(address - range.base, length)).then_some(range)
    }

    #[cold]
    fn read_in_pieces(&self, address: u64, data: &mut [u8]) -> Taken<'_> {
        let mut taken = Taken::default();
        let mut at = 0;
        while let Some(rest) = data.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let (range, length) = self.part(address, at, rest.len());
            let rest = rest.get_mut(..length).unwrap_or_default();
            match range {
                Some((range, offset)) => {
                    taken.device.get_or_insert(&range.name);
                    range.read_pieces(offset, rest);
                }
                None => taken.nobodys = true,
            }
            at += length;
        }
        taken
    }

    #[cold]
    fn write_in_pieces(&self, address: u64, data: &[u8]) -> Taken<'_> {
        let mut taken = Taken::default();
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let (range, length) = self.part(address, at, rest.len());
            let rest = rest.get(..length).unwrap_or_default();
            match range {
                Some((range, offset)) => {
                    taken.device.get_or_insert(&range.name);
                    taken.refused |= range.write_pieces(offset, rest);
                }
                None => taken.nobodys = true,
            }
            at += length;
        }
        taken
    }

    /// The first part of the `length` bytes from `address + at`: whose it is, the offset in its range, and how long it is. Addresses
    /// past the last are nobody's.
    fn part(&self, address: u64, at: usize, length: usize) -> (Option<(&Range, u64)>, usize) {
        let Some(from) = u64::try_from(at).ok().and_then(|at| address.checked_add(at)) else {
            return (None, length);
        };
        // How many of the bytes lie before `end`: never none, because `end` is above `from`.
        let up_to = |end: u64| usize::try_from(end - from).unwrap_or(usize::MAX).min(length);
        match self.at_or_above(from) {
            Some(range) if range.base <= from => {
                let length = up_to(range.last).saturating_add(1).min(length);
                (Some((range, from - range.base)), length)
            }
            Some(next) => (None, up_to(next.base)),
            None => (None, length),
        }
    }
}

impl Range {
    #[inline]
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    #[inline]
    fn write(&self, offset: u64, data: &[u8]) {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }

    /// Reads bytes of this range, as the device wants it. The device is free between two pieces.
    fn read_pieces(&self, mut offset: u64, mut data: &mut [u8]) {
        while !data.is_empty() {
            let width = match self.sizes.first(offset, data.len()) {
                Piece::Whole(width) => {
                    self.read(offset, data.get_mut(..width).unwrap_or_default());
                    width
                }
                Piece::Within { skip, width } => {
                    let mut register = [0xff; 8];
                    let register = register.get_mut(..self.sizes.min()).unwrap_or_default();
                    self.read(offset - skip as u64, register);
                    data.iter_mut().zip(register.iter().skip(skip)).for_each(|(to, from)| *to = *from);
                    width
                }
            };
            offset += width as u64;
            data = data.get_mut(width..).unwrap_or_default();
        }
    }

    /// Writes bytes of this range, as the device wants it; tells whether some were refused.
    fn write_pieces(&self, mut offset: u64, mut data: &[u8]) -> bool {
        let mut refused = false;
        while !data.is_empty() {
            let width = match self.sizes.first(offset, data.len()) {
                Piece::Whole(width) => {
                    self.write(offset, data.get(..width).unwrap_or_default());
                    width
                }
                Piece::Within { width, .. } => {
                    refused = true;
                    width
                }
            };
            offset += width as u64;
            data = data.get(width..).unwrap_or_default();
        }
        refused
    }
}
