//! Wide accesses to devices whose registers are one byte each.
//!
//! An 8-bit ISA device never sees a wide cycle: the bus splits it into byte cycles at rising addresses, so
//! each byte reaches the register at its own offset, the lowest first.

/// Fills `data` with one register each, from `offset` upwards.
pub(super) fn read(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u8) {
    for (index, byte) in (0..).zip(data) {
        *byte = register(offset.saturating_add(index));
    }
}

/// Hands each byte of `data` to the register at its own offset.
pub(super) fn write(offset: u64, data: &[u8], mut register: impl FnMut(u64, u8)) {
    for (index, byte) in (0..).zip(data) {
        register(offset.saturating_add(index), *byte);
    }
}
