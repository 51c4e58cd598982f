//! A program that the host asked for.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_protocol::wire::{Exec, Status, TerminalSize, ToHost, WINDOW};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};

use super::outbox::{Inbox, Outbox};
use super::stream::Stream;
use super::terminal::{BUFFERED_MAX, Terminal};
use super::{Refusal, ServeError};

/// What every program finds in its environment.
pub(crate) const ENVIRONMENT: &[(&str, &str)] =
    &[("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("TERM", "linux")];

/// What it runs on.
enum Line {
    /// No terminal, but pipes.
    Pipes,
    Terminal(Terminal),
    /// A terminal that was taken away.
    HungUp,
}

pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) credit: usize,
    stdin: Option<OwnedFd>,
    input: Inbox,
    input_ends: bool,
    streams: Vec<Stream>,
    line: Line,
    status: Option<Status>,
}

impl Process {
    pub(super) fn start(exec: &Exec) -> Result<Self, Refusal> {
        let (program, arguments) = exec
            .argv
            .split_first()
            .ok_or_else(|| Refusal { errno: libc::EINVAL, message: "no program is named".to_owned() })?;
        let cwd = exec.cwd.as_deref().unwrap_or("/");
        if !Path::new(cwd).is_dir() {
            return Err(Refusal { errno: libc::ENOTDIR, message: format!("{cwd} is no folder to run in") });
        }
        let mut environment: BTreeMap<&str, &str> = ENVIRONMENT.iter().copied().collect();
        environment.extend(exec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));

        let mut command = Command::new(program);
        command.args(arguments).current_dir(cwd).env_clear().envs(environment);
        let terminal = exec.terminal.map(Terminal::open).transpose()?;
        match &terminal {
            Some(terminal) => {
                command.stdin(terminal.stdio()?).stdout(terminal.stdio()?).stderr(terminal.stdio()?);
            }
            None => {
                command.stdin(if exec.stdin { Stdio::piped() } else { Stdio::null() });
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        let events = exec.events.then(|| pipe_with(PipeFlags::CLOEXEC)).transpose()?;
        let inside = events.as_ref().map(|(_, write)| write.as_raw_fd());
        let ends = terminal.as_ref().map(Terminal::ends).transpose()?;
        let on_terminal = terminal.is_some();
        // SAFETY: only async-signal-safe calls are made, on numbers that were fixed before.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || crate::system::become_program(on_terminal, inside));
        }
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let mut streams = Vec::new();
        if let Some(fd) = child.stdout.take() {
            streams.push(Stream::new(fd.into(), ToHost::Stdout)?);
        }
        if let Some(fd) = child.stderr.take() {
            streams.push(Stream::new(fd.into(), ToHost::Stderr)?);
        }
        if let Some((read, _)) = events {
            streams.push(Stream::new(read, ToHost::Events)?);
        }
        let mut stdin = child.stdin.take().map(OwnedFd::from);
        if let Some((screen, keyboard)) = ends {
            // Some of it may be between the terminal's two ends, where it is not counted.
            streams.push(Stream::new(screen, ToHost::Stdout)?.holding(BUFFERED_MAX));
            stdin = Some(keyboard);
        }
        if let Some(fd) = &stdin {
            ioctl_fionbio(fd, true)?;
        }
        let line = terminal.map_or(Line::Pipes, Line::Terminal);
        // Where nothing is typed, the end is.
        let input_ends = !exec.stdin;
        let input = Inbox::default();
        Ok(Self { pid, credit: WINDOW, stdin, input, input_ends, streams, line, status: None })
    }

    /// Bytes for its standard input.
    pub(super) fn input(&mut self, bytes: &[u8]) -> Result<(), ServeError> {
        if let Line::Terminal(terminal) = &mut self.line {
            terminal.note(bytes);
        }
        if self.input.take(bytes) {
            Ok(())
        } else {
            Err(ServeError::Order("more input than it had credit for"))
        }
    }

    pub(super) fn end_input(&mut self) {
        self.input_ends = true;
    }

    /// Whether it was started on a terminal.
    pub(super) fn is_on_terminal(&self) -> bool {
        !matches!(self.line, Line::Pipes)
    }

    /// Gives the window of its terminal a size.
    pub(super) fn resize(&self, size: TerminalSize) {
        if let Line::Terminal(terminal) = &self.line {
            // Any size is one for the kernel.
            let _ = terminal.resize(size);
        }
    }

    /// Takes its terminal away, for which the kernel sends it SIGHUP. What it still writes nobody sees.
    pub(super) fn hang_up(&mut self) {
        self.line = Line::HungUp;
        self.stdin = None;
        self.streams.iter_mut().for_each(Stream::close);
    }

    /// Signals it and what it started; nothing, once it ended, for its number may be another's.
    pub(super) fn signal(&mut self, signal: i32) {
        if self.status.is_none()
            && let Some(signal) = Signal::from_named_raw(signal)
        {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// It ended: what it wrote until now still goes to the host, what others write later does not.
    pub(super) fn ended(&mut self, status: WaitStatus) {
        let code = status.exit_status().map(Status::Code);
        let Some(status) = code.or_else(|| status.terminating_signal().map(Status::Signal)) else { return };
        self.status = Some(status);
        if let Line::Terminal(terminal) = &mut self.line {
            terminal.program_ended();
        }
        self.streams.iter_mut().for_each(Stream::program_ended);
    }

    pub(super) fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        if let Some(fd) = &self.stdin
            && (!self.input.bytes.is_empty() || self.input_ends)
        {
            fds.push(PollFd::new(fd, PollFlags::OUT));
        }
        if room && self.credit > 0 {
            self.streams.iter().for_each(|stream| stream.interest(fds));
        }
    }

    pub(super) fn step(&mut self, id: u32, out: &mut Outbox) -> bool {
        if let Some(fd) = &self.stdin
            && self.input.flush(fd, id, out).is_err()
        {
            self.stdin = None;
        }
        if self.stdin.is_none() {
            self.input.discard(id, out);
        }
        if self.input_ends && self.input.bytes.is_empty() && self.stdin.is_some() {
            let ended = match &mut self.line {
                Line::Terminal(terminal) => terminal.type_end(),
                Line::Pipes | Line::HungUp => true,
            };
            if ended {
                self.stdin = None;
            }
        }
        for stream in &mut self.streams {
            stream.step(id, &mut self.credit, out);
        }
        match self.status {
            Some(status) if self.streams.iter().all(Stream::is_over) => {
                out.send(id, ToHost::Exited(status));
                true
            }
            _ => false,
        }
    }
}
