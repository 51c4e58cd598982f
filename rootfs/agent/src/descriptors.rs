//! Which descriptor numbers mean something.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;

/// The descriptor that a program writes events to.
pub(crate) const EVENTS: i32 = 3;

/// Occupies all numbers up to [`EVENTS`], so that no descriptor of ours is at a number which is replaced
/// in a program that is being started. What whoever started the agent left open is not for its programs.
pub(crate) fn reserve() -> io::Result<()> {
    crate::system::close_in_programs(EVENTS);
    loop {
        let fd = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if fd.as_raw_fd() > EVENTS {
            return Ok(());
        }
        std::mem::forget(fd);
    }
}

/// The descriptor that this process was started with under `number`, moved out of the way.
pub(crate) fn inherited(number: &str) -> io::Result<OwnedFd> {
    let number: i32 = number.parse().map_err(io::Error::other)?;
    if matches!(number, 1 | 2) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    check_open(number)?;
    // SAFETY: it is open, it was given to this process to own, and nothing else here was told of it.
    #[allow(unsafe_code)]
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(fcntl_dupfd_cloexec(&fd, EVENTS + 1)?)
}

fn check_open(number: i32) -> io::Result<()> {
    std::fs::metadata(format!("/proc/self/fd/{number}")).map(drop)
}
