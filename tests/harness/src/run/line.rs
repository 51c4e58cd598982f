//! What a person does at the terminal of a command, on its way there.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::agent::{AgentError, Process, TerminalSize};

/// What a person does at a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminalInput {
    /// Keys are struck.
    Keys(Vec<u8>),
    /// The window gets this size.
    Resize(TerminalSize),
    /// No more keys will be struck.
    End,
    /// The line is cut: the command is hung up, and its end is no failure.
    HangUp,
}

/// The line between a person and a command.
pub struct Line {
    /// What the person does, from the start of the run.
    pub input: mpsc::Receiver<TerminalInput>,
    /// Called when the command runs.
    pub connected: Box<dyn FnOnce() + Send>,
}

/// As many bytes as may be struck and wait for a command that does not read them. What is struck beyond is lost, as on
/// any terminal; the window and the line's end do not wait.
const AHEAD_MAX: usize = 16 << 20;

/// Whether a line was cut from here.
pub(super) type Cut = Arc<AtomicBool>;

impl Line {
    /// Connects the person with `process`, which runs on a terminal. Detached: they end with the line's other end.
    pub(super) fn connect(self, process: &mut Process) -> Result<Cut, AgentError> {
        let cut = Cut::default();
        let (Some(terminal), Some(mut stdin)) = (process.terminal(), process.take_stdin()) else {
            return Ok(cut);
        };
        (self.connected)();
        let (keys, struck) = mpsc::channel::<Vec<u8>>();
        let ahead = Arc::new(AtomicUsize::new(0));
        let waiting = ahead.clone();
        start("keys", move || {
            for keys in struck {
                let written = stdin.write_all(&keys);
                waiting.fetch_sub(keys.len(), Ordering::Relaxed);
                if written.is_err() {
                    break;
                }
            }
        })?;
        let flag = cut.clone();
        start("line", move || {
            let mut keys = Some(keys);
            for input in self.input {
                let told = match input {
                    TerminalInput::Keys(bytes) => {
                        if let Some(keys) = &keys
                            && ahead.load(Ordering::Relaxed).saturating_add(bytes.len()) <= AHEAD_MAX
                        {
                            ahead.fetch_add(bytes.len(), Ordering::Relaxed);
                            // The command may have ended.
                            let _ = keys.send(bytes);
                        }
                        Ok(())
                    }
                    TerminalInput::Resize(size) => terminal.resize(size),
                    TerminalInput::End => {
                        keys = None;
                        Ok(())
                    }
                    TerminalInput::HangUp => {
                        flag.store(true, Ordering::SeqCst);
                        terminal.hang_up()
                    }
                };
                if told.is_err() {
                    break;
                }
            }
        })?;
        Ok(cut)
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), AgentError> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(AgentError::Io)
}
