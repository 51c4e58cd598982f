//! The probe's window that the guest moves about, with a doorbell in it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bank::Bank;
use super::reg;
use crate::bus::BusDevice;
use crate::memory::region::Mover;

/// How often the doorbell was rung: by KVM with no exit, or by an access that reached the device. A clone tells of the same doorbell.
#[derive(Clone)]
pub struct Doorbells {
    event: Arc<EventFd>,
    /// What was taken off the event until now.
    rung: Arc<Mutex<u64>>,
}

impl Doorbells {
    /// A doorbell that has not been rung.
    pub(crate) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { event: Arc::new(event), rung: Arc::default() })
    }

    /// What KVM counts in.
    pub(crate) fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// How often it was rung until now.
    #[must_use]
    pub fn rung(&self) -> u64 {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        *rung = rung.wrapping_add(self.event.read().unwrap_or(0));
        *rung
    }

    fn ring(&self) {
        // Full, it can't be any more: it was then rung 2^64 times.
        let _full = self.event.write(1);
    }
}

/// The registers by which the guest moves the window.
pub(super) struct Place {
    base: [u8; 8],
    mover: Arc<Mover>,
}

impl Place {
    pub(super) fn new(base: u64, mover: Arc<Mover>) -> Self {
        Self { base: base.to_le_bytes(), mover }
    }

    /// The bytes of the base that an access is to, if it is to the base or to a half of it.
    pub(super) fn base(&mut self, offset: u16, width: usize) -> Option<&mut [u8]> {
        let at = offset.checked_sub(reg::WINDOW_BASE).map(usize::from)?;
        matches!((at, width), (0, 8) | (0 | 4, 4)).then(|| self.base.get_mut(at..at + width))?
    }

    pub(super) fn command(&self, command: u32) {
        match command {
            reg::WINDOW_MOVE => self.mover.ask(Some(u64::from_le_bytes(self.base))),
            reg::WINDOW_HIDE => self.mover.ask(None),
            _ => {}
        }
    }

    pub(super) fn status(&self) -> u32 {
        if self.mover.refused() { reg::WINDOW_REFUSED } else { reg::WINDOW_OK }
    }
}

/// What is in the window.
pub struct Movable {
    bank: Arc<Mutex<Bank>>,
    doorbells: Doorbells,
}

impl Movable {
    pub(super) fn new(bank: Arc<Mutex<Bank>>, doorbells: Doorbells) -> Self {
        Self { bank, doorbells }
    }

    fn bank(&self) -> std::sync::MutexGuard<'_, Bank> {
        self.bank.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Movable {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let Ok(register) = u16::try_from(offset) else { return };
        let value = match (register, data.len()) {
            (reg::WINDOW_MAGIC, 4) => reg::WINDOW_MAGIC_VALUE,
            (reg::DOORBELL_COUNT, 4) => {
                u32::try_from(self.doorbells.rung() & u64::from(u32::MAX)).unwrap_or(u32::MAX)
            }
            (reg::STREAM | reg::STREAM_ASTRAY, _) => return self.bank().read(offset, data),
            _ => return,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // KVM takes most of these. One comes here while the window is on its way.
        if offset == u64::from(reg::DOORBELL) && *data == reg::DOORBELL_RING.to_le_bytes() {
            self.doorbells.ring();
        } else if offset == u64::from(reg::STREAM) {
            self.bank().write(offset, data);
        }
    }
}
