//! ELF kernels: checked for what a user may have got wrong, then loaded by linux-loader.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::GuestAddress;

use super::{BootError, Loaded, Protocol};
use crate::layout::HIGH_MEMORY;
use crate::memory::{GuestMemory, end_of_low};

// The ELF header (System V ABI, chapter 4; gABI), by offset.
const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const TYPE: usize = 0x10;
const TYPE_EXEC: u16 = 2;
const MACHINE: usize = 0x12;
const MACHINE_X86_64: u16 = 62;
pub(super) const PHOFF: usize = 0x20;
const PHENTSIZE: usize = 0x36;
pub(super) const PHNUM: usize = 0x38;
pub(super) const HEADER_SIZE: usize = 0x40;
/// The size of a program header, and its fields by offset.
pub(super) const PH_SIZE: u16 = 0x38;
pub(super) const P_OFFSET: usize = 0x08;
const P_PADDR: usize = 0x18;
pub(super) const P_FILESZ: usize = 0x20;
const P_MEMSZ: usize = 0x28;
pub(super) const PT_LOAD: u32 = 1;

/// Loads the ELF of which `file` is open.
pub(super) fn load(memory: &GuestMemory, path: &Path, file: &mut File) -> Result<Loaded, BootError> {
    let end = check(path, file, end_of_low(memory))?;
    let damaged = |what: String| BootError::Damaged { path: path.to_owned(), what };
    let loaded = Elf::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY)))
        .map_err(|error| damaged(error.to_string()))?;
    let by = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Protocol::Pvh { entry: entry.0 },
        _ => Protocol::Linux64 { entry: loaded.kernel_load.0, header: None },
    };
    Ok(Loaded { by, end, initrd_max: u64::from(u32::MAX) })
}

/// Checks the headers against the file and against RAM that ends at `ram`; returns where the kernel ends.
fn check(path: &Path, file: &File, ram: u64) -> Result<u64, BootError> {
    let damaged = |what: &str| BootError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let read = |source| BootError::Read { what: "kernel", path: path.to_owned(), source };
    let size = file.metadata().map_err(read)?.len();
    let mut header = [0; HEADER_SIZE];
    file.read_exact_at(&mut header, 0).map_err(|_| damaged("it ends within its ELF header"))?;
    if header[CLASS] != CLASS_64 || number::<u16>(&header, MACHINE) != MACHINE_X86_64 {
        let bits = if header[CLASS] == CLASS_64 { 64 } else { 32 };
        let what = format!("an ELF of {bits} bits for machine {}", number::<u16>(&header, MACHINE));
        return Err(BootError::Architecture { path: path.to_owned(), what });
    }
    // A program that is loaded wherever there is room is no kernel.
    if number::<u16>(&header, TYPE) != TYPE_EXEC {
        return Err(BootError::NoKernel(path.to_owned()));
    }
    if number::<u16>(&header, PHENTSIZE) != PH_SIZE {
        return Err(damaged("its program headers have an unknown size"));
    }
    let (mut end, mut at) = (0, number::<u64>(&header, PHOFF));
    for _ in 0..number::<u16>(&header, PHNUM) {
        let mut entry = [0; PH_SIZE as usize];
        file.read_exact_at(&mut entry, at).map_err(|_| damaged("it ends within its program headers"))?;
        at = at.saturating_add(PH_SIZE.into());
        if number::<u32>(&entry, 0) != PT_LOAD {
            continue;
        }
        let file_size = number::<u64>(&entry, P_FILESZ);
        if number::<u64>(&entry, P_OFFSET).checked_add(file_size).is_none_or(|end| end > size) {
            return Err(damaged("it ends within a segment"));
        }
        let (start, length) = (number::<u64>(&entry, P_PADDR), number::<u64>(&entry, P_MEMSZ).max(file_size));
        let last =
            start.checked_add(length).ok_or_else(|| damaged("a segment ends past the last address"))?;
        if length > 0 && start < HIGH_MEMORY {
            return Err(damaged("a segment lies below 1 MiB, where the machine has its tables"));
        }
        end = end.max(last);
    }
    if end == 0 {
        return Err(damaged("it has nothing to load"));
    }
    if end > ram {
        return Err(BootError::KernelTooLarge {
            path: path.to_owned(),
            needs: end.div_ceil(1 << 20),
            has: ram >> 20,
        });
    }
    Ok(end)
}

/// A little-endian number in a header that is known to be long enough.
pub(super) trait Number: Sized {
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn read(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                for (to, from) in own.iter_mut().zip(bytes) {
                    *to = *from;
                }
                <$type>::from_le_bytes(own)
            }
        }
    )*};
}
number!(u16, u32, u64);

pub(super) fn number<T: Number>(bytes: &[u8], offset: usize) -> T {
    T::read(bytes.get(offset..).unwrap_or_default())
}
