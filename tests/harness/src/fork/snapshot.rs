//! A guest that booted, said hello, and was saved in the cache.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use kiln_protocol::wire::{self, Hello};
use kiln_rootfs::cache::{Cache, Key};
use kiln_vmm::config::{Boot, MachineConfig};
use kiln_vmm::machine::{Machine, MachineIo, MachineState, RestoreIo, Running};
use kiln_vmm::snapshot;
use serde::{Deserialize, Serialize};

use super::{ForkError, missing};
use crate::agent::{AgentError, Client};
use crate::console::Console;
use crate::gate::KVM_NODE;

/// Changes whenever what is done before a guest is saved does.
const FORM: &str = "snapshot-4";
/// The kind of the cache's entries.
const KIND: &str = "snapshots";
/// What the machine's own files are in.
const MACHINE: &str = "machine";
/// What the harness knows of the guest.
const GREETING: &str = "greeting.json";
/// What it said on its console until then.
const CONSOLE: &str = "console.log";
/// How often it is looked at whether the guest that is to be saved has ended before.
const LOOK: Duration = Duration::from_millis(50);

/// A guest that is ready for whoever forks it.
pub struct Snapshot {
    cache: Cache,
    key: Key,
    /// Its entry in the cache, and which folder that was.
    entry: PathBuf,
    folder_was: Option<(u64, u64)>,
    greeting: Greeting,
    console: Vec<u8>,
}

/// What of the talk with the agent was said before.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Greeting {
    hello: Hello,
    last_request: u32,
    /// The serial number of the disk that a fork gets.
    reserved_disk: String,
    /// The kernel's name of the same place as persistent memory, if it has a driver for that.
    reserved_memory: Option<String>,
}

/// The kernel's name of the only persistent memory that there is.
const PMEM: &str = "pmem0";

impl Snapshot {
    /// The snapshot of the machine `config`, which has a reserved disk, in `cache`: made, within `limit`, if it is not there.
    /// While one process makes it, others that want it wait.
    ///
    /// # Errors
    /// The guest did not get ready, or there is no KVM, or no room in the cache.
    pub fn of(cache: &Cache, config: &MachineConfig, limit: Duration) -> Result<Self, ForkError> {
        let key = key(config)?;
        let entry = cache.entry(KIND, &key, |folder| make(config, limit, folder))?;
        let read = |name: &str| {
            fs::read(entry.join(name)).map_err(failed(&format!("can't read {name} of a snapshot")))
        };
        let greeting = serde_json::from_slice(&read(GREETING)?).map_err(io::Error::from);
        Ok(Self {
            greeting: greeting.map_err(failed("can't read a snapshot"))?,
            console: read(CONSOLE)?,
            cache: cache.clone(),
            key,
            folder_was: which(&entry),
            entry,
        })
    }

    /// Where the machine's own files are ([`kiln_vmm::snapshot`]).
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.entry.join(MACHINE)
    }

    /// Removes it from the cache, for no machine can go on from it: who wants it next makes it anew.
    pub(crate) fn give_up(&self) {
        // One that can't be removed is refused again.
        let _ = self.cache.give_up(KIND, &self.key, |entry| which(entry) == self.folder_was);
    }

    /// The serial number of the disk that a fork gets.
    pub(super) fn reserved_disk(&self) -> &str {
        &self.greeting.reserved_disk
    }

    /// The kernel's name of the same place as persistent memory.
    pub(super) fn reserved_memory(&self) -> Option<&str> {
        self.greeting.reserved_memory.as_deref()
    }

    /// What the guest said on its console until it was saved.
    pub(crate) fn console(&self) -> &[u8] {
        &self.console
    }

    /// The agent's hello, and the number of the last request that was made of it.
    pub(super) fn greeting(&self) -> (Hello, u32) {
        (self.greeting.hello.clone(), self.greeting.last_request)
    }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> ForkError {
    move |source| ForkError::File { what: what.to_owned(), source }
}

/// Of all that a saved guest depends on: its machine, what it boots, and the host.
fn key(config: &MachineConfig) -> Result<Key, ForkError> {
    let text = |value: serde_json::Result<Vec<u8>>| {
        value.map_err(|error| failed("can't write down a machine")(error.into()))
    };
    let mut key = Key::new(FORM)
        .field("machine", &text(serde_json::to_vec(config))?)
        .field("protocol", &wire::VERSION.to_le_bytes())
        .field("host", &text(serde_json::to_vec(&snapshot::identity(Path::new(KVM_NODE))?))?);
    let Boot::Kernel { kernel, initrd, .. } = &config.boot else {
        return Err(failed("only a guest that boots a kernel has an agent")(missing("no kernel")));
    };
    for path in [Some(kernel), initrd.as_ref()].into_iter().flatten() {
        key = key.field("file", stamp(path)?.as_bytes());
    }
    for disk in &config.disks {
        key = key.field("disk", stamp(&disk.path)?.as_bytes());
    }
    Ok(key)
}

/// Which folder is there: one that was made anew is another.
fn which(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|folder| (folder.dev(), folder.ino()))
}

/// What changes with a file's content.
fn stamp(path: &Path) -> Result<String, ForkError> {
    let m = fs::metadata(path).map_err(failed(&format!("can't measure {}", path.display())))?;
    Ok(format!("{:x} {:x} {:x} {:?}", m.dev(), m.ino(), m.size(), (m.mtime(), m.mtime_nsec(), m.ctime())))
}

/// Boots the machine, and saves it in `folder` when its agent has said hello and is at rest.
fn make(config: &MachineConfig, limit: Duration, folder: &Path) -> Result<(), ForkError> {
    let said = Said::default();
    let (near, ports, others) = ports(config)?;
    let io = MachineIo { serial: Box::new(said.clone()), console: None, ports };
    let running = Machine::new(config, io)?.start()?;
    let talk = move || {
        let client = Client::connect(near)?;
        client.settle()?;
        let there = client.get(&format!("/sys/block/{PMEM}/size"), &mut io::sink()).is_ok();
        Ok((client, there))
    };
    let (running, (client, has_pmem)) = talked(running, &said, limit, talk)?;
    let mut console = Console::default();
    console.feed(&said.bytes());
    if let Some((_, line)) = console.summary().first {
        return Err(ForkError::Reported(line));
    }
    let letter = char::from(b'a'.saturating_add(u8::try_from(config.disks.len()).unwrap_or(u8::MAX)));
    let greeting = Greeting {
        hello: client.hello().clone(),
        last_request: client.last_request(),
        reserved_disk: format!("vd{letter}"),
        reserved_memory: has_pmem.then(|| PMEM.to_owned()),
    };
    running.save(&folder.join(MACHINE))?;
    drop((client, others));
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).map_err(failed(&format!("can't write {name} of a snapshot")))
    };
    write(
        GREETING,
        &serde_json::to_vec(&greeting).map_err(|error| failed("can't write a snapshot")(error.into()))?,
    )?;
    write(CONSOLE, &said.bytes())?;
    rehearse(config, &greeting, folder)
}

/// Has one machine go on from the snapshot in `folder` before any case does. What it writes until its guest is adopted, all will
/// write: they then have those pages at once.
fn rehearse(config: &MachineConfig, greeting: &Greeting, folder: &Path) -> Result<(), ForkError> {
    let said = Said::default();
    let (near, ports, _others) = ports(config)?;
    let io =
        RestoreIo { name: None, serial: Box::new(said.clone()), console: None, ports, reserved_disk: None };
    let running = Machine::restore(&folder.join(MACHINE), io)?.start()?;
    let (hello, last) = (greeting.hello.clone(), greeting.last_request);
    let adoption = super::adoption(None).map_err(failed("can't read random numbers"))?;
    let talk = move || {
        let client = Client::of_fork(near, hello, last)?;
        client.adopt(&adoption)?;
        Ok(client)
    };
    let (running, client) = talked(running, &said, super::ADOPTION, talk)?;
    // Without the note forks are slower, and no worse.
    let _not_noted = running.note_early_pages();
    drop(client);
    Ok(())
}

/// The host's end of the agent's port, the machine's ends of all, and the host's other ends.
fn ports(config: &MachineConfig) -> Result<(UnixStream, Vec<UnixStream>, Vec<UnixStream>), ForkError> {
    let pair = || UnixStream::pair().map_err(failed("can't make a pair of sockets"));
    let (near, far) = pair()?;
    let (mut ports, mut others) = (vec![far], Vec::new());
    for _ in config.ports.iter().skip(1) {
        let (near, far) = pair()?;
        ports.push(far);
        others.push(near);
    }
    Ok((near, ports, others))
}

/// Has `talk` talk with the agent of a machine, for as long as that runs and for `limit` at most.
fn talked<R: Send + 'static>(
    running: Running,
    said: &Said,
    limit: Duration,
    talk: impl FnOnce() -> Result<R, AgentError> + Send + 'static,
) -> Result<(Running, R), ForkError> {
    let deadline = Instant::now() + limit;
    let (ready, readied) = mpsc::channel();
    let talk = thread::Builder::new().name("settle".to_owned()).spawn(move || {
        // Nobody waits any more for a guest that has ended.
        let _unread = ready.send(talk());
    });
    let talk = talk.map_err(failed("can't start a thread"))?;
    let came = loop {
        match readied.recv_timeout(LOOK) {
            Ok(came) => break came,
            Err(_) if running.state() != MachineState::Stopped && Instant::now() < deadline => {}
            Err(_) => break Err(AgentError::Lost),
        }
    };
    match came {
        Ok(came) => Ok((running, came)),
        Err(source) => {
            // With the machine its ports are gone, and with them the agent's.
            drop(running);
            let _ended = talk.join();
            Err(ForkError::Guest { tail: said.text(), source })
        }
    }
}

/// What a guest says on its console.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

/// The most that is kept of it: a boot says some 20 KiB.
const SAID_MAX: usize = 1 << 20;

impl Said {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last of it.
    fn text(&self) -> String {
        let mut console = Console::default();
        console.feed(&self.bytes());
        console.summary().tail.join("\n")
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SAID_MAX.saturating_sub(said.len()).min(bytes.len());
        said.extend_from_slice(&bytes[..room]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
