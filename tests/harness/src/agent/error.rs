//! What can go wrong with an agent.

use std::io;

/// Why the agent did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The port was closed: the agent, or the whole guest, is gone.
    #[error("the guest's agent is gone: its port was closed")]
    Lost,
    /// The host's own side failed.
    #[error("the connection to the guest's agent failed on the host's side")]
    Io(#[source] io::Error),
    /// The guest refused, with its own errno.
    #[error("the guest refused: {message} (errno {errno})")]
    Refused {
        /// The guest's errno.
        errno: i32,
        /// What was refused and why.
        message: String,
    },
    /// What came from the guest is not what an agent says; the connection is closed.
    #[error("the guest's agent does not keep to the protocol: {0}")]
    Protocol(String),
}

impl From<AgentError> for io::Error {
    fn from(error: AgentError) -> Self {
        let kind = match &error {
            AgentError::Lost => io::ErrorKind::BrokenPipe,
            AgentError::Refused { errno, .. } => io::Error::from_raw_os_error(*errno).kind(),
            AgentError::Protocol(_) => io::ErrorKind::InvalidData,
            AgentError::Io(source) => source.kind(),
        };
        Self::new(kind, error)
    }
}
