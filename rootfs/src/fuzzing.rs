//! The readers of what strangers made, for the fuzz targets (`rootfs/fuzz`): here only while fuzzing.
//!
//! Each takes any bytes, and must come back: without a panic, without an end, and without more memory than its input
//! justifies.

use std::io::{self, Write};
use std::path::Path;

use crate::distro::deb::{self, Kind};
use crate::elf::Object;
use crate::image::archive;
use crate::kernel::check::{BzImage, Config, vmlinux};
use crate::kernel::header;
use crate::modules::{Info, listed_in};

/// An archive, plain and packed.
pub fn cpio(bytes: &[u8]) {
    let _ = archive::entries(bytes);
    // No fuzzer finds a packer's checksum.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    if packed.write_all(bytes).is_ok()
        && let Ok(packed) = packed.finish()
    {
        let _ = archive::entries(&packed);
    }
}

/// A package: its `ar`, what that is compressed with, its `tar`.
pub fn deb(bytes: &[u8]) {
    read(bytes);
    // What else would take long to find: each packing, and a tar whose headers' sums are right.
    for ending in ["", ".xz", ".gz", ".zst"] {
        read(&package(ending, bytes));
    }
    read(&package("", &summed(bytes)));
}

fn read(package: &[u8]) {
    let drain = |_: &[u8], _: &Kind, content: &mut dyn io::Read| {
        io::copy(content, &mut io::sink()).map(drop).map_err(deb::Fault::reading)
    };
    let _ = deb::read(package, drain);
}

fn package(ending: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{:<16}{:<32}{:<10}`\n", format!("data.tar{ending}"), 0, data.len());
    [b"!<arch>\n", header.as_bytes(), data].concat()
}

/// The blocks of `tar` with the sum of each that is a header put right (POSIX.1-1988 §10.1.1).
fn summed(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    let mut at = 0_usize;
    while let Some(header) = tar.get_mut(at..).and_then(|rest| rest.get_mut(..512)) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = String::from_utf8_lossy(&header[124..135]).into_owned();
        let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).unwrap_or(0);
        at = at.saturating_add(512).saturating_add(size.min(1 << 20).next_multiple_of(512));
    }
    tar
}

/// Files, folders and links of a package, put into a folder: none may come to be outside of it, and no link may lead
/// out. Each entry is a kind, a path and a target, in words of a small tongue that makes them meet.
///
/// # Panics
/// One did.
pub fn deb_tree(bytes: &[u8]) {
    let mut words = bytes.iter().copied();
    let outside = tempfile::tempdir().expect("a folder for the test");
    let root = outside.path().join("root");
    let mut tree = deb::Tree::new(&root).expect("a folder for the test");
    while let Some(kind) = words.next() {
        let (path, target) = (path(&mut words), path(&mut words));
        let kind = match kind % 4 {
            0 => Kind::Folder,
            1 => Kind::File { executable: kind > 127 },
            2 => Kind::Symlink(target),
            _ => Kind::Link(target),
        };
        let _ = tree.put(&path, &kind, &mut &b"content"[..]);
    }
    let beside = std::fs::read_dir(outside.path()).expect("the folder is there").count();
    assert_eq!(beside, 1, "something is beside the folder");
    assert_inside(&root, &root.canonicalize().expect("the folder is there"));
}

/// Up to seven of a few names, until a word that is none.
fn path(words: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    const WORDS: &[&str] = &["a/", "b/", "c/", "../", "./", "/", "a/../", ".."];
    let mut path = String::new();
    for word in words.take(7) {
        let Some(word) = WORDS.get(usize::from(word % 10)) else { break };
        path.push_str(word);
    }
    path.trim_end_matches('/').as_bytes().to_vec()
}

fn assert_inside(folder: &Path, root: &Path) {
    for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
        let kind = entry.file_type().expect("it is there");
        if kind.is_dir() {
            assert_inside(&entry.path(), root);
        } else if let Ok(real) = entry.path().canonicalize() {
            assert!(real.starts_with(root), "{} leads to {}", entry.path().display(), real.display());
        }
    }
}

/// A program or a library.
pub fn elf(bytes: &[u8]) {
    let _ = Object::parse(bytes);
    let _ = Object::parse(&*with_header(2, bytes));
}

/// An ELF for x86-64 of that type, whose tables of program and section headers both begin with `bytes`: a fuzzer takes
/// long to find that much.
fn with_header(kind: u16, bytes: &[u8]) -> Vec<u8> {
    const SIZE: u64 = 64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [kind, 62, 1, 0] {
        elf.extend(half.to_le_bytes());
    }
    for long in [0, SIZE, SIZE] {
        elf.extend(long.to_le_bytes());
    }
    for half in [0_u16, 0, 64, 56, 3, 64, 3, 2] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(bytes);
    elf
}

/// A module.
pub fn modinfo(bytes: &[u8]) {
    let _ = Info::of(bytes);
    let _ = Info::of(&with_header(1, bytes));
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
    let _ = vmlinux::parse(&mut io::Cursor::new(bytes));
    let _ = vmlinux::parse(&mut io::Cursor::new(with_header(2, bytes)));
}

/// A kernel's own configuration among its bytes.
pub fn ikconfig(bytes: &[u8]) {
    let _ = Config::carried(bytes);
    let _ = Config::carried(&[b"IKCFG_ST", bytes].concat());
}

/// The header of a kernel.
pub fn kernel_header(bytes: &[u8]) {
    let _ = BzImage::parse(bytes);
    let _ = header::release(&mut io::Cursor::new(bytes));
}
