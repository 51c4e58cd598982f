//! gdb's remote protocol: a debugger's view of a machine that runs.
//!
//! Every vCPU is a thread, and all stop together. Addresses are the guest's virtual ones, as the chosen vCPU maps them
//! (linear ones: a segment's base is not added), registers are x86-64's in every mode.
//!
//! - Software breakpoints are `int3` in guest memory; the guest's own `int3` goes on to the guest. One stays with the
//!   page that it was put on, and is gone when the debugger is.
//! - ROMs are read, and keep out what is written: there a breakpoint must be a hardware one, and gdb is told so.
//! - Hardware breakpoints and watchpoints take the four debug registers, which the guest can't use meanwhile. Where the
//!   host's KVM does not stop at them, they are refused, as `probe` finds out.
//! - A step runs one vCPU while the others stay where they are, if gdb so wishes; it takes no interrupt.
//! - What ends the machine by a vCPU's doing (a triple fault, an instruction that KVM can't emulate) stops it first.
//! - A client that leaves, in whatever way, leaves a guest that goes on as if there had been none.

mod address;
mod breakpoints;
mod monitor;
pub(crate) mod probe;
mod registers;
mod server;
mod session;
mod target;
mod wire;

pub use address::GdbAddress;
pub use server::{GdbError, Handle, Server, serve};
