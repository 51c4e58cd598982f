//! vCPUs: their set-up, their threads, the run loop and what comes of each exit.

mod cpuid;
mod kick;
mod run;
mod setup;
mod thread;

pub use setup::EntryState;
pub(crate) use setup::{CODE_SELECTOR, gdt};
pub(crate) use thread::{Buses, Idle, Ready, VcpuThread};
