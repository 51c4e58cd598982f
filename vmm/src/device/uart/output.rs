//! What the guest transmitted, on its way to the host: few system calls, and nothing held back for long.
//!
//! Bytes are passed on, in order, as soon as one of these holds:
//! - a line ended;
//! - [`HELD_MAX`] bytes wait;
//! - the guest asked for the status [`IDLE_READS`] times without transmitting in between: it waits for
//!   something. A polling driver asks once a byte, an interrupt handler twice a burst;
//! - the guest wrote the interrupt enable register or read the receiver buffer, the machine asked for it, or
//!   the device is dropped (the UART's part).
//!
//! What is left is a guest that transmits less than a line and then never touches the chip again: its bytes
//! come when the machine asks or ends.

use std::io::{self, Write};

/// How many bytes wait at most.
const HELD_MAX: usize = 256;
/// How many reads of the status registers, with nothing transmitted since, tell that the guest is idle.
const IDLE_READS: u32 = 3;

/// A buffer before the host's writer. It never fails: a guest must not notice that nobody listens.
pub(super) struct Output {
    out: Box<dyn Write + Send>,
    held: Vec<u8>,
    idle_reads: u32,
    lost: u64,
}

impl Output {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, held: Vec::with_capacity(HELD_MAX), idle_reads: 0, lost: 0 }
    }

    /// How many bytes the writer refused.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Passes on all that is held; what the writer refuses is counted and gone.
    pub(super) fn pass_on(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let mut rest = self.held.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => break,
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.lost = self.lost.saturating_add(u64::try_from(rest.len()).unwrap_or(u64::MAX));
        self.held.clear();
        // A writer that buffers on its own and then fails has taken the bytes: they are its loss to report.
        let _its_own = self.out.flush();
    }

    /// Notes that the guest read a status register.
    pub(super) fn status_was_read(&mut self) {
        self.idle_reads = self.idle_reads.saturating_add(1);
        if self.idle_reads >= IDLE_READS {
            self.pass_on();
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.idle_reads = 0;
        for byte in data {
            self.held.push(*byte);
            if *byte == b'\n' || self.held.len() >= HELD_MAX {
                self.pass_on();
            }
        }
        Ok(data.len())
    }

    /// Does nothing: the chip asks for it after each byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.pass_on();
    }
}
