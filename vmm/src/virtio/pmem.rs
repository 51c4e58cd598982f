//! virtio-pmem: memory of the host's that the guest has as a disk, with nothing to be read into its own. It is the guest's to
//! read only, so a flush has nothing to do.

use std::io;

use virtio_queue::Queue;

use super::device::{Activation, Rested, VirtioDevice, read_config_bytes};
use super::ring::{self, Chain, write_spans};
use super::worker::{Worker, rest};
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
        let answer = |memory: &_, chain: &Chain, _: &_| {
            let told = write_spans(memory, &chain.writable, 0, &DONE.to_le_bytes())?;
            Ok(if told { ANSWER } else { 0 })
        };
        self.worker = Some(ring::serve("virtio-pmem".to_owned(), activation, answer)?);
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
        rest(self.worker.take())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{BUFFERS, Driver, RAM};

    const REQUEST: u64 = BUFFERS;
    const ANSWERED: u64 = BUFFERS + 16;

    fn start() -> Driver {
        let mut driver = Driver::new(Box::new(PmemDevice::new((0x1_4000_0000, 256 << 20), false)));
        driver.start(0, 1);
        driver.put(ANSWERED, &[0xee; 8]);
        driver
    }

    #[test]
    fn guest_reads_where_the_memory_is_and_how_large() {
        let mut driver = start();
        let words = [0x100, 0x104, 0x108, 0x10c].map(|offset| driver.get(offset));
        assert_eq!(words, [0x4000_0000, 1, 256 << 20, 0]);
    }

    #[test]
    fn flush_is_answered_with_four_bytes_and_no_more() {
        let mut driver = start();
        driver.put(REQUEST, &[0; 4]);
        let head = driver.add(0, &[(REQUEST, 4, false), (ANSWERED, 8, true)]);
        assert_eq!(driver.used(0), (u32::from(head), 4));
        assert_eq!(driver.take(ANSWERED, 8), [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
    }

    #[test]
    fn request_without_room_for_an_answer_gets_none_and_one_outside_ram_ends_the_device() {
        let mut driver = start();
        let head = driver.add(0, &[(REQUEST, 4, false), (ANSWERED, 2, true)]);
        assert_eq!(driver.used(0), (u32::from(head), 0));
        let head = driver.add(0, &[(REQUEST, 4, false)]);
        assert_eq!(driver.used(0), (u32::from(head), 0));
        driver.add(0, &[(RAM, 4, true)]);
        driver.needs_reset();
    }

    #[test]
    fn device_with_a_file_is_not_saved() {
        let mut device = PmemDevice::new((1 << 32, 256 << 20), true);
        assert!(matches!(device.rest(), Err(PersistError::Refused(_))));
    }
}
