//! The probe's DMA: reads guest memory, or fills it, and sums what it moved.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::reg::{DMA_FILL, DMA_MAX, DMA_READ};
use crate::memory::GuestMemory;

/// How a DMA ended: the sum of the bytes that it moved, or a fault, with nothing moved.
pub(super) type Result = std::result::Result<u32, Fault>;

/// The range is not all RAM or too long, or the command is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault;

/// How much is moved at a time: a multiple of 256, so that the filling pattern is the same in each piece.
const PIECE: usize = 4096;

/// Does `command` on `length` bytes at `address`.
pub(super) fn run(memory: &GuestMemory, command: u32, address: u64, length: u32) -> Result {
    let size = usize::try_from(length).map_err(|_| Fault)?;
    if !matches!(command, DMA_READ | DMA_FILL) || length > DMA_MAX {
        return Err(Fault);
    }
    if size > 0 && !memory.check_range(GuestAddress(address), size) {
        return Err(Fault);
    }
    let mut piece = [0; PIECE];
    for (byte, value) in piece.iter_mut().zip((0..=u8::MAX).cycle()) {
        *byte = value;
    }
    let (mut at, mut left, mut sum) = (address, size, 0u32);
    while left > 0 {
        let piece = piece.get_mut(..left.min(PIECE)).ok_or(Fault)?;
        match command {
            DMA_FILL => memory.write_slice(piece, GuestAddress(at)),
            _ => memory.read_slice(piece, GuestAddress(at)),
        }
        .map_err(|_| Fault)?;
        sum = piece.iter().fold(sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        left = left.saturating_sub(piece.len());
        at = at.saturating_add(u64::try_from(piece.len()).map_err(|_| Fault)?);
    }
    Ok(sum)
}
