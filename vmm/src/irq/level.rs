//! Level-triggered lines: raised again after each end of interrupt, for as long as the device wants to be served.
//!
//! KVM itself lowers the line of an irqfd with `KVM_IRQFD_FLAG_RESAMPLE` when the guest ends the interrupt (at the I/O
//! APIC or the PIC), and then says so on a second eventfd. Whoever listens there raises it once more if the device is
//! not content yet; without that the interrupt would be lost. Levels of all lines on a pin are ORed, and each is asked.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A level-triggered interrupt line.
pub trait LevelInterrupt: Send + Sync {
    /// Wants the guest's attention, or wants it no more. One interrupt may still come after that.
    ///
    /// # Errors
    /// The host has no room for what raises the line again.
    fn set(&self, high: bool) -> io::Result<()>;

    /// How often the guest has ended an interrupt of this line, or of another on its pin.
    fn ends(&self) -> u32;
}

/// A line by eventfds; its listener is there from the first time on that the line is raised.
pub struct LevelIrqfd {
    line: Arc<Line>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

/// What the device and the listener share.
struct Line {
    /// Counted up, it raises the pin until the guest ends the interrupt.
    raise: EventFd,
    /// Counted up by KVM at each such end, and by us at the line's.
    ended: EventFd,
    /// Whether the device wants to be served.
    high: AtomicBool,
    ends: AtomicU32,
    over: AtomicBool,
}

impl LevelIrqfd {
    /// Makes a line that leads nowhere until its eventfds are registered with a VM.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let line = Line {
            raise: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            // Whoever reads it waits.
            ended: EventFd::new(EFD_CLOEXEC)?,
            high: AtomicBool::new(false),
            ends: AtomicU32::new(0),
            over: AtomicBool::new(false),
        };
        Ok(Self { line: Arc::new(line), listener: Mutex::default() })
    }

    /// What `KVM_IRQFD` takes: what raises the line, and what tells of the end of an interrupt.
    #[must_use]
    pub fn eventfds(&self) -> (&EventFd, &EventFd) {
        (&self.line.raise, &self.line.ended)
    }
}

impl LevelInterrupt for LevelIrqfd {
    fn set(&self, high: bool) -> io::Result<()> {
        let line = &self.line;
        if !high {
            line.high.store(false, Ordering::SeqCst);
            return Ok(());
        }
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if listener.is_none() {
            let line = line.clone();
            *listener = Some(crate::thread::named("level-irq").spawn(move || line.listen())?);
        }
        line.high.store(true, Ordering::SeqCst);
        line.raise.write(1)
    }

    fn ends(&self) -> u32 {
        self.line.ends.load(Ordering::SeqCst)
    }
}

impl Drop for LevelIrqfd {
    fn drop(&mut self) {
        let listener = self.listener.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.line.over.store(true, Ordering::SeqCst);
        if let Some(listener) = listener
            && self.line.ended.write(1).is_ok()
        {
            let _it_panicked = listener.join();
        }
    }
}

impl Line {
    fn listen(&self) {
        loop {
            let ends = match self.ended.read() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
                Ok(_) if self.over.load(Ordering::SeqCst) => return,
                // Several, if this thread comes late.
                Ok(ends) => u32::try_from(ends).unwrap_or(u32::MAX),
            };
            self.ends.fetch_add(ends, Ordering::SeqCst);
            if self.high.load(Ordering::SeqCst) {
                // A count that is full means that it is raised.
                let _raised = self.raise.write(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Plays KVM: the guest ends an interrupt, and the listener has seen it.
    fn end(line: &LevelIrqfd, times: u32) {
        line.eventfds().1.write(1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while line.ends() < times {
            assert!(Instant::now() < deadline, "{} ends", line.ends());
            std::thread::yield_now();
        }
    }

    /// Whether the line is raised within the time that anything takes; lowers it.
    fn raised(line: &LevelIrqfd) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while line.line.high.load(Ordering::SeqCst) && Instant::now() < deadline {
            if line.eventfds().0.read().is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        line.eventfds().0.read().is_ok()
    }

    #[test]
    fn line_is_raised_again_until_the_device_is_content() {
        let line = LevelIrqfd::new().unwrap();
        line.set(true).unwrap();
        assert!(raised(&line));
        for times in 1..4 {
            end(&line, times);
            assert!(raised(&line), "after {times} ends");
        }
        line.set(false).unwrap();
        end(&line, 4);
        assert!(!raised(&line));
        line.set(true).unwrap();
        assert!(raised(&line));
    }

    #[test]
    fn ends_that_come_together_are_all_counted() {
        let line = LevelIrqfd::new().unwrap();
        // Nobody listens yet.
        line.eventfds().1.write(2).unwrap();
        line.set(true).unwrap();
        end(&line, 3);
        assert_eq!(line.ends(), 3);
    }

    #[test]
    fn line_that_was_never_raised_has_no_listener_and_ends() {
        let line = LevelIrqfd::new().unwrap();
        line.set(false).unwrap();
        assert!(line.listener.lock().unwrap().is_none());
    }
}
