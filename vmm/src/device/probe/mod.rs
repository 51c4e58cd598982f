//! The probe device: registers made to be asserted on, the same on PIO and on MMIO.
//!
//! What each register does is [`kiln_protocol::probe`]'s to say. Here is how strictly: a register answers
//! accesses at its own offset and of the widths it names, nothing else; so each path's splitting, merging or
//! misplacing of accesses shows. Only [`reg::ACCESS_COUNT`] and [`reg::INTERRUPT`] take writes of any width.

mod bank;
mod cells;
mod dma;
mod log;
#[cfg(test)]
mod tests;
mod window;

use std::sync::{Arc, Mutex, PoisonError};

use kiln_protocol::addresses::PROBE_WINDOW;
use kiln_protocol::probe as reg;

use crate::bus::BusDevice;
use crate::irq::{Interrupt, LevelInterrupt, MessageInterrupt};
use crate::memory::GuestMemory;
use crate::memory::region::Mover;
use bank::Bank;
pub use cells::Cells;
use window::Place;
pub use window::{Doorbells, Movable};

/// One bank of registers, to be put on one bus or both.
pub struct Probe {
    bank: Arc<Mutex<Bank>>,
}

impl Probe {
    /// Makes a bank whose DMA moves `memory` and whose interrupt register raises `interrupt`.
    #[must_use]
    pub fn new(memory: GuestMemory, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { bank: Arc::new(Mutex::new(Bank::new(memory, interrupt))) }
    }

    /// With a level-triggered line, and an interrupt that is a message; without, those lead nowhere.
    #[must_use]
    pub fn with(self, level: Arc<dyn LevelInterrupt>, message: Arc<dyn MessageInterrupt>) -> Self {
        self.bank.lock().unwrap_or_else(PoisonError::into_inner).connect(level, message);
        self
    }

    /// The bank as a device for the PIO bus.
    #[must_use]
    pub fn pio(&self) -> ProbeWindow {
        ProbeWindow { bank: Arc::clone(&self.bank), from: 0 }
    }

    /// The bank as a device for the MMIO bus.
    #[must_use]
    pub fn mmio(&self) -> ProbeWindow {
        ProbeWindow { bank: Arc::clone(&self.bank), from: 0 }
    }

    /// The window that `mover` moves, from [`kiln_protocol::addresses::PROBE_WINDOW`] on, and whose doorbell counts in `doorbells`, as
    /// a device for the MMIO bus.
    pub(crate) fn window(&self, mover: Arc<Mover>, doorbells: Doorbells) -> Movable {
        let place = Place::new(PROBE_WINDOW, mover);
        self.bank.lock().unwrap_or_else(PoisonError::into_inner).set_place(place);
        Movable::new(Arc::clone(&self.bank), doorbells)
    }

    /// The bank's stream as a device for the PIO bus.
    #[must_use]
    pub fn stream(&self) -> ProbeWindow {
        ProbeWindow { bank: Arc::clone(&self.bank), from: reg::STREAM.into() }
    }
}

/// A bus's view of the bank. All views share its registers, counter and log.
pub struct ProbeWindow {
    bank: Arc<Mutex<Bank>>,
    /// The first register in view.
    from: u64,
}

impl BusDevice for ProbeWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.bank.lock().unwrap_or_else(PoisonError::into_inner).read(self.from + offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.bank.lock().unwrap_or_else(PoisonError::into_inner).write(self.from + offset, data);
    }
}
