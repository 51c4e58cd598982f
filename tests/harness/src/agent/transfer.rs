//! Files to the guest and from it.

use std::io::{self, Read, Write};

use kiln_protocol::wire::{DATA_MAX, ToAgent, ToHost};

use super::AgentError;
use super::request::{Request, unexpected};

pub(super) fn put(request: &Request, from: &mut dyn Read) -> Result<(), AgentError> {
    let mut buffer = vec![0; DATA_MAX];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(AgentError::Io(error)),
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match request.send_some(rest, ToAgent::PutData)? {
                Some(sent) => rest = &rest[sent..],
                // Refused on the way: the answer is there.
                None => return request.await_ok(),
            }
        }
    }
    request.send(ToAgent::PutEnd)?;
    request.await_ok()
}

pub(super) fn get(request: &Request, to: &mut dyn Write) -> Result<(), AgentError> {
    loop {
        match request.receive()? {
            ToHost::Data(bytes) => to.write_all(&bytes).map_err(AgentError::Io)?,
            ToHost::Ok => return to.flush().map_err(AgentError::Io),
            other => return Err(unexpected(&other)),
        }
    }
}
