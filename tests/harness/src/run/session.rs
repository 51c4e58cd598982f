//! What a case on the host has of its run: the guest of the moment, and the power switch.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_vmm::machine::Controller;

use crate::agent::{AgentError, Client};
use crate::console::{Console, Search};
use crate::fork::Adopting;

/// What there is of a machine that was started.
pub(super) struct Parts {
    /// The host's end of the agent's port; none if the machine has no port.
    pub(super) port: Option<UnixStream>,
    /// The host's end of the virtio console, where there is one.
    pub(super) console: Option<UnixStream>,
    pub(super) machine: Controller,
    /// What is said to its agent first, if it is a fork: an agent that booted says hello.
    pub(super) adopting: Option<Adopting>,
    /// Whether it went on from a snapshot.
    pub(super) forked: bool,
}

/// What a session, the thread that waits for its machine and the console know of each other.
pub(super) struct Wishes {
    /// The machine ends because another is to take its place.
    again: AtomicBool,
    /// The machine ends because its power was cut.
    cut: AtomicBool,
    /// When a program in the guest last wrote anything.
    last_output: Mutex<Option<Instant>>,
    /// The machines that take another's place; closed when the last has ended.
    next: Mutex<mpsc::Receiver<Parts>>,
    pub(super) search: Search,
    console: Arc<Mutex<Console>>,
}

impl Wishes {
    pub(super) fn new(next: mpsc::Receiver<Parts>, console: Arc<Mutex<Console>>) -> Self {
        Self {
            again: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            last_output: Mutex::new(None),
            next: Mutex::new(next),
            search: Search::default(),
            console,
        }
    }

    /// Whether another machine is wanted; told once for each.
    pub(super) fn take_again(&self) -> bool {
        self.again.swap(false, Ordering::SeqCst)
    }

    pub(super) fn power_is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    pub(super) fn last_output(&self) -> Option<Instant> {
        *self.last_output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has another machine take this one's place.
    pub(super) fn again(&self, machine: &Controller) {
        self.again.store(true, Ordering::SeqCst);
        machine.reset();
    }

    /// Waits until the last machine has ended; says whether it did in `time`.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(next.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout))
    }

    /// Waits until the last machine has ended, however long that takes.
    pub(super) fn wait_for_end(&self) {
        while self.next().is_some() {}
    }

    /// The machine that takes the last one's place; none if there will be no other.
    pub(super) fn next(&self) -> Option<Parts> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

/// How a body on the host ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    /// All that it wanted held.
    Held,
    /// Something did not: what was seen.
    Failed(String),
    /// The guest went away under it, which the verdict tells; and what the body had to say of that.
    Gone(String),
}

/// A run in the hands of a body on the host.
pub(crate) struct Session {
    client: Client,
    parts: Parts,
    wishes: Arc<Wishes>,
}

impl Session {
    pub(super) fn new(client: Client, parts: Parts, wishes: Arc<Wishes>) -> Self {
        Self { client, parts, wishes }
    }

    /// The connection to the guest's agent.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Controller {
        &self.parts.machine
    }

    /// The host's end of the virtio console.
    pub(crate) fn console(&mut self) -> Option<&mut UnixStream> {
        self.parts.console.as_mut()
    }

    /// What the guest says on its UART.
    pub(crate) fn search(&self) -> &Search {
        &self.wishes.search
    }

    /// The console's last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.wishes.console.lock().unwrap_or_else(PoisonError::into_inner).summary().tail
    }

    /// A program in the guest said something: it is not silent.
    pub(crate) fn heard(&self) {
        *self.wishes.last_output.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether its machine went on from a snapshot.
    pub(super) fn is_forked(&self) -> bool {
        self.parts.forked
    }

    /// Whether the power was cut.
    pub(crate) fn power_is_cut(&self) -> bool {
        self.wishes.power_is_cut()
    }

    /// Ends the machine between two instructions, and waits until nothing of it is left that writes anywhere.
    pub(crate) fn cut_power(&mut self) {
        self.wishes.cut.store(true, Ordering::SeqCst);
        self.parts.machine.stop();
        // No other was asked for: the channel is closed when the machine has ended.
        self.wishes.wait_for_end();
    }

    /// Ends the machine as its reset line would, and boots another of the same make on the same disks.
    pub(crate) fn reset(&mut self) -> Result<(), AgentError> {
        self.wishes.again(&self.parts.machine);
        let mut parts = self.wishes.next().ok_or(AgentError::Lost)?;
        let port = parts.port.take().ok_or(AgentError::Lost)?;
        self.parts = parts;
        self.client = Client::connect(port)?;
        Ok(())
    }
}
