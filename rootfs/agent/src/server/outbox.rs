//! What waits to be sent to the host.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use kiln_protocol::wire::{CREDIT_STEP, ToHost, WINDOW, encode};
use rustix::io::Errno;

/// Frames in order, as bytes. Nothing more is taken on while [`Outbox::has_room`] is false.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: VecDeque<u8>,
}

impl Outbox {
    /// Whether more may be produced: neither data nor what answers the host's next message.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() < WINDOW
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn send(&mut self, id: u32, message: ToHost) {
        // All that the agent says is made to fit a frame.
        if let Ok(frame) = encode(id, message) {
            self.bytes.extend(frame);
        }
    }

    /// Bytes of an id were consumed: told when `owed` is worth a message.
    pub(super) fn consumed(&mut self, id: u32, owed: &mut usize, amount: usize) {
        *owed += amount;
        if *owed >= CREDIT_STEP {
            self.send(id, ToHost::Credit(u32::try_from(*owed).unwrap_or(u32::MAX)));
            *owed = 0;
        }
    }

    /// Writes what the port takes.
    pub(super) fn flush(&mut self, port: &OwnedFd) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            match rustix::io::write(port, self.bytes.as_slices().0) {
                Ok(written) => drop(self.bytes.drain(..written)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Bytes from the host on their way to a pipe or socket that takes them when it likes.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) bytes: VecDeque<u8>,
    owed: usize,
}

impl Inbox {
    /// Takes bytes; false when the host sent more than it had credit for.
    #[must_use]
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend(bytes);
        self.bytes.len() <= WINDOW
    }

    /// Writes what `to` takes, and returns credit for it.
    pub(super) fn flush(&mut self, to: &OwnedFd, id: u32, out: &mut Outbox) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            match rustix::io::write(to, self.bytes.as_slices().0) {
                Ok(written) => {
                    self.bytes.drain(..written);
                    out.consumed(id, &mut self.owed, written);
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nobody will take the bytes: they count as consumed, so that the host is not left waiting.
    pub(super) fn discard(&mut self, id: u32, out: &mut Outbox) {
        let amount = self.bytes.len();
        self.bytes.clear();
        if amount > 0 {
            out.consumed(id, &mut self.owed, amount);
        }
    }
}
