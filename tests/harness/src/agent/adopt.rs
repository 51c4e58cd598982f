//! The host's half of an adoption: the time, whenever the agent asks.

use std::time::{SystemTime, UNIX_EPOCH};

use kiln_protocol::wire::{Adopted, ToAgent, ToHost};

use super::AgentError;
use super::request::{Request, unexpected};

/// The most questions that an agent has any use for.
const QUESTIONS_MAX: u32 = 1000;

pub(super) fn adopt(request: &Request) -> Result<Adopted, AgentError> {
    for _ in 0..QUESTIONS_MAX {
        match request.receive()? {
            ToHost::AskTime => request.send(ToAgent::Time(now()))?,
            ToHost::Adopted(adopted) => return Ok(adopted),
            other => return Err(unexpected(&other)),
        }
    }
    Err(AgentError::Protocol("it asks for the time without end".to_owned()))
}

/// The host's time, in nanoseconds since 1970; a host whose clock is before that has none to give.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
