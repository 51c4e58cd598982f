//! kiln's machine: a virtual machine monitor made for tests.
//!
//! A [`config::MachineConfig`] is plain data; [`machine::Machine`] is built from it, runs, and ends in an
//! [`outcome::Outcome`]. A guest that panics, hangs or triple-faults is a value; an error is only what the
//! machine could not do. This crate knows nothing of images, verdicts or test cases.

mod bell;
pub mod block;
pub mod boot;
pub mod bus;
mod chain;
pub mod config;
pub mod control;
pub mod device;
pub mod dump;
pub mod event_loop;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gdb;
pub mod irq;
pub mod kvm;
pub mod layout;
pub mod level;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod thread;
pub mod trace;
pub mod vcpu;
pub mod virtio;

pub use chain::chain;
// What work on a vCPU's own thread has in its hands (`Controller::run_on_vcpu`).
pub use {kvm_bindings, kvm_ioctls, vm_memory};
