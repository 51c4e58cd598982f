//! Packages' files and links, put into a folder that nothing may get out of.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rootfs::fuzzing::deb_tree(bytes));
