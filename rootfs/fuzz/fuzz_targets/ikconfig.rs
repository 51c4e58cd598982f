//! The configuration that a kernel carries.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::ikconfig(bytes));
