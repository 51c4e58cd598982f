//! Interrupts: how a device makes the guest's interrupt controllers look at it.
//!
//! An edge is an [`Interrupt`], by a pin of a controller or by a message; a level that lasts until the device is
//! content is a [`LevelInterrupt`].

mod level;
mod msi;
mod routes;

use std::io;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use level::{LevelInterrupt, LevelIrqfd};
pub(crate) use msi::MsiIrqfd;
pub use msi::{MessageInterrupt, Msi};
pub(crate) use routes::Routes;

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

/// The line of a machine without interrupt controllers: what is raised is lost.
pub struct Unconnected;

impl Interrupt for Unconnected {
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

impl LevelInterrupt for Unconnected {
    fn set(&self, _high: bool) -> io::Result<()> {
        Ok(())
    }

    fn ends(&self) -> u32 {
        0
    }
}

impl MessageInterrupt for Unconnected {
    fn route(&self, _msi: Msi) -> io::Result<()> {
        Ok(())
    }
}
