//! What is done in the guest, through its agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use kiln_protocol::wire;
use kiln_vmm::chain;
use kiln_vmm::machine::Controller;

use super::line::Line;
use super::plan::{CommandPlan, Task};
use super::report::Assertion;
use super::session::{BodyEnd, Parts, Session, Wishes};
use crate::agent::{AgentError, Client, Command, ProcessEvent, Status};
use crate::evidence::{COMMAND_FILE, RunDirectory};
use crate::fork::{self, Adopting};

/// Where a command's input comes from and its output goes.
pub struct TaskIo<'a> {
    /// The command's standard input; none closes it at once.
    pub stdin: Option<Box<dyn Read + Send>>,
    /// The command's standard output.
    pub stdout: &'a mut (dyn Write + Send),
    /// The command's standard error.
    pub stderr: &'a mut (dyn Write + Send),
    /// The guest's console, where the plan asks for it to be shown.
    pub console: Option<Box<dyn Write + Send>>,
    /// The person at the terminal of a command that runs on one; none for a terminal that nobody sits at.
    pub line: Option<Line>,
}

/// What a case on the host does with a booted guest; it gives back what it was given.
pub(super) type Body<'a> = Box<dyn FnOnce(Session) -> (BodyEnd, Session) + Send + 'a>;

/// How far a task came.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// When the agent said hello.
    pub(super) hello: Option<Instant>,
    /// The guest's kernel release.
    pub(super) kernel: Option<String>,
    pub(super) assertions: Vec<Assertion>,
    pub(super) status: Option<u8>,
    /// When a program in the guest last wrote anything.
    pub(super) last_output: Option<Instant>,
    /// Whether the command came to run.
    pub(super) runs: bool,
    /// Whether all of the task was done.
    pub(super) done: bool,
    /// Whether the guest went away under the body, whose failure then says nothing of its own.
    pub(super) gone: bool,
}

/// Does `task` through the agent at the other end of `port`; `progress` holds what was done of it even when
/// the agent is lost.
pub(super) fn perform(
    task: &Task,
    port: UnixStream,
    directory: &RunDirectory,
    io: &mut TaskIo<'_>,
    progress: &mut Progress,
) -> Result<Option<Client>, AgentError> {
    if *task == Task::Watch {
        return Ok(None);
    }
    let client = greeted(port, directory, progress)?;
    match task {
        Task::Watch => {}
        Task::Boot | Task::Console { .. } => progress.assertions.push(Assertion {
            name: "boot::agent_says_hello".to_owned(),
            ok: true,
            message: String::new(),
        }),
        Task::Command(command) => run_command(&client, command, directory, io, progress)?,
        Task::Assert => run_assertions(&client, directory, io, progress)?,
    }
    progress.done = true;
    Ok(Some(client))
}

/// Has `body` do what it wants with the guest of `parts`, and with those that take its place.
pub(super) fn hand_over(
    body: Body<'_>,
    mut parts: Parts,
    wishes: &Arc<Wishes>,
    directory: &RunDirectory,
    progress: &mut Progress,
) -> Result<Session, AgentError> {
    let client = loop {
        let port = parts.port.take().ok_or(AgentError::Lost)?;
        let Some(adopting) = parts.adopting.take() else { break greeted(port, directory, progress)? };
        match adopted(adopting, port, &parts.machine, wishes) {
            Ok(client) => {
                welcome(&client, directory, progress);
                break client;
            }
            // Nothing of the task has been done: it has lost nothing with that machine.
            Err(error) => {
                let what = format!("a fork was of no use ({}); another machine boots", chain(&error));
                note(directory, "warning", &what);
                let _closed = writeln!(std::io::stderr(), "kiln: {}: {what}", directory.relative());
                wishes.again(&parts.machine);
                parts = wishes.next().ok_or(AgentError::Lost)?;
            }
        }
    };
    let (end, session) = body(Session::new(client, parts, wishes.clone()));
    let (ok, gone, message) = match end {
        BodyEnd::Held => (true, false, String::new()),
        BodyEnd::Failed(message) => (false, false, message),
        BodyEnd::Gone(message) => (false, true, message),
    };
    progress.last_output = wishes.last_output();
    progress.assertions.push(Assertion { name: "body".to_owned(), ok, message });
    (progress.done, progress.gone) = (!gone, gone);
    Ok(session)
}

/// Waits for the agent's hello, and notes what it says.
fn greeted(
    port: UnixStream,
    directory: &RunDirectory,
    progress: &mut Progress,
) -> Result<Client, AgentError> {
    let client = Client::connect(port)?;
    welcome(&client, directory, progress);
    Ok(client)
}

/// Has the agent of a fork adopt its guest. One that does not within [`fork::ADOPTION`] has its machine reset.
fn adopted(
    adopting: Adopting,
    port: UnixStream,
    machine: &Controller,
    wishes: &Wishes,
) -> Result<Client, AgentError> {
    let (done, watch) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if watch.recv_timeout(fork::ADOPTION) == Err(mpsc::RecvTimeoutError::Timeout) {
                wishes.again(machine);
            }
        });
        let client = adopting.adopt(port);
        drop(done);
        client
    })
}

/// Notes what an agent says of itself.
fn welcome(client: &Client, directory: &RunDirectory, progress: &mut Progress) {
    progress.hello = Some(Instant::now());
    let hello = client.hello();
    progress.kernel = Some(hello.kernel.clone());
    note(directory, "info", &format!("hello: agent {}, kernel {}", hello.agent, hello.kernel));
    for warning in &hello.warnings {
        note(directory, "warning", warning);
    }
}

fn run_command(
    client: &Client,
    command: &CommandPlan,
    directory: &RunDirectory,
    io: &mut TaskIo<'_>,
    progress: &mut Progress,
) -> Result<(), AgentError> {
    let name = format!("command::{}", command.argv.first().map_or("", String::as_str));
    let spawned = client.exec(Command {
        argv: command.argv.clone(),
        env: command.env.clone(),
        cwd: command.cwd.clone(),
        stdin: io.stdin.is_some() || io.line.is_some(),
        events: false,
        terminal: command.terminal,
    });
    let mut process = match spawned {
        Ok(process) => process,
        Err(AgentError::Refused { errno, message }) => {
            // As a shell has it: 127 for a program that is not there, 126 for one that can't be run.
            let status = if errno == libc::ENOENT { 127 } else { 126 };
            let hint = if errno == libc::ENOENT {
                " in the guest's image (--busybox and --exec add programs)"
            } else {
                ""
            };
            let line = format!("{}: {message}{hint}", command.argv.first().map_or("", String::as_str));
            let _ = writeln!(io.stderr, "{line}");
            progress.status = Some(status);
            progress.assertions.push(Assertion { name, ok: false, message: line });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    progress.runs = true;
    // What exactly ran, as soon as it does: the host outside a lab waits for that, too.
    let _ = directory.json(COMMAND_FILE, command);
    let cut = io.line.take().map(|line| line.connect(&mut process)).transpose()?;
    if let (Some(mut input), Some(mut stdin)) = (io.stdin.take(), process.take_stdin()) {
        // Detached: a read of this process's own standard input can't be called back, and the command may
        // end without having wanted it.
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || std::io::copy(&mut input, &mut stdin))
            .map_err(AgentError::Io)?;
    }
    let status = loop {
        let event = process.next_event()?;
        progress.last_output = Some(Instant::now());
        match event {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => pass_on(io.stdout, &bytes),
            ProcessEvent::Stderr(bytes) => pass_on(io.stderr, &bytes),
            ProcessEvent::Events(bytes) => drop(directory.append("events.jsonl", &bytes)),
            ProcessEvent::Exited(status) => break status,
        }
    };
    if cut.is_some_and(|cut| cut.load(Ordering::SeqCst)) {
        // Whoever sat there left: how the command took it is no matter.
        note(directory, "info", &format!("{name} was hung up and ended with {status:?}"));
        progress.assertions.push(Assertion { name, ok: true, message: String::new() });
        return Ok(());
    }
    let code = exit_status(status);
    progress.status = Some(code);
    let message = if code == 0 { String::new() } else { format!("ended with status {code}") };
    progress.assertions.push(Assertion { name, ok: code == 0, message });
    Ok(())
}

/// A consumer of output that went away (a closed pipe) does not end the run: its status still counts.
pub(crate) fn pass_on(to: &mut dyn Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

/// A command's end as a shell tells it: 128+N for one killed by signal N.
pub(crate) fn exit_status(status: Status) -> u8 {
    match status {
        Status::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Status::Signal(signal) => u8::try_from(signal).unwrap_or(0).saturating_add(128),
    }
}

fn run_assertions(
    client: &Client,
    directory: &RunDirectory,
    io: &mut TaskIo<'_>,
    progress: &mut Progress,
) -> Result<(), AgentError> {
    let mut process = client.exec(Command {
        argv: vec![wire::AGENT_PATH.to_owned(), "assert".to_owned()],
        env: Vec::new(),
        cwd: None,
        stdin: false,
        events: true,
        terminal: None,
    })?;
    let mut pending = Vec::new();
    let status = loop {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => pass_on(io.stderr, &bytes),
            ProcessEvent::Events(bytes) => {
                pending.extend_from_slice(&bytes);
                take_assertions(&mut pending, directory, progress);
            }
            ProcessEvent::Exited(status) => break status,
        }
    };
    // The agent's own status must agree with what it reported: a crash between two assertions is a failure.
    if exit_status(status) > 1 || (exit_status(status) == 1) != progress.assertions.iter().any(|a| !a.ok) {
        progress.assertions.push(Assertion {
            name: "assertions::all_of_them_ran".to_owned(),
            ok: false,
            message: format!("the agent's assertions ended with status {}", exit_status(status)),
        });
    }
    Ok(())
}

/// More than any assertion's line.
const LINE_MAX: usize = 1 << 16;

fn take_assertions(pending: &mut Vec<u8>, directory: &RunDirectory, progress: &mut Progress) {
    while let Some(end) = pending.iter().position(|&b| b == b'\n') {
        let line: Vec<u8> = pending.drain(..=end).collect();
        let assertion = serde_json::from_slice::<Assertion>(&line).unwrap_or_else(|error| Assertion {
            name: "assertions::report_is_readable".to_owned(),
            ok: false,
            message: error.to_string(),
        });
        let (level, held) = if assertion.ok { ("info", "ok") } else { ("error", "FAILED") };
        note(directory, level, &format!("{} ... {held} {}", assertion.name, assertion.message));
        progress.assertions.push(assertion);
    }
    pending.truncate(LINE_MAX);
}

fn note(directory: &RunDirectory, level: &str, message: &str) {
    // Evidence that can't be written (a full disk) must not change the verdict.
    let _ = directory.event("agent", level, message);
    let _ = directory.append("agent.log", format!("{message}\n").as_bytes());
}
