//! fw_cfg: what firmware and tests ask of their machine by number and by name (QEMU, docs/specs/fw_cfg.rst).
//!
//! A selector port names an item, a data port gives its bytes one after the other; a DMA port moves many at once.

mod dma;
mod state;
#[cfg(test)]
mod tests;

use crate::bus::BusDevice;
use crate::memory::GuestMemory;

/// The selector, two bytes, little-endian on ports.
const SELECTOR: u64 = 0;
/// The data, a byte at a time.
const DATA: u64 = 1;
/// The DMA's address, eight bytes, big-endian.
const DMA: u64 = 4;
/// What the DMA port reads.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

// Items by number.
const SIGNATURE: u16 = 0x0000;
const ID: u16 = 0x0001;
const RAM_SIZE: u16 = 0x0003;
const CPUS: u16 = 0x0005;
const MAX_CPUS: u16 = 0x000f;
const FILE_DIRECTORY: u16 = 0x0019;
/// The first of the items that have names.
const FILE_FIRST: u16 = 0x0020;
/// `ID`: data by port, and by DMA.
const ID_VALUE: u32 = 1 | 1 << 1;
/// How long a file's name may be, without its NUL.
pub const NAME_MAX: usize = 55;
/// How many files there may be: the rest of the numbers are those of other architectures.
pub const FILES_MAX: usize = 0x1000;

/// A file with a name, as `opt/org.example/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// At most [`NAME_MAX`] bytes.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What a machine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How many vCPUs it has.
    pub cpus: u32,
    /// Its RAM in bytes.
    pub memory: u64,
}

/// The device.
pub struct FwCfg {
    memory: GuestMemory,
    items: Vec<(u16, Vec<u8>)>,
    selected: u16,
    offset: usize,
    /// The DMA's address as far as it has been written.
    dma_address: [u8; 8],
}

impl FwCfg {
    /// Makes the device; its DMA moves `memory`. Files beyond [`FILES_MAX`] are left out.
    #[must_use]
    pub fn new(facts: Facts, files: Vec<File>, memory: GuestMemory) -> Self {
        let cpus = u16::try_from(facts.cpus).unwrap_or(u16::MAX).to_le_bytes().to_vec();
        let mut items = vec![
            (SIGNATURE, b"QEMU".to_vec()),
            (ID, ID_VALUE.to_le_bytes().to_vec()),
            (RAM_SIZE, facts.memory.to_le_bytes().to_vec()),
            (CPUS, cpus.clone()),
            (MAX_CPUS, cpus),
        ];
        let mut directory = Vec::new();
        let count = files.len().min(FILES_MAX);
        directory.extend(u32::try_from(count).unwrap_or(0).to_be_bytes());
        for (number, file) in (FILE_FIRST..).zip(files.into_iter().take(FILES_MAX)) {
            directory.extend(u32::try_from(file.content.len()).unwrap_or(u32::MAX).to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0, 0]);
            let mut name = file.name.into_bytes();
            name.truncate(NAME_MAX);
            name.resize(NAME_MAX + 1, 0);
            directory.extend(name);
            items.push((number, file.content));
        }
        items.push((FILE_DIRECTORY, directory));
        Self { memory, items, selected: SIGNATURE, offset: 0, dma_address: [0; 8] }
    }

    fn select(&mut self, item: u16) {
        (self.selected, self.offset) = (item, 0);
    }

    /// The next bytes of the selected item; beyond its end, and where there is no item, zeros.
    fn take(&mut self, data: &mut [u8]) {
        data.fill(0);
        let item = self.items.iter().find(|(number, _)| *number == self.selected);
        let rest = item.and_then(|(_, bytes)| bytes.get(self.offset..)).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
        self.offset = self.offset.saturating_add(data.len());
    }
}

impl BusDevice for FwCfg {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (DATA, 1) => self.take(data),
            (DMA.., _) => super::bytes::read(offset - DMA, data, |index| {
                usize::try_from(index).ok().and_then(|index| DMA_SIGNATURE.get(index)).copied().unwrap_or(0)
            }),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECTOR, [low, high]) => self.select(u16::from_le_bytes([*low, *high])),
            (DMA.., _) => {
                let at = usize::try_from(offset - DMA).unwrap_or(usize::MAX);
                for (to, from) in self.dma_address.iter_mut().skip(at).zip(data) {
                    *to = *from;
                }
                // The low half comes last, and starts it.
                if at.saturating_add(data.len()) == self.dma_address.len() && data.len() >= 4 {
                    let address = u64::from_be_bytes(std::mem::take(&mut self.dma_address));
                    self.dma(address);
                }
            }
            // Data is read only.
            _ => {}
        }
    }
}
