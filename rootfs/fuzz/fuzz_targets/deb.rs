//! Packages: ar, decompressors, tar.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::deb(bytes));
