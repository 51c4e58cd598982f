//! Firmware at the reset vector: a ROM image whose end is at 4 GiB, and which is below 1 MiB, too.

use std::io::Read;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, file};
use crate::layout::{HIGH_MEMORY, IDENTITY_MAP_ADDRESS};
use crate::memory::GuestMemory;

/// Where the address space of 32 bits ends, and a ROM with it.
const TOP: u64 = 1 << 32;
/// How much of it is seen below 1 MiB: larger images of SeaBIOS begin there, where a chipset would have them copied.
const SHADOW: usize = 256 << 10;
const PAGE: u64 = 0x1000;

/// A ROM, and where it is.
pub(crate) struct Rom {
    pub(crate) base: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Reads the image at `path`.
pub(crate) fn read(path: &Path) -> Result<Rom, BootError> {
    let refused = |what: String| BootError::Firmware { path: path.to_owned(), what };
    let read = |source| BootError::Read { what: "firmware", path: path.to_owned(), source };
    let image = file::open(path, "firmware")?;
    let size = image.metadata().map_err(read)?.len();
    // KVM's own pages lie below the largest ROM.
    let most = TOP - (IDENTITY_MAP_ADDRESS + 4 * PAGE);
    if size > most {
        return Err(refused(format!("it has {size} bytes, and {most} fit below 4 GiB")));
    }
    if !size.is_multiple_of(PAGE) {
        return Err(refused(format!("its {size} bytes are no multiple of 4096")));
    }
    let mut bytes = Vec::new();
    image.take(most).read_to_end(&mut bytes).map_err(read)?;
    let base = TOP - u64::try_from(bytes.len()).unwrap_or(0);
    Ok(Rom { base, bytes })
}

/// Puts the ROM's end below 1 MiB, as RAM: firmware writes there, once it has asked for it.
pub(super) fn shadow(memory: &GuestMemory, rom: &Rom) -> Result<(), BootError> {
    let end = rom.bytes.get(rom.bytes.len().saturating_sub(SHADOW)..).unwrap_or_default();
    let at = HIGH_MEMORY - u64::try_from(end.len()).unwrap_or(0);
    memory.write_slice(end, GuestAddress(at)).map_err(|_| BootError::Tables("firmware"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    fn refused(bytes: usize) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes.try_into().unwrap()).unwrap();
        read(file.path()).err().unwrap().to_string()
    }

    #[test]
    fn rom_ends_at_4_gib_and_is_seen_below_1_mib() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let image: Vec<u8> = (0..256 << 10).map(|at: u32| at.to_le_bytes()[1]).collect();
        std::fs::write(file.path(), &image).unwrap();
        let rom = read(file.path()).unwrap();
        assert_eq!((rom.base, &rom.bytes), (0xfffc_0000, &image));
        let memory = memory::allocate(2 << 20).unwrap();
        shadow(&memory, &rom).unwrap();
        let mut low = vec![0; SHADOW];
        memory.read_slice(&mut low, GuestAddress(0xc_0000)).unwrap();
        assert_eq!(low, image);
    }

    #[test]
    fn image_that_is_no_rom_is_refused_with_what_fits() {
        assert!(refused(0).contains("can't read the firmware"));
        assert!(refused(100).contains("no multiple of 4096"));
        assert!(refused(4 << 20).contains("262144 fit"));
    }
}
