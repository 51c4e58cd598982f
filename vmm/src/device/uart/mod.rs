//! COM1: a 16550A, for the early boot and for panics.
//!
//! The chip is vm-superio's; here is what it lacks for a test machine: wide accesses, output that does not
//! cost a system call a byte (its writer says when it is passed on), and input beyond what the chip's FIFO
//! holds. Where the bytes come from and go to is the machine's business.

mod input;
mod output;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::BusDevice;
use crate::irq::Interrupt;
use input::Room;
pub use input::SerialInput;
use output::Output;

/// How many bytes of input are kept for the guest to read, beside the chip's own FIFO.
pub const INPUT_MAX: usize = 64 << 10;

/// How many registers the chip has.
const REGISTERS: u8 = 8;

// The registers by offset, and bits of them (National Semiconductor PC16550D data sheet, table II).
/// Receiver buffer when read, transmitter holding register when written; the divisor's low byte under DLAB.
const DATA: u8 = 0;
/// Interrupt enable; the divisor's high byte under DLAB.
const INTERRUPT_ENABLE: u8 = 1;
/// Interrupt identification (read).
const INTERRUPT_ID: u8 = 2;
/// Modem control.
const MODEM_CONTROL: u8 = 4;
/// Line status.
const LINE_STATUS: u8 = 5;
/// Line status, bit 0: a byte waits in the receiver buffer.
const DATA_READY: u8 = 1;
/// Line status, bit 4: that byte is a break, of value 0; reading the status clears it.
const BREAK: u8 = 1 << 4;

/// A 16550A on eight ports.
pub struct Uart {
    chip: Serial<Line, NoEvents, Output>,
    /// Input that the FIFO had no room for: at most [`INPUT_MAX`] bytes.
    waiting: VecDeque<u8>,
    /// How many bytes of input the chip has taken.
    taken: u64,
    /// Which of all bytes of input are breaks, from the next one on.
    breaks: VecDeque<u64>,
    /// The byte in the receiver buffer is a break, and the guest has not seen it.
    broken: bool,
    /// Tells who has more input that there is room for it.
    room: Arc<Room>,
}

/// The machine's interrupt line as vm-superio wants it.
struct Line(Arc<dyn Interrupt>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        // An eventfd refuses an edge only when it is full of edges that nobody has taken: the interrupt is
        // pending then. A driver that misses one finds the state in the registers.
        let _pending = self.0.trigger();
        Ok(())
    }
}

impl Uart {
    /// Makes a UART that raises `interrupt` and whose transmitted bytes go to `out`.
    #[must_use]
    pub fn new(interrupt: Arc<dyn Interrupt>, out: Box<dyn Write + Send>) -> Self {
        Self {
            chip: Serial::new(Line(interrupt), Output::new(out)),
            waiting: VecDeque::new(),
            taken: 0,
            breaks: VecDeque::new(),
            broken: false,
            room: Arc::default(),
        }
    }

    /// Queues `input` for the guest to receive, and returns how many bytes of it there was room for: all, or
    /// those up to [`INPUT_MAX`] that wait.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let accepted = input.len().min(INPUT_MAX.saturating_sub(self.waiting.len()));
        self.waiting.extend(input.iter().take(accepted));
        if !self.data_ready() {
            self.refill();
        }
        accepted
    }

    /// Queues a break for the guest to receive, and `key` after it; false, and nothing of it, if there is no room.
    pub fn enqueue_break(&mut self, key: u8) -> bool {
        if self.waiting.len() + 2 > INPUT_MAX {
            return false;
        }
        let before = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.breaks.push_back(self.taken.saturating_add(before));
        self.waiting.extend([0, key]);
        if !self.data_ready() {
            self.refill();
        }
        true
    }

    /// Passes on the output that is still held back: a line that has not ended yet.
    ///
    /// For the machine to call when it pauses, and now and then while a guest that says half a line and
    /// then nothing may matter. Dropping the device does it too.
    pub fn flush(&mut self) {
        self.chip.writer_mut().pass_on();
    }

    /// How many bytes of output were lost because the writer failed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.chip.writer().lost()
    }

    fn data_ready(&mut self) -> bool {
        self.chip.read(LINE_STATUS) & DATA_READY != 0
    }

    /// Moves waiting input into the FIFO, which raises the interrupt if the guest wants it.
    fn refill(&mut self) {
        let before_break = self.breaks.front().map(|at| at.saturating_sub(self.taken));
        let room = match before_break.map(|before| usize::try_from(before).unwrap_or(usize::MAX)) {
            // The status tells of the byte that is read next: a break must be that.
            Some(0) if self.data_ready() => return,
            Some(0) => 1,
            before => before.unwrap_or(usize::MAX).min(self.chip.fifo_capacity()).min(self.waiting.len()),
        };
        let next: Vec<u8> = self.waiting.iter().copied().take(room).collect();
        // A chip in loop-back mode takes nothing, one without room refuses: what it did not take waits on.
        let taken = self.chip.enqueue_raw_bytes(&next).unwrap_or(0);
        self.waiting.drain(..taken);
        self.taken = self.taken.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        if taken > 0 {
            if before_break == Some(0) {
                self.breaks.pop_front();
                self.broken = true;
            }
            self.room.there_is();
        }
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        let Some(register) = register(offset) else { return 0xff };
        let mut value = self.chip.read(register);
        if register == LINE_STATUS && std::mem::take(&mut self.broken) {
            value |= BREAK;
        }
        match register {
            // A guest that turns to its input has said what it wants answered.
            DATA => {
                self.broken = false;
                self.flush();
                if !self.data_ready() {
                    self.refill();
                }
            }
            INTERRUPT_ID | LINE_STATUS => self.chip.writer_mut().status_was_read(),
            _ => {}
        }
        value
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        let Some(register) = register(offset) else { return };
        // Neither the line nor the output ever fails.
        let _infallible = self.chip.write(register, value);
        match register {
            // Drivers turn the transmitter's interrupt off when they have no more to say, and Linux's
            // console puts the interrupts back after each message.
            INTERRUPT_ENABLE => self.flush(),
            // The chip may have left loop-back mode.
            MODEM_CONTROL => self.refill(),
            _ => {}
        }
    }
}

/// The chip's register at `offset`, if it has one there.
fn register(offset: u64) -> Option<u8> {
    u8::try_from(offset).ok().filter(|register| *register < REGISTERS)
}

impl BusDevice for Uart {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        super::bytes::read(offset, data, |offset| self.read_register(offset));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        super::bytes::write(offset, data, |offset, value| self.write_register(offset, value));
    }
}
