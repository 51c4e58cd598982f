//! A vCPU's state as typed values: read from KVM, written back, kept as JSON.

mod emulator;
mod events;
pub(crate) mod hex;
mod mp;
mod registers;
mod whole;

pub use events::{DebugRegisters, Events, ExceptionEvent, InterruptEvent, NmiEvent, SmiEvent};
pub use mp::MpState;
pub(crate) use registers::{CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA};
pub use registers::{Registers, Segment, SpecialRegisters, Table};
pub use whole::{Lapic, StateError, VcpuState};
