//! What a multiboot kernel is told (Multiboot Specification 0.6.96, §3.3): memory, command line, modules, and by whom
//! it was loaded.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::params::memory_map;
use super::{BootError, file};
use crate::config::ModuleConfig;
use crate::layout::{CMDLINE, EBDA, HIGH_MEMORY, MULTIBOOT_INFO, MULTIBOOT_INFO_END};
use crate::memory::{GuestMemory, end_of_low};

/// The fields that are there: memory, command line, modules, memory map, the loader's name.
const FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// The size of the structure up to the last field that it has, in words of four bytes.
const WORDS: usize = 29;
/// Where in it the fields are, by word.
const MEM_LOWER: usize = 1;
const MEM_UPPER: usize = 2;
const COMMAND_LINE: usize = 4;
const MODULES_COUNT: usize = 5;
const MODULES_ADDRESS: usize = 6;
const MAP_LENGTH: usize = 11;
const MAP_ADDRESS: usize = 12;
const LOADER_NAME: usize = 16;
/// The size that an entry of the memory map states: its own without the field that says so.
const MAP_ENTRY: u32 = 20;
const PAGE: u64 = 0x1000;
const NAME: &str = "kiln";

/// A module in guest memory, and its string.
struct Module {
    start: u64,
    end: u64,
    string: String,
}

/// Loads `modules` behind the kernel, which ends at `end`, and writes all that the kernel is told; the command line
/// is in place. Returns the address that goes into EBX.
pub(super) fn write(memory: &GuestMemory, mut end: u64, modules: &[ModuleConfig]) -> Result<u64, BootError> {
    let mut loaded = Vec::new();
    for module in modules {
        let start = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        end = load(memory, &module.path, start)?;
        let string = module.string.clone().unwrap_or_else(|| file_name(&module.path));
        if string.chars().any(char::is_control) {
            return Err(BootError::Cmdline(format!("of the module {string:?} holds a control character")));
        }
        loaded.push(Module { start, end, string });
    }
    let mut table = Table { bytes: vec![0; WORDS * 4] };
    let name = table.string(NAME);
    table.align();
    let map = table.here();
    for (address, size, kind) in memory_map(memory) {
        table.bytes.extend(MAP_ENTRY.to_le_bytes());
        table.bytes.extend(address.to_le_bytes());
        table.bytes.extend(size.to_le_bytes());
        table.bytes.extend(kind.to_le_bytes());
    }
    let map_length = table.here() - map;
    let strings: Vec<u64> = loaded.iter().map(|module| table.string(&module.string)).collect();
    table.align();
    let list = table.here();
    for (module, string) in loaded.iter().zip(strings) {
        for value in [module.start, module.end, string, 0] {
            table.bytes.extend(word(value).to_le_bytes());
        }
    }
    let upper = end_of_low(memory).saturating_sub(HIGH_MEMORY);
    for (index, value) in [
        (0, FLAGS.into()),
        (MEM_LOWER, EBDA >> 10),
        (MEM_UPPER, upper >> 10),
        (COMMAND_LINE, CMDLINE),
        (MODULES_COUNT, loaded.len() as u64),
        (MODULES_ADDRESS, list),
        (MAP_LENGTH, map_length),
        (MAP_ADDRESS, map),
        (LOADER_NAME, name),
    ] {
        let field = table.bytes.iter_mut().skip(index * 4);
        for (to, from) in field.zip(word(value).to_le_bytes()) {
            *to = from;
        }
    }
    if table.here() > MULTIBOOT_INFO_END {
        return Err(BootError::Tables("multiboot modules' strings"));
    }
    memory
        .write_slice(&table.bytes, GuestAddress(MULTIBOOT_INFO))
        .map_err(|_| BootError::Tables("multiboot information"))?;
    Ok(MULTIBOOT_INFO)
}

/// The last part of a path: what a loader calls a file.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The bytes at [`MULTIBOOT_INFO`] while they grow.
struct Table {
    bytes: Vec<u8>,
}

impl Table {
    /// The address of what is added next.
    fn here(&self) -> u64 {
        MULTIBOOT_INFO + self.bytes.len() as u64
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn string(&mut self, text: &str) -> u64 {
        let at = self.here();
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        at
    }
}

/// Reads a module to `start`; returns its end.
fn load(memory: &GuestMemory, path: &Path, start: u64) -> Result<u64, BootError> {
    let read = |source| BootError::Read { what: "module", path: path.to_owned(), source };
    let mut file = file::open(path, "module")?;
    let size = file.metadata().map_err(read)?.len();
    let ram = end_of_low(memory);
    let end = start.checked_add(size).filter(|end| *end <= ram);
    let (Some(end), Ok(length)) = (end, usize::try_from(size)) else {
        let size = size.div_ceil(1 << 20);
        return Err(BootError::ModuleTooLarge { path: path.to_owned(), size, has: ram >> 20 });
    };
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, length)
        .map_err(|error| read(std::io::Error::other(error.to_string())))?;
    Ok(end)
}

/// All that the structure points to lies below 4 GiB.
fn word(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
