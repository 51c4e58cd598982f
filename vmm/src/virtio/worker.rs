//! The thread that serves a device's queues, and the way to end it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::Rested;
use crate::snapshot::PersistError;

/// A running worker; `T` is what it gives back when it ends.
pub(super) struct Worker<T> {
    stop: Stop,
    thread: JoinHandle<T>,
}

/// A worker's view of the request to end: a word to look at, and an eventfd to poll.
pub(super) struct Stop {
    event: EventFd,
    asked: Arc<AtomicU8>,
}

/// Nothing is asked.
const GO_ON: u8 = 0;
/// It is to end between two requests.
const REST: u8 = 1;
/// It is to end now.
const STOP: u8 = 2;

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?, asked: Arc::new(AtomicU8::new(GO_ON)) })
    }

    /// Whether the worker is to end, in whatever way: at the latest when the request in hand is served.
    pub(super) fn requested(&self) -> bool {
        self.asked.load(Ordering::Acquire) != GO_ON
    }

    /// Whether it is to end now: what is in hand is given up.
    pub(super) fn at_once(&self) -> bool {
        self.asked.load(Ordering::Acquire) == STOP
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        borrow(&self.event)
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { event: self.event.try_clone()?, asked: Arc::clone(&self.asked) })
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
        self.end(STOP)
    }

    /// Asks the thread to end between two requests, with nothing lost and nothing half done, and waits for it. `None`
    /// only if it panicked.
    pub(super) fn rest(self) -> Option<T> {
        self.end(REST)
    }

    fn end(self, how: u8) -> Option<T> {
        self.stop.asked.store(how, Ordering::Release);
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

/// What is left of a device whose only queue `worker` serves, when that has ended between two requests.
pub(super) fn rest(worker: Option<Worker<Queue>>) -> Result<Rested, PersistError> {
    let queues = match worker.map(Worker::rest) {
        None => None,
        Some(Some(queue)) => Some(vec![queue]),
        Some(None) => return Err(PersistError::Refused("its thread panicked".to_owned())),
    };
    Ok(Rested { queues, state: serde_json::Value::Null })
}
