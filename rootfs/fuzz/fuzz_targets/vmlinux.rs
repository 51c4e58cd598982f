//! ELF kernels: notes, banner, configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::vmlinux(bytes));
