//! What is booted how, and what is refused with which words.

use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::config::CpuMode;
use crate::layout::{CMDLINE, HIGH_MEMORY, PVH_START_INFO, ZERO_PAGE};
use crate::memory;
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

const MIB: u64 = 1 << 20;

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn elf(name: &str) -> Vec<u8> {
    kiln_fixtures::by_name(name).unwrap().elf()
}

/// A bzImage of protocol 2.15 with `payload`, and `code` before it.
fn bzimage(code: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = bzimage::Header {
        setup_sects: 1,
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        xloadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        init_size: 1 << 20,
        pref_address: 0x10_0000,
        ..bzimage::Header::default()
    };
    let body = code.len() + payload.len();
    header.syssize = u32::try_from(body.div_ceil(16)).unwrap();
    header.payload_offset = u32::try_from(code.len()).unwrap();
    header.payload_length = u32::try_from(payload.len()).unwrap();
    let mut image = vec![0; 1024];
    let raw = vm_memory::ByteValued::as_slice(&header).to_vec();
    image[0x1f1..0x1f1 + raw.len()].copy_from_slice(&raw);
    image.extend_from_slice(code);
    image.extend_from_slice(payload);
    image.resize(1024 + body.next_multiple_of(16), 0);
    image
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(kernel: &std::path::Path) -> MachineConfig {
    let boot =
        Boot::Kernel { kernel: kernel.to_owned(), initrd: None, cmdline: "console=ttyS0 a=b".to_owned() };
    MachineConfig { boot, ..MachineConfig::default() }
}

fn with_initrd(config: MachineConfig, path: PathBuf) -> MachineConfig {
    let Boot::Kernel { kernel, cmdline, .. } = config.boot else { unreachable!() };
    MachineConfig { boot: Boot::Kernel { kernel, initrd: Some(path), cmdline }, ..config }
}

fn words(config: &MachineConfig, ram: u64) -> String {
    load(&memory::allocate(ram).unwrap(), config, 0).unwrap_err().to_string()
}

#[test]
fn elf_with_a_pvh_note_is_entered_by_it() {
    let kernel = file(&elf("halt-32"));
    let memory = memory::allocate(16 * MIB).unwrap();
    let entry = load(&memory, &config(kernel.path()), 1).unwrap();
    let EntryState::Protected32 { address, ebx, .. } = entry else { panic!("{entry:?}") };
    assert_eq!((address, ebx), (HIGH_MEMORY, PVH_START_INFO));
    let magic: u32 = memory.read_obj(GuestAddress(PVH_START_INFO)).unwrap();
    assert_eq!(magic, 0x336e_c578);
    let mut line = [0; 18];
    memory.read_slice(&mut line, GuestAddress(CMDLINE)).unwrap();
    assert_eq!(&line, b"console=ttyS0 a=b\0");
}

#[test]
fn elf_without_one_is_entered_in_long_mode() {
    let kernel = file(&elf("halt"));
    let memory = memory::allocate(16 * MIB).unwrap();
    let entry = load(&memory, &config(kernel.path()), 0).unwrap();
    assert_eq!(entry, EntryState::Long64 { address: HIGH_MEMORY, rsi: ZERO_PAGE });
}

#[test]
fn bzimage_is_booted_as_the_elf_that_it_carries() {
    let kernel = file(&bzimage(&[0xf4; 1024], &gzip(&elf("halt-32"))));
    let memory = memory::allocate(16 * MIB).unwrap();
    let entry = load(&memory, &config(kernel.path()), 0).unwrap();
    assert!(matches!(entry, EntryState::Protected32 { ebx: PVH_START_INFO, .. }), "{entry:?}");
}

#[test]
fn bzimage_of_an_unknown_compression_is_entered_itself() {
    let kernel = file(&bzimage(&[0xf4; 1024], b"unknown"));
    let memory = memory::allocate(16 * MIB).unwrap();
    let entry = load(&memory, &config(kernel.path()), 0).unwrap();
    assert_eq!(entry, EntryState::Long64 { address: HIGH_MEMORY + 0x200, rsi: ZERO_PAGE });
    let first: u8 = memory.read_obj(GuestAddress(HIGH_MEMORY)).unwrap();
    assert_eq!(first, 0xf4);
}

#[test]
fn decompressed_elf_is_kept_and_a_changed_image_is_not_taken_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = file(&bzimage(&[0xf4; 64], &gzip(&elf("halt"))));
    let kept = vmlinux_of(kernel.path(), folder.path()).unwrap().unwrap();
    let slim = |name| super::slim::slim(&elf(name)).unwrap();
    assert!(std::fs::read(&kept).unwrap() == slim("halt"));
    assert_eq!(vmlinux_of(kernel.path(), folder.path()).unwrap(), Some(kept.clone()));
    std::fs::write(kernel.path(), bzimage(&[0xf4; 64], &gzip(&elf("halt-32")))).unwrap();
    let anew = vmlinux_of(kernel.path(), folder.path()).unwrap().unwrap();
    assert!(std::fs::read(anew).unwrap() == slim("halt-32"));
    assert_eq!(vmlinux_of(&kept, folder.path()).unwrap(), None, "an ELF needs no keeping");
}

#[test]
fn initrd_lies_at_the_end_of_ram() {
    let (kernel, initrd) = (file(&elf("halt")), file(&[7; 5000]));
    let memory = memory::allocate(16 * MIB).unwrap();
    load(&memory, &with_initrd(config(kernel.path()), initrd.path().to_owned()), 0).unwrap();
    let at: u32 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x218)).unwrap();
    let size: u32 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x21c)).unwrap();
    assert_eq!((u64::from(at), size), (16 * MIB - 8192, 5000));
    let byte: u8 = memory.read_obj(GuestAddress(u64::from(at) + 4999)).unwrap();
    assert_eq!(byte, 7);
}

#[test]
fn what_is_no_kernel_is_named() {
    for (bytes, wanted) in [
        (vec![0; 5000], "is no kernel"),
        (b"#!/bin/sh\n".to_vec(), "is no kernel"),
        (elf("halt")[..40].to_vec(), "ends within its ELF header"),
        (elf("halt")[..100].to_vec(), "ends within its program headers"),
        (elf("halt")[..elf("halt").len() - 1].to_vec(), "ends within a segment"),
        (bzimage(&[0xf4; 4096], b"unknown")[..2000].to_vec(), "bytes of code"),
    ] {
        let kernel = file(&bytes);
        let text = words(&config(kernel.path()), 16 * MIB);
        assert!(text.contains(wanted) && text.contains(&*kernel.path().to_string_lossy()), "{text}");
    }
}

#[test]
fn kernel_of_another_machine_is_named() {
    let mut bytes = elf("halt");
    bytes[0x12] = 183;
    let text = words(&config(file(&bytes).path()), 16 * MIB);
    assert!(text.contains("is no kernel for x86-64: an ELF of 64 bits for machine 183"), "{text}");
    let mut image = vec![0; 5000];
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let text = words(&config(file(&image).path()), 16 * MIB);
    assert!(text.contains("an arm64 Image"), "{text}");
}

#[test]
fn missing_empty_file_and_directory_are_named() {
    for path in ["/no/such/kernel", "/"] {
        let text = words(&config(path.as_ref()), 16 * MIB);
        assert!(text.contains("can't read the kernel") && text.contains(path), "{text}");
    }
    let empty = load(&memory::allocate(16 * MIB).unwrap(), &config(file(b"").path()), 0).unwrap_err();
    assert_eq!(std::error::Error::source(&empty).unwrap().to_string(), "it is empty");
    let kernel = file(&elf("halt"));
    let text = words(&with_initrd(config(kernel.path()), "/no/such/initrd".into()), 16 * MIB);
    assert!(text.contains("can't read the initrd /no/such/initrd"), "{text}");
}

#[test]
fn too_little_ram_is_named_with_what_is_needed() {
    let kernel = file(&bzimage(&[0xf4; 64], b"unknown"));
    let text = words(&config(kernel.path()), 2 * MIB - 4096);
    assert!(text.contains("needs RAM up to 2 MiB"), "{text}");
    let (kernel, initrd) = (file(&elf("halt")), file(&vec![1; 3 << 20]));
    let text = words(&with_initrd(config(kernel.path()), initrd.path().to_owned()), 2 * MIB);
    assert!(text.contains("of 3 MiB does not fit"), "{text}");
}

#[test]
fn command_line_is_refused_where_a_kernel_would_cut_it() {
    let kernel = file(&elf("halt"));
    for (line, wanted) in
        [("x".repeat(2048), "has 2048 bytes; 2047 fit"), ("a\0b".to_owned(), "control character")]
    {
        let mut config = config(kernel.path());
        config.boot = Boot::Kernel { kernel: kernel.path().to_owned(), initrd: None, cmdline: line };
        let text = words(&config, 16 * MIB);
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn flat_code_is_refused_where_it_can_not_be_entered() {
    for (code, address, mode) in [
        (vec![], HIGH_MEMORY, CpuMode::Long64),
        (vec![0xf4], 0x10_0000, CpuMode::Real16),
        (vec![0xf4], 0x1_0001, CpuMode::Real16),
        (vec![0xf4; 2], 16 * MIB - 1, CpuMode::Protected32),
        (vec![0xf4], u64::MAX, CpuMode::Long64),
    ] {
        let boot = Boot::Flat { code, address, mode };
        let config = MachineConfig { boot, ..MachineConfig::default() };
        assert!(words(&config, 16 * MIB).contains("can't be loaded at"));
    }
}
