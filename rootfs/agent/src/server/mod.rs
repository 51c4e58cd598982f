//! Serves the host: one thread, which waits for whatever comes first.

mod connection;
mod error;
mod job;
mod outbox;
mod process;
mod stream;
mod terminal;
mod transfer;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kiln_protocol::wire::{self, Adoption, Decoder, Envelope, Hello, ToAgent, ToHost, WINDOW, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};

use self::connection::Connection;
pub(crate) use self::error::{Ending, Ground, Refusal, ServeError};
use self::job::Job;
use self::outbox::Outbox;
pub(crate) use self::process::ENVIRONMENT;
use self::process::Process;
use self::terminal::{HungUp, kill_session};
use self::transfer::{Get, Put};
use crate::adoption::{self, Disks, Exchange};

/// What busybox's `halt` and `poweroff` send to PID 1 (init/halt.c): a person in the guest asks for its end.
const HALT: i32 = libc::SIGUSR1;
const POWER_OFF: i32 = libc::SIGUSR2;

/// Serves until the end.
pub(crate) fn serve(port: OwnedFd, warnings: Vec<String>, ground: Ground) -> Result<Ending, ServeError> {
    let signals =
        if std::process::id() == 1 { &[libc::SIGCHLD, HALT, POWER_OFF][..] } else { &[libc::SIGCHLD] };
    let signals = crate::system::signal_events(signals).map_err(ServeError::Io)?;
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
    let server = Server {
        port,
        signals,
        decoder: Decoder::default(),
        out: Outbox::default(),
        jobs: BTreeMap::new(),
        hung_up: Vec::new(),
        ground,
        disks: Disks::default(),
    };
    server.run()
}

struct Server {
    port: OwnedFd,
    signals: OwnedFd,
    decoder: Decoder,
    out: Outbox,
    jobs: BTreeMap<u32, Job>,
    hung_up: Vec<HungUp>,
    ground: Ground,
    /// The disks that were there when the guest was about to be saved.
    disks: Disks,
}

impl Server {
    fn run(mut self) -> Result<Ending, ServeError> {
        let mut buffer = vec![0; wire::DATA_MAX];
        loop {
            let host_gone = self.await_anything()?;
            if crate::system::take_signals(&self.signals, |signal| signal != libc::SIGCHLD) {
                return Ok(Ending::Asked);
            }
            self.reap();
            self.end_sessions();
            if self.out.has_room() {
                if let Some(ending) = self.receive(&mut buffer)? {
                    return Ok(ending);
                }
            } else if host_gone {
                // Nobody will ever take what waits to be sent.
                return Ok(Ending::HostGone);
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

    /// Waits; true when the host closed the port, which may still hold what it said before.
    fn await_anything(&self) -> Result<bool, ServeError> {
        let room = self.out.has_room();
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, room);
        wanted.set(PollFlags::OUT, !self.out.is_empty());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.port, wanted)];
        for job in self.jobs.values() {
            job.interest(room, &mut fds);
        }
        let is_ready = room && self.jobs.values().any(Job::is_ready);
        let until = self.hung_up.iter().map(|session| session.deadline).min();
        let patience = until.map(|until| until.saturating_duration_since(Instant::now()));
        let patience = if is_ready { Some(Duration::ZERO) } else { patience };
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => Ok(fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR)),
            Err(Errno::INTR) => Ok(false),
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

    /// Gives the session of `leader`, which was hung up, its time to end.
    fn await_end_of(&mut self, leader: Pid) {
        if self.hung_up.iter().all(|session| session.leader != leader) {
            self.hung_up.push(HungUp::now(leader));
        }
    }

    /// Kills what is left of sessions that were hung up, when their time is over.
    fn end_sessions(&mut self) {
        let now = Instant::now();
        self.hung_up.retain(|session| {
            let over = session.deadline <= now;
            if over {
                kill_session(session.leader);
            }
            !over
        });
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
            ToAgent::Settle => {
                let message = self.settle().map_or_else(ToHost::from, |()| ToHost::Ok);
                self.out.send(id, message);
                Ok(())
            }
            ToAgent::Adopt(adoption) => {
                let begun = self.adopt(&adoption);
                self.begin(id, begun.map(|()| Job::Clock(Exchange::begin())))
            }
            ToAgent::Abort => {
                match self.jobs.remove(&id) {
                    // Its end of the terminal goes with it.
                    Some(Job::Process(process)) if process.is_on_terminal() => {
                        self.await_end_of(process.pid);
                    }
                    Some(Job::Process(mut process)) => process.signal(libc::SIGKILL),
                    _ => {}
                }
                Ok(())
            }
            other => self.pass_on(id, other),
        }
    }

    fn settle(&mut self) -> Result<(), Refusal> {
        self.own_ground()?;
        if !self.jobs.is_empty() || !self.hung_up.is_empty() {
            let message = "something that the host asked for is still under way".to_owned();
            return Err(Refusal { errno: libc::EBUSY, message });
        }
        self.disks = adoption::warm()?;
        process::rehearse()
    }

    fn adopt(&mut self, adoption: &Adoption) -> Result<(), Refusal> {
        self.own_ground()?;
        adoption::begin(adoption, &self.disks)
    }

    /// Refuses what would change a machine that is no guest.
    fn own_ground(&self) -> Result<(), Refusal> {
        match self.ground {
            Ground::Guest => Ok(()),
            Ground::Elsewhere => {
                let message = "this agent does not look after the machine that it is on".to_owned();
                Err(Refusal { errno: libc::EPERM, message })
            }
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
                        // Who bears its number now is not who was hung up.
                        self.hung_up.retain(|session| session.leader != process.pid);
                        let pid = process.pid.as_raw_nonzero().get().unsigned_abs();
                        self.out.send(id, ToHost::Started { pid });
                    }
                    Job::Connection(_) => self.out.send(id, ToHost::Connected),
                    Job::Clock(_) => self.out.send(id, ToHost::AskTime),
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
            (Job::Process(process), ToAgent::Resize(size)) if process.is_on_terminal() => {
                process.resize(size);
                Ok(())
            }
            (Job::Process(process), ToAgent::HangUp) if process.is_on_terminal() => {
                process.hang_up();
                let leader = process.pid;
                self.await_end_of(leader);
                Ok(())
            }
            (Job::Connection(connection), ToAgent::Data(bytes)) => connection.input(&bytes),
            (Job::Connection(connection), ToAgent::Close) => {
                connection.end_input();
                Ok(())
            }
            (Job::Clock(exchange), ToAgent::Time(host)) => {
                match exchange.answer(host) {
                    Ok(None) => self.out.send(id, ToHost::AskTime),
                    Ok(Some(adopted)) => self.finish(id, ToHost::Adopted(adopted)),
                    Err(refusal) => self.finish(id, refusal.into()),
                }
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
            match job {
                Job::Process(process) if process.is_on_terminal() => kill_session(process.pid),
                Job::Process(process) => process.signal(libc::SIGKILL),
                _ => {}
            }
        }
        for session in &self.hung_up {
            kill_session(session.leader);
        }
    }
}
