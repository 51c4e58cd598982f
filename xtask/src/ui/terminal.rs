//! A person at a terminal, in a conversation with a guest: keys go to the guest as they are struck, and what it
//! prints is obeyed.

use std::io::{self, IsTerminal, Read};

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::interrupt::{OnInterrupt, on_interrupt};

/// Ctrl-a: the next key is for us.
const ESCAPE: u8 = 1;
/// Ctrl-a x leaves.
const LEAVE: u8 = b'x';

/// Whether a person sits at a terminal that shows what is said, too.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The terminal's mode is the guest's business while this lives.
pub(crate) struct Conversation {
    before: Termios,
    _on_interrupt: OnInterrupt,
}

impl Conversation {
    /// Takes the terminal over; none if standard input or standard output is no terminal.
    pub(crate) fn begin() -> Option<Self> {
        if !is_possible() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        let saved = before.clone();
        let put_back = move || {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &saved);
        };
        Some(Self { before, _on_interrupt: on_interrupt(put_back) })
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Keys on their way to the guest, but those that are for us.
pub(crate) struct Keys<R> {
    keys: R,
    escaped: bool,
    leave: fn(),
}

impl Keys<io::Stdin> {
    /// The keys of standard input.
    pub(crate) fn struck() -> Self {
        // As ^C would: what is left behind is cleaned up, and the shell above knows.
        let leave = || {
            let _ = kill_process(getpid(), Signal::INT);
        };
        Self { keys: io::stdin(), escaped: false, leave }
    }
}

impl<R: Read> Read for Keys<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.keys.read(buffer)?;
            let mut kept = 0;
            for at in 0..count {
                let key = buffer[at];
                match (std::mem::replace(&mut self.escaped, false), key) {
                    (false, ESCAPE) => self.escaped = true,
                    (true, LEAVE) => (self.leave)(),
                    // Ctrl-a twice is one for the guest.
                    (_, key) => {
                        buffer[kept] = key;
                        kept += 1;
                    }
                }
            }
            // Nothing would be the end.
            if kept > 0 || count == 0 {
                return Ok(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn keys_for_us_do_not_reach_the_guest() {
        static LEFT: AtomicUsize = AtomicUsize::new(0);
        let leave = || {
            LEFT.fetch_add(1, Ordering::SeqCst);
        };
        let mut keys = Keys { keys: &b"ls\x01\x01\x01xx"[..], escaped: false, leave };
        let mut typed = Vec::new();
        keys.read_to_end(&mut typed).unwrap();
        assert_eq!(typed, b"ls\x01x");
        assert_eq!(LEFT.load(Ordering::SeqCst), 1);
    }
}
