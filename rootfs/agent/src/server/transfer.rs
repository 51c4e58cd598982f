//! Files that come from the host and go to it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_protocol::wire::{DATA_MAX, ToHost, WINDOW};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Refusal;
use super::outbox::Outbox;

/// How long a device may take to accept bytes before it is given up.
const DEVICE_PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

fn refuse(path: &Path) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        message: format!("{}: {error}", path.display()),
    }
}

/// A file from the host.
pub(super) struct Put {
    pub(super) owed: usize,
    file: File,
    path: PathBuf,
    mode: u32,
    /// Where a plain file is until it is whole; a device is written straight.
    temporary: Option<PathBuf>,
}

impl Put {
    pub(super) fn start(id: u32, path: &str, mode: u32) -> Result<Self, Refusal> {
        // A link is followed: what it leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        let refuse = refuse(&path);
        let special = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(refuse(io::Error::from_raw_os_error(libc::EISDIR)));
            }
            Ok(metadata) => !metadata.is_file() || is_virtual(&path),
            Err(_) => false,
        };
        if special {
            let file = OpenOptions::new().write(true).custom_flags(SPECIAL).open(&path).map_err(&refuse)?;
            return Ok(Self { owed: 0, file, path: path.clone(), mode, temporary: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refuse(io::Error::from_raw_os_error(libc::EISDIR)));
        };
        fs::create_dir_all(folder).map_err(&refuse)?;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".put-{id}"));
        let temporary = folder.join(temporary);
        // One that an earlier agent left behind is of no use to anybody.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(&refuse)?;
        Ok(Self { owed: 0, file, path: path.clone(), mode, temporary: Some(temporary) })
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        let refuse = refuse(&self.path);
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(refuse(io::Error::from_raw_os_error(libc::ENOSPC))),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
                    if matches!(poll(&mut fds, Some(&DEVICE_PATIENCE)), Ok(0)) {
                        return Err(refuse(error));
                    }
                }
                Err(error) => return Err(refuse(error)),
            }
        }
        Ok(())
    }

    /// All is there: it takes its place.
    pub(super) fn complete(&mut self) -> Result<(), Refusal> {
        let refuse = refuse(&self.path);
        let Some(temporary) = &self.temporary else { return Ok(()) };
        self.file.set_permissions(Permissions::from_mode(self.mode & 0o7777)).map_err(&refuse)?;
        fs::rename(temporary, &self.path).map_err(&refuse)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// What is not a plain file may make its opener wait, and must not.
const SPECIAL: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

/// A plain file to look at, made by the kernel: no other file can take its place.
fn is_virtual(path: &Path) -> bool {
    path.starts_with("/proc") || path.starts_with("/sys")
}

/// A file to the host.
pub(super) struct Get {
    pub(super) credit: usize,
    file: File,
    path: PathBuf,
}

impl Get {
    pub(super) fn start(path: &str) -> Result<Self, Refusal> {
        let path = PathBuf::from(path);
        let file = OpenOptions::new().read(true).custom_flags(SPECIAL).open(&path).map_err(refuse(&path))?;
        Ok(Self { credit: WINDOW, file, path })
    }

    pub(super) fn step(&mut self, id: u32, out: &mut Outbox) -> bool {
        let most = DATA_MAX.min(self.credit);
        if most == 0 || !out.has_room() {
            return false;
        }
        let mut bytes = Vec::with_capacity(most);
        let end = match rustix::io::read(&self.file, spare_capacity(&mut bytes)) {
            Ok(0) => ToHost::Ok,
            Ok(length) => {
                self.credit -= length;
                out.send(id, ToHost::Data(bytes));
                return false;
            }
            Err(Errno::INTR) => return false,
            // All that there is now, of something without end.
            Err(Errno::AGAIN) => ToHost::Ok,
            Err(error) => refuse(&self.path)(error.into()).into(),
        };
        out.send(id, end);
        true
    }
}
