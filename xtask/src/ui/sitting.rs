//! A person at the terminal of a command in a guest: the keys, the window and the screen.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use kiln::agent::TerminalSize;
use kiln::run::{Line, TerminalInput};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::{Handle, Signals};

use super::terminal::{Conversation, Escape, Modes};
use super::{Stream, line};

/// A person who sits at a command's terminal; the terminal is given back when this is dropped.
pub(crate) struct Sitting {
    conversation: Conversation,
    window: Handle,
    input: Option<Receiver<TerminalInput>>,
    left: Arc<AtomicBool>,
}

/// The size of the terminal's window; zeros where the terminal does not know.
pub(crate) fn window_size() -> TerminalSize {
    tcgetwinsize(io::stdout())
        .map(|size| TerminalSize { rows: size.ws_row, columns: size.ws_col })
        .unwrap_or_default()
}

impl Sitting {
    /// Takes the terminal over; none if standard input or standard output is none. While the guest boots, what is
    /// struck is kept for the command, and ^C ends it all.
    ///
    /// # Errors
    /// The system refuses the signal's handler or a thread.
    pub(crate) fn begin() -> io::Result<Option<Self>> {
        let Some(conversation) = Conversation::expect() else { return Ok(None) };
        let (sender, input) = mpsc::channel();
        let left = Arc::new(AtomicBool::new(false));
        let window = follow_window(sender.clone())?;
        let (modes, flag) = (conversation.modes(), left.clone());
        // Detached: a read of standard input can't be called back.
        thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || follow_keys(io::stdin(), &sender, || leave(&modes, &flag)))?;
        Ok(Some(Self { conversation, window, input: Some(input), left }))
    }

    /// The line to the command, once.
    pub(crate) fn line(&mut self) -> Option<Line> {
        let modes = self.conversation.modes();
        let connected = Box::new(move || modes.raw());
        self.input.take().map(|input| Line { input, connected })
    }

    /// Where what the command writes is shown.
    pub(crate) fn screen(&self) -> Screen {
        Screen { left: self.left.clone() }
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        self.window.close();
    }
}

/// The person left: the terminal is theirs at once, whatever the guest still does.
fn leave(modes: &Modes, left: &AtomicBool) {
    left.store(true, Ordering::SeqCst);
    modes.put_back();
    // With standard error closed there is no one to tell.
    let _ = line(Stream::Stderr, "\nleft; the guest is powered off (^C does not wait for it)");
}

/// Tells the window's size, and each that it gets later.
fn follow_window(told: Sender<TerminalInput>) -> io::Result<Handle> {
    let mut signals = Signals::new([SIGWINCH])?;
    let handle = signals.handle();
    thread::Builder::new().name("window".to_owned()).spawn(move || {
        // It may have changed before the first signal could come.
        let tell = move || told.send(TerminalInput::Resize(window_size())).is_ok();
        if !tell() {
            return;
        }
        for _ in signals.forever() {
            if !tell() {
                return;
            }
        }
    })?;
    Ok(handle)
}

/// Tells the keys, until the person leaves or the terminal is gone.
fn follow_keys(mut keys: impl Read, told: &Sender<TerminalInput>, leave: impl FnOnce()) {
    let mut escape = Escape::default();
    let mut buffer = [0; 4096];
    let left = loop {
        let count = match keys.read(&mut buffer) {
            Ok(0) => break false,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break false,
        };
        let (kept, left) = escape.sort(&mut buffer[..count]);
        if kept > 0 && told.send(TerminalInput::Keys(buffer[..kept].to_vec())).is_err() {
            return;
        }
        if left {
            break true;
        }
    };
    if left {
        leave();
    }
    let _the_run_is_over = told.send(TerminalInput::HangUp);
}

/// Standard output while the person sits there; afterwards nothing of the guest is shown.
pub(crate) struct Screen {
    left: Arc<AtomicBool>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left.load(Ordering::SeqCst) { Ok(bytes.len()) } else { io::stdout().write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(keys: &[u8]) -> (Vec<TerminalInput>, bool) {
        let (sender, receiver) = mpsc::channel();
        let mut left = false;
        follow_keys(keys, &sender, || left = true);
        drop(sender);
        (receiver.iter().collect(), left)
    }

    #[test]
    fn leaving_hangs_up_after_what_was_struck_before() {
        let keys = TerminalInput::Keys(b"ls\r".to_vec());
        assert_eq!(told(b"ls\r\x01xrm\r"), (vec![keys, TerminalInput::HangUp], true));
    }

    #[test]
    fn terminal_that_is_gone_hangs_up() {
        assert_eq!(told(b""), (vec![TerminalInput::HangUp], false));
    }
}
