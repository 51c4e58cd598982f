//! A request under way.

use std::sync::Arc;

use kiln_protocol::wire::{DATA_MAX, ToAgent, ToHost};

use super::channel::Channel;
use super::{AgentError, Client};

/// A request under way; when dropped, the agent is told to forget it, unless it is finished.
#[derive(Debug)]
pub(super) struct Request {
    client: Client,
    id: u32,
    channel: Arc<Channel>,
}

impl Request {
    pub(super) fn new(client: Client, id: u32, channel: Arc<Channel>) -> Self {
        Self { client, id, channel }
    }

    pub(super) fn send(&self, message: ToAgent) -> Result<(), AgentError> {
        self.client.send(self.id, message)
    }

    /// Waits for the agent's next message on this.
    pub(super) fn receive(&self) -> Result<ToHost, AgentError> {
        let (message, credit) = self.channel.receive()?;
        if credit > 0 {
            // The message came, whatever becomes of the connection: that shows with the next one.
            let _ = self.send(ToAgent::Credit(u32::try_from(credit).unwrap_or(u32::MAX)));
        }
        match message {
            ToHost::Refused { errno, message } => Err(AgentError::Refused { errno, message }),
            message => Ok(message),
        }
    }

    pub(super) fn await_ok(&self) -> Result<(), AgentError> {
        match self.receive()? {
            ToHost::Ok => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends some of `bytes`, as much as the agent has room for, and says how much; none when the agent wants
    /// no more.
    pub(super) fn send_some(
        &self,
        bytes: &[u8],
        wrap: fn(Vec<u8>) -> ToAgent,
    ) -> Result<Option<usize>, AgentError> {
        let Some(length) = self.channel.take_credit(bytes.len().min(DATA_MAX))? else { return Ok(None) };
        self.send(wrap(bytes[..length].to_vec()))?;
        Ok(Some(length))
    }

    /// Nothing more is wanted of this.
    pub(super) fn finish(&self) {
        self.channel.finish();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.client.forget(self.id);
        if !self.channel.is_finished() {
            self.channel.finish();
            let _ = self.send(ToAgent::Abort);
        }
    }
}

/// A message that does not belong where it came; the guest may have sent it on purpose.
pub(super) fn unexpected(message: &ToHost) -> AgentError {
    let text = format!("{message:?}");
    AgentError::Protocol(format!("it sent an answer to another question ({:.40}…)", text))
}
