//! Which widths of access a device takes, and how others are cut to fit.

/// A width of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Word = 2,
    /// 4 bytes.
    Double = 4,
    /// 8 bytes.
    Quad = 8,
}

impl Width {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }
}

/// The accesses that a device takes. Wider ones come to it in pieces, low addresses first; of narrower reads it sees the
/// whole register, and the guest gets the bytes that it asked for. Narrower writes are refused: filling them up
/// by a read would set off what reading sets off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSizes {
    min: Width,
    max: Width,
    /// Whether a piece may begin anywhere, not only at multiples of its width.
    unaligned: bool,
}

impl AccessSizes {
    /// All widths, wherever they begin: the device looks for itself.
    pub const ANY: Self = Self { min: Width::Byte, max: Width::Quad, unaligned: true };

    /// Aligned accesses of at most `max`.
    #[must_use]
    pub const fn up_to(max: Width) -> Self {
        Self { min: Width::Byte, max, unaligned: false }
    }

    /// Aligned accesses of exactly `width`.
    #[must_use]
    pub const fn only(width: Width) -> Self {
        Self { min: width, max: width, unaligned: false }
    }

    /// The narrowest access that the device takes, in bytes.
    #[must_use]
    pub const fn min(self) -> usize {
        self.min.bytes()
    }

    /// Whether a range of `size` addresses ends where a register does.
    pub(super) fn fill(self, size: u64) -> bool {
        size.is_multiple_of(self.min as u64)
    }

    /// Whether an access of `length` bytes at `offset` reaches the device as it is.
    #[inline]
    pub(super) fn takes(self, offset: u64, length: usize) -> bool {
        length.is_power_of_two()
            && (self.min.bytes()..=self.max.bytes()).contains(&length)
            && (self.unaligned || offset & (length as u64 - 1) == 0)
    }

    /// The first piece of an access of `length` bytes at `offset`.
    pub(super) fn first(self, offset: u64, length: usize) -> Piece {
        let mut width = self.max.bytes();
        while width > 1 && (width > length || !self.unaligned && !offset.is_multiple_of(width as u64)) {
            width /= 2;
        }
        let min = self.min.bytes();
        if width >= min {
            return Piece::Whole(width);
        }
        let skip = usize::try_from(offset % min as u64).unwrap_or(0);
        Piece::Within { skip, width: length.min(min - skip) }
    }
}

/// A piece of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes, which the device takes as they are.
    Whole(usize),
    /// Bytes of a register that is wider.
    Within {
        /// How many bytes of the register are before them.
        skip: usize,
        /// How many they are.
        width: usize,
    },
}
