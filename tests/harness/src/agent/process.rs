//! A program in the guest.

use std::io::{self, Write};
use std::sync::Arc;

use kiln_protocol::wire::{Status, TerminalSize, ToAgent, ToHost};

use super::AgentError;
use super::request::{Request, unexpected};

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs, with this process id in the guest; always the first.
    Started(u32),
    /// It wrote to its standard output.
    Stdout(Vec<u8>),
    /// It wrote to its standard error.
    Stderr(Vec<u8>),
    /// It wrote to descriptor 3.
    Events(Vec<u8>),
    /// It ended; always the last.
    Exited(Status),
}

/// A program that was started in the guest. Dropping it before its end kills it; one on a terminal is hung up.
#[derive(Debug)]
pub struct Process {
    request: Arc<Request>,
    stdin: Option<Stdin>,
    terminal: bool,
    pid: Option<u32>,
    over: bool,
}

impl Process {
    pub(super) fn start(request: Request, stdin: bool, terminal: bool) -> Result<Self, AgentError> {
        let pid = match request.receive()? {
            ToHost::Started { pid } => pid,
            other => return Err(unexpected(&other)),
        };
        let request = Arc::new(request);
        let stdin = stdin.then(|| Stdin { request: request.clone() });
        Ok(Self { request, stdin, terminal, pid: Some(pid), over: false })
    }

    /// Its standard input, if it has one and it was not taken yet. An input that is never taken ends with
    /// the process' handle.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.stdin.take()
    }

    /// The terminal that it runs on, if it was started on one.
    #[must_use]
    pub fn terminal(&self) -> Option<Terminal> {
        self.terminal.then(|| Terminal { request: self.request.clone() })
    }

    /// Sends a signal to it and to what it started.
    ///
    /// # Errors
    /// The agent is lost.
    pub fn kill(&self, signal: i32) -> Result<(), AgentError> {
        self.request.send(ToAgent::Kill(signal))
    }

    /// Waits for what it does next.
    ///
    /// # Errors
    /// The agent is lost, or the last event was given before.
    pub fn next_event(&mut self) -> Result<ProcessEvent, AgentError> {
        if let Some(pid) = self.pid.take() {
            return Ok(ProcessEvent::Started(pid));
        }
        match self.request.receive()? {
            ToHost::Stdout(bytes) => Ok(ProcessEvent::Stdout(bytes)),
            ToHost::Stderr(bytes) => Ok(ProcessEvent::Stderr(bytes)),
            ToHost::Events(bytes) => Ok(ProcessEvent::Events(bytes)),
            ToHost::Exited(status) => {
                self.over = true;
                Ok(ProcessEvent::Exited(status))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An input that lives on in another thread must not keep the program alive.
        if !self.over {
            let _ = self.request.send(ToAgent::Abort);
        }
        self.request.finish();
    }
}

/// The terminal that a program in the guest runs on; clones are the same one. Of a program that ended, what is asked
/// for has no effect.
#[derive(Clone, Debug)]
pub struct Terminal {
    request: Arc<Request>,
}

impl Terminal {
    /// Gives its window another size, of which the program in its foreground is told (SIGWINCH).
    ///
    /// # Errors
    /// The agent is lost.
    pub fn resize(&self, size: TerminalSize) -> Result<(), AgentError> {
        self.request.send(ToAgent::Resize(size))
    }

    /// Takes it away from its programs, as when a line breaks: they get SIGHUP, and those that do not end by that are
    /// killed after a while. [`Process::next_event`] tells the end, and nothing of what is still written.
    ///
    /// # Errors
    /// The agent is lost.
    pub fn hang_up(&self) -> Result<(), AgentError> {
        self.request.send(ToAgent::HangUp)
    }
}

/// A program's standard input; it ends when this is dropped, and of a terminal by the end-of-file character.
#[derive(Debug)]
pub struct Stdin {
    request: Arc<Request>,
}

impl Write for Stdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let sent = self.request.send_some(bytes, ToAgent::Stdin)?;
        sent.ok_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "the program in the guest ended"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        let _ = self.request.send(ToAgent::StdinClose);
    }
}
