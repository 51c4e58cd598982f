//! Kernels of every kind, as a machine loads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::fuzzing::kernel(bytes));
