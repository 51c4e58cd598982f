//! What a kernel is told: command line, memory map, initial RAM disk, and where ACPI's tables are.

use std::path::Path;

use linux_loader::loader::bootparam::boot_params;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{BootError, Loaded, bzimage, file};
use crate::layout::{
    ACPI, ACPI_END, CMDLINE, CMDLINE_SIZE, EBDA, HIGH_MEMORY, HOLE_START, PVH_START_INFO, ZERO_PAGE,
};
use crate::memory::{GuestMemory, end_of_low};

/// Kinds of memory, the same in e820 and in PVH's map (ACPI 6.5, table 15.4).
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// `hvm_start_info.magic` (Xen's public/arch-x86/hvm/start_info.h).
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// `type_of_loader` of a loader without a number of its own (boot.rst).
const LOADER_UNDEFINED: u8 = 0xff;
const PAGE: u64 = 0x1000;

/// An initial RAM disk in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Initrd {
    address: u64,
    size: u64,
}

/// The memory map: address, size, kind.
pub(super) fn memory_map(memory: &GuestMemory) -> Vec<(u64, u64, u32)> {
    let low = end_of_low(memory);
    let mut map = vec![
        (0, EBDA, RAM),
        (ACPI, ACPI_END - ACPI, RESERVED),
        (HIGH_MEMORY, low.saturating_sub(HIGH_MEMORY), RAM),
    ];
    let above = memory.iter().filter(|region| region.start_addr().raw_value() > 0);
    map.extend(above.map(|region| (region.start_addr().raw_value(), region.len(), RAM)));
    map
}

/// Puts the command line where every protocol expects it.
pub(super) fn write_cmdline(memory: &GuestMemory, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= CMDLINE_SIZE {
        return Err(BootError::Cmdline(format!("has {} bytes; {} fit", cmdline.len(), CMDLINE_SIZE - 1)));
    }
    if let Some(control) = cmdline.chars().find(|c| c.is_control()) {
        return Err(BootError::Cmdline(format!("holds the control character {control:?}")));
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(CMDLINE)).map_err(|_| BootError::Tables("command line"))
}

/// Reads the initial RAM disk straight into the last pages of low memory that `kernel` allows.
pub(super) fn load_initrd(memory: &GuestMemory, path: &Path, kernel: &Loaded) -> Result<Initrd, BootError> {
    let read = |source| BootError::Read { what: "initrd", path: path.to_owned(), source };
    let mut file = file::open(path, "initrd")?;
    let size = file.metadata().map_err(read)?.len();
    let ram = end_of_low(memory);
    let end = ram.min(kernel.initrd_max.saturating_add(1));
    // More memory lies above the hole, where no initrd may be.
    let mend =
        if end < ram || ram == HOLE_START { "make it smaller" } else { "give the machine more memory" };
    let too_large = || {
        let (size, has) = (size.div_ceil(1 << 20), end >> 20);
        BootError::InitrdTooLarge { path: path.to_owned(), size, has, mend }
    };
    let address = end.checked_sub(size).ok_or_else(too_large)? & !(PAGE - 1);
    if address < kernel.end {
        return Err(too_large());
    }
    let length = usize::try_from(size).map_err(|_| too_large())?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, length)
        .map_err(|error| read(std::io::Error::other(error.to_string())))?;
    Ok(Initrd { address, size })
}

/// Fills the boot parameters of Linux's own protocols.
pub(super) fn write_zero_page(
    memory: &GuestMemory,
    header: Option<&bzimage::Header>,
    initrd: Option<Initrd>,
) -> Result<(), BootError> {
    let mut params = boot_params::default();
    // An ELF has no header of its own: what the kernel reads of it is filled in here.
    let mut hdr = header.copied().unwrap_or_else(|| bzimage::Header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        kernel_alignment: 0x20_0000,
        ..bzimage::Header::default()
    });
    hdr.type_of_loader = LOADER_UNDEFINED;
    hdr.cmd_line_ptr = word(CMDLINE);
    hdr.cmdline_size = word(CMDLINE_SIZE as u64 - 1);
    if let Some(initrd) = initrd {
        (hdr.ramdisk_image, hdr.ramdisk_size) = (word(initrd.address), word(initrd.size));
    }
    params.hdr = hdr;
    params.acpi_rsdp_addr = ACPI;
    let map = memory_map(memory);
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    for (index, (addr, size, kind)) in map.into_iter().enumerate() {
        let mut table = params.e820_table;
        if let Some(entry) = table.get_mut(index) {
            (entry.addr, entry.size, entry.r#type) = (addr, size, kind);
        }
        params.e820_table = table;
    }
    memory
        .write_slice(params.as_slice(), GuestAddress(ZERO_PAGE))
        .map_err(|_| BootError::Tables("boot parameters"))
}

/// Everything of ours that lies below 4 GiB fits.
fn word(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Fills a PVH kernel's start info, with its modules and its memory map behind it.
pub(super) fn write_start_info(
    memory: &GuestMemory,
    rsdp: u64,
    initrd: Option<Initrd>,
) -> Result<(), BootError> {
    const MODULES: u64 = PVH_START_INFO + size_of::<hvm_start_info>() as u64;
    const MAP: u64 = MODULES + size_of::<hvm_modlist_entry>() as u64;
    let map = memory_map(memory);
    let info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: initrd.map_or(0, |_| MODULES),
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..hvm_start_info::default()
    };
    let fits = |written: Result<(), vm_memory::GuestMemoryError>| {
        written.map_err(|_| BootError::Tables("PVH start info"))
    };
    fits(memory.write_obj(Plain(info), GuestAddress(PVH_START_INFO)))?;
    if let Some(initrd) = initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..hvm_modlist_entry::default() };
        fits(memory.write_obj(Plain(module), GuestAddress(MODULES)))?;
    }
    for (address, (addr, size, type_)) in (MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(map) {
        let entry = hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
        fits(memory.write_obj(Plain(entry), GuestAddress(address)))?;
    }
    Ok(())
}

/// A structure of PVH's, to be written as the bytes that it is.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: these are structures of plain numbers without padding (linux-loader asserts their sizes).
#[allow(unsafe_code)]
unsafe impl ByteValued for Plain<hvm_start_info> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl ByteValued for Plain<hvm_modlist_entry> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl ByteValued for Plain<hvm_memmap_table_entry> {}
