//! Serves the host: one thread, which waits for whatever comes first.

mod connection;
mod outbox;
mod process;
mod transfer;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use kiln_protocol::wire::{self, Decoder, Envelope, Hello, ToAgent, ToHost, WINDOW, WireError, encode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use self::connection::Connection;
use self::outbox::Outbox;
pub(crate) use self::process::ENVIRONMENT;
use self::process::Process;
use self::transfer::{Get, Put};

/// Why the agent serves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The host asked for the guest's end.
    Asked,
    /// The host closed the port.
    HostGone,
}

/// Why the agent can't serve.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// The kernel refused something.
    Io(io::Error),
    /// The host sent what is no frame.
    Wire(WireError),
    /// The host sent a frame that does not fit what was before.
    Order(&'static str),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Wire(error) => write!(f, "the host sent {error}"),
            Self::Order(what) => write!(f, "the host sent {what}"),
        }
    }
}

impl From<Errno> for ServeError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A request that failed: its errno, and one line.
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) message: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), message: error.to_string() }
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::from(io::Error::from(error))
    }
}

impl From<Refusal> for ToHost {
    fn from(refusal: Refusal) -> Self {
        let mut message = refusal.message;
        crate::text::cut(&mut message, 1024);
        Self::Refused { errno: refusal.errno, message }
    }
}

/// A request under way.
enum Job {
    Process(Process),
    Put(Put),
    Get(Get),
    Connection(Connection),
}

impl Job {
    /// What it waits for.
    fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        match self {
            Self::Process(process) => process.interest(room, fds),
            Self::Put(_) => {}
            Self::Get(get) => get.interest(room, fds),
            Self::Connection(connection) => connection.interest(room, fds),
        }
    }

    /// Does what can be done at once; true when the job is over.
    fn step(&mut self, id: u32, out: &mut Outbox) -> bool {
        match self {
            Self::Process(process) => process.step(id, out),
            Self::Put(_) => false,
            Self::Get(get) => get.step(id, out),
            Self::Connection(connection) => connection.step(id, out),
        }
    }

    /// How many more bytes may be sent to the host.
    fn credit(&mut self) -> Option<&mut usize> {
        match self {
            Self::Process(process) => Some(&mut process.credit),
            Self::Get(get) => Some(&mut get.credit),
            Self::Connection(connection) => Some(&mut connection.credit),
            Self::Put(_) => None,
        }
    }
}

/// Serves until the end.
pub(crate) fn serve(port: OwnedFd, warnings: Vec<String>) -> Result<Ending, ServeError> {
    let signals = crate::system::child_events().map_err(ServeError::Io)?;
    let hello = ToHost::Hello(Hello {
        protocol: wire::VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: crate::system::kernel_release(),
        warnings,
    });
    // Written while the port still blocks: that waits for a host which is not there yet.
    let mut frame = &*encode(0, hello).map_err(ServeError::Wire)?;
    while !frame.is_empty() {
        match rustix::io::write(&port, frame) {
            Ok(written) => frame = &frame[written..],
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Ok(Ending::HostGone),
            Err(error) => return Err(error.into()),
        }
    }
    let flags = rustix::fs::fcntl_getfl(&port)?;
    rustix::fs::fcntl_setfl(&port, flags | rustix::fs::OFlags::NONBLOCK)?;
    let server =
        Server { port, signals, decoder: Decoder::default(), out: Outbox::default(), jobs: BTreeMap::new() };
    server.run()
}

struct Server {
    port: OwnedFd,
    signals: OwnedFd,
    decoder: Decoder,
    out: Outbox,
    jobs: BTreeMap<u32, Job>,
}

impl Server {
    fn run(mut self) -> Result<Ending, ServeError> {
        let mut buffer = vec![0; wire::DATA_MAX];
        loop {
            self.await_anything()?;
            let mut signal = [0_u8; 1024];
            while rustix::io::read(&self.signals, &mut signal).is_ok_and(|n| n > 0) {}
            self.reap();
            if self.out.has_room()
                && let Some(ending) = self.receive(&mut buffer)?
            {
                return Ok(ending);
            }
            let out = &mut self.out;
            self.jobs.retain(|&id, job| !job.step(id, out));
            match self.out.flush(&self.port) {
                Ok(()) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NODEV) => return Ok(Ending::HostGone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn await_anything(&self) -> Result<(), ServeError> {
        let room = self.out.has_room();
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, room);
        wanted.set(PollFlags::OUT, !self.out.is_empty());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.port, wanted)];
        for job in self.jobs.values() {
            job.interest(room, &mut fds);
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all children that ended; those that no job knows are orphans of other programs.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            for job in self.jobs.values_mut() {
                if let Job::Process(process) = job
                    && process.pid == pid
                {
                    process.ended(status);
                }
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Ending>, ServeError> {
        match rustix::io::read(&self.port, &mut *buffer) {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE | Errno::NODEV) => return Ok(Some(Ending::HostGone)),
            Ok(length) => self.decoder.feed(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        while let Some(Envelope { id, message }) = self.decoder.next_frame().map_err(ServeError::Wire)? {
            if message == ToAgent::PowerOff {
                return Ok(Some(Ending::Asked));
            }
            self.handle(id, message)?;
        }
        Ok(None)
    }

    fn handle(&mut self, id: u32, message: ToAgent) -> Result<(), ServeError> {
        match message {
            ToAgent::Exec(exec) => self.begin(id, Process::start(&exec).map(Job::Process)),
            ToAgent::Put { path, mode } => self.begin(id, Put::start(id, &path, mode).map(Job::Put)),
            ToAgent::Get { path } => self.begin(id, Get::start(&path).map(Job::Get)),
            ToAgent::Connect { path } => self.begin(id, Connection::start(&path).map(Job::Connection)),
            ToAgent::Sync => {
                rustix::fs::sync();
                self.out.send(id, ToHost::Ok);
                Ok(())
            }
            ToAgent::Abort => {
                if let Some(Job::Process(mut process)) = self.jobs.remove(&id) {
                    process.signal(libc::SIGKILL);
                }
                Ok(())
            }
            other => self.pass_on(id, other),
        }
    }

    fn begin(&mut self, id: u32, job: Result<Job, Refusal>) -> Result<(), ServeError> {
        if self.jobs.contains_key(&id) {
            return Err(ServeError::Order("a request with the id of another"));
        }
        match job {
            Ok(job) => {
                match &job {
                    Job::Process(process) => {
                        let pid = process.pid.as_raw_nonzero().get().unsigned_abs();
                        self.out.send(id, ToHost::Started { pid });
                    }
                    Job::Connection(_) => self.out.send(id, ToHost::Connected),
                    Job::Put(_) | Job::Get(_) => {}
                }
                self.jobs.insert(id, job);
            }
            Err(refusal) => self.out.send(id, refusal.into()),
        }
        Ok(())
    }

    /// What belongs to a job; one that is over may still be spoken to, for the host learns it later.
    fn pass_on(&mut self, id: u32, message: ToAgent) -> Result<(), ServeError> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        match (job, message) {
            (job, ToAgent::Credit(amount)) => {
                let amount = usize::try_from(amount).unwrap_or(usize::MAX);
                if let Some(credit) = job.credit() {
                    *credit = credit.saturating_add(amount);
                    if *credit > WINDOW {
                        return Err(ServeError::Order("more credit than it received"));
                    }
                }
                Ok(())
            }
            (Job::Process(process), ToAgent::Stdin(bytes)) => process.input(&bytes),
            (Job::Process(process), ToAgent::StdinClose) => {
                process.end_input();
                Ok(())
            }
            (Job::Process(process), ToAgent::Kill(signal)) => {
                process.signal(signal);
                Ok(())
            }
            (Job::Connection(connection), ToAgent::Data(bytes)) => connection.input(&bytes),
            (Job::Connection(connection), ToAgent::Close) => {
                connection.end_input();
                Ok(())
            }
            (Job::Put(put), ToAgent::PutData(bytes)) => {
                match put.write(&bytes) {
                    Ok(()) => self.out.consumed(id, &mut put.owed, bytes.len()),
                    Err(refusal) => self.finish(id, refusal.into()),
                }
                Ok(())
            }
            (Job::Put(put), ToAgent::PutEnd) => {
                let message = put.complete().map_or_else(ToHost::from, |()| ToHost::Ok);
                self.finish(id, message);
                Ok(())
            }
            _ => Err(ServeError::Order("a message that does not belong to its request")),
        }
    }

    fn finish(&mut self, id: u32, message: ToHost) {
        self.jobs.remove(&id);
        self.out.send(id, message);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for job in self.jobs.values_mut() {
            if let Job::Process(process) = job {
                process.signal(libc::SIGKILL);
            }
        }
    }
}
