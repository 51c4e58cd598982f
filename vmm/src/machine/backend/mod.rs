//! What is behind a serial port or a debug console on the host: a writer, and for a serial port what comes in.
//!
//! Nobody who reads slowly or not at all holds up more than the guest's own output: each writer is behind an outlet's
//! thread, and a pty or socket that nobody has opened takes nothing.

mod input;
mod pty;
mod socket;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) use input::Feed;
use rustix::event::{PollFd, PollFlags, poll};

use super::outlet::{Drain, Outlet, STDOUT, outlet};
use crate::config::Backend;
use crate::device::debug_console::DebugConsole;
use crate::device::uart::{SerialInput, Uart};
use crate::outcome::PowerSwitch;

/// A backend that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{device} can't be connected to {what}")]
pub struct BackendError {
    /// Which device.
    pub device: String,
    /// What it was to be connected to.
    pub what: String,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// A device that holds output back for a while.
pub(super) trait Held: Send + Sync {
    /// Passes it on, if the device is not busy.
    fn look(&self);
    /// Passes on the last of it: the machine has ended.
    fn finish(&self);
}

impl Held for Mutex<Uart> {
    fn look(&self) {
        if let Ok(mut uart) = self.try_lock() {
            uart.flush();
        }
    }

    fn finish(&self) {
        let mut uart = self.lock().unwrap_or_else(PoisonError::into_inner);
        uart.close_input();
        uart.flush();
    }
}

impl Held for Mutex<DebugConsole> {
    fn look(&self) {
        if let Ok(mut console) = self.try_lock() {
            console.flush();
        }
    }

    fn finish(&self) {
        self.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

/// Where a device's input comes from.
pub(super) enum Source {
    Stdin,
    Pty(pty::Master),
    Socket(socket::Clients),
}

/// A device's end of its backend.
pub(super) struct Connected {
    pub(super) out: Box<dyn Write + Send>,
    pub(super) source: Option<Source>,
}

/// Standard output with no buffer before it: what it does not take is known at once, and by the byte.
struct Stdout(File);

impl Stdout {
    fn open() -> io::Result<Self> {
        io::stdout().flush()?;
        Ok(Self(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // Whoever shares it may have had it not wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the backends of one machine.
pub(super) struct Backends {
    power: PowerSwitch,
    /// What whoever made the machine takes COM1's output with.
    caller: Option<Box<dyn Write + Send>>,
    /// Standard output, which devices share: what they say comes in order.
    stdout: Option<Outlet>,
    /// In the order of their opening.
    pub(super) drains: Vec<Drain>,
    /// Each pseudo-terminal's device, and its path.
    pub(super) ptys: Vec<(String, PathBuf)>,
}

impl Backends {
    pub(super) fn new(power: PowerSwitch, caller: Box<dyn Write + Send>) -> Self {
        Self { power, caller: Some(caller), stdout: None, drains: Vec::new(), ptys: Vec::new() }
    }

    /// Connects `device` to `backend`.
    pub(super) fn open(&mut self, device: &str, backend: &Backend) -> Result<Connected, BackendError> {
        self.try_open(device, backend).map_err(|source| BackendError {
            device: device.to_owned(),
            what: backend.to_string(),
            source,
        })
    }

    fn try_open(&mut self, device: &str, backend: &Backend) -> io::Result<Connected> {
        let (writer, source): (Box<dyn Write + Send>, _) = match backend {
            Backend::Absent | Backend::Nothing => {
                return Ok(Connected { out: Box::new(io::sink()), source: None });
            }
            Backend::Caller => match self.caller.take() {
                Some(writer) => (writer, None),
                None => return Err(io::Error::other("whoever made the machine takes one device's output")),
            },
            Backend::Stdio => {
                let out = match &self.stdout {
                    Some(outlet) => outlet.clone(),
                    None => {
                        let own = self.outlet(STDOUT, Box::new(Stdout::open()?))?;
                        self.stdout.insert(own).clone()
                    }
                };
                return Ok(Connected { out: Box::new(out), source: Some(Source::Stdin) });
            }
            Backend::File { path } => (Box::new(create(path)?), None),
            Backend::Pty { link } => {
                let master = pty::open(link.as_deref())?;
                self.ptys.push((device.to_owned(), master.path().to_owned()));
                (Box::new(pty::Writer(master.clone())), Some(Source::Pty(master)))
            }
            Backend::Socket { path } => {
                let clients = socket::listen(path)?;
                (Box::new(clients.clone()), Some(Source::Socket(clients)))
            }
        };
        Ok(Connected { out: Box::new(self.outlet(device, writer)?), source })
    }

    fn outlet(&mut self, name: &str, writer: Box<dyn Write + Send>) -> io::Result<Outlet> {
        let (outlet, drain) = outlet(name, writer, self.power.clone())?;
        self.drains.push(drain);
        Ok(outlet)
    }

    /// Has the machine look after what `device` holds back, and feeds it from `source`.
    pub(super) fn attend(
        &mut self,
        name: &str,
        uart: &Arc<Mutex<Uart>>,
        source: Option<Source>,
    ) -> Result<(), BackendError> {
        let feed = source.map(|source| input::feed(name, source, SerialInput::new(uart.clone()))).transpose();
        let feed = feed.map_err(|source| BackendError {
            device: name.to_owned(),
            what: "its input".to_owned(),
            source,
        })?;
        self.hold(uart.clone(), feed);
        Ok(())
    }

    /// Has the machine look after what `device` holds back; it comes before the drains end.
    pub(super) fn hold(&mut self, device: Arc<dyn Held>, feed: Option<Feed>) {
        self.drains.insert(0, Drain::of_device(device, feed));
    }
}

/// Opens a file to write to, anew. A pipe is opened only if somebody reads it: otherwise that would wait.
fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let mut options = File::options();
    options.write(true);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(meta) if meta.file_type().is_fifo() => {
            let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
            // Once it is open, its reader may be as slow as it likes.
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty())?;
            Ok(file)
        }
        _ => options.create(true).truncate(true).open(path),
    }
}
