//! The headers of kernel images.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::kernel_header(bytes));
