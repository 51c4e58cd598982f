//! CMOS and real-time clock: the MC146818's clock and RAM, with a PC's memory sizes and its NMI mask.
//!
//! The clock follows the host's in UTC, moved by what the guest sets. It raises no interrupts: their enable bits in
//! register B stay clear, so that a driver sees at once that there is nothing to wait for.

mod clock;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;
use clock::Time;

/// The index port's bit that keeps NMIs from the processor (PC/AT technical reference, CMOS RAM).
const NMI_MASK: u8 = 1 << 7;
/// How many registers there are.
const REGISTERS: usize = 128;

// Registers (Motorola MC146818 data sheet, figure 12; those above 0x0d are a PC's).
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const BASE_MEMORY: u8 = 0x15;
const EXTENDED_MEMORY: [u8; 2] = [0x17, 0x30];
/// The century in BCD, where ACPI's FADT says that it is.
pub const CENTURY: u8 = 0x32;
/// Memory above 16 MiB in units of 64 KiB.
const ABOVE_16M: u8 = 0x34;
/// Memory above 4 GiB in units of 64 KiB, three bytes.
const ABOVE_4G: u8 = 0x5b;

/// Register A: the usual divider (32,768 Hz) and rate; an update is never in progress.
const A_DEFAULT: u8 = 0x26;
/// Register A, bit 7: an update is in progress. Read only.
const A_UPDATING: u8 = 1 << 7;
/// Register B: the clock is being set, numbers are binary, hours are 24.
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// The bits of register B that can be had: no interrupts, no square wave.
const B_KEPT: u8 = B_SET | B_BINARY | B_24_HOURS | 1;
/// Register D: the battery is good.
const D_VALID: u8 = 1 << 7;

/// The gate between what raises NMIs and the processors, which the guest closes by the index port. A clone is another
/// handle on the same.
#[derive(Clone, Default)]
pub struct NmiMask(Arc<Gate>);

#[derive(Default)]
struct Gate {
    masked: AtomicBool,
    /// Those that came to a closed gate: one for each processor, as the chipset's latch keeps.
    waiting: Mutex<BTreeSet<u32>>,
    deliver: OnceLock<Box<dyn Fn(u32) + Send + Sync>>,
}

impl std::fmt::Debug for NmiMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NmiMask").field(&self.masked()).finish()
    }
}

impl NmiMask {
    /// Whether NMIs are masked.
    #[must_use]
    pub fn masked(&self) -> bool {
        self.0.masked.load(Ordering::SeqCst)
    }

    /// Has `deliver` give a processor an NMI that has waited for the gate to open. It must not block.
    pub(crate) fn connect(&self, deliver: impl Fn(u32) + Send + Sync + 'static) {
        let _once = self.0.deliver.set(Box::new(deliver));
    }

    /// Keeps an NMI for processor `cpu` until the gate opens; false if it is open.
    pub(crate) fn keeps(&self, cpu: u32) -> bool {
        let mut waiting = self.waiting();
        // Under the lock, which opening takes too: none is kept by a gate that has just been opened.
        let masked = self.masked();
        if masked {
            waiting.insert(cpu);
        }
        masked
    }

    fn set(&self, masked: bool) {
        if self.0.masked.swap(masked, Ordering::SeqCst) == masked || masked {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting());
        if let Some(deliver) = self.0.deliver.get() {
            waiting.into_iter().for_each(deliver);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index port and the data port.
pub struct Rtc {
    index: u8,
    ram: [u8; REGISTERS],
    /// How many seconds the guest's clock is ahead of the host's.
    ahead: i64,
    /// The time as it is being set.
    setting: Option<Time>,
    mask: NmiMask,
    /// Seconds since 1970.
    now: Box<dyn Fn() -> i64 + Send>,
}

impl Rtc {
    /// Makes the chip of a machine with `low` bytes of RAM below 4 GiB and `high` above, which tells in `mask` whether
    /// NMIs are masked.
    #[must_use]
    pub fn new((low, high): (u64, u64), mask: NmiMask) -> Self {
        let host = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(now.as_secs()).unwrap_or(0)
        };
        Self::with_clock((low, high), mask, Box::new(host))
    }

    fn with_clock((low, high): (u64, u64), mask: NmiMask, now: Box<dyn Fn() -> i64 + Send>) -> Self {
        let mut chip = Self { index: 0, ram: [0; REGISTERS], ahead: 0, setting: None, mask, now };
        chip.put(STATUS_A, &[A_DEFAULT]);
        chip.put(STATUS_B, &[B_24_HOURS]);
        chip.put(STATUS_D, &[D_VALID]);
        let kib = |bytes: u64, most: u64| (bytes >> 10).min(most);
        let word = |value: u64| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        chip.put(BASE_MEMORY, &word(640));
        for register in EXTENDED_MEMORY {
            chip.put(register, &word(kib(low.saturating_sub(1 << 20), 0xffff)));
        }
        chip.put(ABOVE_16M, &word(low.saturating_sub(16 << 20) >> 16));
        let [a, b, c, ..] = (high >> 16).min(0xff_ffff).to_le_bytes();
        chip.put(ABOVE_4G, &[a, b, c]);
        chip
    }

    fn put(&mut self, register: u8, bytes: &[u8]) {
        for (to, from) in self.ram.iter_mut().skip(register.into()).zip(bytes) {
            *to = *from;
        }
    }

    fn time(&self) -> Time {
        self.setting.unwrap_or_else(|| Time::at((self.now)().saturating_add(self.ahead)))
    }

    fn status_b(&self) -> u8 {
        self.ram.get(usize::from(STATUS_B)).copied().unwrap_or(0)
    }

    fn get(&self, register: u8) -> u8 {
        let form = clock::Form::of(self.status_b());
        match register {
            // No interrupt is ever pending.
            STATUS_C => 0,
            _ => self
                .time()
                .field(register, form)
                .unwrap_or_else(|| self.ram.get(usize::from(register)).copied().unwrap_or(0xff)),
        }
    }

    fn set(&mut self, register: u8, value: u8) {
        let form = clock::Form::of(self.status_b());
        let mut time = self.time();
        if time.set_field(register, value, form) {
            if self.setting.is_some() {
                self.setting = Some(time);
            } else {
                self.ahead = time.seconds().saturating_sub((self.now)());
            }
            return;
        }
        match register {
            STATUS_A => self.put(STATUS_A, &[value & !A_UPDATING]),
            STATUS_B => {
                self.put(STATUS_B, &[value & B_KEPT]);
                if value & B_SET != 0 {
                    self.setting = Some(time);
                } else if let Some(set) = self.setting.take() {
                    self.ahead = set.seconds().saturating_sub((self.now)());
                }
            }
            STATUS_C | STATUS_D => {}
            other => self.put(other, &[value]),
        }
    }
}

impl BusDevice for Rtc {
    /// The index port can't be read back on a PC: all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        super::bytes::read(offset, data, |offset| if offset == 1 { self.get(self.index) } else { 0xff });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        super::bytes::write(offset, data, |offset, value| match offset {
            0 => {
                self.index = value & !NMI_MASK;
                self.mask.set(value & NMI_MASK != 0);
            }
            1 => self.set(self.index, value),
            _ => {}
        });
    }
}
