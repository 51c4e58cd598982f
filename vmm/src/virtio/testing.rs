//! A driver for unit tests: it programs the transport's registers and builds queues in memory by hand.

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::device::{FEATURE_VERSION_1, VirtioDevice};
use super::mmio::MmioTransport;
use crate::bus::BusDevice;
use crate::irq::Interrupt;
use crate::memory::GuestMemory;
use crate::snapshot::{Persist, PersistError};

pub(super) const RAM: u64 = 16 << 20;
/// Where tests put their buffers: above all queues.
pub(super) const BUFFERS: u64 = 4 << 20;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// An interrupt line that can be waited for.
#[derive(Default)]
pub(super) struct Line {
    edges: Mutex<usize>,
    raised: Condvar,
}

/// Far more than a device takes to answer on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

impl Interrupt for Line {
    fn trigger(&self) -> io::Result<()> {
        *self.edges.lock().unwrap() += 1;
        self.raised.notify_all();
        Ok(())
    }
}

impl Line {
    pub(super) fn edges(&self) -> usize {
        *self.edges.lock().unwrap()
    }

    /// Looks with `check` now and after every edge, until it finds something.
    pub(super) fn wait<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        let mut edges = self.edges.lock().unwrap();
        loop {
            if let Some(found) = check() {
                return found;
            }
            let (guard, timeout) = self.raised.wait_timeout(edges, LIMIT).unwrap();
            assert!(!timeout.timed_out(), "the device raised no interrupt");
            edges = guard;
        }
    }
}

/// One queue on the driver's side.
pub(super) struct TestQueue {
    index: u32,
    size: u16,
    next_descriptor: u16,
    next_avail: u16,
    last_used: u16,
}

impl TestQueue {
    fn base(&self) -> u64 {
        0x1_0000 + u64::from(self.index) * 0x4000
    }

    fn avail(&self) -> u64 {
        self.base() + 0x1000
    }

    fn used_ring(&self) -> u64 {
        self.base() + 0x2000
    }
}

/// A driver with the device that it drives.
pub(super) struct Driver {
    pub(super) transport: MmioTransport,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) line: Arc<Line>,
    pub(super) queues: Vec<TestQueue>,
}

impl Driver {
    pub(super) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(RAM).unwrap())]).unwrap();
        let memory = Arc::new(memory);
        let line = Arc::new(Line::default());
        let interrupt: Arc<dyn Interrupt> = Arc::<Line>::clone(&line);
        let transport = MmioTransport::new(device, Arc::clone(&memory), interrupt).unwrap();
        Self { transport, memory, line, queues: Vec::new() }
    }

    /// Ends the device between two requests; its state, by way of its text.
    pub(super) fn rest(&mut self) -> serde_json::Value {
        let state = self.transport.save().unwrap();
        serde_json::from_str(&state.to_string()).unwrap()
    }

    /// Puts a new transport with `device` in the place of the one that rests, and has it go on from `state`.
    pub(super) fn go_on(
        &mut self,
        device: Box<dyn VirtioDevice>,
        state: serde_json::Value,
    ) -> Result<(), PersistError> {
        let interrupt: Arc<dyn Interrupt> = Arc::<Line>::clone(&self.line);
        self.transport = MmioTransport::new(device, Arc::clone(&self.memory), interrupt).unwrap();
        self.transport.restore(state)
    }

    pub(super) fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn set(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Goes up to `FEATURES_OK` with the device's own features out of `features`.
    pub(super) fn negotiate(&mut self, features: u64) {
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        let features = features | FEATURE_VERSION_1;
        for (sel, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set(0x24, sel);
            self.set(0x20, u32::try_from(half).unwrap());
        }
        self.set(0x70, 11);
    }

    /// Goes all the way to `DRIVER_OK`.
    pub(super) fn start(&mut self, features: u64, queues: u32) {
        self.negotiate(features);
        assert_eq!(self.get(0x70), 11, "the features were refused");
        self.queues.clear();
        for index in 0..queues {
            self.set(0x30, index);
            let size = u16::try_from(self.get(0x34)).unwrap();
            let queue = TestQueue { index, size, next_descriptor: 0, next_avail: 0, last_used: 0 };
            self.memory.write_slice(&[0; 0x4000], GuestAddress(queue.base())).unwrap();
            self.set(0x38, u32::from(size));
            for (offset, address) in [(0x80, queue.base()), (0x90, queue.avail()), (0xa0, queue.used_ring())]
            {
                self.set(offset, u32::try_from(address).unwrap());
                self.set(offset + 4, 0);
            }
            self.set(0x44, 1);
            self.queues.push(queue);
        }
        self.set(0x70, 15);
    }

    pub(super) fn descriptor(&self, queue: usize, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = self.queues[queue].base() + u64::from(index) * 16;
        self.memory.write_obj(addr, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain of (address, length, device writes) and hands it over; the answer is its head.
    pub(super) fn add(&mut self, queue: usize, parts: &[(u64, u32, bool)]) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next_descriptor;
        for (at, &(addr, len, write)) in (1..).zip(parts) {
            let index = self.queues[queue].next_descriptor;
            let next = (index + 1) % size;
            let more = if at < parts.len() { NEXT } else { 0 };
            self.descriptor(queue, index, addr, len, more | if write { WRITE } else { 0 }, next);
            self.queues[queue].next_descriptor = next;
        }
        self.offer(queue, head);
        head
    }

    /// Hands over the chain at `head` and notifies.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let state = &mut self.queues[queue];
        let slot = u64::from(state.next_avail % state.size);
        self.memory.write_obj(head, GuestAddress(state.avail() + 4 + 2 * slot)).unwrap();
        state.next_avail = state.next_avail.wrapping_add(1);
        let (idx, index) = (state.next_avail, state.index);
        self.set_avail_index(queue, idx);
        self.set(0x50, index);
    }

    pub(super) fn set_avail_index(&self, queue: usize, idx: u16) {
        let at = GuestAddress(self.queues[queue].avail() + 2);
        self.memory.store(idx, at, Ordering::Release).unwrap();
    }

    /// Waits for the next used chain: its head and the length written.
    pub(super) fn used(&mut self, queue: usize) -> (u32, u32) {
        let state = &mut self.queues[queue];
        let idx = GuestAddress(state.used_ring() + 2);
        let memory = &self.memory;
        // With event indices the device interrupts only for what this names.
        let event = GuestAddress(state.avail() + 4 + 2 * u64::from(state.size));
        memory.store(state.last_used, event, Ordering::SeqCst).unwrap();
        fence(Ordering::SeqCst);
        self.line.wait(|| {
            let now: u16 = memory.load(idx, Ordering::Acquire).unwrap();
            (now != state.last_used).then_some(())
        });
        let at = state.used_ring() + 4 + 8 * u64::from(state.last_used % state.size);
        state.last_used = state.last_used.wrapping_add(1);
        (self.memory.read_obj(GuestAddress(at)).unwrap(), self.memory.read_obj(GuestAddress(at + 4)).unwrap())
    }

    /// Waits until the device says that it needs a reset.
    pub(super) fn needs_reset(&mut self) {
        let Self { transport, line, .. } = self;
        line.wait(|| {
            let mut data = [0; 4];
            transport.read(0x70, &mut data);
            (u32::from_le_bytes(data) & 64 != 0).then_some(())
        });
    }

    pub(super) fn put(&self, addr: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(addr)).unwrap();
    }

    pub(super) fn take(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(addr)).unwrap();
        data
    }
}
