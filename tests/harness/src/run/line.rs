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

#[cfg(test)]
mod tests {
    use kiln_protocol::wire::{ToAgent, ToHost, WINDOW};

    use super::*;
    use crate::agent::tests::with;
    use crate::agent::{Command, ProcessEvent, Status};

    #[test]
    fn window_and_leaving_reach_a_command_that_does_not_read() {
        let size = TerminalSize { rows: 50, columns: 132 };
        let (client, agent) = with(move |fake| {
            let id = fake.next().unwrap().id;
            fake.send(id, ToHost::Started { pid: 2 });
            let mut typed = 0;
            let (mut resized, mut hung_up) = (false, false);
            // No credit is returned: the keys stop there.
            while typed < WINDOW || !resized || !hung_up {
                match fake.next().unwrap().message {
                    ToAgent::Stdin(bytes) => typed += bytes.len(),
                    ToAgent::Resize(to) => resized = to == size,
                    ToAgent::HangUp => hung_up = true,
                    other => panic!("{other:?}"),
                }
            }
            fake.send(id, ToHost::Exited(Status::Signal(1)));
        });
        let command = Command {
            argv: vec!["sleep".to_owned()],
            stdin: true,
            terminal: Some(TerminalSize::default()),
            ..Command::default()
        };
        let mut process = client.exec(command).unwrap();
        let (person, input) = mpsc::channel();
        let (connected, is_connected) = mpsc::channel();
        let line = Line { input, connected: Box::new(move || _ = connected.send(())) };
        let cut = line.connect(&mut process).unwrap();
        is_connected.try_recv().unwrap();
        // The second is more than may wait, and is lost.
        for keys in [vec![7; 2 * WINDOW], vec![7; AHEAD_MAX]] {
            person.send(TerminalInput::Keys(keys)).unwrap();
        }
        person.send(TerminalInput::Resize(size)).unwrap();
        person.send(TerminalInput::HangUp).unwrap();
        assert_eq!(process.next_event().unwrap(), ProcessEvent::Started(2));
        assert_eq!(process.next_event().unwrap(), ProcessEvent::Exited(Status::Signal(1)));
        assert!(cut.load(Ordering::SeqCst));
        agent.join().unwrap();
    }
}
