//! The lab: a Linux with a KVM of level `linux`, inside QEMU's emulator, for hosts that have none.
//!
//! Its image is made by kiln's own image builder, its PID 1 is kiln's own agent. One lab serves a whole
//! command. It never outlives the process that started it.

mod carry;
mod error;
mod forward;
mod line;
mod machine;
mod nudge;
mod tests;

pub use carry::{INNER_PLAN, execute};
pub use error::LabError;
pub use forward::Forward;
pub use line::line_inside;
pub use machine::{Lab, LabSpec};
pub use tests::{GUEST_KERNEL, GUEST_MODULES, IN_LAB, run_tests};
