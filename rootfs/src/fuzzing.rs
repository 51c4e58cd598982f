//! The readers of what strangers made, for the fuzz targets (`rootfs/fuzz`): here only while fuzzing.
//!
//! Each takes any bytes, and must come back: without a panic, without an end, and without more memory than its input
//! justifies.

use std::io;

use crate::distro::deb;
use crate::elf::Object;
use crate::kernel::check::{BzImage, Config, vmlinux};
use crate::kernel::header;
use crate::modules::{Info, listed_in};

/// A package: its `ar`, what that is compressed with, its `tar`.
pub fn deb(bytes: &[u8]) {
    let _ = deb::read(bytes, |_, _, content| {
        io::copy(content, &mut io::sink()).map(drop).map_err(deb::Fault::reading)
    });
}

/// A program or a library.
pub fn elf(bytes: &[u8]) {
    let _ = Object::parse(bytes);
}

/// A module.
pub fn modinfo(bytes: &[u8]) {
    let _ = Info::of(bytes);
}

/// A `modules.dep`. No file that it names is outside of its folder.
///
/// # Panics
/// One is.
pub fn modules_dep(bytes: &[u8]) {
    for (file, _) in listed_in(&String::from_utf8_lossy(bytes)).values() {
        assert!(!file.starts_with('/') && !file.split('/').any(|part| part == ".."), "{file}");
    }
}

/// A `.config`.
pub fn config(bytes: &[u8]) {
    let _ = Config::parse(&String::from_utf8_lossy(bytes));
}

/// An ELF kernel, with the configuration that it carries.
pub fn vmlinux(bytes: &[u8]) {
    let _ = vmlinux::parse(bytes);
}

/// A kernel's own configuration among its bytes.
pub fn ikconfig(bytes: &[u8]) {
    let _ = Config::carried(bytes);
}

/// The header of a kernel.
pub fn kernel_header(bytes: &[u8]) {
    let _ = BzImage::parse(bytes);
    let _ = header::release(&mut io::Cursor::new(bytes));
}
