//! Bare code, for payloads.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{BootError, tables};
use crate::config::CpuMode;
use crate::layout::HIGH_MEMORY;
use crate::memory::GuestMemory;
use crate::vcpu::EntryState;

/// Puts `code` at `address`, and what its mode needs below 64 KiB.
pub(super) fn load(
    memory: &GuestMemory,
    code: &[u8],
    address: u64,
    mode: CpuMode,
) -> Result<EntryState, BootError> {
    let refused = |why| BootError::Flat { size: code.len(), address, why };
    if code.is_empty() {
        return Err(refused("it is empty"));
    }
    if mode == CpuMode::Real16 && (address >= HIGH_MEMORY || !address.is_multiple_of(16)) {
        return Err(refused("real mode starts below 1 MiB, on a multiple of 16"));
    }
    if mode != CpuMode::Real16 && address > u64::from(u32::MAX) {
        return Err(refused("only the first 4 GiB can be entered"));
    }
    if !memory.check_range(GuestAddress(address), code.len()) {
        return Err(refused("that is not all RAM"));
    }
    if mode != CpuMode::Real16 && tables::overlap(address, code.len(), mode == CpuMode::Long64) {
        return Err(refused("the machine's own tables are there"));
    }
    if mode != CpuMode::Real16 {
        tables::write_gdt(memory, mode == CpuMode::Long64)?;
    }
    if mode == CpuMode::Long64 {
        tables::write_page_tables(memory)?;
    }
    memory.write_slice(code, GuestAddress(address)).map_err(|_| refused("that is not all RAM"))?;
    Ok(match mode {
        CpuMode::Real16 => EntryState::Real16 { address },
        CpuMode::Protected32 => EntryState::Protected32 { address, ebx: 0, esi: 0 },
        CpuMode::Long64 => EntryState::Long64 { address, rsi: 0 },
    })
}
