//! What is told of kernels that are made here, whole and hostile.

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use super::*;
use crate::modules::tests::module;

const BANNER: &str = "6.9.1-test (me@here) (gcc (X 13.2) 13.2, GNU ld 2.41) #7 SMP Thu Jan 1 1970\n";

/// A bzImage whose version's text and payload are these.
fn bzimage(protocol: u16, version: &str, payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x800];
    image[0x1f1] = 3;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x236] = 1;
    image[0x248..0x24c].copy_from_slice(&0x10_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
    image.extend([0; 0x10]);
    image.extend(payload);
    image
}

/// An ELF of one loaded segment with `content`, and notes.
fn elf(content: &[u8], notes: &[u8]) -> Vec<u8> {
    let segments = [(1_u32, content), (4, notes)];
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for long in [0_u64, 64, 0] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let mut at = 64 + 2 * 56;
    for (kind, bytes) in segments {
        elf.extend(kind.to_le_bytes());
        elf.extend(4_u32.to_le_bytes());
        let size = bytes.len() as u64;
        for long in [at, 0x10_0000, 0x10_0000, size, size, 4] {
            elf.extend(u64::to_le_bytes(long));
        }
        at += size;
    }
    elf.extend(content);
    elf.extend(notes);
    elf
}

fn parse(elf: &[u8]) -> Result<Vmlinux, &'static str> {
    vmlinux::parse(&mut std::io::Cursor::new(elf))
}

fn note(name: &str, kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [name.len() + 1, content.len(), usize::try_from(kind).unwrap()] {
        note.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    note.extend(name.bytes());
    note.resize((note.len() + 1).next_multiple_of(4), 0);
    note.extend(content);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

fn carried(config: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(config.as_bytes()).unwrap();
    [b"xxIKCFG_ST", &*gz.finish().unwrap(), b"IKCFG_ED"].concat()
}

#[test]
fn header_of_a_bzimage_is_told() {
    let payload = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[9; 100], &5_000_000_u32.to_le_bytes()].concat();
    let told = BzImage::parse(&bzimage(0x20f, "6.9.1-test (me@here) #7 SMP\0", &payload)).unwrap();
    assert_eq!((told.protocol, told.compression), ((2, 15), Some(Compression::Zstd)));
    assert_eq!((told.decompressed, told.entry_64), (Some(5_000_000), true));
    let banner = told.banner.unwrap();
    assert_eq!((banner.release.as_str(), banner.compiler), ("6.9.1-test", None));
    assert_eq!((banner.builder.as_deref(), banner.build.as_deref()), (Some("me@here"), Some("#7 SMP")));
    // Protocol 2.06 has neither a payload's place nor flags of entries.
    let old = BzImage::parse(&bzimage(0x206, "2.6.24 (x) #1\0", &payload)).unwrap();
    assert_eq!((old.protocol, old.compression, old.decompressed, old.entry_64), ((2, 6), None, None, false));
    for cut in 0..0x800 {
        // Whatever is told, it is told without a panic.
        let _ = BzImage::parse(&bzimage(0x20f, "6.9.1 x #1\0", &payload)[..cut]);
    }
    let mut wild = bzimage(0x20f, "", &payload);
    wild[0x20e..0x210].fill(0xff);
    wild[0x248..0x250].fill(0xff);
    let told = BzImage::parse(&wild).unwrap();
    assert_eq!((told.banner, told.compression), (None, None));
}

#[test]
fn elf_kernel_tells_its_notes_banner_and_configuration() {
    let content = [
        b"Linux version %s (%s)\0",
        &b"Linux version 6.9.1-test (me@here) (gcc) # SMP\n\0"[..],
        format!("Linux version {BANNER}").as_bytes(),
        &carried("# Linux/x86 6.9.1 Kernel Configuration\nCONFIG_ACPI=y\n# CONFIG_SMP is not set\n"),
    ]
    .concat();
    let notes = [note("GNU", 3, &[0xab; 20]), note("Xen", 18, &0x100_0000_u32.to_le_bytes())].concat();
    let told = parse(&elf(&content, &notes)).unwrap();
    let banner = told.banner.unwrap();
    assert_eq!(banner.text, BANNER.trim());
    assert_eq!(banner.compiler.as_deref(), Some("gcc (X 13.2) 13.2, GNU ld 2.41"));
    assert_eq!(banner.build.as_deref(), Some("#7 SMP Thu Jan 1 1970"));
    assert_eq!((told.build_id.unwrap(), told.pvh), ("ab".repeat(20), Some(0x100_0000)));
    let config = told.config.unwrap();
    assert_eq!((config.value("ACPI"), config.value("SMP")), (Some("y"), None));
    assert_eq!(config.version.as_deref(), Some("6.9.1"));
    let whole = elf(&content, &notes);
    for cut in 0..whole.len() {
        assert!(parse(&whole[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn segments_that_overlap_are_refused_before_they_are_read() {
    // One sparse segment of 200 MiB is read; the same twice is more than the file has.
    let file = tempfile::tempfile().unwrap();
    let mut elf = elf(b"", b"");
    elf[64 + 32..64 + 40].copy_from_slice(&(200_u64 << 20).to_le_bytes());
    let mut once = &file;
    once.write_all(&elf).unwrap();
    file.set_len(250 << 20).unwrap();
    assert_eq!(vmlinux::parse(&mut once).unwrap(), Vmlinux::default());
    let (first, second) = (64, 64 + 56);
    let load = elf[first..second].to_vec();
    elf[second..second + 56].copy_from_slice(&load);
    once.seek(SeekFrom::Start(0)).unwrap();
    once.write_all(&elf).unwrap();
    assert!(vmlinux::parse(&mut once).unwrap_err().contains("larger than the file"));
    // Nor are endless notes.
    elf[second..second + 4].copy_from_slice(&4_u32.to_le_bytes());
    once.seek(SeekFrom::Start(0)).unwrap();
    once.write_all(&elf).unwrap();
    assert!(vmlinux::parse(&mut once).unwrap_err().contains("more notes"));
}

#[test]
fn what_is_no_kernel_is_refused() {
    let mut program = elf(b"Linux version 6.9.1 x\n", b"");
    program[16] = 3;
    assert!(parse(&program).unwrap_err().contains("program or library"));
    let mut foreign = elf(b"", b"");
    foreign[18] = 183;
    assert!(parse(&foreign).unwrap_err().contains("another machine"));
    assert!(parse(b"#!/bin/sh\n").unwrap_err().contains("no kernel"));
    // A configuration that is cut off, or is none, is none.
    let cut = &carried("CONFIG_ACPI=y\n")[..20];
    assert_eq!(parse(&elf(cut, b"")).unwrap(), Vmlinux::default());
    assert_eq!(parse(&elf(&carried("text\n"), b"")).unwrap(), Vmlinux::default());
}

#[test]
fn configuration_belongs_to_its_own_series() {
    let config =
        |head: &str| Config::parse(&format!("{head}\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"x=y\"\n")).unwrap();
    let head = config("#\n# Linux/x86 6.1.192 Kernel Configuration");
    assert_eq!((head.value("B"), head.value("C"), head.value("D")), (None, Some("\"x=y\""), None));
    assert!(head.fits("6.1.0-56-cloud-amd64") && !head.fits("6.12.1") && !head.fits("7"));
    assert!(config("# of my own").fits("6.12.1"));
    assert_eq!(Config::parse("# CONFIG_A is not set\n"), None);
    let banner = Banner::parse(BANNER.as_bytes()).unwrap();
    let not = |head: &str, compiler: &str| {
        let text = format!("{head}\nCONFIG_CC_VERSION_TEXT=\"{compiler}\"\n");
        Config::parse(&text).unwrap().is_not_of(&banner).unwrap_or_default()
    };
    let own = "# Linux/x86 6.9.0 Kernel Configuration";
    assert_eq!(not(own, "gcc (X 13.2) 13.2"), "");
    assert_eq!(not("# Linux/x86_64 6.9.7 Kernel Configuration", "gcc (X 13.2) 13.2"), "");
    assert_eq!(not(own, "gcc (X 12) 12"), "is for another compiler (gcc (X 12) 12)");
    assert_eq!(not("# Linux/arm64 6.9.0 Kernel Configuration", ""), "is for arm64");
    assert_eq!(not("# Linux/x86 5.10.1 Kernel Configuration", ""), "is of Linux 5.10.1");
    assert!(not("# a defconfig", "gcc (X 13.2) 13.2").starts_with("has not the head"));
}

#[test]
fn needs_are_met_by_what_is_built_in_and_by_modules_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("kernel")).unwrap();
    fs::write(dir.path().join("kernel/virtio_blk.ko"), module("")).unwrap();
    fs::write(dir.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
    let config = Config::parse("CONFIG_ACPI=y\nCONFIG_VIRTIO_BLK=m\nCONFIG_EXT4_FS=m\n").unwrap();
    let state = |release: &str, config: Option<&Config>, modules: bool, option: &str| {
        let modules = modules.then(|| dir.path());
        let banner =
            Banner { release: release.to_owned(), build: Some("#1 SMP x".to_owned()), ..Banner::default() };
        let answers = answers(&banner, true, config, modules).unwrap();
        assert_eq!(answers.len(), NEEDS.len());
        let answer = answers.into_iter().find(|answer| answer.need.option == option).unwrap();
        (answer.state.clone(), answer.is_lacking())
    };
    let file = State::Module(dir.path().join("kernel/virtio_blk.ko"));
    let with = |option| state("6.1", Some(&config), true, option);
    assert_eq!(with("ACPI"), (State::BuiltIn, false));
    assert_eq!(with("VIRTIO_BLK"), (file.clone(), false));
    assert_eq!(with("EXT4_FS"), (State::ModuleAway, true));
    assert_eq!(with("DEVMEM"), (State::Missing, true));
    // Before there was the option there was what it gives.
    assert_eq!(state("5.4.200", Some(&config), true, "X86_IOPL_IOPERM"), (State::BuiltIn, false));
    assert_eq!(state("6.1.0", Some(&config), false, "VIRTIO_BLK"), (State::ModuleAway, true));
    // What the kernel says of itself is so, whatever a file beside it says.
    assert_eq!((with("SMP"), with("64BIT")), ((State::BuiltIn, false), (State::BuiltIn, false)));
    let without = |option| state("6.1", None, true, option);
    assert_eq!(without("VIRTIO_BLK"), (file, false));
    assert_eq!(without("EXT4_FS"), (State::BuiltIn, false));
    assert_eq!(without("VIRTIO_MMIO"), (State::Missing, true));
    assert_eq!(without("ACPI"), (State::Unknown, false));
    assert_eq!((without("SMP"), without("64BIT")), ((State::BuiltIn, false), (State::BuiltIn, false)));
    assert_eq!(state("6.1.0", None, false, "VIRTIO_MMIO"), (State::Unknown, false));
}

#[test]
fn module_that_can_not_be_loaded_is_no_module_that_is_had() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("virtio_blk.ko", &module("virtio"));
    write("virtio.ko", &module(""));
    write("ext4.ko", b"rubbish");
    let config = Config::parse("CONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO=m\nCONFIG_EXT4_FS=m\n").unwrap();
    let state = |release: &str, option: &str| {
        let banner = Banner { release: release.to_owned(), ..Banner::default() };
        let answers = answers(&banner, true, Some(&config), Some(dir.path())).unwrap();
        answers.into_iter().find(|answer| answer.need.option == option).unwrap()
    };
    let why = |release, option| match state(release, option).state {
        State::Unusable(_, why) => why,
        other => panic!("{other:?}"),
    };
    assert!(why("6.1", "EXT4_FS").contains("ext4.ko: not a kernel module"));
    assert!(state("6.1", "EXT4_FS").is_lacking() && !state("6.1", "VIRTIO_BLK").is_lacking());
    assert!(why("6.2", "VIRTIO_BLK").contains("a module for Linux 6.1, and the kernel is 6.2"));
    // Those that it needs are of no more use.
    write("virtio.ko", b"");
    assert!(why("6.1", "VIRTIO_BLK").contains("virtio.ko: "));
}

#[test]
fn needs_are_told_apart_by_their_names() {
    let mut names: Vec<_> = NEEDS.iter().map(|need| need.option).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), NEEDS.len());
    assert_eq!(need("CONFIG_ACPI"), need("ACPI"));
    assert!(need("ACPI").unwrap().needed && need("CONFIG_NOTHING").is_none());
}
