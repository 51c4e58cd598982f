//! fw_cfg's DMA: a request in guest memory, done at once.

use vm_memory::{Bytes, GuestAddress};

use super::FwCfg;

// The request (docs/specs/fw_cfg.rst, "Guest-side DMA Interface"): control, length, address, all big-endian.
const LENGTH: u64 = 4;
const ADDRESS: u64 = 8;
/// Control bits.
const ERROR: u32 = 1;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;
/// How much is moved at a time: a guest's number does not decide how much is allocated.
const CHUNK: usize = 4096;

impl FwCfg {
    /// Does the request at `request`, and says there how it went: zero, or the error bit.
    pub(super) fn dma(&mut self, request: u64) {
        let at = |offset: u64| GuestAddress(request.saturating_add(offset));
        let word = |offset| self.memory.read_obj::<u32>(at(offset)).map(u32::from_be);
        let (Ok(control), Ok(length)) = (word(0), word(LENGTH)) else { return };
        let Ok(address) = self.memory.read_obj::<u64>(at(ADDRESS)).map(u64::from_be) else { return };
        let failed = self.carry_out(control, length, address).is_none();
        let result = if failed { ERROR } else { 0 };
        // Where it was read it can be written.
        let _still_ram = self.memory.write_obj(result.to_be(), at(0));
    }

    fn carry_out(&mut self, control: u32, length: u32, mut address: u64) -> Option<()> {
        if control & SELECT != 0 {
            self.select(u16::try_from(control >> 16).ok()?);
        }
        // Nothing of ours is writable.
        if control & WRITE != 0 {
            return None;
        }
        let mut left = usize::try_from(length).ok()?;
        if control & READ != 0 {
            let mut chunk = [0; CHUNK];
            while left > 0 {
                let part = chunk.get_mut(..left.min(CHUNK))?;
                self.take(part);
                self.memory.write_slice(part, GuestAddress(address)).ok()?;
                address = address.checked_add(u64::try_from(part.len()).ok()?)?;
                left -= part.len();
            }
        } else if control & SKIP != 0 {
            self.offset = self.offset.saturating_add(left);
        }
        Some(())
    }
}
