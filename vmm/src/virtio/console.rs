//! virtio-console: the console `hvc0` on port 0, and named ports that are each a byte stream of the host.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::device::{Activation, FEATURE_EVENT_IDX, Rested, VirtioDevice, read_config_bytes};
use super::ring::Ring;
use super::worker::{Stop, Worker};
use crate::snapshot::PersistError;

mod control;
mod port;
mod serve;
mod state;
#[cfg(test)]
mod tests;

use port::{Host, Port};
use serve::{Left, Server};
use state::Active;

const DEVICE_TYPE: u32 = 3;
const QUEUE_SIZE: u16 = 128;
const FEATURE_MULTIPORT: u64 = 1 << 1;
/// The number of columns and rows, the number of ports, and the register for emergency output.
const CONFIG_LEN: usize = 12;

/// The host's side of the console.
pub struct ConsoleEnd {
    /// Where the guest's input comes from; it is read only when it polls as readable.
    pub input: Option<OwnedFd>,
    /// Where the guest's output goes. A writer that blocks holds up the device's other ports.
    pub output: Box<dyn Write + Send>,
}

/// A port's name and, as long as it lives, the host's side of it.
struct Slot {
    name: String,
    host: Option<Host>,
}

/// A console with named ports.
pub struct ConsoleDevice {
    /// One for each port; the first is the console's.
    slots: Vec<Slot>,
    has_console: bool,
    queue_sizes: Vec<u16>,
    config: [u8; CONFIG_LEN],
    worker: Option<Worker<Left>>,
    /// What the next worker goes on from.
    taken_on: Option<Active>,
}

impl ConsoleDevice {
    /// A device with the console on port 0, if there is one, and the named ports on port 1 and up.
    ///
    /// A stream is not read before the guest opens its port, and is shut down when the guest closes it.
    ///
    /// # Errors
    /// A stream that can't be made non-blocking.
    pub fn new(console: Option<ConsoleEnd>, ports: Vec<(String, UnixStream)>) -> io::Result<Self> {
        let has_console = console.is_some();
        let mut slots = vec![Slot { name: String::new(), host: console.map(Host::Console) }];
        for (name, stream) in ports {
            stream.set_nonblocking(true)?;
            slots.push(Slot { name, host: Some(Host::Stream(stream)) });
        }
        // Each port has two queues, and with more than the console so has the control.
        let queues = if slots.len() > 1 { 2 * (slots.len() + 1) } else { 2 };
        let mut config = [0; CONFIG_LEN];
        config[4..8].copy_from_slice(&u32::try_from(slots.len()).unwrap_or(u32::MAX).to_le_bytes());
        Ok(Self {
            slots,
            has_console,
            queue_sizes: vec![QUEUE_SIZE; queues],
            config,
            worker: None,
            taken_on: None,
        })
    }
}

impl ConsoleDevice {
    fn take_back(&mut self, hosts: Vec<Option<Host>>) {
        for (slot, host) in self.slots.iter_mut().zip(hosts) {
            slot.host = host;
        }
    }
}

impl VirtioDevice for ConsoleDevice {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn name(&self) -> String {
        "virtio-console".to_owned()
    }

    fn features(&self) -> u64 {
        FEATURE_EVENT_IDX | if self.slots.len() > 1 { FEATURE_MULTIPORT } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, features, interrupt } = activation;
        let mut rings = queues.into_iter().map(|queue| Ring::new(queue, &memory, &interrupt));
        let multiport = features & FEATURE_MULTIPORT != 0;
        let mut control = None;
        let mut ports = Vec::new();
        for (id, slot) in self.slots.iter_mut().enumerate() {
            // Without the feature there is one port, and it is open from the start.
            if id > 0 && !multiport {
                break;
            }
            let (Some(rx), Some(tx)) = (rings.next(), rings.next()) else { break };
            let present = id > 0 || self.has_console;
            ports.push(Port::new(slot.name.clone(), present, slot.host.take(), rx, tx, !multiport));
            if id == 0 && multiport {
                control = rings.next().zip(rings.next());
            }
        }
        let mut server = Server::new(ports, control, memory);
        if let Some(state) = self.taken_on.take() {
            server.take_on(state);
        }
        let body = move |stop: Stop| server.run(&stop, &interrupt);
        self.worker = Some(Worker::spawn("virtio-console".to_owned(), body)?);
        Ok(())
    }

    fn reset(&mut self) {
        let Some(left) = self.worker.take().and_then(Worker::stop) else { return };
        self.take_back(left.hosts);
    }

    fn rest(&mut self) -> Result<Rested, PersistError> {
        let Some(worker) = self.worker.take() else {
            return Ok(Rested { queues: None, state: self.state(None)? });
        };
        let left = worker.rest().ok_or_else(|| PersistError::Refused("its thread panicked".to_owned()))?;
        self.take_back(left.hosts);
        Ok(Rested { queues: Some(left.queues), state: self.state(Some(left.state))? })
    }

    fn take_on(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        self.take_on_state(state)
    }

    fn stop(&mut self) {
        self.reset();
        for host in self.slots.iter_mut().filter_map(|slot| slot.host.take()) {
            host.close();
        }
    }
}

impl Drop for ConsoleDevice {
    fn drop(&mut self) {
        self.stop();
    }
}
