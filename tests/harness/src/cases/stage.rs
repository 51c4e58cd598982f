//! A case's machine: booted fresh for it, torn down with it, its end told.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_rootfs::image;
use kiln_vmm::config::{Boot, DiskConfig, MachineConfig};
use kiln_vmm::machine::MachineState;

use super::attempt::{End, attempt};
use super::case::ShouldPanic;
use super::noise::Noise;
use super::prepared::{Prepared, prepared};
use super::{Disk, Guest, Options, Outcome, inside};
use crate::agent::AgentError;
use crate::console::sanitize;
use crate::evidence::{RunDirectory, runs_root};
use crate::fork::{Fork, Snapshot};
use crate::run::{
    BodyEnd, Plan, Recipe, Report, Session, Task, execute_with, hold_of_environment, machine_name,
};
use crate::verdict::Verdict;

/// How long the guest that is saved may take to boot: the case that makes it, and those that wait for it, have all of their own time
/// afterwards.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(120);

/// A case's machine, its directory, and the disks that go with it.
struct Stage {
    plan: Plan,
    directory: Arc<RunDirectory>,
    disks: Vec<PathBuf>,
    /// Where the machine goes on from, if it is not to boot.
    fork: Option<Fork>,
    /// Removed with the case.
    _scratch: Vec<tempfile::NamedTempFile>,
    own: PathBuf,
}

fn stage(suite: &str, case: &str, options: &Options, forked: bool) -> Result<Stage, String> {
    let prepared = prepared(options)?;
    let io = |error: io::Error| error.to_string();
    let directory = RunDirectory::begin(&runs_root(prepared.cache.root()), suite, case).map_err(io)?;
    let (mut disks, mut scratch) = (Vec::new(), Vec::new());
    for disk in &options.disks {
        let path = match *disk {
            Disk::Image(name) => options.file(name),
            // A fork keeps to itself what it writes.
            Disk::Scratch(size) | Disk::ReadOnly(size) if forked => {
                image::empty_disk(&prepared.cache, size).map_err(|error| kiln_vmm::chain(&error))?
            }
            Disk::Scratch(size) | Disk::ReadOnly(size) => {
                let file = tempfile::NamedTempFile::new().map_err(io)?;
                file.as_file().set_len(size).map_err(io)?;
                let path = file.path().to_owned();
                scratch.push(file);
                path
            }
        };
        disks.push(DiskConfig { path, read_only: !matches!(disk, Disk::Scratch(_)) });
    }
    let recipe = Recipe {
        kernel: Some(prepared.kernel.image.clone()),
        cpus: options.cpus,
        memory: Some(options.memory_mib << 20),
        append: options.append.to_owned(),
        disks: disks.clone(),
        timeout: options.timeout,
        ..Recipe::default()
    };
    let image = if forked { prepared.base.clone() } else { prepared.image()? };
    let mut machine = recipe.machine(&prepared.vmlinux, image);
    machine.virtio_console = options.console;
    let fork = forked.then(|| fork(&prepared, &mut machine, &directory)).flatten();
    machine.name = options.control.then(|| machine_name(directory.relative()));
    // Evidence that can't be written (a full disk) must not change the outcome.
    let _ = directory.json("machine.json", &machine);
    let plan = Plan {
        machine,
        timeout: options.timeout,
        task: Task::Boot,
        show_console: false,
        allow_warning: options.allow_warning,
        hold: hold_of_environment(),
    };
    Ok(Stage {
        plan,
        directory: Arc::new(directory),
        disks: disks.into_iter().map(|disk| disk.path).collect(),
        fork,
        _scratch: scratch,
        own: prepared.own.clone(),
    })
}

/// What `machine`, which gets a place for the program's disk, goes on from; none if it has to boot after all, which is then noted.
fn fork(prepared: &Arc<Prepared>, machine: &mut MachineConfig, directory: &RunDirectory) -> Option<Fork> {
    let disk = prepared.disk();
    let snapshot = disk.and_then(|disk| {
        let config = MachineConfig { reserved_disk: true, ..machine.clone() };
        let snapshot = Snapshot::of(&prepared.cache, &config, SNAPSHOT_LIMIT);
        Ok((disk, config, snapshot.map_err(|error| kiln_vmm::chain(&error))?))
    });
    let whole = {
        let (prepared, machine) = (prepared.clone(), machine.clone());
        move || with_image(&machine, prepared.image()?)
    };
    match snapshot {
        Ok((disk, config, snapshot)) => {
            *machine = config;
            Some(Fork { snapshot: Arc::new(snapshot), disk, boot: Box::new(whole) })
        }
        Err(why) => {
            let _ = directory.event("vmm", "warning", &format!("no snapshot to go on from: {why}"));
            // Without an image there is nothing to run: the run says so when it finds no program.
            if let Ok(config) = whole() {
                *machine = config;
            }
            None
        }
    }
}

/// `machine`, booted with another image.
fn with_image(machine: &MachineConfig, image: PathBuf) -> Result<MachineConfig, String> {
    let mut machine = machine.clone();
    match &mut machine.boot {
        Boot::Kernel { initrd, .. } => *initrd = Some(image),
        _ => return Err("only a kernel boots an image".to_owned()),
    }
    Ok(machine)
}

/// Runs the guest half of a case in a fresh machine.
pub(super) fn in_guest(suite: &str, case: &str, options: &Options, forked: bool) -> End {
    let stage = match stage(suite, case, options, forked) {
        Ok(stage) => stage,
        Err(why) => return End::Failed(why),
    };
    let own = stage.own.to_string_lossy().into_owned();
    let directory = stage.directory.clone();
    perform(stage, move |session| {
        let ended = inside::run(&session, &directory, &own, case);
        (ended, session)
    })
}

/// Runs `body` here, with a fresh machine's guest in hand.
pub(super) fn with_guest(
    suite: &str,
    case: &str,
    options: &Options,
    forked: bool,
    body: fn(&mut Guest) -> Outcome,
    panics: Option<ShouldPanic>,
) -> End {
    let stage = match stage(suite, case, options, forked) {
        Ok(stage) => stage,
        Err(why) => return End::Failed(why),
    };
    let (disks, name) = (stage.disks.clone(), stage.plan.machine.name.clone());
    perform(stage, |session| {
        let mut guest = Guest::new(session, disks, name);
        let before = noise(guest.session());
        let mut ended = Ok(attempt(|| body(&mut guest), panics));
        let session = guest.into_session();
        if let Ok(End::Failed(why)) = &ended
            && session.client().is_lost()
            && !session.power_is_cut()
        {
            ended = Err(Gone(why.clone()));
        }
        // A guest that was taken away, or stands still, is not asked.
        let asked = ended == Ok(End::Passed)
            && !options.allow_warning
            && session.machine().state() == MachineState::Running
            && !session.client().is_lost();
        if asked {
            let left = before.and_then(|before| Ok(before.left_in(&noise(&session)?)));
            ended = match left {
                Ok(None) => ended,
                Ok(Some(left)) => Ok(End::Failed(left)),
                Err(error) => Ok(End::Failed(format!("what it left behind can't be told: {error}"))),
            };
        }
        (ended, session)
    })
}

fn noise(session: &Session) -> io::Result<Noise> {
    Noise::take(|path| {
        let mut bytes = Vec::new();
        match session.client().get(path, &mut bytes) {
            Err(AgentError::Refused { errno, .. }) => Err(io::Error::from_raw_os_error(errno)),
            Err(error) => Err(error.into()),
            Ok(()) => String::from_utf8(bytes).map_err(io::Error::other),
        }
    })
}

/// The guest went away under a body; what the body, or its program in the guest, had said by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone(pub(super) String);

/// Boots the machine, has `body` do its part, and tells how the case ended.
fn perform(stage: Stage, body: impl FnOnce(Session) -> (Result<End, Gone>, Session) + Send) -> End {
    let ended = Mutex::new(None);
    let report = execute_with(&stage.plan, stage.fork.as_ref(), &stage.directory, |session| {
        let (end, session) = body(session);
        let told = match &end {
            Ok(End::Passed | End::Skipped(_)) => BodyEnd::Held,
            Ok(End::Failed(why)) => BodyEnd::Failed(first_line(why)),
            Err(Gone(why)) => BodyEnd::Gone(first_line(why)),
        };
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        (told, session)
    });
    let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (report.verdict, ended) {
        (Verdict::Passed, Some(Ok(end @ (End::Passed | End::Skipped(_))))) => {
            if let Some(directory) = Arc::into_inner(stage.directory) {
                // What can't be removed is in nobody's way.
                let _left = directory.discard();
            }
            end
        }
        (_, ended) => {
            let said = match ended {
                Some(Ok(End::Failed(why)) | Err(Gone(why))) => why,
                _ => String::new(),
            };
            End::Failed(told(&stage.directory, &report, &said))
        }
    }
}

fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    // A panic's first line says only where it was.
    match lines.next() {
        Some(second) if first.ends_with(':') => format!("{first} {second}"),
        _ => first,
    }
}

/// What there is to be said of a case that failed: what it said, the verdict, where its processors stood, the last of
/// the console, and where the evidence is.
fn told(directory: &RunDirectory, report: &Report, said: &str) -> String {
    let reason = report.reason();
    // What the reason quotes whole is said once.
    let said = if report.verdict != Verdict::Assertion && reason.contains(said.trim()) { "" } else { said };
    let mut text = sanitize(said.trim_end().as_bytes());
    if !text.is_empty() {
        text.push('\n');
    }
    // A case that said what failed needs no second word on it.
    if said.is_empty() || report.verdict != Verdict::Assertion {
        text.push_str(&format!("{}\n", sanitize(reason.as_bytes())));
    }
    // Where the kernel tells by itself what happened, its words are worth more.
    let silent = matches!(
        report.verdict,
        Verdict::Hang | Verdict::Timeout | Verdict::Halted | Verdict::TripleFault | Verdict::Vmm
    );
    for vcpu in report.vcpus.iter().filter(|_| silent) {
        text.push_str(&sanitize(vcpu.as_bytes()));
        text.push('\n');
    }
    if !report.tail.is_empty() {
        text.push_str("the last of the console:\n");
        for line in &report.tail {
            text.push_str(&format!("  {}\n", sanitize(line.as_bytes())));
        }
    }
    text.push_str(&format!("evidence: {}", directory.path().display()));
    text
}

/// The machine that cases boot, with nothing beside `cpus` processors, `memory_mib` MiB of memory and the agent's port: for a case on
/// the host that puts machines together itself.
///
/// # Errors
/// There is no kernel or image to be had, in words.
pub fn machine_for(cpus: u32, memory_mib: u64) -> Result<MachineConfig, String> {
    machine(&Options::default(), cpus, memory_mib)
}

/// As [`machine_for`], with another kernel than the run's own: a packaged one's release. In the lab, that of a case which says
/// so ([`super::Case::booting`]).
///
/// # Errors
/// As [`machine_for`].
pub fn machine_on(kernel: &'static str, cpus: u32, memory_mib: u64) -> Result<MachineConfig, String> {
    machine(&Options { kernel: Some(kernel), ..Options::default() }, cpus, memory_mib)
}

fn machine(options: &Options, cpus: u32, memory_mib: u64) -> Result<MachineConfig, String> {
    let prepared = prepared(options)?;
    let kernel = Some(prepared.kernel.image.clone());
    let recipe = Recipe { kernel, cpus, memory: Some(memory_mib << 20), ..Recipe::default() };
    Ok(recipe.machine(&prepared.vmlinux, prepared.image()?))
}
