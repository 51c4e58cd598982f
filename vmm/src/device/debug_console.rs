//! Debug consoles: a port that takes text, one byte a write, with nothing to set up first.
//!
//! Bochs and QEMU have one at 0xe9, their firmware says its messages at 0x402. A read gives 0xe9, which is how a guest
//! finds out that somebody listens.

use std::io::Write;

use crate::bus::BusDevice;
use crate::layout::DEBUG_CONSOLE_ANSWER;
use crate::snapshot::persist::from_value;
use crate::snapshot::{Persist, PersistError};

/// How many bytes wait for the end of their line.
const HELD_MAX: usize = 256;

/// One port.
pub struct DebugConsole {
    out: Box<dyn Write + Send>,
    held: Vec<u8>,
}

impl DebugConsole {
    /// Makes a console whose text goes to `out`.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, held: Vec::with_capacity(HELD_MAX) }
    }

    /// Passes on what waits for the end of its line; dropping the device does it too.
    pub fn flush(&mut self) {
        // A guest must not notice that nobody listens.
        let _lost = self.out.write_all(&self.held).and_then(|()| self.out.flush());
        self.held.clear();
    }
}

impl BusDevice for DebugConsole {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(DEBUG_CONSOLE_ANSWER);
    }

    /// A wide write is one byte: its lowest.
    fn write(&mut self, _offset: u64, data: &[u8]) {
        let Some(byte) = data.first() else { return };
        self.held.push(*byte);
        if *byte == b'\n' || self.held.len() >= HELD_MAX {
            self.flush();
        }
    }
}

impl Drop for DebugConsole {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            self.flush();
        }
    }
}

/// What waits for the end of its line is passed on before: there is no more to it.
impl Persist for DebugConsole {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        self.flush();
        Ok(serde_json::Value::Null)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        from_value::<()>(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Writes;

    fn say(console: &mut DebugConsole, text: &[u8]) {
        for byte in text {
            console.write(0, &[*byte]);
        }
    }

    #[test]
    fn debug_console_lines_are_passed_on_whole() {
        let writes = Writes::default();
        let mut console = DebugConsole::new(Box::new(writes.clone()));
        say(&mut console, b"one\ntwo");
        assert_eq!(writes.all(), [b"one\n"]);
        drop(console);
        assert_eq!(writes.bytes(), b"one\ntwo");
    }

    #[test]
    fn debug_console_text_without_lines_is_passed_on_in_pieces() {
        let writes = Writes::default();
        let mut console = DebugConsole::new(Box::new(writes.clone()));
        say(&mut console, &[b'x'; 300]);
        assert_eq!(writes.all(), [vec![b'x'; 256]]);
        console.flush();
        assert_eq!(writes.bytes().len(), 300);
    }

    #[test]
    fn debug_console_read_says_that_somebody_listens() {
        let mut data = [0; 1];
        DebugConsole::new(Box::new(std::io::sink())).read(0, &mut data);
        assert_eq!(data, [0xe9]);
    }
}
