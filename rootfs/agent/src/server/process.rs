//! A program that the host asked for.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_protocol::wire::{DATA_MAX, Exec, Status, ToHost, WINDOW};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};

use super::outbox::{Inbox, Outbox};
use super::{Refusal, ServeError};

/// What every program finds in its environment.
pub(crate) const ENVIRONMENT: &[(&str, &str)] =
    &[("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("TERM", "linux")];

/// One of its outputs.
struct Stream {
    /// None once it came to its end.
    fd: Option<OwnedFd>,
    wrap: fn(Vec<u8>) -> ToHost,
    /// Once the program ended: what was in the pipe then. Others may hold the pipe open for ever.
    rest: Option<usize>,
}

pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) credit: usize,
    stdin: Option<OwnedFd>,
    input: Inbox,
    input_ends: bool,
    streams: Vec<Stream>,
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
        command.stdin(if exec.stdin { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let events = exec.events.then(|| pipe_with(PipeFlags::CLOEXEC)).transpose()?;
        let inside = events.as_ref().map(|(_, write)| write.as_raw_fd());
        // SAFETY: only async-signal-safe calls are made, on numbers that were fixed before.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || crate::system::become_program(inside));
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
        let stdin = child.stdin.take().map(OwnedFd::from);
        if let Some(fd) = &stdin {
            ioctl_fionbio(fd, true)?;
        }
        let input = Inbox::default();
        Ok(Self { pid, credit: WINDOW, stdin, input, input_ends: false, streams, status: None })
    }

    /// Bytes for its standard input.
    pub(super) fn input(&mut self, bytes: &[u8]) -> Result<(), ServeError> {
        if self.input.take(bytes) {
            Ok(())
        } else {
            Err(ServeError::Order("more input than it had credit for"))
        }
    }

    pub(super) fn end_input(&mut self) {
        self.input_ends = true;
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
        for stream in &mut self.streams {
            let rest = stream.fd.as_ref().and_then(|fd| ioctl_fionread(fd).ok()).unwrap_or(0);
            stream.rest = Some(usize::try_from(rest).unwrap_or(usize::MAX));
        }
    }

    pub(super) fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        if let Some(fd) = &self.stdin
            && !self.input.bytes.is_empty()
        {
            fds.push(PollFd::new(fd, PollFlags::OUT));
        }
        if room && self.credit > 0 {
            fds.extend(
                self.streams.iter().filter_map(|s| s.fd.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)),
            );
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
        if self.input_ends && self.input.bytes.is_empty() {
            self.stdin = None;
        }
        for stream in &mut self.streams {
            stream.step(id, &mut self.credit, out);
        }
        match self.status {
            Some(status) if self.streams.iter().all(|s| s.fd.is_none()) => {
                out.send(id, ToHost::Exited(status));
                true
            }
            _ => false,
        }
    }
}

impl Stream {
    fn new(fd: OwnedFd, wrap: fn(Vec<u8>) -> ToHost) -> Result<Self, Errno> {
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd: Some(fd), wrap, rest: None })
    }

    /// Sends one message at most, so that no stream has to wait for another.
    fn step(&mut self, id: u32, credit: &mut usize, out: &mut Outbox) {
        let Some(fd) = &self.fd else { return };
        if self.rest == Some(0) {
            self.fd = None;
            return;
        }
        let most = DATA_MAX.min(*credit).min(self.rest.unwrap_or(usize::MAX));
        if most == 0 || !out.has_room() {
            return;
        }
        let mut bytes = vec![0; most];
        match rustix::io::read(fd, &mut *bytes) {
            Ok(0) => self.fd = None,
            Ok(length) => {
                bytes.truncate(length);
                *credit -= length;
                out.send(id, (self.wrap)(bytes));
                if let Some(rest) = &mut self.rest {
                    *rest = rest.saturating_sub(length);
                    if *rest == 0 {
                        self.fd = None;
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if self.rest.is_none() => {}
            Err(_) => self.fd = None,
        }
    }
}
