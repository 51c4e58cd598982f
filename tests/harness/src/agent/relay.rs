//! A connection inside the guest, as a socket on the host.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use kiln_protocol::wire::{DATA_MAX, ToAgent, ToHost};

use super::AgentError;
use super::request::{Request, unexpected};

/// Waits for the connection, and gives the socket whose bytes go there and come from there.
pub(super) fn start(request: Request) -> Result<UnixStream, AgentError> {
    match request.receive()? {
        ToHost::Connected => {}
        other => return Err(unexpected(&other)),
    }
    let (near, far) = UnixStream::pair().map_err(AgentError::Io)?;
    let other = far.try_clone().map_err(AgentError::Io)?;
    let request = Arc::new(request);
    let up = request.clone();
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(AgentError::Io)
    };
    spawn("relay up", Box::new(move || to_guest(&up, &far)))?;
    spawn("relay down", Box::new(move || from_guest(&request, &other)))?;
    Ok(near)
}

/// Ends with the local socket's input, or with the connection.
fn to_guest(request: &Request, mut socket: &UnixStream) {
    let mut buffer = vec![0; DATA_MAX];
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match request.send_some(rest, ToAgent::Data) {
                Ok(Some(sent)) => rest = &rest[sent..],
                Ok(None) | Err(_) => return drop(socket.shutdown(Shutdown::Both)),
            }
        }
    }
    let _ = request.send(ToAgent::Close);
}

/// Ends with the guest's output, or with the connection.
fn from_guest(request: &Request, mut socket: &UnixStream) {
    loop {
        match request.receive() {
            Ok(ToHost::Data(bytes)) => {
                if socket.write_all(&bytes).is_err() {
                    // Nobody reads here any more: the connection inside ends as well.
                    let _ = request.send(ToAgent::Abort);
                    request.finish();
                    return drop(socket.shutdown(Shutdown::Both));
                }
            }
            // The other direction goes on.
            Ok(ToHost::Close) => return drop(socket.shutdown(Shutdown::Write)),
            // Refused, lost, or nonsense.
            _ => {
                request.finish();
                return drop(socket.shutdown(Shutdown::Both));
            }
        }
    }
}
