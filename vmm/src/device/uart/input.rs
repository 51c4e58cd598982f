//! Input for the guest from a thread of the host's, which waits while the guest takes none.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Uart;

/// Wakes who waits for room in the UART.
#[derive(Debug, Default)]
pub(super) struct Room {
    changed: Condvar,
    closed: AtomicBool,
}

impl Room {
    pub(super) fn there_is(&self) {
        self.changed.notify_all();
    }
}

/// The host's end of COM1's receiver: what is written here, the guest reads.
pub struct SerialInput {
    uart: Arc<Mutex<Uart>>,
    room: Arc<Room>,
}

impl SerialInput {
    /// The input of `uart`.
    #[must_use]
    pub fn new(uart: Arc<Mutex<Uart>>) -> Self {
        let room = uart.lock().unwrap_or_else(PoisonError::into_inner).room.clone();
        Self { uart, room }
    }
}

impl Write for SerialInput {
    /// Waits until the UART has room for some of `bytes`.
    ///
    /// # Errors
    /// `BrokenPipe`: the machine has ended.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.room.closed.load(Ordering::Acquire) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let taken = uart.enqueue(bytes);
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            uart = self.room.changed.wait(uart).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Uart {
    /// Ends the input: whoever writes to a [`SerialInput`] of this UART is told so, also who waits.
    pub fn close_input(&mut self) {
        self.room.closed.store(true, Ordering::Release);
        self.room.there_is();
    }
}
