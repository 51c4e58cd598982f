//! The memory-mapped transport, version 2: registers, the driver's status, and the queues' set-up.

use std::io;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::{Activation, FEATURE_EVENT_IDX, FEATURE_VERSION_1, InterruptSource, VirtioDevice};
use crate::bus::BusDevice;
use crate::irq::Interrupt;
use crate::memory::GuestMemory;

mod register;
#[cfg(test)]
mod tests;

use register as reg;

/// The offset of the notification register: the address of the queues' ioeventfds, each with the queue's
/// index as its datum.
pub const NOTIFY_OFFSET: u64 = reg::QUEUE_NOTIFY;

/// A virtio device on the MMIO bus.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<InterruptSource>,
    queues: Vec<Queue>,
    kicks: Vec<Arc<EventFd>>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
}

impl MmioTransport {
    /// Puts a device behind registers.
    ///
    /// # Errors
    /// The eventfds', or a queue size of the device that isn't a power of two.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn Interrupt>,
    ) -> io::Result<Self> {
        let queues: Vec<Queue> = device
            .queue_sizes()
            .iter()
            .map(|&size| Queue::new(size).map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        let kick = |_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Arc::new);
        let kicks = queues.iter().map(kick).collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            memory,
            interrupt: Arc::new(InterruptSource::new(interrupt)),
            queues,
            kicks,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
        })
    }

    /// The device's name, for the trace.
    #[must_use]
    pub fn name(&self) -> String {
        self.device.name()
    }

    /// One eventfd for each queue, in order: to be signalled by a write of the queue's index to
    /// [`NOTIFY_OFFSET`].
    #[must_use]
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// Ends the device for good: its worker is joined and what it held is flushed.
    pub fn stop(&mut self) {
        self.device.stop();
        self.clear();
    }

    fn offered(&self) -> u64 {
        self.device.features() | FEATURE_VERSION_1
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn status(&self) -> u32 {
        if self.interrupt.has_failed() { self.status | reg::NEEDS_RESET } else { self.status }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION => 2,
            reg::DEVICE_ID => self.device.device_type(),
            reg::VENDOR_ID => reg::VENDOR,
            reg::DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            reg::QUEUE_NUM_MAX => self.queue().map_or(0, |queue| u32::from(queue.max_size())),
            reg::QUEUE_READY => u32::from(self.queue().is_some_and(QueueT::ready)),
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::STATUS => self.status(),
            // There is no shared memory region: its length reads as all ones.
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => u32::MAX,
            reg::CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.set_features(value),
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::QUEUE_NOTIFY => self.notify(value),
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::STATUS => self.set_status(value),
            reg::QUEUE_READY => self.set_ready(value),
            reg::QUEUE_NUM | reg::QUEUE_DESC_LOW..=reg::QUEUE_DEVICE_HIGH => self.set_up_queue(offset, value),
            _ => {}
        }
    }

    /// A notification that left the guest, because no ioeventfd took it.
    fn notify(&self, value: u32) {
        if let Some(kick) = usize::try_from(value).ok().and_then(|index| self.kicks.get(index)) {
            // A full eventfd is a pending notification already.
            let _ = kick.write(1);
        }
    }

    fn set_features(&mut self, value: u32) {
        if self.status & (reg::DRIVER | reg::FEATURES_OK) != reg::DRIVER {
            return;
        }
        match self.driver_features_sel {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | u64::from(value),
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | (u64::from(value) << 32),
            // No feature lives there: asking for one must not pass for an acceptable set.
            _ if value != 0 => self.driver_features |= !self.offered(),
            _ => {}
        }
    }

    /// Whether the driver may set up queues now.
    fn configuring(&self) -> bool {
        self.status & (reg::FEATURES_OK | reg::DRIVER_OK) == reg::FEATURES_OK
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        let configuring = self.configuring();
        let Some(queue) = usize::try_from(self.queue_sel).ok().and_then(|sel| self.queues.get_mut(sel))
        else {
            return;
        };
        if !configuring || queue.ready() {
            return;
        }
        let accepted = match offset {
            reg::QUEUE_NUM => u16::try_from(value)
                .map_err(|_| virtio_queue::Error::InvalidSize)
                .and_then(|n| queue.try_set_size(n)),
            reg::QUEUE_DESC_LOW => queue.try_set_desc_table_address(low(queue.desc_table(), value)),
            reg::QUEUE_DESC_HIGH => queue.try_set_desc_table_address(high(queue.desc_table(), value)),
            reg::QUEUE_DRIVER_LOW => queue.try_set_avail_ring_address(low(queue.avail_ring(), value)),
            reg::QUEUE_DRIVER_HIGH => queue.try_set_avail_ring_address(high(queue.avail_ring(), value)),
            reg::QUEUE_DEVICE_LOW => queue.try_set_used_ring_address(low(queue.used_ring(), value)),
            reg::QUEUE_DEVICE_HIGH => queue.try_set_used_ring_address(high(queue.used_ring(), value)),
            _ => Ok(()),
        };
        // A refused size or alignment would leave the queue elsewhere than where the driver thinks it is.
        if accepted.is_err() {
            self.interrupt.fail();
        }
    }

    fn set_ready(&mut self, value: u32) {
        let configuring = self.configuring();
        let live = self.status & reg::DRIVER_OK != 0;
        let Some(queue) = usize::try_from(self.queue_sel).ok().and_then(|sel| self.queues.get_mut(sel))
        else {
            return;
        };
        match value {
            // The worker has its own view of the queue; to take one from it is to end it.
            0 if queue.ready() && live => {
                queue.set_ready(false);
                self.device.reset();
                self.interrupt.fail();
            }
            0 => queue.set_ready(false),
            1 if configuring => queue.set_ready(true),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.device.reset();
            self.clear();
            return;
        }
        let kept = self.status & !reg::NEEDS_RESET;
        // Bits are only ever added, and only those that the specification knows.
        if value & kept != kept || value & !reg::KNOWN != 0 {
            return;
        }
        let added = value & !kept;
        self.status |= added & (reg::ACKNOWLEDGE | reg::DRIVER | reg::FAILED);
        if added & reg::FEATURES_OK != 0 && self.features_acceptable() {
            self.status |= reg::FEATURES_OK;
        }
        if added & reg::DRIVER_OK != 0 && self.status & reg::FEATURES_OK != 0 {
            self.status |= reg::DRIVER_OK;
            if self.activate().is_err() {
                self.interrupt.fail();
            }
        }
    }

    fn features_acceptable(&self) -> bool {
        let ready = reg::ACKNOWLEDGE | reg::DRIVER;
        self.status & ready == ready
            && self.driver_features & !self.offered() == 0
            && self.driver_features & FEATURE_VERSION_1 != 0
    }

    fn activate(&mut self) -> io::Result<()> {
        if self.interrupt.has_failed() || self.status & reg::FAILED != 0 {
            return Err(io::Error::other("the driver set the device up wrongly"));
        }
        let mut queues = Vec::with_capacity(self.queues.len());
        for (queue, kick) in self.queues.iter().zip(&self.kicks) {
            if queue.ready() && !queue.is_valid(&*self.memory) {
                return Err(io::Error::other("a virtqueue lies outside the guest's memory"));
            }
            let mut queue = Queue::try_from(queue.state()).map_err(io::Error::other)?;
            queue.set_event_idx(self.driver_features & FEATURE_EVENT_IDX != 0);
            queues.push((queue, kick.try_clone()?));
        }
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            queues,
            features: self.driver_features,
            interrupt: Arc::clone(&self.interrupt),
        })
    }

    /// Back to the registers' first values. The worker is gone by now.
    fn clear(&mut self) {
        self.queues.iter_mut().for_each(QueueT::reset);
        self.interrupt.clear();
        for kick in &self.kicks {
            // Nothing to read is the usual case.
            let _ = kick.read();
        }
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            self.device.read_config(offset, data);
        } else if offset.is_multiple_of(4)
            && let Ok(data) = <&mut [u8; 4]>::try_from(data)
        {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            // The driver may write the configuration once it knows the device.
            if self.status & reg::DRIVER != 0 {
                self.device.write_config(offset, data);
            }
        } else if offset.is_multiple_of(4)
            && let Ok(data) = <[u8; 4]>::try_from(data)
        {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The half of a 64-bit set that a selector names.
fn half(features: u64, sel: u32) -> u32 {
    let shifted = match sel {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(shifted).unwrap_or(0)
}

fn low(address: u64, value: u32) -> GuestAddress {
    GuestAddress((address & !0xffff_ffff) | u64::from(value))
}

fn high(address: u64, value: u32) -> GuestAddress {
    GuestAddress((address & 0xffff_ffff) | (u64::from(value) << 32))
}
