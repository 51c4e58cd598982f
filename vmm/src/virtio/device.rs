//! What a virtio device is to its transport, and how its worker reaches the guest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::irq::Interrupt;
use crate::memory::GuestMemory;
use crate::snapshot::PersistError;

/// `VIRTIO_F_INDIRECT_DESC`: a chain may lie in a table of its own, so that it takes one descriptor of the queue.
pub const FEATURE_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_RING_EVENT_IDX`: each side says when it wants to be told next, which saves exits and interrupts.
pub const FEATURE_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: offered by the transport for every device, and required of every driver.
pub const FEATURE_VERSION_1: u64 = 1 << 32;

/// A virtio device, without anything of how the guest finds it.
pub trait VirtioDevice: Send {
    /// The device's type number in the specification.
    fn device_type(&self) -> u32;
    /// The name under which it appears in the trace, such as `virtio-blk vda`.
    fn name(&self) -> String;
    /// The features that it offers; the transport adds `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;
    /// The largest size of each of its queues: powers of two.
    fn queue_sizes(&self) -> &[u16];
    /// Reads the configuration space; what lies beyond its end reads as zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes the configuration space; what is read-only stays.
    fn write_config(&mut self, offset: u64, data: &[u8]);
    /// Starts work on the queues: the driver has said `DRIVER_OK`.
    ///
    /// # Errors
    /// What kept the worker from starting; the guest then sees `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;
    /// Stops and joins the worker and goes back to the initial state. Does nothing to an idle device.
    fn reset(&mut self);
    /// Ends the worker between two requests, so that another device can go on from there: nothing is lost, nothing will
    /// be done twice. The device serves no more.
    ///
    /// # Errors
    /// The worker is gone.
    fn rest(&mut self) -> Result<Rested, PersistError>;
    /// Takes on the state that [`VirtioDevice::rest`] of such a device gave; if that one had a worker, a call of
    /// [`VirtioDevice::activate`] follows, with the queues as it left them.
    ///
    /// # Errors
    /// It is no such state.
    fn take_on(&mut self, state: serde_json::Value) -> Result<(), PersistError>;
    /// Ends the device for good: the machine is over.
    fn stop(&mut self) {
        self.reset();
    }
}

/// What is left of a device's work.
pub struct Rested {
    /// The queues as the worker left them, from the first on; none if there was no worker.
    pub queues: Option<Vec<Queue>>,
    /// The device's own state.
    pub state: serde_json::Value,
}

/// All that a device gets when the driver is ready.
pub struct Activation {
    /// The guest's RAM.
    pub memory: Arc<GuestMemory>,
    /// Every queue with the eventfd of its notifications. One that the driver left alone is not ready.
    pub queues: Vec<(Queue, EventFd)>,
    /// The negotiated features.
    pub features: u64,
    /// The way to interrupt the guest.
    pub interrupt: Arc<InterruptSource>,
}

/// A device's interrupt line together with the reasons that the guest reads and acknowledges.
pub struct InterruptSource {
    status: AtomicU32,
    generation: AtomicU32,
    failed: AtomicBool,
    line: Arc<dyn Interrupt>,
}

/// Bit 0 of `InterruptStatus`: a buffer was used.
const USED: u32 = 1;
/// Bit 1 of `InterruptStatus`: the configuration, or the device's status, changed.
const CONFIG: u32 = 2;

impl InterruptSource {
    /// A source with no reason pending.
    #[must_use]
    pub fn new(line: Arc<dyn Interrupt>) -> Self {
        Self {
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            line,
        }
    }

    /// Says that buffers were used.
    ///
    /// # Errors
    /// The line's own.
    pub fn used(&self) -> io::Result<()> {
        self.raise(USED)
    }

    /// Says that the configuration space changed.
    ///
    /// # Errors
    /// The line's own.
    pub fn config_changed(&self) -> io::Result<()> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIG)
    }

    /// Says that the device can't go on: the guest sees `DEVICE_NEEDS_RESET`.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        // A line that can't be raised leaves nobody to tell; the status bit is there to be read.
        let _ = self.raise(CONFIG);
    }

    /// Whether the device failed since the last reset.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The pending reasons.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Takes on what another source of the same device had pending, and raises it again: one edge more harms nobody.
    pub(super) fn take_on(&self, status: u32, generation: u32, failed: bool) -> io::Result<()> {
        self.generation.store(generation, Ordering::Release);
        self.failed.store(failed, Ordering::Release);
        match status & (USED | CONFIG) {
            0 => Ok(()),
            bits => self.raise(bits),
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Forgets reasons and failure. The worker must be joined before.
    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::Release);
        self.failed.store(false, Ordering::Release);
    }

    fn raise(&self, bit: u32) -> io::Result<()> {
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.line.trigger()
    }
}

/// Answers a configuration read out of `config`; beyond its end everything is zero.
pub(crate) fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)) else { return };
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}
