//! The thread that serves a device's queues, and the way to end it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A running worker; `T` is what it gives back when it ends.
pub(super) struct Worker<T> {
    stop: Stop,
    thread: JoinHandle<T>,
}

/// A worker's view of the request to stop: a flag to look at, and an eventfd to poll.
pub(super) struct Stop {
    event: EventFd,
    flag: Arc<AtomicBool>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?, flag: Arc::new(AtomicBool::new(false)) })
    }

    pub(super) fn requested(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        borrow(&self.event)
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { event: self.event.try_clone()?, flag: Arc::clone(&self.flag) })
    }
}

impl<T: Send + 'static> Worker<T> {
    pub(super) fn spawn(name: String, body: impl FnOnce(Stop) -> T + Send + 'static) -> io::Result<Self> {
        let stop = Stop::new()?;
        let inner = stop.try_clone()?;
        let thread = crate::thread::named(&name).spawn(move || body(inner))?;
        Ok(Self { stop, thread })
    }

    /// Asks the thread to end and waits for it. `None` only if it panicked.
    pub(super) fn stop(self) -> Option<T> {
        self.stop.flag.store(true, Ordering::Release);
        // An eventfd that is written once can't be full, so the write can't fail.
        let _ = self.stop.event.write(1);
        self.thread.join().ok()
    }
}

/// An eventfd as the polling calls want it.
#[allow(unsafe_code)]
pub(super) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd owns its descriptor and outlives the borrow, which has the same lifetime.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
