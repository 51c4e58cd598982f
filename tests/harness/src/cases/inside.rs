//! The two ends of a case's half in the guest: the program there, and whoever runs it from the host.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::attempt::{End, attempt};
use super::noise::Noise;
use super::stage::Gone;
use super::{Body, Case};
use crate::agent::{AgentError, Command, Process, ProcessEvent, Status};
use crate::console::classify;
use crate::evidence::{COMMAND_FILE, RunDirectory};
use crate::guest;
use crate::run::{CommandPlan, Session};

/// Names the case that a test binary, carried into a guest, is to run.
pub(super) const GUEST_CASE: &str = "KILN_GUEST_CASE";
/// Has a test binary print the kernel's log, in the place of a case.
pub(super) const GUEST_LOG: &str = "KILN_GUEST_LOG";
/// The exit status of a case that failed in the guest: a Rust panic's.
pub(super) const FAILED: u8 = 101;
/// The descriptor that the agent listens to for events.
const EVENTS: &str = "/proc/self/fd/3";
/// The most that is kept of what a case says.
const SAID_MAX: usize = 1 << 20;

/// What the program in the guest says beside its exit status; a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// The case can't be tried here: why.
    Skipped(String),
}

/// Runs one case, in the guest: what a panic says goes to standard error as on a host.
pub(super) fn main(name: &str, cases: Vec<Case>) -> ExitCode {
    let Some(Case { body: Body::Guest(options, body), panics, .. }) =
        cases.into_iter().find(|case| case.name == name)
    else {
        return failed(&format!("this binary has no guest case {name}"));
    };
    // Without a log the case still runs, and says why it has none if it asks for it.
    let logged = guest::begin_log();
    let before = noise();
    match attempt(body, panics) {
        End::Passed if options.allow_warning => ExitCode::SUCCESS,
        End::Passed => {
            let left = before.and_then(|before| Ok(before.left_in(&noise()?)));
            let reported = if logged.is_ok() { guest::dmesg() } else { Ok(String::new()) };
            match (left, reported) {
                (Ok(Some(left)), _) => failed(&left),
                (Ok(None), Ok(log)) => match log.lines().find(|line| classify(line).is_some()) {
                    Some(line) => failed(&format!("its assertions held, but the kernel reported: {line}")),
                    None => ExitCode::SUCCESS,
                },
                (Err(error), _) | (_, Err(error)) => {
                    failed(&format!("what it left behind can't be told: {error}"))
                }
            }
        }
        End::Failed(why) => failed(&why),
        End::Skipped(why) => match say(&Word::Skipped(why)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format!("that it was skipped can't be told: {error}")),
        },
    }
}

/// Prints the whole of the kernel's log, in the guest.
pub(super) fn print_log() -> ExitCode {
    let log = guest::whole_log();
    match log.and_then(|log| io::stdout().write_all(log.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    let _closed = io::stderr().write_all(format!("{why}\n").as_bytes());
    ExitCode::from(FAILED)
}

fn noise() -> io::Result<Noise> {
    Noise::take(|path| std::fs::read_to_string(path))
}

fn say(word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    File::options().write(true).open(EVENTS)?.write_all(&line)
}

/// Runs the case `case` of the binary `own` in the guest of `session`; `directory` is told what runs.
pub(super) fn run(session: &Session, directory: &RunDirectory, own: &str, case: &str) -> Result<End, Gone> {
    let backtrace = std::env::var("RUST_BACKTRACE").unwrap_or_default();
    let plan = CommandPlan {
        argv: vec![own.to_owned()],
        env: vec![(GUEST_CASE.to_owned(), case.to_owned()), ("RUST_BACKTRACE".to_owned(), backtrace)],
        ..CommandPlan::default()
    };
    let command =
        Command { argv: plan.argv.clone(), env: plan.env.clone(), events: true, ..Command::default() };
    let mut output = Output::default();
    let status = session.client().exec(command).and_then(|process| {
        // Evidence that can't be written (a full disk) must not change the outcome.
        let _ = directory.json(COMMAND_FILE, &plan);
        follow(session, &mut output, process)
    });
    let mut said = String::from_utf8_lossy(&output.said).into_owned();
    if !said.is_empty() && !said.ends_with('\n') {
        said.push('\n');
    }
    match status {
        Ok(Status::Code(0)) => Ok(match output.word() {
            Some(Word::Skipped(why)) => End::Skipped(why),
            None => End::Passed,
        }),
        Ok(Status::Code(code)) if code == i32::from(FAILED) => Ok(End::Failed(said)),
        Ok(Status::Code(code)) => Ok(End::Failed(format!("{said}it ended with status {code}"))),
        Ok(Status::Signal(signal)) => {
            let kernel = last_words(session, own, output.pid).unwrap_or_default();
            let name = signal_name(signal);
            Ok(End::Failed(format!("{said}it was killed by signal {signal}{name}{kernel}")))
        }
        Err(AgentError::Refused { message, .. }) => Ok(End::Failed(format!("{said}{message}"))),
        Err(error) => Err(Gone(if said.is_empty() { error.to_string() } else { said })),
    }
}

/// What a program in the guest gave.
#[derive(Default)]
struct Output {
    pid: u32,
    /// Its standard output and error, as they came.
    said: Vec<u8>,
    events: Vec<u8>,
}

impl Output {
    fn word(&self) -> Option<Word> {
        self.events.split(|&byte| byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())
    }
}

fn follow(session: &Session, output: &mut Output, mut process: Process) -> Result<Status, AgentError> {
    let keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
        kept.extend(bytes.iter().take(SAID_MAX.saturating_sub(kept.len())));
    };
    loop {
        match process.next_event()? {
            ProcessEvent::Started(pid) => output.pid = pid,
            ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => keep(&mut output.said, &bytes),
            ProcessEvent::Events(bytes) => keep(&mut output.events, &bytes),
            ProcessEvent::Exited(status) => return Ok(status),
        }
        session.heard();
    }
}

/// What the kernel's log has on process `pid` of the binary `own`, which reads it to us.
fn last_words(session: &Session, own: &str, pid: u32) -> Result<String, AgentError> {
    let mut output = Output::default();
    let env = vec![(GUEST_LOG.to_owned(), "1".to_owned())];
    let command = Command { argv: vec![own.to_owned()], env, ..Command::default() };
    follow(session, &mut output, session.client().exec(command)?)?;
    let text = String::from_utf8_lossy(&output.said);
    let of_process = format!("[{pid}]");
    let lines = text.lines().filter(|line| line.contains(&of_process));
    Ok(lines.map(|line| format!("\nthe kernel: {line}")).collect())
}

/// The names of the signals that programs die of (signal(7)).
fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => " (SIGHUP)",
        libc::SIGINT => " (SIGINT)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGTRAP => " (SIGTRAP)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGPIPE => " (SIGPIPE)",
        libc::SIGALRM => " (SIGALRM)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGSYS => " (SIGSYS)",
        _ => "",
    }
}
