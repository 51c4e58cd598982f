//! A connection to a Unix socket in the guest.

use std::os::fd::OwnedFd;

use kiln_protocol::wire::{DATA_MAX, ToHost, WINDOW};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with,
};

use super::outbox::{Inbox, Outbox};
use super::{Refusal, ServeError};

pub(super) struct Connection {
    pub(super) credit: usize,
    socket: OwnedFd,
    input: Inbox,
    /// The host sends no more.
    input_ends: bool,
    /// The socket was told so.
    input_over: bool,
    /// The socket sends no more, and the host was told so.
    output_over: bool,
}

impl Connection {
    pub(super) fn start(path: &str) -> Result<Self, Refusal> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Without waiting: one with a full backlog refuses, which is told as any other refusal.
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        let input = Inbox::default();
        Ok(Self { credit: WINDOW, socket, input, input_ends: false, input_over: false, output_over: false })
    }

    pub(super) fn input(&mut self, bytes: &[u8]) -> Result<(), ServeError> {
        if self.input.take(bytes) {
            Ok(())
        } else {
            Err(ServeError::Order("more data than it had credit for"))
        }
    }

    pub(super) fn end_input(&mut self) {
        self.input_ends = true;
    }

    pub(super) fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::OUT, !self.input.bytes.is_empty());
        wanted.set(PollFlags::IN, room && self.credit > 0 && !self.output_over);
        if !wanted.is_empty() {
            fds.push(PollFd::new(&self.socket, wanted));
        }
    }

    pub(super) fn step(&mut self, id: u32, out: &mut Outbox) -> bool {
        if let Err(error) = self.move_bytes(id, out) {
            out.send(id, Refusal::from(error).into());
            return true;
        }
        self.input_over && self.output_over
    }

    fn move_bytes(&mut self, id: u32, out: &mut Outbox) -> Result<(), Errno> {
        self.input.flush(&self.socket, id, out)?;
        if self.input_ends && !self.input_over && self.input.bytes.is_empty() {
            self.input_over = true;
            // A socket that is closed at the other end already needs no word.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
        let most = DATA_MAX.min(self.credit);
        if self.output_over || most == 0 || !out.has_room() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(most);
        match rustix::io::read(&self.socket, spare_capacity(&mut bytes)) {
            Ok(0) => {
                self.output_over = true;
                out.send(id, ToHost::Close);
            }
            Ok(length) => {
                self.credit -= length;
                out.send(id, ToHost::Data(bytes));
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
