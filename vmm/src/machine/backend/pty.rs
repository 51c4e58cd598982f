//! A pseudo-terminal: whoever opens its path talks to the serial port.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::input::{Readable, Stop};

/// How often it is looked whether somebody has opened the terminal: the kernel has no word for it.
const LOOK_MS: i64 = 50;
/// How long what was said last waits to be read once the machine has ended.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is looked whether it has been.
const LINGER_LOOK: Duration = Duration::from_millis(2);

/// The host's end.
#[derive(Clone)]
pub(in crate::machine) struct Master(Arc<Inner>);

struct Inner {
    file: File,
    path: PathBuf,
    link: Option<PathBuf>,
}

/// Makes a terminal, with `link` as another path to it.
pub(super) fn open(link: Option<&Path>) -> io::Result<Master> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let path = PathBuf::from(name.to_str().map_err(io::Error::other)?);
    {
        // Bytes pass as they are. Opening it once and closing it also makes the kernel tell from now on whether somebody
        // has it open.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let peer = rustix::fs::open(&path, flags, Mode::empty())?;
        let mut attributes = tcgetattr(&peer)?;
        attributes.make_raw();
        tcsetattr(&peer, OptionalActions::Now, &attributes)?;
    }
    if let Some(link) = link {
        std::os::unix::fs::symlink(&path, link)?;
    }
    let link = link.map(Path::to_owned);
    Ok(Master(Arc::new(Inner { file: File::from(master), path, link })))
}

impl Master {
    /// How many bytes whoever has the terminal open has not read yet.
    fn unread(&self) -> u64 {
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        let peer = rustix::fs::open(&self.0.path, flags, Mode::empty());
        peer.and_then(rustix::io::ioctl_fionread).unwrap_or(0)
    }

    /// The terminal's path.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether somebody has the terminal open.
    fn attended(&self) -> bool {
        let mut descriptor = [PollFd::new(&self.0.file, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut descriptor, Some(&now));
        polled.is_ok() && descriptor.iter().all(|one| !one.revents().contains(PollFlags::HUP))
    }
}

/// The output's way to the terminal.
pub(super) struct Writer(pub(super) Master);

impl Drop for Writer {
    /// Gives whoever has the terminal open a moment for what is left: with the host's end, the kernel throws it away.
    fn drop(&mut self) {
        let until = Instant::now() + LINGER;
        // Twice in a row: bytes are not always there as soon as they are written.
        let mut empty = 0;
        while empty < 2 && self.0.attended() && Instant::now() < until {
            empty = if self.0.unread() == 0 { empty + 1 } else { 0 };
            std::thread::sleep(LINGER_LOOK);
        }
    }
}

impl Write for Writer {
    /// Writes to whoever has the terminal open; to nobody, the bytes are lost, as on a line that is not plugged in.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let master = &self.0;
        if !master.attended() {
            return Ok(bytes.len());
        }
        match (&master.0.file).write(bytes) {
            // It was closed in the meantime.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Readable for Master {
    fn next(&mut self, bytes: &mut [u8], stop: &Stop) -> io::Result<usize> {
        loop {
            if !self.attended() {
                if !stop.wait(None, Some(LOOK_MS)) {
                    return Ok(0);
                }
                continue;
            }
            if !stop.wait(Some(&self.0.file), None) {
                return Ok(0);
            }
            match (&self.0.file).read(bytes) {
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
                Ok(0) => {}
                other => return other,
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _gone_already = std::fs::remove_file(link);
        }
    }
}
