//! What host and guest agree on: the agent's wire format, and the addresses of the test devices.
//!
//! This crate knows nobody: it needs no operating system and no other crate of kiln.

#![no_std]

extern crate alloc;

pub mod addresses;
pub mod pio;
pub mod probe;
pub mod wire;
