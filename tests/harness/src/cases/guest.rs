//! A booted guest, in the hands of a case on the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_vmm::dump::VcpuDump;
use kiln_vmm::machine::Controller;
use regex_lite::Regex;

use super::error::{Fault, GuestError};
use crate::agent::{AgentError, Client, Command, ProcessEvent, Status};
use crate::console::Missed;
use crate::run::Session;

type Result<T> = std::result::Result<T, GuestError>;

/// A booted guest, in the hands of a case on the host.
pub struct Guest {
    session: Session,
    disks: Vec<PathBuf>,
    name: Option<String>,
}

/// What a command in the guest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Guest {
    pub(super) fn new(session: Session, disks: Vec<PathBuf>, name: Option<String>) -> Self {
        Self { session, disks, name }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn into_session(self) -> Session {
        self.session
    }

    /// The connection to the guest's agent.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.session.client()
    }

    /// The machine that it runs in, for what this type has no word for.
    #[must_use]
    pub fn machine(&self) -> &Controller {
        self.session.machine()
    }

    /// The host's end of the virtio console, for a case that asked for one: what is written to it the guest reads
    /// from `/dev/hvc0`, and the other way round.
    pub fn console(&mut self) -> Option<&mut UnixStream> {
        self.session.console()
    }

    /// A connection to the machine's control socket, for a case that asked for one.
    ///
    /// # Errors
    /// The case did not, or the machine does not answer.
    pub fn control(&self) -> std::result::Result<kiln_vmm::control::Client, kiln_vmm::control::ClientError> {
        kiln_vmm::control::Client::connect(self.name.as_deref().unwrap_or_default())
    }

    /// The host's file behind disk `index`.
    #[must_use]
    pub fn disk(&self, index: usize) -> Option<&Path> {
        self.disks.get(index).map(PathBuf::as_path)
    }

    /// Opens the host's file behind disk `index` for reading and writing.
    ///
    /// # Errors
    /// There is no such disk, or it can't be opened.
    pub fn open_disk(&self, index: usize) -> io::Result<File> {
        let path = self.disk(index).ok_or(io::ErrorKind::NotFound)?;
        File::options().read(true).write(true).open(path)
    }

    /// Runs a program to its end, with no input.
    ///
    /// # Errors
    /// The guest can't run it, or its agent is lost.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let run = || {
            let mut process = self.client().exec(Command { argv, ..Command::default() })?;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            loop {
                match process.next_event()? {
                    ProcessEvent::Started(_) | ProcessEvent::Events(_) => {}
                    ProcessEvent::Stdout(bytes) => stdout.extend(bytes),
                    ProcessEvent::Stderr(bytes) => stderr.extend(bytes),
                    ProcessEvent::Exited(status) => return Ok(Output { status, stdout, stderr }),
                }
                self.session.heard();
            }
        };
        run().map_err(|error: AgentError| self.error(error))
    }

    /// Reads a file in the guest.
    ///
    /// # Errors
    /// The guest refused, or its agent is lost.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.client().get(path, &mut bytes).map_err(|error| self.error(error))?;
        Ok(bytes)
    }

    /// Reads a file of text in the guest; what is no UTF-8 in it is replaced.
    ///
    /// # Errors
    /// As [`Guest::read`].
    pub fn read_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path)?).into_owned())
    }

    /// Writes a file in the guest, which takes its place whole; a device, or a file of `/proc` and `/sys`, is written
    /// straight.
    ///
    /// # Errors
    /// As [`Guest::read`].
    pub fn write(&self, path: &str, mut bytes: impl Read) -> Result<()> {
        self.client().put(path, 0o644, &mut bytes).map_err(|error| self.error(error))
    }

    /// Copies a file of the host's into the guest.
    ///
    /// # Errors
    /// It can't be read, or as [`Guest::write`].
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let file = File::open(from).map_err(|error| self.error(Fault::Host(error)))?;
        self.write(to, file)
    }

    /// Copies a file of the guest's to the host.
    ///
    /// # Errors
    /// It can't be written here, or as [`Guest::read`].
    pub fn copy_out(&self, from: &str, to: &Path) -> Result<()> {
        let bytes = self.read(from)?;
        let written = File::create(to).and_then(|mut file| file.write_all(&bytes));
        written.map_err(|error| self.error(Fault::Host(error)))
    }

    /// Waits until a line of the console (the UART) has `pattern` in it, and returns the line as far as it has come.
    /// The first call looks at all that the guest said since it was started, another at what follows the last match.
    /// The pattern is a regular expression, and is looked for in each line by itself.
    ///
    /// # Errors
    /// It is none, the console did not show it in time, or the machine ended before.
    pub fn wait_for_console(&self, pattern: &str, timeout: Duration) -> Result<String> {
        let regex = Regex::new(pattern).map_err(|error| self.error(error))?;
        self.session.search().wait(&regex, Instant::now() + timeout).map_err(|missed| {
            let pattern = pattern.to_owned();
            self.error(match missed {
                Missed::Late => Fault::Silent { pattern, waited: timeout },
                Missed::Over => Fault::Ended { pattern },
            })
        })
    }

    /// Has the kernel do what `key` stands for (Documentation/admin-guide/sysrq.rst), by way of the agent and
    /// `/proc/sysrq-trigger`, which knows no mask. A key that ends the guest (`b`, `c`, `o`) takes the agent with it:
    /// that is no error.
    ///
    /// # Errors
    /// The kernel has no sysrq, or the agent is lost over another key.
    pub fn sysrq(&self, key: char) -> Result<()> {
        let mut bytes = [0; 4];
        let text = key.encode_utf8(&mut bytes);
        match self.client().put("/proc/sysrq-trigger", 0o200, &mut text.as_bytes()) {
            Err(AgentError::Lost) if matches!(key, 'b' | 'c' | 'o') => Ok(()),
            other => other.map_err(|error| self.error(error)),
        }
    }

    /// Gives vCPU `cpu` a non-maskable interrupt.
    ///
    /// # Errors
    /// As [`Controller::nmi`].
    pub fn nmi(&self, cpu: u32) -> Result<()> {
        self.machine().nmi(cpu).map_err(|error| self.error(error))
    }

    /// Stops every vCPU until [`Guest::resume`]. Whatever is asked of the agent meanwhile waits for that.
    ///
    /// # Errors
    /// As [`Controller::pause`].
    pub fn pause(&self) -> Result<()> {
        self.machine().pause().map_err(|error| self.error(error))
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// As [`Controller::resume`].
    pub fn resume(&self) -> Result<()> {
        self.machine().resume().map_err(|error| self.error(error))
    }

    /// Lays every vCPU open: registers, code, stack, with the kernel's names.
    ///
    /// # Errors
    /// As [`Controller::dump`].
    pub fn dump(&self) -> Result<Vec<VcpuDump>> {
        self.machine().dump().map_err(|error| self.error(error))
    }

    /// Cuts the power: the guest ends between two instructions, and by the return nothing writes to its disks any
    /// more. Only [`Guest::open_disk`] and [`Guest::disk`] are of use afterwards.
    pub fn cut_power(&mut self) {
        self.session.cut_power();
    }

    /// Resets the machine, without a word to the guest: it boots again, with memory as new and the disks as they were
    /// left. Returns when its agent is back.
    ///
    /// # Errors
    /// The case's time is up, or the machine had ended before.
    pub fn reset(&mut self) -> Result<()> {
        self.session.reset().map_err(|error| self.error(error))
    }

    fn error(&self, fault: impl Into<Fault>) -> GuestError {
        GuestError { fault: fault.into(), console: self.session.tail() }
    }
}
