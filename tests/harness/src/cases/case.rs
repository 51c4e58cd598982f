//! What a case is.

use std::fmt::Debug;
use std::time::Duration;

use super::Guest;
use crate::gate::Needs;

/// What a case's body came to: what was seen, if it failed.
pub type Outcome = Result<(), String>;

/// Every case of this test binary; the attributes add to it.
#[linkme::distributed_slice]
pub static CASES: [fn() -> Vec<Case>];

/// A test case.
pub struct Case {
    /// A module path, without the crate.
    pub name: String,
    /// The level of KVM that it needs.
    pub needs: Needs,
    /// What it needs besides and this host has not, in words: it is ignored for that.
    pub lacks: Option<String>,
    /// What it does.
    pub body: Body,
}

/// What a case does, and where.
pub enum Body {
    /// It runs in this process.
    Host(Box<dyn FnOnce() -> Outcome + Send>),
    /// It runs in the guest, in this same binary.
    Guest(Options, fn() -> Outcome),
    /// It runs in this process, with a booted guest in hand.
    Vm(Options, fn(&mut Guest) -> Outcome),
}

/// The machine that a case asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many vCPUs.
    pub cpus: u32,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// The disks, in order.
    pub disks: Vec<Disk>,
    /// The limit on the machine's clock.
    pub timeout: Duration,
    /// What is added to the kernel's command line.
    pub append: &'static str,
    /// Whether there is a virtio console (`hvc0`) beside the UART.
    pub console: bool,
    /// Whether the machine has a control socket.
    pub control: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory_mib: 256,
            disks: Vec::new(),
            timeout: Duration::from_secs(120),
            append: "",
            console: false,
            control: false,
        }
    }
}

/// A disk that a case asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// An empty disk of so many bytes, which goes with the case.
    Scratch(u64),
}

impl Case {
    /// A case that runs in this process; `path` is its module path.
    pub fn host(path: &str, needs: Needs, body: impl FnOnce() -> Outcome + Send + 'static) -> Self {
        Self { name: without_crate(path), needs, lacks: None, body: Body::Host(Box::new(body)) }
    }

    /// The case, which needs something besides KVM: `lacks` says what, if this host has it not.
    #[must_use]
    pub fn lacking(self, lacks: Option<String>) -> Self {
        Self { lacks, ..self }
    }

    /// A case that runs in the guest.
    #[must_use]
    pub fn guest(path: &str, options: Options, body: fn() -> Outcome) -> Self {
        Self { name: without_crate(path), needs: Needs::Linux, lacks: None, body: Body::Guest(options, body) }
    }

    /// A case that runs here with a guest in hand.
    #[must_use]
    pub fn vm(path: &str, options: Options, body: fn(&mut Guest) -> Outcome) -> Self {
        Self { name: without_crate(path), needs: Needs::Linux, lacks: None, body: Body::Vm(options, body) }
    }
}

/// A test's return value as an outcome: `()`, or a `Result`.
pub trait IntoOutcome {
    /// The outcome.
    ///
    /// # Errors
    /// What was seen, if the case failed.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(())
    }
}

impl<T: IntoOutcome, E: Debug> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        self.map_err(|error| format!("{error:?}"))?.into_outcome()
    }
}

fn without_crate(path: &str) -> String {
    path.split_once("::").map_or(path, |(_, rest)| rest).to_owned()
}
