//! A vCPU's state as typed values: read from KVM, written back, kept as JSON.

pub(crate) mod hex;
mod mp;
mod registers;

pub use mp::MpState;
pub(crate) use registers::{CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA};
pub use registers::{Registers, Segment, SpecialRegisters, Table};
