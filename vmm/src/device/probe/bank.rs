//! The registers behind both windows.

use std::sync::Arc;

use super::log::Log;
use super::window::Place;
use super::{dma, reg};
use crate::irq::{Interrupt, LevelInterrupt, MessageInterrupt, Msi, Unconnected};
use crate::memory::GuestMemory;

/// The upper half of a register of eight bytes.
const HIGH: u16 = 4;
/// Where the last register ends.
const END: usize = 0x40;

/// The state of a probe device.
pub(super) struct Bank {
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    /// The registers that only keep what was written, each at its own offset.
    kept: [u8; END],
    accesses: u32,
    log: Log,
    raised: u32,
    level: Arc<dyn LevelInterrupt>,
    message: Arc<dyn MessageInterrupt>,
    /// Where the message is written, and how often it was raised.
    message_to: (u64, u32),
    dma: dma::Result,
    /// How many writes to the stream came in order, and how many did not.
    stream: (u32, u32),
    /// By which the window is moved, if there is one.
    place: Option<Place>,
}

impl Bank {
    pub(super) fn new(memory: GuestMemory, interrupt: Arc<dyn Interrupt>) -> Self {
        let dma = Ok(0);
        let (log, stream) = (Log::default(), (0, 0));
        Self {
            memory,
            interrupt,
            kept: [0; END],
            accesses: 0,
            log,
            raised: 0,
            level: Arc::new(Unconnected),
            message: Arc::new(Unconnected),
            message_to: (0, 0),
            dma,
            stream,
            place: None,
        }
    }

    pub(super) fn connect(&mut self, level: Arc<dyn LevelInterrupt>, message: Arc<dyn MessageInterrupt>) {
        (self.level, self.message) = (level, message);
    }

    pub(super) fn set_place(&mut self, place: Place) {
        self.place = Some(place);
    }

    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.read_register(offset, data);
        self.account(offset, data.len(), false);
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == u64::from(reg::ACCESS_COUNT) {
            self.accesses = 0;
            self.log.clear();
            self.stream = (0, 0);
            return;
        }
        self.write_register(offset, data);
        self.account(offset, data.len(), true);
    }

    /// Counts an access, and logs it unless it was to the log itself.
    fn account(&mut self, offset: u64, width: usize, write: bool) {
        self.accesses = self.accesses.wrapping_add(1);
        if offset != u64::from(reg::LOG) {
            self.log.push(offset, width, write);
        }
    }

    fn read_register(&mut self, offset: u64, data: &mut [u8]) {
        let Ok(offset) = u16::try_from(offset) else { return };
        if let Some(kept) = self.kept(offset, data.len()) {
            data.copy_from_slice(kept);
            return;
        }
        let value: u32 = match (offset, data.len()) {
            (reg::WIDTH, width) => {
                // One digit a bit of width: 0x11, 0x2222, 0x4444_4444, 0x8888_8888_8888_8888.
                data.fill(u8::try_from(width * 0x11).unwrap_or(0xff));
                return;
            }
            (reg::MAGIC, 4) => reg::MAGIC_VALUE,
            (reg::ACCESS_COUNT, 4) => self.accesses,
            (reg::INTERRUPT, 4) => self.raised,
            (reg::DMA_COMMAND, 4) => match self.dma {
                Ok(_) => reg::DMA_OK,
                Err(dma::Fault) => reg::DMA_FAULT,
            },
            (reg::DMA_CHECKSUM, 4) => self.dma.unwrap_or(0),
            (reg::LEVEL, 4) => self.level.ends(),
            (reg::MSI, 4) => self.message_to.1,
            (reg::STREAM, 4) => self.stream.0,
            (reg::STREAM_ASTRAY, 4) => self.stream.1,
            (reg::WINDOW_COMMAND, 4) => match &self.place {
                Some(place) => place.status(),
                None => return,
            },
            (reg::LOG, 4) => self.log.take_oldest().unwrap_or(u32::MAX),
            _ => return,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn write_register(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = u16::try_from(offset) else { return };
        if let Some(kept) = self.kept(offset, data.len()) {
            kept.copy_from_slice(data);
            return;
        }
        match (offset, data) {
            (reg::INTERRUPT, _) => {
                let edge = self.interrupt.trigger().is_ok();
                self.raised = self.raised.wrapping_add(u32::from(edge));
            }
            (reg::LEVEL, &[a, b, c, d]) => {
                // A line that can't be raised shows as one that the guest never hears of.
                let _no_thread = self.level.set([a, b, c, d] != [0; 4]);
            }
            (reg::MSI_ADDRESS, &[a, b, c, d, e, f, g, h]) => {
                self.message_to.0 = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            }
            (reg::MSI_DATA, &[a, b, c, d]) => {
                let msi = Msi { address: self.message_to.0, data: u32::from_le_bytes([a, b, c, d]) };
                // A message that KVM takes for none leaves the last one.
                let _refused = self.message.route(msi);
            }
            (reg::MSI, _) => {
                let raised = self.message.trigger().is_ok();
                self.message_to.1 = self.message_to.1.wrapping_add(u32::from(raised));
            }
            (reg::STREAM, &[a, b, c, d]) => {
                let in_order = u32::from_le_bytes([a, b, c, d]) == self.stream.0;
                let count = if in_order { &mut self.stream.0 } else { &mut self.stream.1 };
                *count = count.wrapping_add(1);
            }
            (reg::WINDOW_COMMAND, &[a, b, c, d]) => {
                self.place.iter().for_each(|place| place.command(u32::from_le_bytes([a, b, c, d])));
            }
            (reg::DMA_COMMAND, &[a, b, c, d]) => {
                let command = u32::from_le_bytes([a, b, c, d]);
                let address = u64::from_le_bytes(self.register(reg::DMA_ADDRESS));
                let length = u32::from_le_bytes(self.register(reg::DMA_LENGTH));
                self.dma = dma::run(&self.memory, command, address, length);
            }
            _ => {}
        }
    }

    /// The bytes of a register that keeps what was written, if `width` bytes at `offset` are one or a half of one.
    fn kept(&mut self, offset: u16, width: usize) -> Option<&mut [u8]> {
        const SCRATCH64_HIGH: u16 = reg::SCRATCH64 + HIGH;
        const DMA_ADDRESS_HIGH: u16 = reg::DMA_ADDRESS + HIGH;
        if offset >= reg::WINDOW_BASE {
            return self.place.as_mut()?.base(offset, width);
        }
        match (offset, width) {
            (reg::SCRATCH8, 1) | (reg::SCRATCH16, 2) | (reg::SCRATCH32 | reg::DMA_LENGTH, 4) => {}
            (reg::SCRATCH64 | reg::DMA_ADDRESS, 8 | 4) => {}
            (SCRATCH64_HIGH | DMA_ADDRESS_HIGH, 4) => {}
            _ => return None,
        }
        self.kept.get_mut(usize::from(offset)..)?.get_mut(..width)
    }

    /// What a register of `N` bytes keeps.
    fn register<const N: usize>(&self, offset: u16) -> [u8; N] {
        self.kept.get(usize::from(offset)..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }
}
