//! What comes in for a serial port, from whatever it is connected to, on a thread of its own.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Source;
use crate::device::uart::SerialInput;

/// The end of a feed: dropping it ends the thread.
pub(in crate::machine) struct Feed(#[allow(dead_code)] io::PipeWriter);

/// How the host's side of a device is read.
pub(super) trait Readable: Send {
    /// Waits for input, and reads it; zero bytes are the end of all input.
    fn next(&mut self, bytes: &mut [u8], stop: &Stop) -> io::Result<usize>;
}

/// Tells that the machine has ended.
pub(super) struct Stop(io::PipeReader);

impl Stop {
    /// Waits until `source` can be read, or for `limit` milliseconds; false if the machine has ended.
    pub(super) fn wait(&self, source: Option<&dyn AsFd>, limit: Option<i64>) -> bool {
        let mut descriptors = vec![PollFd::new(&self.0, PollFlags::IN)];
        descriptors.extend(source.map(|source| PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN)));
        let limit = limit.map(|ms| Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 });
        while let Err(error) = poll(&mut descriptors, limit.as_ref()) {
            if error != rustix::io::Errno::INTR {
                return false;
            }
        }
        descriptors.first().is_some_and(|stop| stop.revents().is_empty())
    }
}

/// Feeds `input` from `source` until there is no more, or the machine has ended.
pub(super) fn feed(name: &str, source: Source, mut input: SerialInput) -> io::Result<Feed> {
    let (stop, end) = io::pipe()?;
    let mut source: Box<dyn Readable> = match source {
        Source::Stdin => Box::new(Stdin),
        Source::Pty(master) => Box::new(master),
        Source::Socket(clients) => Box::new(clients),
    };
    crate::thread::named(&format!("{name} in")).spawn(move || {
        let stop = Stop(stop);
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = source.next(&mut bytes, &stop) {
            // Whoever writes is told when the machine has ended.
            if input.write_all(bytes.get(..count).unwrap_or_default()).is_err() {
                return;
            }
        }
    })?;
    Ok(Feed(end))
}

struct Stdin;

impl Readable for Stdin {
    fn next(&mut self, bytes: &mut [u8], stop: &Stop) -> io::Result<usize> {
        let stdin = io::stdin();
        if !stop.wait(Some(&stdin), None) {
            return Ok(0);
        }
        stdin.lock().read(bytes)
    }
}
