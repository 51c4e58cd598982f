//! What can go wrong with a guest that a case has in hand.

use std::fmt;
use std::io;
use std::time::Duration;

use kiln_vmm::machine::ControlError;

use crate::agent::AgentError;

/// Why a guest did not do what a case wanted of it, and what its console said last.
///
/// Shown by `{:?}`, as a test's error is, it is one line; the console's last lines stand in a failed case's report anyway.
pub struct GuestError {
    /// What went wrong.
    pub fault: Fault,
    /// The last lines of its console, oldest first.
    pub console: Vec<String>,
}

/// What went wrong with a guest.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its agent refused, or is lost.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Its machine can't be controlled.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A file of the host's can't be read or written.
    #[error("a file of the host's can't be read or written")]
    Host(#[source] io::Error),
    /// What was to be looked for on the console is no pattern.
    #[error("what was to be looked for on the console is no pattern")]
    Pattern(#[from] regex_lite::Error),
    /// The console did not show what was waited for.
    #[error("no line of the console matched {pattern:?} within {waited:?}")]
    Silent {
        /// What was waited for.
        pattern: String,
        /// For how long.
        waited: Duration,
    },
    /// The machine ended before the console showed what was waited for.
    #[error("the machine ended, and no line of its console had matched {pattern:?}")]
    Ended {
        /// What was waited for.
        pattern: String,
    },
}

impl GuestError {
    /// What the agent said, if it is that which went wrong.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentError> {
        match &self.fault {
            Fault::Agent(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Debug for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&kiln_vmm::chain(self))
    }
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for GuestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}
