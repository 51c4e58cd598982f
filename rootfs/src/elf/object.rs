//! What one ELF file says that it needs.

use std::fs::File;
use std::path::Path;

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};

use crate::Error;

/// No path or name is longer.
const LONGEST: u64 = 4096;

/// A program or a library.
#[derive(Debug, Default)]
pub(crate) struct Object {
    /// The program that loads it.
    pub(crate) interpreter: Option<String>,
    /// The libraries that it names.
    pub(crate) needed: Vec<String>,
    /// Folders to search for them, and for what they need.
    pub(crate) rpath: Vec<String>,
    /// Folders to search for them only; `rpath` is void if there are any.
    pub(crate) runpath: Vec<String>,
}

impl Object {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let data = ReadCache::new(file);
        Self::parse(&data).ok_or_else(|| Error::file(path, "not a program for x86-64 (a 64-bit ELF file)"))
    }

    /// Reads the ELF that `data` is; `None` if it is none for x86-64, or is cut off.
    pub(crate) fn parse<'data, R: ReadRef<'data>>(data: R) -> Option<Self> {
        let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        if header.e_machine(endian) != elf::EM_X86_64 {
            return None;
        }
        let segments = header.program_headers(endian, data).ok()?;
        let mut object = Object::default();
        let mut dynamic: &[elf::Dyn64<LittleEndian>] = &[];
        for segment in segments {
            if let Some(interpreter) = segment.interpreter(endian, data).ok()? {
                object.interpreter = Some(String::from_utf8_lossy(interpreter).into_owned());
            }
            if let Some(entries) = segment.dynamic(endian, data).ok()? {
                dynamic = entries;
            }
        }
        let entries = || dynamic.iter().take_while(|entry| entry.d_tag(endian) != elf::DT_NULL);
        let Some(strings) = entries().find(|entry| entry.d_tag(endian) == elf::DT_STRTAB) else {
            return Some(object);
        };
        // The table's place is an address; where in the file that is, the segments say.
        let strings = strings.d_val(endian);
        let table =
            segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).find_map(|segment| {
                let start = strings.checked_sub(segment.p_vaddr(endian))?;
                (start < segment.p_filesz(endian))
                    .then(|| segment.p_offset(endian).checked_add(start))
                    .flatten()
            })?;
        let text = |offset: u64| {
            let start = table.checked_add(offset)?;
            let end = start.checked_add(LONGEST)?.min(data.len().ok()?);
            let bytes = data.read_bytes_at_until(start..end, 0).ok()?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let folders =
            |list: String| list.split(':').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        for entry in entries() {
            let (tag, value) = (entry.d_tag(endian), entry.d_val(endian));
            if tag == elf::DT_NEEDED {
                object.needed.push(text(value)?);
            } else if tag == elf::DT_RPATH {
                object.rpath = folders(text(value)?);
            } else if tag == elf::DT_RUNPATH {
                object.runpath = folders(text(value)?);
            }
        }
        if !object.runpath.is_empty() {
            object.rpath.clear();
        }
        Some(object)
    }
}
