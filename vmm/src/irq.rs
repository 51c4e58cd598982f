//! Interrupt lines: how a device makes the guest's interrupt controller look at it.

use std::io;

/// An edge-triggered interrupt line: an irqfd in a machine, a counter in a unit test.
pub trait Interrupt: Send + Sync {
    /// Raises one edge.
    ///
    /// # Errors
    /// The eventfd's own.
    fn trigger(&self) -> io::Result<()>;
}
