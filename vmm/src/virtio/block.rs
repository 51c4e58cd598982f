//! virtio-blk: one queue, requests served one after another in the order they came.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;

use super::device::{
    Activation, FEATURE_EVENT_IDX, FEATURE_INDIRECT_DESC, Rested, VirtioDevice, read_config_bytes,
};
use super::ring;
use super::worker::{Worker, rest};
use crate::block::{RawDisk, SECTOR};
use crate::snapshot::PersistError;
use crate::snapshot::persist::from_value;

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
    /// None: a read-only disk of no sectors, whose place another can take in a machine that is restored.
    disk: Option<Arc<RawDisk>>,
    name: String,
    config: [u8; 24],
    worker: Option<Worker<Queue>>,
    reserved: bool,
}

impl BlockDevice {
    /// A device on `disk`; `name` (such as `vda`) is its serial number too.
    #[must_use]
    pub fn new(disk: RawDisk, name: String) -> Self {
        Self::with(Some(disk), name, false)
    }

    /// A device with `disk`, which is only read, or without any.
    #[must_use]
    pub fn reserved(disk: Option<RawDisk>, name: String) -> Self {
        Self::with(disk, name, true)
    }

    fn with(disk: Option<RawDisk>, name: String, reserved: bool) -> Self {
        let mut config = [0; 24];
        let sectors = disk.as_ref().map_or(0, RawDisk::size) / SECTOR;
        config[0..8].copy_from_slice(&sectors.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&512_u32.to_le_bytes());
        Self { disk: disk.map(Arc::new), name, config, worker: None, reserved }
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
        let read_only = if self.disk.as_ref().is_none_or(|disk| disk.read_only()) { FEATURE_RO } else { 0 };
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
        let mut server = Server::new(self.disk.clone(), &self.name);
        let answer = move |memory: &_, chain: &_, stop: &_| server.serve(memory, chain, stop);
        self.worker = Some(ring::serve(format!("virtio-{}", self.name), activation, answer)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }

    fn rest(&mut self) -> Result<Rested, PersistError> {
        let kept = |what: &str| Err(PersistError::Refused(what.to_owned()));
        match &self.disk {
            Some(disk) if disk.is_ahead_of_its_file() => {
                return kept("what was written since the machine was restored is in memory alone");
            }
            Some(_) if self.reserved => return kept("a file has taken the reserved disk's place"),
            _ => {}
        }
        rest(self.worker.take())
    }

    fn take_on(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        from_value::<()>(state)
    }

    fn stop(&mut self) {
        self.reset();
        // Nobody is left to tell of a failure; the guest's own flushes reported theirs.
        let _ = self.disk.as_ref().map(|disk| disk.flush());
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        self.reset();
    }
}
