//! A plan carried into the lab, and carried out there by this same program.

use std::path::{Path, PathBuf};

use kiln_rootfs::cache::Cache;
use kiln_rootfs::progress::Progress;
use kiln_vmm::config::Boot;

use super::{Lab, LabError, LabSpec, line};
use crate::agent::{Command, ProcessEvent};
use crate::evidence::{EVIDENCE_FD, Replay, RunDirectory};
use crate::run::{Plan, Report, TaskIo, not_in_the_lab, pass_on};

/// The word that makes this program carry out a plan which it finds in the lab.
pub const INNER_PLAN: &str = "inner-plan";

/// Where things are inside.
const KERNEL: &str = "/kiln/kernel";
const INITRD: &str = "/kiln/initrd";
const PLAN: &str = "/kiln/plan.json";
/// How much longer than its machine's limit a lab may take: its own boot, and slow hosts.
const ALLOWANCE: std::time::Duration = std::time::Duration::from_secs(240);

/// Carries out `plan` in a lab; evidence arrives in `directory`, below `runs`, as it comes into being.
///
/// # Errors
/// The lab could not be had, or was lost: see [`LabError`].
pub fn execute(
    cache: &Cache,
    plan: &Plan,
    runs: &Path,
    directory: &RunDirectory,
    io: TaskIo<'_>,
    progress: &dyn Progress,
) -> Result<Report, LabError> {
    not_in_the_lab();
    let program = std::env::current_exe().map_err(LabError::host("find this program"))?;
    let (inner, mut spec) = carried(plan);
    spec.programs.push(program.clone());
    spec.console = Some(directory.path().join("lab.log"));

    let mut lab = Lab::start(cache, &spec, progress)?;
    let text = serde_json::to_vec(&inner).unwrap_or_default();
    if let Err(error) = lab.client().put(PLAN, 0o600, &mut text.as_slice()) {
        return Err(lab.explain(error));
    }
    let mut replay = Replay::into_folder(runs);
    let command = Command {
        argv: vec![
            program.to_string_lossy().into_owned(),
            INNER_PLAN.to_owned(),
            PLAN.to_owned(),
            directory.relative().to_owned(),
        ],
        env: vec![(EVIDENCE_FD.to_owned(), "3".to_owned())],
        cwd: None,
        stdin: io.stdin.is_some() || io.line.is_some(),
        events: true,
        terminal: None,
    };
    let outcome = follow(&lab, command, io, plan.show_console, &mut replay);
    let report: Option<Report> = serde_json::from_slice(replay.report()).ok();
    let (status, stderr) = match (outcome, &report) {
        (Ok(Ok(ended)), _) => ended,
        // It was lost after its work was done.
        (Ok(Err(_)) | Err(_), Some(_)) => (String::new(), String::new()),
        (Ok(Err(error)), None) => return Err(error),
        (Err(error), None) => return Err(lab.explain(error)),
    };
    // The disks' last writes are in the lab's page cache.
    let _ = lab.client().sync();
    report.ok_or(LabError::NoReport { status, stderr })
}

/// The plan as it reads inside, and what has to be carried in for it.
fn carried(plan: &Plan) -> (Plan, LabSpec) {
    let mut inner = plan.clone();
    inner.hold = false;
    let mut spec = LabSpec {
        guest_memory: plan.machine.memory,
        guard: plan.timeout.saturating_add(ALLOWANCE),
        ..LabSpec::default()
    };
    if let Boot::Kernel { kernel, initrd, .. } = &mut inner.machine.boot {
        spec.files.push((std::mem::replace(kernel, PathBuf::from(KERNEL)), KERNEL.to_owned()));
        if let Some(initrd) = initrd {
            spec.files.push((std::mem::replace(initrd, PathBuf::from(INITRD)), INITRD.to_owned()));
        }
    }
    for (disk, letter) in inner.machine.disks.iter_mut().zip('a'..='z') {
        spec.disks.push(disk.clone());
        disk.path = PathBuf::from(format!("/dev/vd{letter}"));
    }
    (inner, spec)
}

type Ended = (String, String);

/// Runs the command and passes everything on as it comes.
fn follow(
    lab: &Lab,
    command: Command,
    mut io: TaskIo<'_>,
    show_console: bool,
    replay: &mut Replay,
) -> Result<Result<Ended, LabError>, crate::agent::AgentError> {
    let mut process = lab.client().exec(command)?;
    let mut connected = None;
    // Detached: a read of this process's own standard input can't be called back.
    match (io.line.take(), io.stdin.take(), process.take_stdin()) {
        (Some(line), _, Some(stdin)) => {
            connected = Some(line.connected);
            std::thread::spawn(move || line::send(line.input, stdin));
        }
        (None, Some(mut input), Some(mut stdin)) => {
            std::thread::spawn(move || std::io::copy(&mut input, &mut stdin));
        }
        _ => {}
    }
    let mut console = io.console.take().filter(|_| show_console);
    let mut last_stderr = Vec::new();
    loop {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => pass_on(io.stdout, &bytes),
            ProcessEvent::Stderr(bytes) => {
                // A console that is shown comes this way, and its onlooker knows what to do with it.
                match &mut console {
                    Some(console) => pass_on(console, &bytes),
                    None => pass_on(io.stderr, &bytes),
                }
                last_stderr.extend_from_slice(&bytes);
                let excess = last_stderr.len().saturating_sub(512);
                last_stderr.drain(..excess);
            }
            ProcessEvent::Events(bytes) => {
                if let Err(source) = replay.feed(&bytes) {
                    return Ok(Err(LabError::Host { what: "keep the evidence".to_owned(), source }));
                }
                if replay.command_runs()
                    && let Some(connected) = connected.take()
                {
                    connected();
                }
            }
            ProcessEvent::Exited(status) => {
                let stderr = String::from_utf8_lossy(&last_stderr);
                let line = stderr.trim().lines().next_back().unwrap_or_default().to_owned();
                return Ok(Ok((format!("{status:?}"), line)));
            }
        }
    }
}
