//! Accesses to a bus with the devices of a test machine.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::fuzzing::devices(bytes));
