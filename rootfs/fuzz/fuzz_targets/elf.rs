//! Programs and shared libraries, as they are read for what they need.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::elf(bytes));
