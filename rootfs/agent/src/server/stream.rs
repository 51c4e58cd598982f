//! What a program writes, on its way to the host.

use std::os::fd::OwnedFd;

use kiln_protocol::wire::{DATA_MAX, ToHost};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread};

use super::outbox::Outbox;

/// One of a program's outputs.
pub(super) struct Stream {
    /// None once it came to its end.
    fd: Option<OwnedFd>,
    wrap: fn(Vec<u8>) -> ToHost,
    /// The most that it can hold, where that is not to be counted.
    holds: Option<usize>,
    /// Once the program ended: the most that is still taken. Others may hold the stream open for ever.
    rest: Option<usize>,
}

impl Stream {
    /// The stream that is read from `fd`, which does not block any more.
    pub(super) fn new(fd: OwnedFd, wrap: fn(Vec<u8>) -> ToHost) -> Result<Self, Errno> {
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd: Some(fd), wrap, holds: None, rest: None })
    }

    /// The stream, of which no more than `most` bytes are ever written and not yet read, but nobody can say how many.
    pub(super) fn holding(self, most: usize) -> Self {
        Self { holds: Some(most), ..self }
    }

    /// The program ended: what the stream holds now is the last of it.
    pub(super) fn program_ended(&mut self) {
        let counted = || {
            let rest = self.fd.as_ref().and_then(|fd| ioctl_fionread(fd).ok()).unwrap_or(0);
            usize::try_from(rest).unwrap_or(usize::MAX)
        };
        self.rest = Some(self.holds.unwrap_or_else(counted));
    }

    /// Whether it came to its end.
    pub(super) fn is_over(&self) -> bool {
        self.fd.is_none()
    }

    /// Nothing of it is wanted any more.
    pub(super) fn close(&mut self) {
        self.fd = None;
    }

    pub(super) fn interest<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
    }

    /// Sends one message at most, so that no stream has to wait for another.
    pub(super) fn step(&mut self, id: u32, credit: &mut usize, out: &mut Outbox) {
        let Some(fd) = &self.fd else { return };
        if self.rest == Some(0) {
            self.fd = None;
            return;
        }
        let most = DATA_MAX.min(*credit).min(self.rest.unwrap_or(usize::MAX));
        if most == 0 || !out.has_room() {
            return;
        }
        let mut bytes = Vec::with_capacity(most);
        match rustix::io::read(fd, spare_capacity(&mut bytes)) {
            Ok(0) => self.fd = None,
            Ok(length) => {
                *credit -= length;
                out.send(id, (self.wrap)(bytes));
                if let Some(rest) = &mut self.rest {
                    *rest = rest.saturating_sub(length);
                    if *rest == 0 {
                        self.fd = None;
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if self.rest.is_none() => {}
            // Of a terminal this is how its end shows, EIO.
            Err(_) => self.fd = None,
        }
    }
}
