//! The control messages of a console with several ports.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::memory::GuestMemory;
use crate::virtio::ring::{Ring, RingError, read_spans, total, write_spans};

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// The most messages that one message of the driver's is answered with, beside one for each port.
const ANSWERS: usize = 3;

/// What the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The driver is ready for the list of ports.
    DeviceReady,
    /// The driver has set up this port.
    PortReady(u32),
    /// A program of the guest opened or closed this port.
    PortOpen(u32, bool),
}

/// The two control queues, and the messages that wait for room.
pub(super) struct Control {
    rx: Ring,
    tx: Ring,
    memory: Arc<GuestMemory>,
    waiting: VecDeque<Vec<u8>>,
}

impl Control {
    pub(super) fn new((rx, tx): (Ring, Ring), memory: Arc<GuestMemory>) -> Self {
        Self { rx, tx, memory, waiting: VecDeque::new() }
    }

    pub(super) fn rings(&self) -> [&Ring; 2] {
        [&self.rx, &self.tx]
    }

    pub(super) fn add(&mut self, port: u32) {
        self.send(port, PORT_ADD, 1, &[]);
    }

    pub(super) fn console(&mut self, port: u32) {
        self.send(port, CONSOLE_PORT, 1, &[]);
    }

    pub(super) fn name(&mut self, port: u32, name: &str) {
        self.send(port, PORT_NAME, 1, name.as_bytes());
    }

    pub(super) fn open(&mut self, port: u32, open: bool) {
        self.send(port, PORT_OPEN, u16::from(open), &[]);
    }

    /// The queues, and the messages that wait for room.
    pub(super) fn into_parts(self) -> (Ring, Ring, Vec<Vec<u8>>) {
        (self.rx, self.tx, self.waiting.into())
    }

    /// Has these messages wait.
    pub(super) fn take_on(&mut self, waiting: Vec<Vec<u8>>) {
        self.waiting = waiting.into();
    }

    fn send(&mut self, port: u32, event: u16, value: u16, tail: &[u8]) {
        let mut message = Vec::with_capacity(8 + tail.len());
        message.extend_from_slice(&port.to_le_bytes());
        message.extend_from_slice(&event.to_le_bytes());
        message.extend_from_slice(&value.to_le_bytes());
        message.extend_from_slice(tail);
        self.waiting.push_back(message);
    }

    /// The driver's next message, one that means something here. While too much waits to be said the driver
    /// isn't listened to, so that what waits stays bounded: by a few messages for each of the `ports`.
    pub(super) fn next(&mut self, ports: usize) -> Result<Option<Request>, RingError> {
        for _ in 0..self.tx.size() {
            if self.waiting.len() > ports + ANSWERS {
                return Ok(None);
            }
            let Some(chain) = self.tx.pop()? else { return Ok(None) };
            let mut bytes = [0; 8];
            let whole = read_spans(&self.memory, &chain.readable, 0, &mut bytes)?;
            self.tx.push(chain.head, 0)?;
            let [p0, p1, p2, p3, e0, e1, v0, v1] = bytes;
            let port = u32::from_le_bytes([p0, p1, p2, p3]);
            let value = u16::from_le_bytes([v0, v1]);
            match u16::from_le_bytes([e0, e1]) {
                _ if !whole => {}
                DEVICE_READY if value == 1 => return Ok(Some(Request::DeviceReady)),
                PORT_READY if value == 1 => return Ok(Some(Request::PortReady(port))),
                PORT_OPEN => return Ok(Some(Request::PortOpen(port, value != 0))),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Delivers what waits, as far as the driver has given room. `true`: something moved, so that there may be
    /// more to do at once, such as to listen again.
    pub(super) fn deliver(&mut self) -> Result<bool, RingError> {
        let mut moved = false;
        for _ in 0..self.rx.size() {
            let Some(message) = self.waiting.front() else { break };
            let Some(chain) = self.rx.pop()? else { break };
            moved = true;
            let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
            // Room that is too small goes back empty; the message waits for better.
            if total(&chain.writable) < u64::from(len) {
                self.rx.push(chain.head, 0)?;
                continue;
            }
            write_spans(&self.memory, &chain.writable, 0, message)?;
            self.rx.push(chain.head, len)?;
            self.waiting.pop_front();
        }
        Ok(moved)
    }

    pub(super) fn notify(&mut self) -> Result<(), RingError> {
        self.tx.notify()?;
        self.rx.notify()
    }
}
