//! Programs on terminals in the guest: their window, their keys and the end of them.

use std::io::{self, Write};
use std::sync::mpsc;

use kiln::agent::{AgentError, Command, Process, ProcessEvent, Status, TerminalSize};
use kiln::cases::{CASES, Case, Guest, linkme};
use kiln::gate::Needs;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::progress::Silent;
use kiln::run::{AccelChoice, CommandPlan, Line, Recipe, Task, TaskIo, TerminalInput, prepare};
use kiln::verdict::Verdict;
use kiln::vm_test;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// The agent's own program that tells its terminal's name and window.
const WINDOW: [&str; 2] = ["/sbin/kiln-agent", "window"];

/// It, on a terminal.
fn window(guest: &Guest) -> std::result::Result<Process, AgentError> {
    guest.client().exec(Command {
        argv: WINDOW.map(str::to_owned).to_vec(),
        stdin: true,
        terminal: Some(TerminalSize { rows: 24, columns: 80 }),
        ..Command::default()
    })
}

/// What it writes next, up to the end of a line.
fn line(process: &mut Process) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let mut said = String::new();
    while !said.ends_with("\r\n") {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => said.push_str(&String::from_utf8(bytes)?),
            other => return Err(format!("it was to tell its window: {other:?}").into()),
        }
    }
    Ok(said)
}

#[vm_test]
fn a_program_on_a_terminal_sees_its_window_change(guest: &mut Guest) -> Result {
    let mut process = window(guest)?;
    assert_eq!(line(&mut process)?, "/dev/pts/0 24 80\r\n");
    let terminal = process.terminal().ok_or("no terminal")?;
    terminal.resize(TerminalSize { rows: 50, columns: 132 })?;
    assert_eq!(line(&mut process)?, "/dev/pts/0 50 132\r\n");
    // The end of what is typed is the end of the file.
    drop(process.take_stdin());
    assert_eq!(process.next_event()?, ProcessEvent::Exited(Status::Code(0)));
    Ok(())
}

#[vm_test]
fn the_interrupt_key_ends_a_program_in_the_foreground(guest: &mut Guest) -> Result {
    let mut process = window(guest)?;
    line(&mut process)?;
    process.take_stdin().ok_or("no keyboard")?.write_all(b"\x03")?;
    let status = loop {
        match process.next_event()? {
            // The key is shown.
            ProcessEvent::Stdout(_) => {}
            ProcessEvent::Exited(status) => break status,
            other => return Err(format!("it was to end: {other:?}").into()),
        }
    };
    assert_eq!(status, Status::Signal(2));
    Ok(())
}

#[vm_test]
fn a_hang_up_ends_a_program_and_its_terminal(guest: &mut Guest) -> Result {
    let mut process = window(guest)?;
    line(&mut process)?;
    guest.client().get("/dev/pts/0", &mut Vec::new())?;
    process.terminal().ok_or("no terminal")?.hang_up()?;
    // By the signal, or by what it read before that came: the kernel wakes it for both.
    let end = process.next_event()?;
    assert!(matches!(end, ProcessEvent::Exited(Status::Signal(1) | Status::Code(_))), "{end:?}");
    let gone = guest.client().get("/dev/pts/0", &mut Vec::new());
    assert!(matches!(gone, Err(AgentError::Refused { errno: 2, .. })), "{gone:?}");
    Ok(())
}

/// A screen at which the person widens the window when it is first told, and then leaves.
struct Screen {
    shown: String,
    person: mpsc::Sender<TerminalInput>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.shown.len();
        self.shown.push_str(&String::from_utf8_lossy(bytes));
        for (size, input) in [
            ("24 80\r\n", TerminalInput::Resize(TerminalSize { rows: 50, columns: 132 })),
            ("50 132\r\n", TerminalInput::HangUp),
        ] {
            if self.shown.contains(size) && !self.shown[..before].contains(size) {
                self.person.send(input).map_err(io::Error::other)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The run behind `shell`, on the KVM of this very host.
fn person_is_connected_and_leaves() -> Result {
    let cache = Cache::open(None)?;
    let command = CommandPlan {
        argv: WINDOW.map(str::to_owned).to_vec(),
        terminal: Some(TerminalSize { rows: 24, columns: 80 }),
        ..CommandPlan::default()
    };
    let plan = Recipe::of_environment().plan(&cache, Task::Command(command), &Silent)?;
    let run = prepare(&cache, &plan, AccelChoice::Kvm, ("guest", "terminal::person"))?;
    let (person, input) = mpsc::channel();
    let (connected, is_connected) = mpsc::channel();
    let line = Line { input, connected: Box::new(move || _ = connected.send(())) };
    let (mut stdout, mut stderr) = (Screen { shown: String::new(), person }, io::sink());
    let io =
        TaskIo { stdin: None, stdout: &mut stdout, stderr: &mut stderr, console: None, line: Some(line) };
    let done = run.carry_out(io, &Silent);
    assert_eq!((done.report.verdict, done.report.status), (Verdict::Passed, None), "{:?}", done.report);
    assert_eq!(stdout.shown, "/dev/pts/0 24 80\r\n/dev/pts/0 50 132\r\n");
    is_connected.try_recv()?;
    Ok(())
}

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static PERSON: fn() -> Vec<Case> = || {
    let path = concat!(module_path!(), "::a_person_at_a_terminal_is_connected_and_leaves");
    let body = || person_is_connected_and_leaves().map_err(|error| error.to_string());
    vec![Case::host(path, Needs::Linux, body)]
};
