//! virtio-blk: one queue, requests served one after another in the order they came.

use std::io;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use super::device::{Activation, FEATURE_EVENT_IDX, FEATURE_INDIRECT_DESC, VirtioDevice, read_config_bytes};
use super::ring::{Ring, RingError};
use super::worker::{Stop, Worker};
use crate::block::{RawDisk, SECTOR};
use crate::memory::GuestMemory;

mod request;
#[cfg(test)]
mod tests;

use request::Server;

const DEVICE_TYPE: u32 = 2;
const QUEUE_SIZE: u16 = 256;
/// Two descriptors of a chain are the request's header and its status.
const SEG_MAX: u32 = 126;

const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_RO: u64 = 1 << 5;
const FEATURE_BLK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;

/// A disk as the guest sees it.
pub struct BlockDevice {
    disk: Arc<RawDisk>,
    name: String,
    config: [u8; 24],
    worker: Option<Worker<()>>,
}

impl BlockDevice {
    /// A device on `disk`; `name` (such as `vda`) is its serial number too.
    #[must_use]
    pub fn new(disk: RawDisk, name: String) -> Self {
        let mut config = [0; 24];
        config[0..8].copy_from_slice(&(disk.size() / SECTOR).to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&512_u32.to_le_bytes());
        Self { disk: Arc::new(disk), name, config, worker: None }
    }
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn name(&self) -> String {
        format!("virtio-blk {}", self.name)
    }

    fn features(&self) -> u64 {
        let read_only = if self.disk.read_only() { FEATURE_RO } else { 0 };
        let ring = FEATURE_EVENT_IDX | FEATURE_INDIRECT_DESC;
        FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_FLUSH | ring | read_only
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
        let queue = queues.into_iter().next().ok_or_else(|| io::Error::other("virtio-blk has no queue"))?;
        let ring = Ring::new(queue, &memory, &interrupt);
        let server = Server::new(Arc::clone(&self.disk), &self.name);
        let body = move |stop: Stop| {
            if serve(ring, server, &memory, &stop).is_err() {
                interrupt.fail();
            }
        };
        self.worker = Some(Worker::spawn(format!("virtio-{}", self.name), body)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }

    fn stop(&mut self) {
        self.reset();
        // Nobody is left to tell of a failure; the guest's own flushes reported theirs.
        let _ = self.disk.flush();
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Serves the queue until it is told to stop or the driver breaks a rule.
fn serve(mut ring: Ring, mut server: Server, memory: &GuestMemory, stop: &Stop) -> Result<(), RingError> {
    while !stop.requested() {
        while let Some(chain) = ring.pop()? {
            let used = server.serve(memory, &chain, stop)?;
            ring.push(chain.head, used)?;
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
