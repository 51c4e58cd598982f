//! A person at a terminal, in a conversation with a guest: keys go to the guest as they are struck, and what it
//! prints is obeyed.

use std::io::{self, IsTerminal, Read};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::interrupt::{OnInterrupt, on_interrupt};

/// Ctrl-a: the next key is for us.
const ESCAPE: u8 = 1;
/// Ctrl-a x leaves.
const LEAVE: u8 = b'x';

/// Whether a person sits at a terminal that shows what is said, too.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The modes that the terminal of standard input had, until they are put back.
#[derive(Clone)]
pub(crate) struct Modes(Arc<Mutex<Option<Termios>>>);

impl Modes {
    /// Lets keys through as they are struck, and output as it comes.
    pub(crate) fn raw(&self) {
        self.set(Termios::make_raw);
    }

    /// Shows nothing of what is struck, and keeps it for later; ^C still interrupts.
    fn quiet(&self) {
        self.set(|modes| {
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            // What would stop this process, or end it with no time to put the modes back.
            modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
            modes.special_codes[SpecialCodeIndex::VQUIT] = 0;
        });
    }

    /// Gives the terminal back as it was; what was struck and not read yet was meant for the guest, and is dropped.
    pub(crate) fn put_back(&self) {
        if let Some(before) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
        }
    }

    /// Changes what was before; nothing, once that was put back.
    fn set(&self, change: impl FnOnce(&mut Termios)) {
        if let Some(before) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut modes = before.clone();
            change(&mut modes);
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
    }
}

/// The terminal's mode is the guest's business while this lives.
pub(crate) struct Conversation {
    modes: Modes,
    _on_interrupt: OnInterrupt,
}

impl Conversation {
    /// Takes the terminal over; none if standard input or standard output is no terminal.
    pub(crate) fn begin() -> Option<Self> {
        let conversation = Self::expect()?;
        conversation.modes.raw();
        Some(conversation)
    }

    /// Takes the terminal over for a guest that is not there yet: until [`Modes::raw`], ^C ends the waiting.
    pub(crate) fn expect() -> Option<Self> {
        if !is_possible() {
            return None;
        }
        let modes = Modes(Arc::new(Mutex::new(Some(tcgetattr(io::stdin()).ok()?))));
        let interrupted = modes.clone();
        let conversation = Self { modes, _on_interrupt: on_interrupt(move || interrupted.put_back()) };
        conversation.modes.quiet();
        Some(conversation)
    }

    /// The terminal's modes, for another thread.
    pub(crate) fn modes(&self) -> Modes {
        self.modes.clone()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.modes.put_back();
    }
}

/// Tells keys that are for us from those for the guest.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    /// The last key was Ctrl-a.
    armed: bool,
}

impl Escape {
    /// Moves the keys for the guest to the front, and says how many they are, and whether one was to leave: of what
    /// was struck before that, then, and what follows is dropped.
    pub(crate) fn sort(&mut self, keys: &mut [u8]) -> (usize, bool) {
        let mut kept = 0;
        for at in 0..keys.len() {
            let key = keys[at];
            match (std::mem::replace(&mut self.armed, false), key) {
                (false, ESCAPE) => self.armed = true,
                (true, LEAVE) => return (kept, true),
                // Ctrl-a twice is one for the guest.
                (_, key) => {
                    keys[kept] = key;
                    kept += 1;
                }
            }
        }
        (kept, false)
    }
}

/// Keys on their way to a guest's console, but those that are for us.
pub(crate) struct Keys<R> {
    keys: R,
    escape: Escape,
    leave: fn(),
}

impl Keys<io::Stdin> {
    /// The keys of standard input.
    pub(crate) fn struck() -> Self {
        // As ^C would: what is left behind is cleaned up, and the shell above knows.
        let leave = || {
            let _ = kill_process(getpid(), Signal::INT);
        };
        Self { keys: io::stdin(), escape: Escape::default(), leave }
    }
}

impl<R: Read> Read for Keys<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.keys.read(buffer)?;
            let (kept, left) = self.escape.sort(&mut buffer[..count]);
            if left {
                (self.leave)();
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

    fn sorted(escape: &mut Escape, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut keys = keys.to_vec();
        let (kept, left) = escape.sort(&mut keys);
        keys.truncate(kept);
        (keys, left)
    }

    #[test]
    fn keys_for_us_do_not_reach_the_guest() {
        let mut escape = Escape::default();
        assert_eq!(sorted(&mut escape, b"ls\x01\x01x"), (b"ls\x01x".to_vec(), false));
        assert_eq!(sorted(&mut escape, b"\x01yx"), (b"yx".to_vec(), false));
        assert_eq!(sorted(&mut escape, b"ab\x01xcd"), (b"ab".to_vec(), true));
    }

    #[test]
    fn escape_is_known_across_reads() {
        let mut escape = Escape::default();
        assert_eq!(sorted(&mut escape, b"a\x01"), (b"a".to_vec(), false));
        assert_eq!(sorted(&mut escape, b"x"), (Vec::new(), true));
    }

    #[test]
    fn key_to_leave_is_obeyed_before_the_guest_reads_on() {
        static LEFT: AtomicUsize = AtomicUsize::new(0);
        let leave = || {
            LEFT.fetch_add(1, Ordering::SeqCst);
        };
        let mut keys = Keys { keys: &b"ls\x01x"[..], escape: Escape::default(), leave };
        let mut typed = Vec::new();
        keys.read_to_end(&mut typed).unwrap();
        assert_eq!((&*typed, LEFT.load(Ordering::SeqCst)), (&b"ls"[..], 1));
    }
}
