//! What a case is.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
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
    /// The kernel of machines that it makes itself, if not the run's own: named as [`Options::kernel`].
    pub kernel: Option<&'static str>,
    /// What it needs besides and this host has not, in words: it is ignored for that.
    pub lacks: Option<String>,
    /// What it does.
    pub body: Body,
    /// Why its author wants it ignored, if they do; empty without a reason.
    pub ignored: Option<&'static str>,
    /// That it is to panic, if it is.
    pub panics: Option<ShouldPanic>,
}

/// A case that passes by its panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShouldPanic {
    /// What the panic's message is to hold.
    pub expected: Option<&'static str>,
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
    /// The kernel: a packaged one's release, or a file of the crate's; the run's own if none is given.
    pub kernel: Option<&'static str>,
    /// How many vCPUs.
    pub cpus: u32,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// The disks, in order.
    pub disks: Vec<Disk>,
    /// Files of the crate's, and where they are in the guest.
    pub files: Vec<(&'static str, &'static str)>,
    /// Modules that are loaded before the case, beside those that the machine needs: the kernel's own by their names;
    /// others, with a `/`, by a file of the crate's (`./driver.ko`) or the folder with the source (`./driver`), which
    /// is built for the case's kernel.
    pub modules: Vec<&'static str>,
    /// Modules that are in the guest and not loaded; what they depend on is. They are named as those that are.
    pub loadable: Vec<&'static str>,
    /// The limit on the machine's clock.
    pub timeout: Duration,
    /// What is added to the kernel's command line.
    pub append: &'static str,
    /// Whether there is a virtio console (`hvc0`) beside the UART.
    pub console: bool,
    /// Whether the machine has a control socket.
    pub control: bool,
    /// Whether what the kernel warns of, a taint and a module that is left behind are no failures.
    pub allow_warning: bool,
    /// The crate's folder, which its files are looked for in.
    pub folder: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: None,
            cpus: 1,
            memory_mib: 256,
            disks: Vec::new(),
            files: Vec::new(),
            modules: Vec::new(),
            loadable: Vec::new(),
            timeout: Duration::from_secs(120),
            append: "",
            console: false,
            control: false,
            allow_warning: false,
            folder: "",
        }
    }
}

impl Options {
    /// Where the crate's file `name` is.
    #[must_use]
    pub(super) fn file(&self, name: &str) -> PathBuf {
        Path::new(self.folder).join(name)
    }
}

/// A disk that a case asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// An empty disk of so many bytes, which goes with the case.
    Scratch(u64),
    /// The same, which the guest can't write to.
    ReadOnly(u64),
    /// A file of the crate's, which the guest can't write to.
    Image(&'static str),
}

impl Case {
    /// A case that runs in this process; `path` is its module path.
    pub fn host(path: &str, needs: Needs, body: impl FnOnce() -> Outcome + Send + 'static) -> Self {
        Self::new(path, needs, Body::Host(Box::new(body)))
    }

    /// The case, which makes machines itself that boot `kernel` ([`super::machine_on`]).
    #[must_use]
    pub fn booting(self, kernel: &'static str) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// The case, which needs something besides KVM: `lacks` says what, if this host has it not.
    #[must_use]
    pub fn lacking(self, lacks: Option<String>) -> Self {
        Self { lacks, ..self }
    }

    /// A case that runs in the guest.
    #[must_use]
    pub fn guest(path: &str, options: Options, body: fn() -> Outcome) -> Self {
        Self::new(path, Needs::Linux, Body::Guest(options, body))
    }

    /// A case that runs here with a guest in hand.
    #[must_use]
    pub fn vm(path: &str, options: Options, body: fn(&mut Guest) -> Outcome) -> Self {
        Self::new(path, Needs::Linux, Body::Vm(options, body))
    }

    fn new(path: &str, needs: Needs, body: Body) -> Self {
        Self {
            name: without_crate(path),
            needs,
            kernel: None,
            lacks: None,
            body,
            ignored: None,
            panics: None,
        }
    }

    /// The case, ignored unless it is asked for.
    #[must_use]
    pub fn ignore(self, why: &'static str) -> Self {
        Self { ignored: Some(why), ..self }
    }

    /// The case, which passes if it panics, with `expected` in the message.
    #[must_use]
    pub fn should_panic(self, expected: Option<&'static str>) -> Self {
        Self { panics: Some(ShouldPanic { expected }), ..self }
    }

    /// The machine that it asks for, if it is to have one.
    pub(super) fn options(&self) -> Option<&Options> {
        match &self.body {
            Body::Host(_) => None,
            Body::Guest(options, _) | Body::Vm(options, _) => Some(options),
        }
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
        self.map_err(|error| format!("Error: {error:?}"))?.into_outcome()
    }
}

fn without_crate(path: &str) -> String {
    path.split_once("::").map_or(path, |(_, rest)| rest).to_owned()
}
