//! Archives, as images are read back: plain, and packed by gzip and Zstandard.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::cpio(bytes));
