//! Multiboot images: what is loaded where, what the kernel is told, and what is refused.

use std::io::Write;

use kiln_fixtures::Image;
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

use super::super::load as load_boot;
use super::*;
use crate::config::{Boot, MachineConfig, ModuleConfig};
use crate::layout::HIGH_MEMORY;
use crate::memory;
use crate::vcpu::EntryState;

const MIB: u64 = 1 << 20;

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn image(kind: Image) -> Vec<u8> {
    kiln_fixtures::by_name("exit-status-32").unwrap().multiboot(kind)
}

fn boot(kernel: &NamedTempFile, modules: Vec<ModuleConfig>, cmdline: &str) -> MachineConfig {
    let boot = Boot::Multiboot { kernel: kernel.path().to_owned(), modules, cmdline: cmdline.to_owned() };
    MachineConfig { boot, ..MachineConfig::default() }
}

fn loaded(config: &MachineConfig) -> Result<(GuestMemory, EntryState), BootError> {
    let memory = memory::allocate(16 * MIB).unwrap();
    let entry = load_boot(&memory, config, 0)?;
    Ok((memory, entry))
}

fn words(bytes: &[u8]) -> String {
    loaded(&boot(&file(bytes), Vec::new(), "")).unwrap_err().to_string()
}

fn word(memory: &GuestMemory, at: u64) -> u32 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

fn text(memory: &GuestMemory, at: u64) -> String {
    let bytes = (at..).map(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap());
    String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).unwrap()
}

/// A change of the four bytes at an offset of an image.
fn with(mut image: Vec<u8>, offset: usize, value: u32) -> Vec<u8> {
    image[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    image
}

#[test]
fn images_of_each_kind_are_loaded_and_entered() {
    let code = kiln_fixtures::by_name("exit-status-32").unwrap().code;
    for kind in [Image::Elf32, Image::Elf64, Image::Flat] {
        let kernel = file(&image(kind));
        let at = if kind == Image::Flat { HIGH_MEMORY + 32 } else { HIGH_MEMORY };
        let (memory, entry) = loaded(&boot(&kernel, Vec::new(), "")).unwrap();
        assert_eq!(entry, EntryState::Multiboot { address: at, info: MULTIBOOT_INFO }, "{kind:?}");
        let mut there = vec![0; code.len()];
        memory.read_slice(&mut there, GuestAddress(at)).unwrap();
        assert_eq!(there, code, "{kind:?}");
    }
}

#[test]
fn kernel_is_told_command_line_modules_and_memory() {
    let kernel = file(&image(Image::Elf32));
    let (one, two) = (file(b"first"), file(&[7; 5000]));
    let modules = vec![
        ModuleConfig { path: one.path().to_owned(), string: Some("first with words".to_owned()) },
        ModuleConfig { path: two.path().to_owned(), string: None },
    ];
    let (memory, _) = loaded(&boot(&kernel, modules, "a=b c")).unwrap();
    let field = |index: u64| u64::from(word(&memory, MULTIBOOT_INFO + 4 * index));
    let name = super::super::multiboot_info::file_name(kernel.path());
    assert_eq!(text(&memory, field(4)), format!("{name} a=b c"));
    assert_eq!((field(1), field(2)), (639, 15 * 1024));
    assert_eq!(text(&memory, field(16)), "kiln");
    assert_eq!(field(5), 2);
    let module = |index: u64, part: u64| u64::from(word(&memory, field(6) + 16 * index + 4 * part));
    assert_eq!(text(&memory, module(0, 2)), "first with words");
    assert_eq!(text(&memory, module(1, 2)), super::super::multiboot_info::file_name(two.path()));
    assert_eq!((module(0, 1) - module(0, 0), module(1, 1) - module(1, 0)), (5, 5000));
    assert!(module(0, 0) % 4096 == 0 && module(1, 0) % 4096 == 0 && module(1, 0) >= module(0, 1));
    let mut first = [0; 5];
    memory.read_slice(&mut first, GuestAddress(module(0, 0))).unwrap();
    assert_eq!(&first, b"first");
    // The map's entries: the first begins at 0, the last is what is above 1 MiB.
    assert_eq!(field(11), 3 * 24);
    let last = field(12) + 2 * 24;
    assert_eq!(
        (word(&memory, last), word(&memory, last + 4), word(&memory, last + 12)),
        (20, 0x10_0000, 15 << 20)
    );
}

#[test]
fn multiboot_image_boots_as_a_kernel_with_its_initrd_as_module() {
    let (kernel, initrd) = (file(&image(Image::Elf32)), file(b"initrd"));
    let boot = Boot::Kernel {
        kernel: kernel.path().to_owned(),
        initrd: Some(initrd.path().to_owned()),
        cmdline: String::new(),
    };
    let (memory, entry) = loaded(&MachineConfig { boot, ..MachineConfig::default() }).unwrap();
    assert!(matches!(entry, EntryState::Multiboot { .. }));
    assert_eq!(word(&memory, MULTIBOOT_INFO + 20), 1);
}

#[test]
fn entry_given_as_a_virtual_address_is_found() {
    // An ELF32's only program header is at 52: its virtual address is the third word, the entry is at 24.
    let high = with(with(image(Image::Elf32), 52 + 8, 0xc010_0000), 24, 0xc010_0004);
    let (_, entry) = loaded(&boot(&file(&high), Vec::new(), "")).unwrap();
    assert_eq!(entry, EntryState::Multiboot { address: HIGH_MEMORY + 4, info: MULTIBOOT_INFO });
}

#[test]
fn header_must_sum_to_zero_and_lie_in_the_first_8_kib() {
    let header = |at: usize| {
        let mut bytes = vec![0; at];
        bytes.extend(super::MAGIC.to_le_bytes());
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((super::MAGIC + 3).wrapping_neg().to_le_bytes());
        bytes
    };
    assert_eq!(header_in(&header(64)), Some(Header { flags: 3, addresses: None }));
    assert_eq!(header_in(&header(63)), None);
    assert_eq!(header_in(&with(header(64), 68, 1)), None);
    assert!(find(file(&header(8180)).as_file()).unwrap().is_some());
    assert!(find(file(&header(8184)).as_file()).unwrap().is_none());
    assert_eq!(header_in(b""), None);
}

#[test]
fn bad_images_are_refused_with_what_is_wrong() {
    let flags = |flags: u32| {
        let image = with(image(Image::Elf32), 0x204, flags);
        with(image, 0x208, (super::MAGIC + flags).wrapping_neg())
    };
    assert!(words(&flags(4)).contains("video mode"), "{}", words(&flags(4)));
    assert!(words(&flags(0x10)).contains("0x10"), "{}", words(&flags(0x10)));
    let elf = image(Image::Elf32);
    assert!(words(&elf[..0x20c]).contains("ends within a segment"));
    assert!(words(&with(elf.clone(), 52 + 12, 0x7000)).contains("where the machine has its tables"));
    assert!(words(&with(elf.clone(), 52 + 12, 0xffff_ff00)).contains("give it more memory"));
    assert!(words(&with(elf.clone(), 24, 0xf000_0000)).contains("is no RAM"));
    assert!(words(&with(elf.clone(), 44, 0)).contains("nothing to load"));
    assert!(words(&with(elf.clone(), 28, 0xffff_ff00)).contains("program headers"));
    assert!(words(&with(elf, 16, 0x0028_0002)).contains("machine 40"));
    let flat = image(Image::Flat);
    assert!(words(&with(flat.clone(), 12, 0)).contains("before what is loaded"));
    assert!(words(&with(flat.clone(), 20, 1)).contains("ends before it begins"));
    assert!(words(&flat[..28]).contains("within its multiboot header"));
    assert!(words(b"MZ no kernel at all").contains("nor a multiboot image"));
    let pvh = kiln_fixtures::by_name("exit-status-32").unwrap().elf();
    assert!(words(&pvh).contains("is no multiboot kernel"));
    let module = ModuleConfig { path: "/no/such/module".into(), string: None };
    let error = loaded(&boot(&file(&image(Image::Elf32)), vec![module], "")).unwrap_err().to_string();
    assert_eq!(error, "can't read the module /no/such/module");
}

#[test]
fn module_beyond_memory_is_refused_by_name() {
    let (kernel, module) = (file(&image(Image::Elf32)), NamedTempFile::new().unwrap());
    module.as_file().set_len(64 << 20).unwrap();
    let module = ModuleConfig { path: module.path().to_owned(), string: None };
    let error = loaded(&boot(&kernel, vec![module], "")).unwrap_err().to_string();
    assert!(error.contains("64 MiB") && error.contains("more memory"), "{error}");
}

#[test]
fn images_cut_anywhere_never_panic() {
    for kind in [Image::Elf32, Image::Elf64, Image::Flat] {
        let whole = image(kind);
        for length in (1..whole.len()).step_by(61) {
            let _whatever = loaded(&boot(&file(&whole[..length]), Vec::new(), ""));
        }
    }
}

#[test]
fn images_changed_anywhere_in_their_headers_never_panic() {
    for kind in [Image::Elf32, Image::Elf64, Image::Flat] {
        let whole = image(kind);
        for offset in (0..whole.len().min(0x80)).chain(0x200..whole.len().min(0x20c)) {
            for value in [0, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[offset] = value;
                let _whatever = loaded(&boot(&file(&changed), Vec::new(), ""));
            }
        }
    }
}
