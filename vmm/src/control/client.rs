//! The other end of a control socket: for commands, and for programs that control machines of other processes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::endpoint::{EndpointError, check_private, folders, socket};
use super::name::is_name;
use super::protocol::{Event, Greeting, Numbered, Refusal, Reply, Request, SCHEMA};

/// How long a machine has to greet, and to say what it does: it does so at once, or is in trouble.
const GREETS: Duration = Duration::from_secs(5);
/// More than a machine ever says in a line: all of 254 vCPUs laid open.
const REPLY_MAX: u64 = 64 << 20;

/// Why a machine can't be controlled.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No machine has the name.
    #[error("no machine is called {name}: {there}")]
    NoMachine {
        /// The name.
        name: String,
        /// The names that there are, in words.
        there: String,
    },
    /// The name is none.
    #[error(transparent)]
    Name(EndpointError),
    /// The connection failed, or the machine said nothing in time.
    #[error("no word from the machine at {path}")]
    Connection {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The machine is of another version of kiln.
    #[error(
        "the machine speaks schema {theirs} of the control socket, and this is schema {SCHEMA}: use the kiln-vmm that it runs on"
    )]
    Schema {
        /// Its version.
        theirs: String,
    },
    /// The machine said what can't be understood.
    #[error("the machine at {path} said what can't be understood: {what}")]
    Nonsense {
        /// Its socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The machine did not do it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a machine.
pub struct Client {
    lines: BufReader<UnixStream>,
    path: PathBuf,
    greeting: Greeting,
    last: u64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The sockets of this user's machines, dead or alive, in the order of their names.
fn sockets() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for folder in folders() {
        // In a folder that is open to others, anybody could answer.
        if check_private(&folder).is_err() {
            continue;
        }
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let file = entry.file_name();
            if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".sock"))
                && is_name(name)
            {
                found.push((name.to_owned(), entry.path()));
            }
        }
    }
    found.sort();
    found
}

/// Connects to all of this user's machines that live, in the order of their names. One that does not answer is an error,
/// beside its name; what dead machines left is passed over.
#[must_use]
pub fn machines() -> Vec<(String, Result<Client, ClientError>)> {
    let alive = |(name, path): (String, PathBuf)| match Client::connect_to(&path) {
        Err(ClientError::Connection { source, .. })
            if matches!(source.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) =>
        {
            None
        }
        other => Some((name, other)),
    };
    sockets().into_iter().filter_map(alive).collect()
}

/// That no machine was found, and where: it may run where another `XDG_RUNTIME_DIR` leads, or in a folder that can't be used.
fn nowhere(folders: &[PathBuf]) -> String {
    let looked_at = |folder: &PathBuf| match check_private(folder) {
        Err(error @ EndpointError::NotPrivate { .. }) => error.to_string(),
        _ => folder.display().to_string(),
    };
    let folders: Vec<String> = folders.iter().map(looked_at).collect();
    format!("none runs that has a name (`kiln-vmm run --name NAME`) in {}", folders.join(" and "))
}

/// Connects to the socket at `path`, within [`GREETS`]: one whose machine has been stopped may have no room for who waits.
fn reach(path: &Path) -> io::Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(GREETS))?;
    match connect(&stream, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(stream.into()),
        Err(rustix::io::Errno::AGAIN) => Err(too_long()),
        Err(errno) => Err(errno.into()),
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it took too long")
}

impl Client {
    /// Connects to the machine of that name.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn connect(name: &str) -> Result<Self, ClientError> {
        if !is_name(name) {
            return Err(ClientError::Name(EndpointError::Name(name.to_owned())));
        }
        let private = folders().into_iter().filter(|folder| check_private(folder).is_ok());
        for path in private.map(|folder| socket(&folder, name)) {
            match Self::connect_to(&path) {
                Err(ClientError::Connection { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                    ) => {}
                other => return other,
            }
        }
        let names: Vec<String> = machines().into_iter().map(|(name, _)| name).collect();
        let there = match names.as_slice() {
            [] => nowhere(&folders()),
            names => format!("there is {}", names.join(", ")),
        };
        Err(ClientError::NoMachine { name: name.to_owned(), there })
    }

    /// Connects to the machine whose socket is at `path`.
    ///
    /// # Errors
    /// It is not there, does not answer, or speaks another version.
    pub fn connect_to(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connection { path: path.to_owned(), source };
        let stream = reach(path).map_err(failed)?;
        stream.set_read_timeout(Some(GREETS)).map_err(failed)?;
        let lines = BufReader::new(stream);
        let greeting = Greeting { schema: SCHEMA, kiln: String::new(), name: String::new(), pid: 0 };
        let mut client = Self { lines, path: path.to_owned(), greeting, last: 0 };
        let first: Value = client.line()?;
        if first.get("error").is_some() {
            let reply: Reply = client.understood(first)?;
            return Err(reply.error.map_or_else(|| client.nonsense("an error without words"), Into::into));
        }
        match first.get("schema") {
            Some(schema) if *schema == SCHEMA => client.greeting = client.understood(first)?,
            Some(schema) => return Err(ClientError::Schema { theirs: schema.to_string() }),
            None => return Err(client.nonsense("no greeting")),
        }
        Ok(client)
    }

    /// What the machine said first.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Gives up waiting for what the machine says after so long; never, if nothing is given.
    ///
    /// # Errors
    /// The system refuses, as it does zero.
    pub fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        self.lines.get_ref().set_read_timeout(limit)
    }

    /// Asks for something, and waits for its result.
    ///
    /// # Errors
    /// The machine refuses, or the connection ends.
    pub fn ask(&mut self, request: Request) -> Result<Value, ClientError> {
        self.last += 1;
        let line = Numbered { id: self.last, request }.line();
        let said = self.lines.get_mut().write_all(line.as_bytes());
        said.map_err(|source| self.lost(source))?;
        loop {
            let said: Value = self.line()?;
            // Events may come first.
            if said.get("event").is_some() {
                continue;
            }
            let reply: Reply = self.understood(said)?;
            match (reply.error, reply.result) {
                (Some(refusal), _) => return Err(refusal.into()),
                (None, Some(result)) if reply.id == self.last => return Ok(result),
                _ => return Err(self.nonsense("a reply to what was not asked")),
            }
        }
    }

    /// As [`Client::ask`], for a result of that type.
    ///
    /// # Errors
    /// As [`Client::ask`], or the result is of no such type.
    pub fn ask_for<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, ClientError> {
        let result = self.ask(request)?;
        self.understood(result)
    }

    /// Waits for what happens next, after [`Request::Events`].
    ///
    /// # Errors
    /// The connection ends.
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        self.line()
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let mut line = Vec::new();
        let read = self.lines.by_ref().take(REPLY_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(self.lost(too_long()));
            }
            Err(error) => return Err(self.lost(error)),
        }
        serde_json::from_slice(&line).map_err(|error| self.nonsense(&error.to_string()))
    }

    fn understood<T: DeserializeOwned>(&self, value: Value) -> Result<T, ClientError> {
        serde_json::from_value(value).map_err(|error| self.nonsense(&error.to_string()))
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Connection { path: self.path.clone(), source }
    }

    fn nonsense(&self, what: &str) -> ClientError {
        ClientError::Nonsense { path: self.path.clone(), what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn machine_that_takes_nobody_in_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let listener = UnixListener::bind(&path).unwrap();
        // Room for one.
        rustix::net::listen(&listener, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let error = Client::connect_to(&path).unwrap_err();
        assert!(crate::chain(&error).ends_with("vm.sock: it took too long"), "{}", crate::chain(&error));
    }

    #[test]
    fn folders_without_machines_are_named_with_what_is_wrong_with_them() {
        let outer = tempfile::tempdir().unwrap();
        let (good, open) = (outer.path().join("good"), outer.path().join("open"));
        DirBuilder::new().mode(0o700).create(&good).unwrap();
        DirBuilder::new().create(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        let said = nowhere(&[good.clone(), open.clone()]);
        assert!(said.contains(&format!("in {} and ", good.display())), "{said}");
        assert!(said.contains(&format!("{} has mode 0755", open.display())), "{said}");
    }

    #[test]
    fn name_that_is_none_is_said_to_be_none() {
        for name in ["", "../vm", "-x"] {
            assert!(matches!(Client::connect(name), Err(ClientError::Name(_))), "{name}");
        }
    }
}
