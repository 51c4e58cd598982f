//! What clients say on the control socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::fuzzing::control(bytes));
