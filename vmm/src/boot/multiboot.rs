//! Multiboot 1 kernels (Multiboot Specification 0.6.96): found by their header, and loaded as they say.
//!
//! ELF kernels of 32 and of 64 bits, and whatever else names its addresses in the header. What the kernel is told is
//! `multiboot_info`'s.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::BootError;
use super::elf::{P_FILESZ, P_OFFSET, PH_SIZE, PHNUM, PHOFF, PT_LOAD, number};
use crate::layout::{ACPI, ACPI_END, CMDLINE, CMDLINE_SIZE, GDT, MULTIBOOT_INFO, MULTIBOOT_INFO_END};
use crate::memory::{GuestMemory, end_of_low};

/// How much of a file may precede the end of its header (§3.1).
const SEARCHED: usize = 8192;
/// What a header begins with (§3.1.2).
const MAGIC: u32 = 0x1bad_b002;
/// The header's flags that must be understood (§3.1.2): bits 0 to 15.
const MUST: u32 = 0xffff;
/// Modules on pages, memory told of: both are done for every kernel.
const KNOWN: u32 = 0b11;
/// The kernel wants a video mode.
const VIDEO: u32 = 1 << 2;
/// The header has addresses to load by.
const ADDRESSES: u32 = 1 << 16;

/// A multiboot header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    flags: u32,
    addresses: Option<Addresses>,
}

/// The header's address fields (§3.1.3), and the header's own place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    offset: u64,
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Multiboot {
    /// The first instruction's physical address.
    pub(super) entry: u64,
    /// The end of the memory that the kernel occupies.
    pub(super) end: u64,
}

/// Looks for a header in what `file` begins with.
pub(super) fn find(file: &File) -> std::io::Result<Option<Header>> {
    let mut start = Vec::with_capacity(SEARCHED);
    let mut from_start = file;
    from_start.seek(SeekFrom::Start(0))?;
    from_start.take(SEARCHED as u64).read_to_end(&mut start)?;
    from_start.seek(SeekFrom::Start(0))?;
    Ok(header_in(&start))
}

fn header_in(start: &[u8]) -> Option<Header> {
    let at = (0..start.len().saturating_sub(11)).step_by(4).find(|at| {
        let word = |index: usize| number::<u32>(start, at + index * 4);
        word(0) == MAGIC && word(0).wrapping_add(word(1)).wrapping_add(word(2)) == 0
    })?;
    let word = |index: usize| number::<u32>(start, at + index * 4);
    let flags = word(1);
    let addresses = (flags & ADDRESSES != 0 && start.len() - at >= 32).then(|| Addresses {
        offset: at as u64,
        header: word(3),
        load: word(4),
        load_end: word(5),
        bss_end: word(6),
        entry: word(7),
    });
    Some(Header { flags, addresses })
}

/// A part of a file, and where it goes in guest memory.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    /// Where the kernel's own page tables will have it: what an ELF's entry may be given in.
    virt: u64,
}

/// Loads the kernel that `file` is, by `header`.
pub(super) fn load(
    memory: &GuestMemory,
    path: &Path,
    file: &mut File,
    header: Header,
) -> Result<Multiboot, BootError> {
    let damaged = |what: String| BootError::Damaged { path: path.to_owned(), what };
    let unknown = header.flags & MUST & !KNOWN;
    if unknown & VIDEO != 0 {
        let what = "its multiboot header wants a video mode, and the machine has no screen".to_owned();
        return Err(BootError::Unsupported { path: path.to_owned(), what });
    }
    if unknown != 0 {
        let what = format!("its multiboot header wants what no loader knows (flags {unknown:#x})");
        return Err(BootError::Unsupported { path: path.to_owned(), what });
    }
    let size = file.metadata().map_err(|source| BootError::Read {
        what: "kernel",
        path: path.to_owned(),
        source,
    })?;
    let (segments, entry) = match header.addresses {
        Some(addresses) => by_addresses(addresses, size.len()).map_err(damaged)?,
        None if header.flags & ADDRESSES != 0 => {
            return Err(damaged("it ends within its multiboot header".to_owned()));
        }
        None => by_elf(file, path)?,
    };
    let mut end = 0;
    for segment in &segments {
        if segment.offset.checked_add(segment.file_size).is_none_or(|end| end > size.len()) {
            return Err(damaged("it ends within a segment".to_owned()));
        }
        end = end.max(place(memory, path, file, *segment)?);
    }
    if end == 0 {
        return Err(damaged("it has nothing to load".to_owned()));
    }
    if !memory.check_range(GuestAddress(entry), 1) || u32::try_from(entry).is_err() {
        return Err(damaged(format!("its entry {entry:#x} is no RAM below 4 GiB")));
    }
    Ok(Multiboot { entry, end })
}

/// What the address fields say (§3.1.3).
fn by_addresses(at: Addresses, size: u64) -> Result<(Vec<Segment>, u64), String> {
    let before = at.header.checked_sub(at.load).ok_or("its header lies before what is loaded")?;
    let offset = at.offset.checked_sub(before.into()).ok_or("its loaded part begins before the file")?;
    let file_size = match at.load_end {
        0 => size.saturating_sub(offset),
        end => end.checked_sub(at.load).ok_or("its loaded part ends before it begins")?.into(),
    };
    let memory_size = match at.bss_end {
        0 => file_size,
        end => u64::from(end.checked_sub(at.load).ok_or("its memory ends before it begins")?).max(file_size),
    };
    let (address, virt) = (u64::from(at.load), u64::from(at.load));
    Ok((vec![Segment { offset, address, file_size, memory_size, virt }], at.entry.into()))
}

// The ELF header of 32 bits (System V ABI, gABI chapter 4), by offset, where it differs from that of 64.
const CLASS: usize = 4;
const CLASS_32: u8 = 1;
const ENTRY: usize = 0x18;
const PHOFF_32: usize = 0x1c;
const PHNUM_32: usize = 0x2c;
const PH_SIZE_32: u16 = 0x20;
/// `e_machine`.
const MACHINE: usize = 0x12;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;

/// What an ELF's program headers say.
fn by_elf(file: &File, path: &Path) -> Result<(Vec<Segment>, u64), BootError> {
    let damaged = |what: &str| BootError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let mut header = [0; 0x40];
    file.read_exact_at(&mut header, 0).map_err(|_| damaged("it ends within its ELF header"))?;
    if !header.starts_with(b"\x7fELF") {
        return Err(damaged("it has a multiboot header without addresses, and is no ELF"));
    }
    let machine = number::<u16>(&header, MACHINE);
    if machine != MACHINE_386 && machine != MACHINE_X86_64 {
        let what = format!("an ELF for machine {machine}");
        return Err(BootError::Architecture { path: path.to_owned(), what });
    }
    let short = header.get(CLASS) == Some(&CLASS_32);
    let (mut at, count, step, entry) = if short {
        (
            u64::from(number::<u32>(&header, PHOFF_32)),
            number::<u16>(&header, PHNUM_32),
            PH_SIZE_32,
            u64::from(number::<u32>(&header, ENTRY)),
        )
    } else {
        (number::<u64>(&header, PHOFF), number::<u16>(&header, PHNUM), PH_SIZE, number::<u64>(&header, ENTRY))
    };
    let mut segments = Vec::new();
    for _ in 0..count {
        let mut raw = [0; PH_SIZE as usize];
        let entry = raw.get_mut(..step.into()).unwrap_or_default();
        file.read_exact_at(entry, at).map_err(|_| damaged("it ends within its program headers"))?;
        at = at.saturating_add(step.into());
        let segment = if short { segment_32(&raw) } else { segment_64(&raw) };
        if number::<u32>(&raw, 0) == PT_LOAD && segment.memory_size > 0 {
            segments.push(segment);
        }
    }
    // An entry may be given as the kernel's own page tables will have it.
    let holds =
        |segment: &&Segment| entry.checked_sub(segment.virt).is_some_and(|into| into < segment.memory_size);
    let entry = segments
        .iter()
        .find(holds)
        .map_or(entry, |segment| (entry - segment.virt).saturating_add(segment.address));
    Ok((segments, entry))
}

fn segment_32(raw: &[u8]) -> Segment {
    let word = |index: usize| u64::from(number::<u32>(raw, index * 4));
    let (file_size, memory_size) = (word(4), word(5).max(word(4)));
    Segment { offset: word(1), virt: word(2), address: word(3), file_size, memory_size }
}

fn segment_64(raw: &[u8]) -> Segment {
    let long = |offset: usize| number::<u64>(raw, offset);
    let (file_size, memory_size) = (long(P_FILESZ), long(0x28).max(long(P_FILESZ)));
    Segment { offset: long(P_OFFSET), virt: long(0x10), address: long(0x18), file_size, memory_size }
}

/// What the machine itself puts below 1 MiB for such a kernel.
const OURS: [(u64, u64); 4] = [
    (GDT, GDT + 0x100),
    (MULTIBOOT_INFO, MULTIBOOT_INFO_END),
    (CMDLINE, CMDLINE + CMDLINE_SIZE as u64),
    (ACPI, ACPI_END),
];

/// Puts a segment where it belongs; returns its end. What the file does not fill is zero: the memory is new.
fn place(memory: &GuestMemory, path: &Path, file: &mut File, segment: Segment) -> Result<u64, BootError> {
    let damaged = |what: String| BootError::Damaged { path: path.to_owned(), what };
    let past = || damaged("a segment ends past the last address".to_owned());
    let end = segment.address.checked_add(segment.memory_size).ok_or_else(past)?;
    let ram = end_of_low(memory);
    if end > ram {
        let needs = end.div_ceil(1 << 20);
        return Err(BootError::KernelTooLarge { path: path.to_owned(), needs, has: ram >> 20 });
    }
    if OURS.iter().any(|(from, to)| segment.address < *to && end > *from) {
        let at = segment.address;
        return Err(damaged(format!("a segment at {at:#x} lies where the machine has its tables")));
    }
    let read = |source| BootError::Read { what: "kernel", path: path.to_owned(), source };
    file.seek(SeekFrom::Start(segment.offset)).map_err(read)?;
    let length = usize::try_from(segment.file_size).map_err(|_| past())?;
    memory
        .read_exact_volatile_from(GuestAddress(segment.address), file, length)
        .map_err(|error| read(std::io::Error::other(error.to_string())))?;
    Ok(end)
}

#[cfg(test)]
mod tests;
