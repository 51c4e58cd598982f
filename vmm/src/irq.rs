//! Interrupt lines: how a device makes the guest's interrupt controller look at it.

use std::io;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An edge-triggered interrupt line: an irqfd in a machine, a counter in a unit test.
pub trait Interrupt: Send + Sync {
    /// Raises one edge.
    ///
    /// # Errors
    /// The eventfd's own.
    fn trigger(&self) -> io::Result<()>;
}

/// An eventfd that KVM turns into edges of an interrupt controller's pin.
pub struct Irqfd(EventFd);

impl Irqfd {
    /// Makes a line that leads nowhere until it is registered with a VM.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Self)
    }

    /// What `KVM_IRQFD` takes.
    #[must_use]
    pub fn eventfd(&self) -> &EventFd {
        &self.0
    }
}

impl Interrupt for Irqfd {
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The line of a machine without interrupt controllers: edges are lost.
pub struct Unconnected;

impl Interrupt for Unconnected {
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}
