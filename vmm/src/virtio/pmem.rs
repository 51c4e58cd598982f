//! virtio-pmem: memory of the host's that the guest has as a disk, with nothing to be read into its own. It is the guest's to
//! read only, so a flush has nothing to do.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use virtio_queue::Queue;

use super::device::{Activation, Rested, VirtioDevice, read_config_bytes};
use super::ring::{Ring, RingError, write_spans};
use super::worker::{Stop, Worker};
use crate::memory::GuestMemory;
use crate::snapshot::PersistError;
use crate::snapshot::persist::from_value;

/// The device's number (Virtio 1.2, §5).
const DEVICE_TYPE: u32 = 27;
const QUEUE_SIZE: u16 = 64;
/// The answer to a flush (Virtio 1.2, §5.19.6): it was done, or not.
const DONE: u32 = 0;
/// How long an answer is, in bytes.
const ANSWER: u32 = 4;

/// The device, which says where the memory is.
pub struct PmemDevice {
    /// `struct virtio_pmem_config` (Virtio 1.2, §5.19.4): address and size.
    config: [u8; 16],
    /// Whether a file is there.
    bound: bool,
    worker: Option<Worker<Queue>>,
}

impl PmemDevice {
    /// Tells of `size` bytes at the guest's address `start`; `bound` says whether a file is there.
    #[must_use]
    pub fn new((start, size): (u64, u64), bound: bool) -> Self {
        let mut config = [0; 16];
        config[..8].copy_from_slice(&start.to_le_bytes());
        config[8..].copy_from_slice(&size.to_le_bytes());
        Self { config, bound, worker: None }
    }
}

impl VirtioDevice for PmemDevice {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn name(&self) -> String {
        "virtio-pmem".to_owned()
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let queue = queues.into_iter().next().ok_or_else(|| io::Error::other("virtio-pmem has no queue"))?;
        let ring = Ring::new(queue, &memory, &interrupt);
        let body = move |stop: Stop| {
            let mut ring = ring;
            if serve(&mut ring, &memory, &stop).is_err() {
                interrupt.fail();
            }
            ring.into_queue()
        };
        self.worker = Some(Worker::spawn("virtio-pmem".to_owned(), body)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }

    fn rest(&mut self) -> Result<Rested, PersistError> {
        if self.bound {
            return Err(PersistError::Refused("a file has taken the reserved disk's place".to_owned()));
        }
        let queues = match self.worker.take().map(Worker::rest) {
            None => None,
            Some(Some(queue)) => Some(vec![queue]),
            Some(None) => return Err(PersistError::Refused("its thread panicked".to_owned())),
        };
        Ok(Rested { queues, state: serde_json::Value::Null })
    }

    fn take_on(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        from_value::<()>(state)
    }
}

impl Drop for PmemDevice {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Answers until it is told to stop or the driver breaks a rule.
fn serve(ring: &mut Ring, memory: &GuestMemory, stop: &Stop) -> Result<(), RingError> {
    while !stop.requested() {
        while let Some(chain) = ring.pop()? {
            let told = write_spans(memory, &chain.writable, 0, &DONE.to_le_bytes())?;
            ring.push(chain.head, if told { ANSWER } else { 0 })?;
            ring.notify()?;
            if stop.requested() {
                return Ok(());
            }
        }
        let mut fds = [
            PollFd::from_borrowed_fd(ring.kick(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(RingError::Interrupt(error.into())),
        }
        ring.clear_kick();
    }
    Ok(())
}
