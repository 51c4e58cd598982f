//! Multiboot kernels with a module.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::fuzzing::multiboot(bytes));
