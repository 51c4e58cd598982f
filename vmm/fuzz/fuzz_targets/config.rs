//! Machines in TOML and JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::fuzzing::config(bytes));
