//! The connection to an agent, and the thread that reads it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_protocol::wire::{
    self, Adopted, Adoption, DATA_MAX, Decoder, Envelope, Exec, Hello, ToAgent, ToHost, WireError, encode,
};

use super::channel::{Channel, End};
use super::process::Process;
use super::request::Request;
use super::{AgentError, adopt, relay, transfer};

/// A connection to the agent in a guest; clones share it. It is closed with the last clone and the last thing
/// that was begun on it.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

/// Closes the connection when nobody wants it any more.
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    hello: Hello,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close(End::Lost);
    }
}

#[derive(Debug)]
struct Shared {
    reader: UnixStream,
    /// Held while a whole frame is written.
    writer: Mutex<UnixStream>,
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    channels: HashMap<u32, Arc<Channel>>,
    last: u32,
    end: Option<End>,
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, and everything that waits for it.
    fn close(&self, end: End) {
        let mut requests = self.requests();
        let end = requests.end.get_or_insert(end).clone();
        for channel in requests.channels.values() {
            channel.end(end.clone());
        }
        drop(requests);
        let _ = self.reader.shutdown(Shutdown::Both);
    }

    /// Reads the port to its end. Waits for nothing but the port: a consumer that is slow holds up itself.
    fn read(&self, mut decoder: Decoder) -> End {
        let mut buffer = vec![0; DATA_MAX];
        loop {
            loop {
                match decoder.next_frame::<ToHost>() {
                    Ok(Some(Envelope { id, message })) => {
                        let channel = self.requests().channels.get(&id).cloned();
                        // Nobody's id: what was said before the agent learnt that it was given up.
                        if let Some(Err(what)) = channel.map(|channel| channel.deliver(message)) {
                            return End::Protocol(format!("it sent {what}"));
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return End::Protocol(format!("it sent {error}")),
                }
            }
            match (&self.reader).read(&mut buffer) {
                Ok(0) => return End::Lost,
                Ok(length) => decoder.feed(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return End::Lost,
            }
        }
    }
}

impl Client {
    /// Waits for the agent's hello on `port`, however long the guest takes to boot.
    ///
    /// # Errors
    /// The port was closed before, or what came is no hello of this protocol's version.
    pub fn connect(port: UnixStream) -> Result<Self, AgentError> {
        let mut decoder = Decoder::default();
        let hello = greet(&port, &mut decoder)?;
        Self::over(port, decoder, hello, 0)
    }

    fn over(port: UnixStream, decoder: Decoder, hello: Hello, last: u32) -> Result<Self, AgentError> {
        let reader = port.try_clone().map_err(AgentError::Io)?;
        let shared = Arc::new(Shared {
            reader,
            writer: Mutex::new(port),
            requests: Mutex::new(Requests { last, ..Requests::default() }),
        });
        let read = shared.clone();
        std::thread::Builder::new()
            .name("agent".to_owned())
            .spawn(move || {
                let end = read.read(decoder);
                read.close(end);
            })
            .map_err(AgentError::Io)?;
        Ok(Self { inner: Arc::new(Inner { shared, hello }) })
    }

    /// Whether the connection is over: nothing more can be asked.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.inner.shared.requests().end.is_some()
    }

    /// Takes up the connection with the agent of a fork, on its `port`: of a machine that goes on from a snapshot that was made
    /// after `hello`, with no message half said. `last` is the last request that was made before ([`Client::last_request`]): what
    /// of those is still under way in the guest has nobody to answer to.
    ///
    /// # Errors
    /// The host has no room for the thread that reads.
    pub fn of_fork(port: UnixStream, hello: Hello, last: u32) -> Result<Self, AgentError> {
        Self::over(port, Decoder::default(), hello, last)
    }

    /// The number of the last request that was made.
    #[must_use]
    pub fn last_request(&self) -> u32 {
        self.inner.shared.requests().last
    }

    /// What the agent said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.inner.hello
    }

    /// Starts a program, on a terminal if the command has one. Dropping what is returned before its end kills it.
    ///
    /// # Errors
    /// The guest can't run it ([`AgentError::Refused`]), or the agent is lost.
    pub fn exec(&self, command: Exec) -> Result<Process, AgentError> {
        let (stdin, terminal) = (command.stdin, command.terminal.is_some());
        Process::start(self.request(ToAgent::Exec(command))?, stdin, terminal)
    }

    /// Makes the file `path` of what `from` gives; it takes its place whole. Folders on the way are made. A
    /// device is written straight.
    ///
    /// # Errors
    /// The guest refused, `from` failed, or the agent is lost.
    pub fn put(&self, path: &str, mode: u32, from: &mut dyn Read) -> Result<(), AgentError> {
        transfer::put(&self.request(ToAgent::Put { path: path.to_owned(), mode })?, from)
    }

    /// Copies what the file `path` holds into `to`.
    ///
    /// # Errors
    /// The guest refused, `to` failed, or the agent is lost.
    pub fn get(&self, path: &str, to: &mut dyn Write) -> Result<(), AgentError> {
        transfer::get(&self.request(ToAgent::Get { path: path.to_owned() })?, to)
    }

    /// Connects to a Unix socket in the guest.
    ///
    /// # Errors
    /// Nobody listens there, or the agent is lost.
    pub fn connect_unix(&self, path: &str) -> Result<UnixStream, AgentError> {
        relay::start(self.request(ToAgent::Connect { path: path.to_owned() })?)
    }

    /// Waits until the guest wrote all that it cached to its disks.
    ///
    /// # Errors
    /// The agent is lost.
    pub fn sync(&self) -> Result<(), AgentError> {
        self.request(ToAgent::Sync)?.await_ok()
    }

    /// Has the guest made ready to be saved; nothing else may be under way, and nothing may be asked of it after.
    ///
    /// # Errors
    /// Something is under way, the guest refused, or the agent is lost.
    pub fn settle(&self) -> Result<(), AgentError> {
        self.request(ToAgent::Settle)?.await_ok()
    }

    /// Has a guest that goes on from a saved one become the one that `adoption` says, and its clock set by this host's. To be
    /// asked before anything else.
    ///
    /// # Errors
    /// The guest refused (it has no such disk, or its kernel can't do it), or the agent is lost.
    pub fn adopt(&self, adoption: &Adoption) -> Result<Adopted, AgentError> {
        adopt::adopt(&self.request(ToAgent::Adopt(adoption.clone()))?)
    }

    /// Sends a word that asks for nothing: an interrupt for the guest, if it takes any.
    ///
    /// # Errors
    /// The agent is lost.
    pub(crate) fn nudge(&self) -> Result<(), AgentError> {
        // Nothing is ever begun with this number.
        self.send(0, ToAgent::Abort)
    }

    /// Asks the guest to power off; does not wait for it.
    ///
    /// # Errors
    /// The agent is lost.
    pub fn power_off(&self) -> Result<(), AgentError> {
        self.send(0, ToAgent::PowerOff)
    }

    fn request(&self, message: ToAgent) -> Result<Request, AgentError> {
        let channel = Arc::new(Channel::default());
        let id = {
            let mut requests = self.inner.shared.requests();
            if let Some(end) = &requests.end {
                return Err(end.clone().into());
            }
            // Ids come round again only after all others, and never to one that is in use.
            let mut id = requests.last;
            loop {
                id = id.wrapping_add(1).max(1);
                if !requests.channels.contains_key(&id) {
                    break;
                }
            }
            requests.last = id;
            requests.channels.insert(id, channel.clone());
            id
        };
        let request = Request::new(self.clone(), id, channel);
        // A request that could not be sent is none: dropped here, it takes its channel along.
        request.send(message)?;
        Ok(request)
    }

    /// Nothing that bears this id is wanted any more.
    pub(super) fn forget(&self, id: u32) {
        self.inner.shared.requests().channels.remove(&id);
    }

    pub(super) fn send(&self, id: u32, message: ToAgent) -> Result<(), AgentError> {
        let frame = encode(id, message).map_err(|error| match error {
            WireError::Length(_) => AgentError::Refused { errno: libc::E2BIG, message: error.to_string() },
            WireError::Undecodable => AgentError::Protocol(error.to_string()),
        })?;
        let shared = &self.inner.shared;
        let written = shared.writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame);
        written.map_err(|_| {
            // Half a frame may be out: nothing can follow it.
            shared.close(End::Lost);
            shared.requests().end.clone().unwrap_or(End::Lost).into()
        })
    }
}

/// Reads up to the hello, which comes first.
fn greet(mut port: &UnixStream, decoder: &mut Decoder) -> Result<Hello, AgentError> {
    let mut buffer = vec![0; DATA_MAX];
    loop {
        let length = match port.read(&mut buffer) {
            Ok(0) => return Err(AgentError::Lost),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(AgentError::Lost),
            Err(error) => return Err(AgentError::Io(error)),
        };
        decoder.feed(&buffer[..length]);
        match decoder.next_frame().map_err(|error| AgentError::Protocol(format!("it sent {error}")))? {
            None => {}
            Some(Envelope { message: ToHost::Hello(hello), .. }) if hello.protocol == wire::VERSION => {
                return Ok(hello);
            }
            Some(Envelope { message: ToHost::Hello(hello), .. }) => {
                let (theirs, ours) = (hello.protocol, wire::VERSION);
                return Err(AgentError::Protocol(format!(
                    "it speaks version {theirs}, this host {ours}; build the image again"
                )));
            }
            Some(_) => return Err(AgentError::Protocol("it did not begin with a hello".to_owned())),
        }
    }
}
