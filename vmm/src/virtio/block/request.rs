//! One request of virtio-blk: header, data, status.

use std::io;
use std::sync::Arc;

use crate::block::{RawDisk, SECTOR};
use crate::memory::GuestMemory;
use crate::virtio::ring::{Chain, RingError, Span, read_spans, total, write_spans};
use crate::virtio::worker::Stop;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const HEADER: usize = 16;
const ID_LEN: usize = 20;
/// Data passes through a buffer of this size, whatever length the guest asks for.
const CHUNK: usize = 256 << 10;

/// Executes requests on one disk.
pub(super) struct Server {
    /// None: there is nothing to read.
    disk: Option<Arc<RawDisk>>,
    id: [u8; ID_LEN],
    buffer: Vec<u8>,
}

/// Why a request ends without success.
enum Failure {
    /// The guest learns of it from the status byte.
    Status(u8),
    /// The device can't go on.
    Ring(RingError),
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Status(IO_ERROR)
    }
}

impl Server {
    pub(super) fn new(disk: Option<Arc<RawDisk>>, name: &str) -> Self {
        let mut id = [0; ID_LEN];
        let len = name.len().min(ID_LEN);
        id[..len].copy_from_slice(&name.as_bytes()[..len]);
        Self { disk, id, buffer: vec![0; CHUNK] }
    }

    /// Executes a request and writes its status; the answer is the number of bytes written for the guest.
    pub(super) fn serve(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        stop: &Stop,
    ) -> Result<u32, RingError> {
        // The status is the last byte that the device may write; without one there is no way to answer.
        let Some(room) = total(&chain.writable).checked_sub(1) else {
            return Err(RingError::Chain(chain.head));
        };
        let mut written = 0;
        let status = match self.execute(memory, chain, room, &mut written, stop) {
            Ok(()) => OK,
            Err(Failure::Status(status)) => status,
            Err(Failure::Ring(error)) => return Err(error),
        };
        write_spans(memory, &chain.writable, room, &[status])?;
        // The used length counts from the buffer's start: the status is in it only if all before it is.
        let used = if written == room { room + 1 } else { written };
        Ok(u32::try_from(used).unwrap_or(u32::MAX))
    }

    fn execute(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        room: u64,
        written: &mut u64,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let mut header = [0; HEADER];
        if !read_spans(memory, &chain.readable, 0, &mut header)? {
            return Err(Failure::Status(IO_ERROR));
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        // The header was read in full, so the readable part is at least as long.
        let sent = total(&chain.readable) - HEADER as u64;
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            IN => {
                let (disk, start) = place(self.disk.as_ref(), sector, room)?;
                while *written < room {
                    let chunk = self.next_chunk(room - *written, stop)?;
                    let data = &mut self.buffer[..chunk];
                    disk.read_at(data, start + *written)?;
                    write_spans(memory, &chain.writable, *written, data)?;
                    *written += chunk as u64;
                }
                Ok(())
            }
            OUT => {
                let (disk, start) = place(self.disk.as_ref(), sector, sent)?;
                if disk.read_only() {
                    return Err(Failure::Status(IO_ERROR));
                }
                self.write(memory, &chain.readable, (&disk, start), sent, stop)
            }
            FLUSH => Ok(self.disk.as_ref().map_or(Ok(()), |disk| disk.flush())?),
            GET_ID => {
                let len = usize::try_from(room).unwrap_or(usize::MAX).min(ID_LEN);
                write_spans(memory, &chain.writable, 0, &self.id[..len])?;
                *written = len as u64;
                Ok(())
            }
            _ => Err(Failure::Status(UNSUPPORTED)),
        }
    }

    fn write(
        &mut self,
        memory: &GuestMemory,
        spans: &[Span],
        (disk, start): (&RawDisk, u64),
        len: u64,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let mut done = 0;
        while done < len {
            let chunk = self.next_chunk(len - done, stop)?;
            let data = &mut self.buffer[..chunk];
            read_spans(memory, spans, HEADER as u64 + done, data)?;
            disk.write_at(data, start + done)?;
            done += chunk as u64;
        }
        Ok(())
    }

    /// The size of the next piece of a transfer; a stop doesn't wait for the end of a long one.
    fn next_chunk(&self, left: u64, stop: &Stop) -> Result<usize, Failure> {
        if stop.at_once() {
            return Err(Failure::Status(IO_ERROR));
        }
        Ok(usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len()))
    }
}

/// The disk, and the byte at which a transfer of whole sectors begins, if all of it lies on the disk.
fn place(disk: Option<&Arc<RawDisk>>, sector: u64, len: u64) -> Result<(Arc<RawDisk>, u64), Failure> {
    let start = sector.checked_mul(SECTOR).filter(|_| len > 0 && len.is_multiple_of(SECTOR));
    let end = start.and_then(|start| start.checked_add(len));
    let disk = disk.filter(|disk| end.is_some_and(|end| end <= disk.size()));
    disk.cloned().zip(start).ok_or(Failure::Status(IO_ERROR))
}
