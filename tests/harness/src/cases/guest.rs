//! Cases with a machine: booted fresh for each, torn down with it.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kiln_rootfs::cache::Cache;
use kiln_rootfs::kernel::KernelFiles;
use kiln_rootfs::progress::Silent;
use kiln_vmm::config::{DiskConfig, MachineConfig};
use kiln_vmm::machine::Controller;

use super::run::GUEST_CASE;
use super::{Disk, Options, Outcome};
use crate::agent::{AgentError, Client, Command, ProcessEvent, Status};
use crate::console::sanitize;
use crate::evidence::{RunDirectory, runs_root};
use crate::run::{
    CommandPlan, Plan, Recipe, Report, Task, TaskIo, execute, execute_with, hold_of_environment,
    machine_name, vmlinux_of,
};
use crate::verdict::Verdict;

/// What all machines of this process boot: made once.
struct Prepared {
    cache: Cache,
    kernel: KernelFiles,
    vmlinux: PathBuf,
    image: PathBuf,
    own: PathBuf,
}

/// The kernel and the image with this binary in it.
fn prepared() -> Result<&'static Prepared, String> {
    static PREPARED: OnceLock<Result<Prepared, String>> = OnceLock::new();
    let prepare = || -> Result<Prepared, Box<dyn std::error::Error>> {
        let cache = Cache::open(None)?;
        let own = std::env::current_exe()?;
        let mut recipe = Recipe::of_environment();
        recipe.image.execs.push(own.clone());
        let kernel = recipe.kernel(&cache, &Silent)?;
        let vmlinux = vmlinux_of(&cache, &kernel.image)?.unwrap_or_else(|| kernel.image.clone());
        let image = recipe.image(&cache, &kernel, &Silent)?;
        Ok(Prepared { cache, kernel, vmlinux, image, own })
    };
    PREPARED
        .get_or_init(|| prepare().map_err(|error| kiln_vmm::chain(&*error)))
        .as_ref()
        .map_err(Clone::clone)
}

/// A case's machine, its directory, and the scratch disks that go with it.
struct Stage {
    plan: Plan,
    directory: Arc<RunDirectory>,
    disks: Vec<tempfile::NamedTempFile>,
    own: &'static Path,
}

fn stage(suite: &str, case: &str, options: &Options, task: Task) -> Result<Stage, String> {
    let prepared = prepared()?;
    let io = |error: io::Error| error.to_string();
    let directory = RunDirectory::begin(&runs_root(prepared.cache.root()), suite, case).map_err(io)?;
    let mut disks = Vec::new();
    for Disk::Scratch(size) in &options.disks {
        let file = tempfile::NamedTempFile::new().map_err(io)?;
        file.as_file().set_len(*size).map_err(io)?;
        disks.push(file);
    }
    let recipe = Recipe {
        kernel: Some(prepared.kernel.image.clone()),
        cpus: options.cpus,
        memory: Some(options.memory_mib << 20),
        append: options.append.to_owned(),
        disks: disks
            .iter()
            .map(|file| DiskConfig { path: file.path().to_owned(), read_only: false })
            .collect(),
        timeout: options.timeout,
        ..Recipe::default()
    };
    let mut machine = recipe.machine(&prepared.vmlinux, prepared.image.clone());
    machine.virtio_console = options.console;
    machine.name = options.control.then(|| machine_name(directory.relative()));
    // Evidence that can't be written (a full disk) must not change the outcome.
    let _ = directory.json("machine.json", &machine);
    let hold = hold_of_environment();
    let plan = Plan { machine, timeout: options.timeout, task, show_console: false, hold };
    Ok(Stage { plan, directory: Arc::new(directory), disks, own: &prepared.own })
}

/// The machine that cases boot, with nothing beside `cpus` processors, `memory_mib` MiB of memory and the agent's port: for a case on
/// the host that puts machines together itself.
///
/// # Errors
/// There is no kernel or image to be had, in words.
pub fn machine_for(cpus: u32, memory_mib: u64) -> Result<MachineConfig, String> {
    let prepared = prepared()?;
    let kernel = Some(prepared.kernel.image.clone());
    let recipe = Recipe { kernel, cpus, memory: Some(memory_mib << 20), ..Recipe::default() };
    Ok(recipe.machine(&prepared.vmlinux, prepared.image.clone()))
}

/// Runs the guest half of a case in a fresh machine.
pub(super) fn in_guest(suite: &str, case: &str, options: &Options) -> Outcome {
    let mut stage = stage(suite, case, options, Task::Boot)?;
    let backtrace = std::env::var("RUST_BACKTRACE").unwrap_or_default();
    stage.plan.task = Task::Command(CommandPlan {
        argv: vec![stage.own.to_string_lossy().into_owned()],
        env: vec![(GUEST_CASE.to_owned(), case.to_owned()), ("RUST_BACKTRACE".to_owned(), backtrace)],
        cwd: None,
        terminal: None,
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let io = TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console: None, line: None };
    let report = execute(&stage.plan, &stage.directory, io);
    out.extend(err);
    finish(stage, &report, &out)
}

/// Runs `body` here, with a fresh machine's guest in hand.
pub(super) fn with_guest(
    suite: &str,
    case: &str,
    options: &Options,
    body: fn(&mut Guest) -> Outcome,
) -> Outcome {
    let stage = stage(suite, case, options, Task::Boot)?;
    let disks = stage.disks.iter().map(|file| file.path().to_owned()).collect();
    let name = stage.plan.machine.name.clone();
    let report = execute_with(&stage.plan, &stage.directory, |client, console, machine| {
        body(&mut Guest { client, machine, disks, console, name })
    });
    finish(stage, &report, &[])
}

/// The case's outcome: on failure what was said, the last of the console, and where the evidence is.
fn finish(stage: Stage, report: &Report, said: &[u8]) -> Outcome {
    let path = stage.directory.path();
    drop(stage.disks);
    if report.verdict == Verdict::Passed {
        if let Some(directory) = Arc::into_inner(stage.directory) {
            // What can't be removed is in nobody's way.
            let _left = directory.discard();
        }
        return Ok(());
    }
    let mut text = sanitize(said);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    // A case that said what failed needs no second word on it.
    if said.is_empty() || report.verdict != Verdict::Assertion {
        text.push_str(&format!("{}\n", sanitize(report.reason().as_bytes())));
    }
    if !report.tail.is_empty() {
        text.push_str("the last of the console:\n");
        for line in &report.tail {
            text.push_str(&format!("  {}\n", sanitize(line.as_bytes())));
        }
    }
    text.push_str(&format!("evidence: {}", path.display()));
    Err(text)
}

/// A booted guest, in the hands of a case on the host.
pub struct Guest {
    client: Client,
    machine: Controller,
    disks: Vec<PathBuf>,
    console: Option<UnixStream>,
    name: Option<String>,
}

/// What a command in the guest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Guest {
    /// The connection to the guest's agent.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The machine that it runs in: pause, interrupts, registers.
    #[must_use]
    pub fn machine(&self) -> &Controller {
        &self.machine
    }

    /// The host's end of the virtio console, for a case that asked for one: what is written to it the guest reads
    /// from `/dev/hvc0`, and the other way round.
    pub fn console(&mut self) -> Option<&mut UnixStream> {
        self.console.as_mut()
    }

    /// A connection to the machine's control socket, for a case that asked for one.
    ///
    /// # Errors
    /// The case did not, or the machine does not answer.
    pub fn control(&self) -> Result<kiln_vmm::control::Client, kiln_vmm::control::ClientError> {
        kiln_vmm::control::Client::connect(self.name.as_deref().unwrap_or_default())
    }

    /// The host's file behind disk `index`.
    #[must_use]
    pub fn disk(&self, index: usize) -> Option<&Path> {
        self.disks.get(index).map(PathBuf::as_path)
    }

    /// Opens the host's file behind disk `index` for reading and writing.
    ///
    /// # Errors
    /// There is no such disk, or it can't be opened.
    pub fn open_disk(&self, index: usize) -> io::Result<File> {
        let path = self.disk(index).ok_or(io::ErrorKind::NotFound)?;
        File::options().read(true).write(true).open(path)
    }

    /// Runs a program to its end, with no input.
    ///
    /// # Errors
    /// The guest can't run it, or its agent is lost.
    pub fn run(&self, argv: &[&str]) -> Result<Output, AgentError> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut process = self.client.exec(Command { argv, ..Command::default() })?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match process.next_event()? {
                ProcessEvent::Started(_) | ProcessEvent::Events(_) => {}
                ProcessEvent::Stdout(bytes) => stdout.extend(bytes),
                ProcessEvent::Stderr(bytes) => stderr.extend(bytes),
                ProcessEvent::Exited(status) => return Ok(Output { status, stdout, stderr }),
            }
        }
    }
}
