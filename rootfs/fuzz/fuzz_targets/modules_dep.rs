//! The index of a modules' folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::modules_dep(bytes));
