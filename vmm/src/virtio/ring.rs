//! One queue as a worker uses it: chains come out checked, and the guest is told as rarely as it asked.
//!
//! The guest owns every byte of a queue. A chain is walked once, into a list of bounded length, and judged
//! whole; nothing that it says is read a second time.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, poll};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, InterruptSource};
use super::worker::{self, Stop, Worker};
use crate::memory::GuestMemory;

/// What ends the service of a device: the driver broke the rules of the queue, or the host's line failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    /// The ring's own indices or addresses.
    #[error("virtqueue: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// A chain with no end, no start, too many parts, or parts in the wrong order.
    #[error("virtqueue: malformed descriptor chain at {0}")]
    Chain(u16),
    /// A buffer outside RAM.
    #[error("virtqueue: buffer outside the guest's memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// The interrupt's eventfd.
    #[error("virtio interrupt: {0}")]
    Interrupt(#[from] io::Error),
}

/// Serves the only queue of a device on the thread `name`, as [`Ring::serve`] does; a driver that breaks a rule finds that the device
/// needs a reset.
///
/// # Errors
/// The device has no queue, or the host has no room for the thread.
pub(super) fn serve(
    name: String,
    activation: Activation,
    mut answer: impl FnMut(&GuestMemory, &Chain, &Stop) -> Result<u32, RingError> + Send + 'static,
) -> io::Result<Worker<Queue>> {
    let Activation { memory, queues, interrupt, .. } = activation;
    let queue = queues.into_iter().next().ok_or_else(|| io::Error::other(format!("{name} has no queue")))?;
    let mut ring = Ring::new(queue, &memory, &interrupt);
    Worker::spawn(name, move |stop: Stop| {
        if ring.serve(&stop, |chain| answer(&memory, chain, &stop)).is_err() {
            interrupt.fail();
        }
        ring.into_queue()
    })
}

/// A piece of a buffer in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) addr: GuestAddress,
    pub(super) len: u32,
}

/// A checked descriptor chain: every span lies in RAM.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    /// What the driver wrote for the device.
    pub(super) readable: Vec<Span>,
    /// What the device may write.
    pub(super) writable: Vec<Span>,
}

/// The number of bytes of a list of spans.
pub(super) fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.len)).sum()
}

/// Calls `piece(address, start, end)` for each piece of the `len` bytes at `offset` of `spans`, where
/// `start..end` is the piece's place in those bytes. `false` if the spans are too short for them.
fn pieces(
    spans: &[Span],
    mut offset: u64,
    len: usize,
    mut piece: impl FnMut(GuestAddress, usize, usize) -> Result<(), RingError>,
) -> Result<bool, RingError> {
    let mut done = 0;
    for span in spans {
        if done == len {
            break;
        }
        let size = u64::from(span.len);
        if offset >= size {
            offset -= size;
            continue;
        }
        let part = usize::try_from(size - offset).unwrap_or(usize::MAX).min(len - done);
        piece(span.addr.unchecked_add(offset), done, done + part)?;
        done += part;
        offset = 0;
    }
    Ok(done == len)
}

/// Reads `data.len()` bytes at `offset`; `false` if the spans are too short.
pub(super) fn read_spans(
    memory: &GuestMemory,
    spans: &[Span],
    offset: u64,
    data: &mut [u8],
) -> Result<bool, RingError> {
    pieces(spans, offset, data.len(), |addr, start, end| Ok(memory.read_slice(&mut data[start..end], addr)?))
}

/// Writes `data` at `offset`; `false` if the spans are too short.
pub(super) fn write_spans(
    memory: &GuestMemory,
    spans: &[Span],
    offset: u64,
    data: &[u8],
) -> Result<bool, RingError> {
    pieces(spans, offset, data.len(), |addr, start, end| Ok(memory.write_slice(&data[start..end], addr)?))
}

/// A queue in service.
pub(super) struct Ring {
    queue: Queue,
    kick: EventFd,
    memory: Arc<GuestMemory>,
    interrupt: Arc<InterruptSource>,
    /// Chains were given back since the guest was last told.
    used: bool,
}

impl Ring {
    pub(super) fn new(
        (queue, kick): (Queue, EventFd),
        memory: &Arc<GuestMemory>,
        interrupt: &Arc<InterruptSource>,
    ) -> Self {
        Self { queue, kick, memory: Arc::clone(memory), interrupt: Arc::clone(interrupt), used: false }
    }

    /// The queue, as far as it was served.
    pub(super) fn into_queue(self) -> Queue {
        self.queue
    }

    /// Puts the chain that was taken last back, as if it had not been.
    pub(super) fn put_back(&mut self) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(1));
    }

    /// Serves the queue until it is told to stop or the driver breaks a rule. `answer` serves a request, and says how many
    /// bytes it wrote for it.
    pub(super) fn serve(
        &mut self,
        stop: &Stop,
        mut answer: impl FnMut(&Chain) -> Result<u32, RingError>,
    ) -> Result<(), RingError> {
        while !stop.requested() {
            while let Some(chain) = self.pop()? {
                let used = answer(&chain)?;
                self.push(chain.head, used)?;
                self.notify()?;
                if stop.requested() {
                    return Ok(());
                }
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.kick(), PollFlags::IN),
                PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(RingError::Interrupt(error.into())),
            }
            self.clear_kick();
        }
        Ok(())
    }

    /// The eventfd of the driver's notifications, for polling.
    pub(super) fn kick(&self) -> BorrowedFd<'_> {
        worker::borrow(&self.kick)
    }

    /// Takes back a notification, so that the eventfd polls as quiet.
    pub(super) fn clear_kick(&self) {
        // The eventfd doesn't block: with nothing to read this does nothing.
        let _ = self.kick.read();
    }

    /// The most chains that can be waiting at one time: the batch after which a worker looks up.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Takes the next chain. `None` promises that the driver's next chain makes the kick readable.
    pub(super) fn pop(&mut self) -> Result<Option<Chain>, RingError> {
        if !self.queue.ready() {
            return Ok(None);
        }
        if let Some(chain) = self.take()? {
            return Ok(Some(chain));
        }
        if self.queue.enable_notification(&*self.memory)? { self.take() } else { Ok(None) }
    }

    fn take(&mut self) -> Result<Option<Chain>, RingError> {
        let limit = usize::from(self.queue.size());
        let Some(descriptors) = self.queue.iter(&*self.memory)?.next() else { return Ok(None) };
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut open = true;
        for descriptor in descriptors {
            if chain.readable.len() + chain.writable.len() == limit {
                return Err(RingError::Chain(head));
            }
            let span = Span { addr: descriptor.addr(), len: descriptor.len() };
            let len = usize::try_from(span.len).unwrap_or(usize::MAX);
            if len > 0 && !GuestMemoryBackend::check_range(&*self.memory, span.addr, len) {
                return Err(RingError::Chain(head));
            }
            match (descriptor.is_write_only(), chain.writable.is_empty()) {
                (true, _) => chain.writable.push(span),
                (false, true) => chain.readable.push(span),
                (false, false) => return Err(RingError::Chain(head)),
            }
            open = descriptor.has_next();
        }
        // The walk stops early at a loop and at a table outside RAM: the last one seen then has a successor.
        if open { Err(RingError::Chain(head)) } else { Ok(Some(chain)) }
    }

    /// Gives a chain back with `len` bytes written into it.
    pub(super) fn push(&mut self, head: u16, len: u32) -> Result<(), RingError> {
        self.queue.add_used(&*self.memory, head, len)?;
        self.used = true;
        Ok(())
    }

    /// Tells the guest of what was given back, if it wants to know.
    pub(super) fn notify(&mut self) -> Result<(), RingError> {
        if std::mem::take(&mut self.used) && self.wants_interrupt()? {
            self.interrupt.used()?;
        }
        Ok(())
    }

    fn wants_interrupt(&mut self) -> Result<bool, RingError> {
        if self.queue.event_idx_enabled() {
            return Ok(self.queue.needs_notification(&*self.memory)?);
        }
        // The used index must be out before the flag is read, or a driver that goes to sleep is missed.
        std::sync::atomic::fence(Ordering::SeqCst);
        let flags: u16 = self.memory.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)?;
        Ok(u16::from_le(flags) & 1 == 0)
    }
}
