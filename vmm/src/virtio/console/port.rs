//! One port: a pair of queues on the guest's side, a stream or the console on the host's.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestMemoryBackend, ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};

use super::ConsoleEnd;
use crate::memory::GuestMemory;
use crate::virtio::ring::{Chain, Ring, RingError, Span, total};

/// The host's side of a port.
pub(super) enum Host {
    /// The console: output that takes everything, input that may be a terminal.
    Console(ConsoleEnd),
    /// A non-blocking stream.
    Stream(UnixStream),
}

impl Host {
    /// Ends a stream so that its other end sees the end at once. The console has no end of its own.
    pub(super) fn close(self) {
        let Self::Stream(mut stream) = self else { return };
        // An end that is gone already is what is wanted.
        let _ = stream.shutdown(Shutdown::Both);
        // A socket closed with bytes unread tells its other end of a reset instead of an end. Nothing more
        // can come in, so that what is read here is what one socket's buffer holds.
        let _ = io::copy(&mut stream, &mut io::sink());
    }
}

/// What came of moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing more to do before an event.
    Idle,
    /// There may be more to do at once; it was put off so that the other ports get their turn.
    More,
}

/// A port.
pub(super) struct Port {
    pub(super) name: String,
    /// Whether the guest is told of it at all.
    pub(super) present: bool,
    pub(super) host: Option<Host>,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    /// A program of the guest's has it open.
    pub(super) guest_open: bool,
    /// The guest closed it: the stream ends as soon as what was sent before is delivered.
    pub(super) closing: bool,
    /// The host's side sends no more.
    pub(super) ended: bool,
    /// The guest was told that the host's side is open.
    pub(super) announced: bool,
    /// The host's side polled as readable.
    pub(super) readable: bool,
    /// The host's side takes nothing now.
    pub(super) blocked: bool,
    /// Room of the guest's that waits for bytes.
    room: Option<Chain>,
    /// Bytes of the guest's that are partly sent.
    sending: Option<(Chain, u64)>,
}

/// How many bytes a queue moves in a turn, about: the others' turns, and the end of the machine, must not wait for a
/// guest whose buffers are all of its memory, over and over.
const TURN: u64 = 1 << 20;

impl Port {
    pub(super) fn new(
        name: String,
        present: bool,
        host: Option<Host>,
        rx: Ring,
        tx: Ring,
        guest_open: bool,
    ) -> Self {
        Self {
            name,
            present,
            host,
            rx,
            tx,
            guest_open,
            closing: false,
            ended: false,
            announced: false,
            readable: false,
            blocked: false,
            room: None,
            sending: None,
        }
    }

    /// The descriptor to poll for input: only while the guest listens and has room.
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        if self.readable || self.ended || !self.guest_open || self.room.is_none() {
            return None;
        }
        match self.host.as_ref()? {
            Host::Console(end) => end.input.as_ref().map(AsFd::as_fd),
            Host::Stream(stream) => Some(stream.as_fd()),
        }
    }

    /// The descriptor to poll for room: only while bytes wait for it.
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        match self.host.as_ref()? {
            Host::Stream(stream) if self.blocked => Some(stream.as_fd()),
            _ => None,
        }
    }

    /// Moves bytes from the guest to the host.
    pub(super) fn pump_tx(&mut self, memory: &GuestMemory) -> Result<Progress, RingError> {
        let mut budget = TURN;
        for _ in 0..self.tx.size() {
            if self.blocked {
                return Ok(Progress::Idle);
            }
            if budget == 0 {
                return Ok(Progress::More);
            }
            let (chain, done) = match self.sending.take() {
                Some(sending) => sending,
                None => match self.tx.pop()? {
                    Some(chain) => (chain, 0),
                    None => return Ok(Progress::Idle),
                },
            };
            let end = total(&chain.readable);
            let sent = self.send(memory, &chain.readable, done, budget)?;
            budget = budget.saturating_sub(sent);
            let done = done.saturating_add(sent);
            if done < end {
                self.sending = Some((chain, done));
                return Ok(if self.blocked { Progress::Idle } else { Progress::More });
            }
            self.tx.push(chain.head, 0)?;
        }
        Ok(Progress::More)
    }

    /// Sends what follows the first `skip` bytes, at most some `limit`; the answer is how much went out. With nobody to send to
    /// everything is dropped.
    fn send(
        &mut self,
        memory: &GuestMemory,
        spans: &[Span],
        mut skip: u64,
        limit: u64,
    ) -> Result<u64, RingError> {
        let mut sent = 0;
        for span in spans {
            let size = u64::from(span.len);
            if skip >= size {
                skip -= size;
                continue;
            }
            for slice in memory.get_slices(span.addr, to_usize(size)) {
                let mut slice = slice?;
                let jump = to_usize(skip).min(slice.len());
                skip -= jump as u64;
                slice = slice.offset(jump).map_err(vm_memory::GuestMemoryError::from)?;
                while !slice.is_empty() {
                    if sent >= limit {
                        return Ok(sent);
                    }
                    let most = slice.len().min(to_usize(limit - sent));
                    let piece = slice.subslice(0, most).map_err(vm_memory::GuestMemoryError::from)?;
                    let Some(host) = &mut self.host else { return Ok(u64::MAX >> 1) };
                    match write_some(host, &piece) {
                        Ok(count) if count > 0 => {
                            sent += count as u64;
                            slice = slice.offset(count).map_err(vm_memory::GuestMemoryError::from)?;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.blocked = true;
                            return Ok(sent);
                        }
                        // The other end is gone: this and all that follows is dropped.
                        Ok(_) | Err(_) => self.hang_up(),
                    }
                }
            }
        }
        Ok(sent)
    }

    /// Moves bytes from the host to the guest.
    pub(super) fn pump_rx(&mut self, memory: &GuestMemory) -> Result<Progress, RingError> {
        if !self.guest_open {
            return Ok(Progress::Idle);
        }
        let mut budget = TURN;
        for _ in 0..self.rx.size() {
            if budget == 0 {
                return Ok(Progress::More);
            }
            let chain = match self.room.take() {
                Some(chain) => chain,
                None => match self.rx.pop()? {
                    Some(chain) if total(&chain.writable) > 0 => chain,
                    Some(useless) => {
                        self.rx.push(useless.head, 0)?;
                        continue;
                    }
                    None => return Ok(Progress::Idle),
                },
            };
            let received = if self.readable { self.receive(memory, &chain.writable)? } else { 0 };
            if received == 0 {
                self.room = Some(chain);
                return Ok(Progress::Idle);
            }
            self.rx.push(chain.head, received)?;
            budget = budget.saturating_sub(u64::from(received));
        }
        Ok(Progress::More)
    }

    /// Fills `spans` from the start, as far as there are bytes.
    fn receive(&mut self, memory: &GuestMemory, spans: &[Span]) -> Result<u32, RingError> {
        let mut received: u32 = 0;
        for span in spans {
            for slice in memory.get_slices(span.addr, to_usize(u64::from(span.len))) {
                let mut slice = slice?;
                // A console's input may block at a second read, and is asked again by polling.
                if !self.readable || slice.is_empty() {
                    continue;
                }
                match self.read_some(&mut slice) {
                    Ok(count) if count > 0 => {
                        // A chain's spans were found to be shorter than 4 GiB in total.
                        received = received.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                        if count < slice.len() {
                            return Ok(received);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                    Ok(_) | Err(_) => {
                        self.ended = true;
                        self.readable = false;
                    }
                }
            }
        }
        Ok(received)
    }

    fn read_some(&mut self, slice: &mut VolatileSlice<'_, impl BitmapSlice>) -> io::Result<usize> {
        match &mut self.host {
            Some(Host::Stream(stream)) => interrupted(|| stream.read_volatile(slice)),
            Some(Host::Console(ConsoleEnd { input: Some(input), .. })) => {
                self.readable = false;
                interrupted(|| input.read_volatile(slice))
            }
            _ => Ok(0),
        }
    }

    /// The guest opens or closes the port.
    pub(super) fn set_guest_open(&mut self, open: bool) {
        // Only a port that was open can be closed: drivers say so of every port as they start.
        self.closing |= self.guest_open && !open && matches!(self.host, Some(Host::Stream(_)));
        self.guest_open = open;
    }

    /// Ends the stream if the guest closed the port and everything it sent before is out.
    pub(super) fn finish_closing(&mut self) {
        if self.closing && self.sending.is_none() {
            self.closing = false;
            self.hang_up();
        }
    }

    /// Lets go of a stream; the console stays.
    pub(super) fn hang_up(&mut self) {
        self.ended = true;
        self.readable = false;
        self.blocked = false;
        if let Some(host) = self.host.take() {
            host.close();
        }
    }

    /// Tells the guest of what it was given back.
    pub(super) fn notify(&mut self) -> Result<(), RingError> {
        self.tx.notify()?;
        self.rx.notify()
    }
}

fn write_some(host: &mut Host, slice: &VolatileSlice<'_, impl BitmapSlice>) -> io::Result<usize> {
    match host {
        Host::Stream(stream) => interrupted(|| stream.write_volatile(slice)),
        Host::Console(end) => {
            let mut buffer = [0; 4096];
            let count = slice.copy_to(&mut buffer);
            // A console that can't be written to must not stop the guest: the bytes count as gone.
            let _ = end.output.write_all(&buffer[..count]).and_then(|()| end.output.flush());
            Ok(count)
        }
    }
}

/// Calls again after a signal, and takes the system's error out of its wrapping.
fn interrupted(mut call: impl FnMut() -> Result<usize, VolatileMemoryError>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(count) => return Ok(count),
            Err(VolatileMemoryError::IOError(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(VolatileMemoryError::IOError(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
