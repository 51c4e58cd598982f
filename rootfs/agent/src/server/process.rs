//! A program that the host asked for.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_protocol::wire::{Exec, Status, TerminalSize, ToHost, WINDOW};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, waitpid};

use super::outbox::{Inbox, Outbox};
use super::stream::Stream;
use super::terminal::{BUFFERED_MAX, Terminal};
use super::{Refusal, ServeError};
use crate::spawn::{Program, Standard};

/// What a program reads that is given nothing to read.
const NULL: &str = "/dev/null";

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

/// Runs a program that does nothing to its end, as any that the host asks for: what the kernel does for the first of them is
/// then done.
pub(super) fn rehearse() -> Result<(), Refusal> {
    /// The id of no request: what is said of it is thrown away.
    const NOBODY: u32 = 0;
    let argv = ["/proc/self/exe", "--version"].map(str::to_owned).to_vec();
    let mut process = Process::start(&Exec { argv, events: true, ..Exec::default() })?;
    let status = loop {
        match waitpid(Some(process.pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    process.ended(status);
    let mut said = Outbox::default();
    // All that it wrote is there: each step takes some of it.
    while process.status.is_some() && !process.step(NOBODY, &mut said) {}
    Ok(())
}

impl Process {
    pub(super) fn start(exec: &Exec) -> Result<Self, Refusal> {
        if exec.argv.is_empty() {
            return Err(Refusal { errno: libc::EINVAL, message: "no program is named".to_owned() });
        }
        let cwd = exec.cwd.as_deref().unwrap_or("/");
        if !Path::new(cwd).is_dir() {
            return Err(Refusal { errno: libc::ENOTDIR, message: format!("{cwd} is no folder to run in") });
        }
        let mut environment: BTreeMap<&str, &str> = ENVIRONMENT.iter().copied().collect();
        environment.extend(exec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let environment: Vec<_> = environment.into_iter().collect();

        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let (mut streams, mut stdin) = (Vec::new(), None);
        // The program's ends, which are closed here once it has them.
        let mut inside = Vec::new();
        let line = if let Some(size) = exec.terminal {
            let terminal = Terminal::open(size)?;
            let (screen, keyboard) = terminal.ends()?;
            // Some of it may be between the terminal's two ends, where it is not counted.
            streams.push(Stream::new(screen, ToHost::Stdout)?.holding(BUFFERED_MAX));
            stdin = Some(keyboard);
            Line::Terminal(terminal)
        } else {
            if exec.stdin {
                let (read, write) = pipe()?;
                inside.push(read);
                stdin = Some(write);
            } else {
                inside.push(open(NULL, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
            }
            for wrap in [ToHost::Stdout, ToHost::Stderr] {
                let (read, write) = pipe()?;
                streams.push(Stream::new(read, wrap)?);
                inside.push(write);
            }
            Line::Pipes
        };
        let (read, write) = exec.events.then(pipe).transpose()?.unzip();
        if let Some(read) = read {
            streams.push(Stream::new(read, ToHost::Events)?);
        }
        if let Some(fd) = &stdin {
            ioctl_fionbio(fd, true)?;
        }
        let standard = match &line {
            Line::Terminal(terminal) => Standard::Terminal(terminal.name()),
            Line::Pipes | Line::HungUp => Standard::Streams(&inside),
        };
        let events = write.as_ref().map(AsFd::as_fd);
        let program = Program { argv: &exec.argv, environment: &environment, cwd, standard, events };
        let pid = program.spawn()?;
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
