//! A request that takes its time.

use rustix::event::PollFd;

use super::connection::Connection;
use super::outbox::Outbox;
use super::process::Process;
use super::transfer::{Get, Put};
use crate::adoption::Exchange;

/// A request under way.
pub(super) enum Job {
    Process(Process),
    Put(Put),
    Get(Get),
    Connection(Connection),
    /// An adoption, when nothing but the clock is left.
    Clock(Exchange),
}

impl Job {
    /// What it waits for.
    pub(super) fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        match self {
            Self::Process(process) => process.interest(room, fds),
            Self::Put(_) | Self::Clock(_) | Self::Get(_) => {}
            Self::Connection(connection) => connection.interest(room, fds),
        }
    }

    /// Whether there is something to do without any event, if there is room for what comes of it.
    pub(super) fn is_ready(&self) -> bool {
        // A file is read to its end, or, of one that has none, what there is now.
        matches!(self, Self::Get(get) if get.credit > 0)
    }

    /// Does what can be done at once; true when the job is over.
    pub(super) fn step(&mut self, id: u32, out: &mut Outbox) -> bool {
        match self {
            Self::Process(process) => process.step(id, out),
            Self::Put(_) | Self::Clock(_) => false,
            Self::Get(get) => get.step(id, out),
            Self::Connection(connection) => connection.step(id, out),
        }
    }

    /// How many more bytes may be sent to the host.
    pub(super) fn credit(&mut self) -> Option<&mut usize> {
        match self {
            Self::Process(process) => Some(&mut process.credit),
            Self::Get(get) => Some(&mut get.credit),
            Self::Connection(connection) => Some(&mut connection.credit),
            Self::Put(_) | Self::Clock(_) => None,
        }
    }
}
