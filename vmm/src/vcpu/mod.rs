//! vCPUs: their set-up, their threads, the run loop and what comes of each exit, and how they are controlled.

mod access;
mod control;
mod controller;
mod cpuid;
mod exit;
mod guest_debug;
mod hold;
mod kick;
mod memory;
mod pages;
mod ring;
mod run;
mod runner;
mod setup;
pub mod state;
mod steps;
mod stops;
mod thread;

pub(crate) use access::Buses;
pub use control::MachineState;
#[cfg(fuzzing)]
pub(crate) use controller::unstarted;
pub use controller::{ControlError, Controller};
pub(crate) use cpuid::of_first as cpuid_of_first;
pub(crate) use guest_debug::BP;
pub use guest_debug::{DebugRequest, DebugStop, Trap, VcpuStop};
pub use hold::Owner;
pub use setup::EntryState;
pub(crate) use setup::{CODE_SELECTOR, gdt};
pub(crate) use thread::{Idle, Parked, Ready, VcpuThread};
