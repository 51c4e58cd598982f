//! A program in the guest.

use std::io::{self, Write};
use std::sync::Arc;

use kiln_protocol::wire::{Status, ToAgent, ToHost};

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

/// A program that was started in the guest. Dropping it before its end kills it.
#[derive(Debug)]
pub struct Process {
    request: Arc<Request>,
    stdin: Option<Stdin>,
    pid: Option<u32>,
    over: bool,
}

impl Process {
    pub(super) fn start(request: Request, stdin: bool) -> Result<Self, AgentError> {
        let pid = match request.receive()? {
            ToHost::Started { pid } => pid,
            other => return Err(unexpected(&other)),
        };
        let request = Arc::new(request);
        let stdin = stdin.then(|| Stdin { request: request.clone() });
        Ok(Self { request, stdin, pid: Some(pid), over: false })
    }

    /// Its standard input, if it has one and it was not taken yet. An input that is never taken ends with
    /// the process' handle.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.stdin.take()
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

/// A program's standard input; it ends when this is dropped.
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
