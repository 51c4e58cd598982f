//! Deferred work: what threads leave for the event loop.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, mpsc};

use crate::bell::Bell;

/// The end that the loop empties; its descriptor is ready when there is something.
pub struct Mailbox<T> {
    letters: mpsc::Receiver<T>,
    bell: Arc<Bell>,
}

/// The end that threads put into; a clone is another.
pub struct Post<T> {
    letters: mpsc::Sender<T>,
    bell: Arc<Bell>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { letters: self.letters.clone(), bell: self.bell.clone() }
    }
}

/// Makes a mailbox.
///
/// # Errors
/// The process is out of descriptors.
pub fn mailbox<T>() -> io::Result<(Post<T>, Mailbox<T>)> {
    let bell = Arc::new(Bell::new()?);
    let (sender, receiver) = mpsc::channel();
    Ok((Post { letters: sender, bell: bell.clone() }, Mailbox { letters: receiver, bell }))
}

impl<T> Post<T> {
    /// Leaves `letter`; without a loop that takes it, it is gone.
    pub fn send(&self, letter: T) {
        let _nobody_takes_it = self.letters.send(letter);
        self.bell.ring();
    }
}

impl<T> Mailbox<T> {
    /// All that has been left until now.
    pub fn take(&mut self) -> Vec<T> {
        // First the bell: what comes after it rings anew.
        self.bell.heard();
        self.letters.try_iter().collect()
    }
}

impl<T> AsRawFd for Mailbox<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}
