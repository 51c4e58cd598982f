//! Where evidence goes: a folder, or a pipe out of the lab.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::relay;

/// The environment variable that holds the number of the pipe which carries evidence out of the lab.
pub const EVIDENCE_FD: &str = "KILN_EVIDENCE_FD";

/// Takes changes to files that are named by paths relative to the runs' root.
#[derive(Debug)]
pub enum Sink {
    /// A folder on this machine.
    Disk(PathBuf),
    /// A pipe to the host outside the lab.
    Relay(Mutex<File>),
}

impl Sink {
    /// The sink that this process has: the pipe named by [`EVIDENCE_FD`], else `root` on disk.
    ///
    /// # Errors
    /// [`EVIDENCE_FD`] names no open descriptor.
    pub fn of_this_process(root: &Path) -> io::Result<Self> {
        let Some(fd) = std::env::var(EVIDENCE_FD).ok() else { return Ok(Self::Disk(root.to_owned())) };
        let fd: i32 = fd.parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{EVIDENCE_FD}={fd} is no number"))
        })?;
        // A duplicate, so that every run of this process can have its own handle on the one pipe.
        // SAFETY: `fcntl` is given a number only; an invalid one is an error, and what comes back is ours alone.
        #[allow(unsafe_code)]
        let own = unsafe {
            let own = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
            if own < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(own)
        };
        Ok(Self::Relay(Mutex::new(File::from(own))))
    }

    /// Adds `bytes` to the end of `file`, which is made with its folders if it is not there.
    ///
    /// # Errors
    /// The file system's, with the path in it; a broken pipe when the host outside is gone.
    pub fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Disk(root) => {
                let path = root.join(file);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(|e| named(&e, parent))?;
                }
                let mut open =
                    OpenOptions::new().append(true).create(true).open(&path).map_err(|e| named(&e, &path))?;
                open.write_all(bytes).map_err(|e| named(&e, &path))
            }
            Self::Relay(pipe) => relay::write_append(&mut *lock(pipe), file, bytes),
        }
    }

    /// Points `link` at its sibling `target`, replacing what it pointed at.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn link(&self, link: &str, target: &str) -> io::Result<()> {
        match self {
            Self::Disk(root) => {
                let path = root.join(link);
                let fresh = path.with_extension(format!("new-{}", std::process::id()));
                let _ = fs::remove_file(&fresh);
                std::os::unix::fs::symlink(target, &fresh)
                    .and_then(|()| fs::rename(&fresh, &path))
                    .map_err(|e| named(&e, &path))
            }
            Self::Relay(pipe) => relay::write_link(&mut *lock(pipe), link, target),
        }
    }

    /// Removes `link` if what it points at is gone.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn unlink_dangling(&self, link: &str) -> io::Result<()> {
        match self {
            Self::Disk(root) => {
                let path = root.join(link);
                if path.is_symlink() && !path.exists() {
                    fs::remove_file(&path).map_err(|e| named(&e, &path))?;
                    // The case's folder, and the suite's, if nothing else is in them.
                    for folder in path.ancestors().skip(1).take(2) {
                        if fs::remove_dir(folder).is_err() {
                            break;
                        }
                    }
                }
                Ok(())
            }
            Self::Relay(pipe) => relay::write_unlink(&mut *lock(pipe), link),
        }
    }

    /// Removes the folder `directory` and all in it.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn remove(&self, directory: &str) -> io::Result<()> {
        match self {
            Self::Disk(root) => {
                let path = root.join(directory);
                fs::remove_dir_all(&path).map_err(|e| named(&e, &path))
            }
            Self::Relay(pipe) => relay::write_remove(&mut *lock(pipe), directory),
        }
    }
}

/// A panic of another thread while it wrote leaves the pipe usable: records are written whole.
fn lock(pipe: &Mutex<File>) -> std::sync::MutexGuard<'_, File> {
    pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
