//! Descriptors that a forked child must not keep: the lock of a name lives as long as any copy of its descriptor.
//!
//! `O_CLOEXEC` is for children that become another program. One that goes on as a copy of this process gets `/dev/null`
//! in the descriptor's place, before it runs: the number stays taken, so that whoever owns it there closes nothing else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Mode, OFlags};

/// A place with no descriptor.
const FREE: i32 = -1;
/// Enough for the locks, listeners and clients of fifty machines in one process.
const PLACES: usize = 1024;

/// A child may do nothing but look here: no lock, no allocation.
static KEPT: [AtomicI32; PLACES] = [const { AtomicI32::new(FREE) }; PLACES];
/// `/dev/null`, open for ever.
static NOTHING: AtomicI32 = AtomicI32::new(FREE);

/// While this lives, forked children don't get the descriptor. It must be dropped before that is closed.
#[derive(Debug)]
pub(super) struct NotInChildren(usize);

impl Drop for NotInChildren {
    fn drop(&mut self) {
        if let Some(place) = KEPT.get(self.0) {
            place.store(FREE, Ordering::SeqCst);
        }
    }
}

/// Keeps `descriptor` from children that are forked from now on.
///
/// # Errors
/// There is no room for more, or no `/dev/null`.
pub(super) fn keep(descriptor: impl AsFd) -> io::Result<NotInChildren> {
    static READY: OnceLock<Result<(), i32>> = OnceLock::new();
    (*READY.get_or_init(|| install().map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))))
        .map_err(io::Error::from_raw_os_error)?;
    let number = descriptor.as_fd().as_raw_fd();
    let taken =
        |place: &AtomicI32| place.compare_exchange(FREE, number, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    KEPT.iter().position(taken).map(NotInChildren).ok_or_else(|| io::ErrorKind::QuotaExceeded.into())
}

fn install() -> io::Result<()> {
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    NOTHING.store(nothing.into_raw_fd(), Ordering::SeqCst);
    // SAFETY: the handler does only what a signal handler may.
    #[allow(unsafe_code)]
    let error = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

extern "C" fn in_child() {
    let nothing = NOTHING.load(Ordering::SeqCst);
    for place in &KEPT {
        let number = place.swap(FREE, Ordering::SeqCst);
        if number != FREE {
            // SAFETY: the number stays an open descriptor, of which this process is the only user; the call is safe
            // in a child of a process with threads.
            #[allow(unsafe_code)]
            let _cannot_fail = unsafe { libc::dup3(nothing, number, libc::O_CLOEXEC) };
        }
    }
}
