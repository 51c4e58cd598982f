//! How serving ends, and how a request fails.

use std::io;

use kiln_protocol::wire::{ToHost, WireError};
use rustix::io::Errno;

/// Why the agent serves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The host asked for the guest's end, or somebody in the guest did.
    Asked,
    /// The host closed the port.
    HostGone,
}

/// Why the agent can't serve.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// The kernel refused something.
    Io(io::Error),
    /// The host sent what is no frame.
    Wire(WireError),
    /// The host sent a frame that does not fit what was before.
    Order(&'static str),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Wire(error) => write!(f, "the host sent {error}"),
            Self::Order(what) => write!(f, "the host sent {what}"),
        }
    }
}

impl From<Errno> for ServeError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A request that failed: its errno, and one line.
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) message: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), message: error.to_string() }
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::from(io::Error::from(error))
    }
}

impl From<Refusal> for ToHost {
    fn from(refusal: Refusal) -> Self {
        let mut message = refusal.message;
        crate::text::cut(&mut message, 1024);
        Self::Refused { errno: refusal.errno, message }
    }
}
