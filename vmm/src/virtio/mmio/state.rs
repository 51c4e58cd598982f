//! The transport's state: its registers, where its queues are and how far they are served, and its device's own.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use virtio_queue::{Queue, QueueState, QueueT};

use super::{MmioTransport, reg};
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    status: u32,
    /// The device needs a reset.
    failed: bool,
    interrupt_status: u32,
    generation: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueRecord>,
    /// The device was at work.
    active: bool,
    device: Value,
}

/// A queue, by virtio's names (virtio 1.2, §2.7).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueRecord {
    size: u16,
    ready: bool,
    event_idx: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
    next_avail: u16,
    next_used: u16,
}

impl QueueRecord {
    fn of(queue: &Queue) -> Self {
        let own = queue.state();
        Self {
            size: own.size,
            ready: own.ready,
            event_idx: own.event_idx_enabled,
            desc_table: own.desc_table,
            avail_ring: own.avail_ring,
            used_ring: own.used_ring,
            next_avail: own.next_avail,
            next_used: own.next_used,
        }
    }

    /// The queue, of at most `max_size` descriptors. Its addresses are looked at before it is used.
    fn queue(&self, max_size: u16) -> Result<Queue, PersistError> {
        let state = QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        };
        Queue::try_from(state).map_err(|error| PersistError::Refused(format!("a queue can't be so: {error}")))
    }
}

impl Persist for MmioTransport {
    fn save(&mut self) -> Result<Value, PersistError> {
        let rested = self.device.rest()?;
        let active = rested.queues.is_some() && !self.interrupt.has_failed();
        // Those that the worker did not have are where the driver put them.
        for (own, left) in self.queues.iter_mut().zip(rested.queues.unwrap_or_default()) {
            *own = left;
        }
        to_value(State {
            status: self.status,
            failed: self.interrupt.has_failed(),
            interrupt_status: self.interrupt.status(),
            generation: self.interrupt.generation(),
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            queues: self.queues.iter().map(QueueRecord::of).collect(),
            active,
            device: rested.state,
        })
    }

    fn restore(&mut self, state: Value) -> Result<(), PersistError> {
        let own: State = from_value(state)?;
        let refused = |what: &str| PersistError::Refused(what.to_owned());
        if own.queues.len() != self.queues.len() {
            return Err(refused("it has another number of queues"));
        }
        if own.status & !reg::KNOWN != 0 || own.active && own.status & reg::DRIVER_OK == 0 {
            return Err(refused("its status is none that a driver can set"));
        }
        if own.status & reg::FEATURES_OK != 0 && own.driver_features & !self.offered() != 0 {
            return Err(refused("the driver has features that the device does not offer"));
        }
        let queues = own.queues.iter().zip(&self.queues).map(|(record, now)| record.queue(now.max_size()));
        self.queues = queues.collect::<Result<_, _>>()?;
        self.status = own.status;
        self.device_features_sel = own.device_features_sel;
        self.driver_features_sel = own.driver_features_sel;
        self.driver_features = own.driver_features;
        self.queue_sel = own.queue_sel;
        self.device.take_on(own.device)?;
        let line = |error: std::io::Error| PersistError::Refused(error.to_string());
        self.interrupt.take_on(own.interrupt_status, own.generation, own.failed).map_err(line)?;
        if own.active {
            self.activate().map_err(line)?;
            for kick in &self.kicks {
                // What was offered before the save may have been told to the device that is gone.
                kick.write(1).map_err(line)?;
            }
        }
        Ok(())
    }
}

impl MmioTransport {
    /// Says that the device's configuration changed, to a driver that is there.
    pub(crate) fn config_changed(&self) -> std::io::Result<()> {
        if self.status & reg::DRIVER_OK == 0 { Ok(()) } else { self.interrupt.config_changed() }
    }
}
