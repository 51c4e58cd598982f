//! What the ELF of a kernel says: its notes, its banner, the configuration that it carries.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache};

use super::banner::{self, Banner};
use super::config::Config;
use crate::Error;
use crate::cache::hex;

/// The note with the address of Xen's PVH entry (xen/include/public/elfnote.h).
const XEN_PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);
/// More than all that any kernel loads.
const LARGEST: u64 = 1 << 30;
/// More than all the notes of any kernel.
const LARGEST_NOTES: u64 = 1 << 20;
/// A build id is a hash, and no hash is longer.
const LONGEST_ID: usize = 64;

/// What an ELF kernel says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vmlinux {
    /// What it says when it starts.
    pub banner: Option<Banner>,
    /// The linker's hash of it, in hexadecimal.
    pub build_id: Option<String>,
    /// The address of its PVH entry, if it has one.
    pub pvh: Option<u64>,
    /// The configuration that it carries.
    pub config: Option<Config>,
}

impl Vmlinux {
    /// Reads the ELF kernel in `path`.
    ///
    /// # Errors
    /// It can't be read, is cut off, or is no kernel for x86-64.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::io("read the kernel", path))?;
        parse(&mut file).map_err(|why| Error::file(path, why))
    }
}

/// Reads the ELF that `file` is. Its segments are read one after the other: a kernel's do not overlap, and so are together
/// no larger than the file.
pub(crate) fn parse(file: &mut (impl Read + Seek)) -> Result<Vmlinux, &'static str> {
    let cut = "the kernel is truncated or damaged: it ends within its segments";
    let length = file.seek(SeekFrom::End(0)).map_err(|_| cut)?;
    let (mut vmlinux, loads) = described(file, length)?;
    let mut bytes = Vec::new();
    for (start, size) in loads {
        bytes.clear();
        file.seek(SeekFrom::Start(start)).map_err(|_| cut)?;
        let read = file.by_ref().take(size).read_to_end(&mut bytes).map_err(|_| cut)?;
        if u64::try_from(read) != Ok(size) {
            return Err(cut);
        }
        if !vmlinux.banner.as_ref().is_some_and(Banner::is_final) {
            vmlinux.banner = banner_in(&bytes).or(vmlinux.banner);
        }
        vmlinux.config = vmlinux.config.or_else(|| Config::carried(&bytes));
    }
    Ok(vmlinux)
}

/// Where in a file a segment is, and its size.
type Place = (u64, u64);

/// What the headers and notes say, and where each segment is that is loaded.
fn described(file: &mut (impl Read + Seek), length: u64) -> Result<(Vmlinux, Vec<Place>), &'static str> {
    let data = &ReadCache::new(file);
    let no_kernel = "it is no kernel for x86-64: neither a bzImage nor an ELF vmlinux";
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(|_| no_kernel)?;
    let endian = header.endian().map_err(|_| no_kernel)?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err("it is an ELF, but for another machine than x86-64");
    }
    // A program that is loaded wherever there is room is no kernel.
    if header.e_type(endian) != elf::ET_EXEC {
        return Err("it is an ELF program or library, and no kernel");
    }
    let cut = "the kernel is truncated or damaged: it ends within its segments";
    let overlap = "the kernel is damaged: its segments are larger than the file";
    let segments = header.program_headers(endian, data).map_err(|_| cut)?;
    let mut vmlinux = Vmlinux::default();
    let (mut loads, mut loaded, mut noted) = (Vec::new(), 0_u64, 0_u64);
    for segment in segments {
        let (start, size) = segment.file_range(endian);
        if segment.p_type(endian) != elf::PT_LOAD && segment.p_type(endian) != elf::PT_NOTE {
            continue;
        }
        if start.checked_add(size).is_none_or(|end| end > length) {
            return Err(cut);
        }
        if segment.p_type(endian) == elf::PT_LOAD {
            loaded = loaded.saturating_add(size);
            if loaded > length.min(LARGEST) {
                return Err(overlap);
            }
            loads.push((start, size));
            continue;
        }
        noted = noted.saturating_add(size);
        if noted > LARGEST_NOTES {
            return Err("the kernel is damaged: it has more notes than any kernel");
        }
        if let Ok(Some(mut notes)) = segment.notes(endian, data) {
            while let Ok(Some(note)) = notes.next() {
                match (note.name(), note.n_type(endian)) {
                    (b"GNU", elf::NT_GNU_BUILD_ID) if (1..=LONGEST_ID).contains(&note.desc().len()) => {
                        vmlinux.build_id = Some(hex(note.desc()));
                    }
                    (b"Xen", XEN_PHYS32_ENTRY) => vmlinux.pvh = address(note.desc()),
                    _ => {}
                }
            }
        }
    }
    Ok((vmlinux, loads))
}

/// A note's number, which has 4 bytes or 8.
fn address(note: &[u8]) -> Option<u64> {
    match note.len() {
        4 => Some(u32::from_le_bytes(*note.first_chunk()?).into()),
        8 => Some(u64::from_le_bytes(*note.first_chunk()?)),
        _ => None,
    }
}

/// A kernel has its banner twice since 6.1, the first without the build's number, which is known only when all else is
/// built.
fn banner_in(bytes: &[u8]) -> Option<Banner> {
    let (mut rest, mut first) = (bytes, None);
    while let Some(at) = find(rest, banner::PREFIX) {
        rest = rest.get(at + banner::PREFIX.len()..).unwrap_or_default();
        // A format string has the words, too, and no release after them.
        if let Some(banner) = Banner::parse(rest) {
            if banner.is_final() {
                return Some(banner);
            }
            first = first.or(Some(banner));
        }
    }
    first
}

/// Where `needle` is first in `bytes`.
pub(super) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|&byte| byte == first)?;
        if bytes.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}
