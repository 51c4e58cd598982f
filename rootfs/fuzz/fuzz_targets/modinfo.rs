//! Kernel modules, as they are read for what they say of themselves.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::modinfo(bytes));
