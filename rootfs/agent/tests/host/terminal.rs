//! Programs on terminals: what they see of one, and how it ends.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use kiln::agent::{Command, Process, ProcessEvent, Status, Stdin, TerminalSize};
use kiln::protocol::wire::{Exec, ToAgent, encode};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{Fixture, finish, pending_kill, shell};

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// The script on a terminal, with somebody who types.
fn on_terminal(fixture: &Fixture, script: &str) -> (Process, Stdin) {
    let command = Command { terminal: Some(SIZE), stdin: true, ..shell(script) };
    let mut process = fixture.client.exec(command).unwrap();
    let stdin = process.take_stdin().unwrap();
    (process, stdin)
}

/// Reads what the program writes until that holds `wanted`.
fn await_text(process: &mut Process, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match process.next_event().unwrap() {
            ProcessEvent::Stdout(bytes) => seen.push_str(&String::from_utf8(bytes).unwrap()),
            ProcessEvent::Exited(status) => panic!("it ended with {status:?} and no {wanted:?}: {seen:?}"),
            _ => {}
        }
    }
    seen
}

fn text(process: &mut Process) -> (String, Status) {
    let (output, status) = finish(process);
    assert!(output.stderr.is_empty(), "all of it is on the terminal");
    (String::from_utf8(output.stdout).unwrap(), status)
}

fn make_fifo(fixture: &Fixture) -> String {
    let fifo = fixture.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fifo
}

#[test]
fn program_has_its_terminal_with_the_window_that_was_asked_for() {
    let fixture = Fixture::new("window");
    let script = "tty; stty size; echo err >&2; : >/dev/tty && echo controls; echo $TERM; exit 7";
    let mut command = shell(script);
    command.terminal = Some(TerminalSize { rows: 37, columns: 211 });
    command.env = vec![("TERM".to_owned(), "xterm-kiln".to_owned())];
    let (said, status) = text(&mut fixture.client.exec(command).unwrap());
    assert_eq!(status, Status::Code(7));
    assert!(said.starts_with("/dev/pts/"), "{said:?}");
    let rest = said.split_once("\r\n").unwrap().1;
    assert_eq!(rest, "37 211\r\nerr\r\ncontrols\r\nxterm-kiln\r\n");
}

#[test]
fn resize_is_told_to_the_foreground() {
    let fixture = Fixture::new("resize");
    let script = "trap 'stty size; kill $!; exit 0' WINCH; sleep 1000 & echo ready; wait";
    let (mut process, _stdin) = on_terminal(&fixture, script);
    await_text(&mut process, "ready");
    process.terminal().unwrap().resize(TerminalSize { rows: 50, columns: 132 }).unwrap();
    let (said, status) = text(&mut process);
    assert!(said.ends_with("50 132\r\n"), "{said:?}");
    assert_eq!(status, Status::Code(0));
}

#[test]
fn interrupt_key_ends_what_is_in_the_foreground_and_not_the_shell() {
    let fixture = Fixture::new("jobs");
    let (mut process, mut stdin) = on_terminal(&fixture, "PS1= exec sh -i");
    stdin.write_all(b"sh -c 'echo rea''dy; exec sleep 1000'\n").unwrap();
    await_text(&mut process, "ready");
    stdin.write_all(b"\x03").unwrap();
    stdin.write_all(b"echo status-$?; exit 3\n").unwrap();
    let (said, status) = text(&mut process);
    assert!(said.contains("status-130"), "{said:?}");
    assert_eq!(status, Status::Code(3));
}

#[test]
fn end_of_input_is_the_end_of_file_within_a_line_and_after_it() {
    let fixture = Fixture::new("end");
    for (typed, counted) in [("", "0"), ("abc", "3"), ("abc\n", "4")] {
        let (mut process, mut stdin) = on_terminal(&fixture, "stty -echo; echo ready; wc -c");
        await_text(&mut process, "ready\r\n");
        stdin.write_all(typed.as_bytes()).unwrap();
        drop(stdin);
        let (said, status) = text(&mut process);
        assert_eq!((said.trim(), status), (counted, Status::Code(0)), "{typed:?}");
    }
}

#[test]
fn terminal_that_nobody_types_at_is_at_its_end() {
    let fixture = Fixture::new("nobody");
    let command = Command { terminal: Some(SIZE), ..shell("cat; echo over") };
    let (said, status) = text(&mut fixture.client.exec(command).unwrap());
    assert_eq!((said.as_str(), status), ("over\r\n", Status::Code(0)));
}

#[test]
fn all_that_was_written_before_the_end_arrives() {
    let fixture = Fixture::new("all");
    let (mut process, _stdin) = on_terminal(&fixture, "head -c 1000000 /dev/zero | tr '\\0' x");
    let (said, status) = text(&mut process);
    assert_eq!((said.len(), status), (1_000_000, Status::Code(0)));
}

#[test]
fn terminal_survives_a_program_that_lets_go_of_it_for_a_while() {
    let fixture = Fixture::new("reopen");
    let fifo = make_fifo(&fixture);
    let script = format!("exec </dev/null >/dev/null 2>&1; read x <{fifo}; echo back >/dev/tty");
    let (mut process, _stdin) = on_terminal(&fixture, &script);
    // Opened once the program opens it too, which is after it let go.
    let mut fifo = std::fs::File::options().write(true).open(fifo).unwrap();
    fixture.client.sync().unwrap();
    fifo.write_all(b"\n").unwrap();
    assert_eq!(text(&mut process), ("back\r\n".to_owned(), Status::Code(0)));
}

#[test]
fn background_writer_does_not_keep_a_terminal_from_ending() {
    let fixture = Fixture::new("writer");
    let (mut process, _stdin) = on_terminal(&fixture, "trap '' HUP; yes & exit 4");
    assert_eq!(text(&mut process).1, Status::Code(4));
}

#[test]
fn hang_up_ends_the_program_by_its_signal() {
    let fixture = Fixture::new("hangup");
    let (mut process, mut stdin) = on_terminal(&fixture, "echo ready; exec sleep 1000");
    await_text(&mut process, "ready");
    process.terminal().unwrap().hang_up().unwrap();
    assert_eq!(text(&mut process).1, Status::Signal(libc::SIGHUP));
    // What is done too late has no effect.
    process.terminal().unwrap().resize(SIZE).unwrap();
    let _ = stdin.write_all(b"x");
    fixture.client.sync().unwrap();
}

#[test]
fn hang_up_leaves_nobody_behind_who_ignores_it() {
    let fixture = Fixture::new("ignores");
    let script = "trap '' HUP; sleep 1000 & echo $! ready; while :; do wait; done";
    let (mut process, _stdin) = on_terminal(&fixture, script);
    let said = await_text(&mut process, "ready");
    let child: u32 = said.split_whitespace().next().unwrap().parse().unwrap();
    process.terminal().unwrap().hang_up().unwrap();
    assert_eq!(text(&mut process).1, Status::Signal(libc::SIGKILL));
    // All of the session was killed before the first of it was reaped.
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    let gone = stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ") || pending_kill(child);
    assert!(gone, "{stat}");
}

#[test]
fn dropped_process_on_a_terminal_is_hung_up() {
    let fixture = Fixture::new("dropped-terminal");
    let fifo = make_fifo(&fixture);
    let script = format!("trap 'echo gone >{fifo}; exit' HUP; echo ready; read x");
    let (mut process, _stdin) = on_terminal(&fixture, &script);
    await_text(&mut process, "ready");
    drop(process);
    assert_eq!(std::fs::read_to_string(fifo).unwrap(), "gone\n");
}

#[test]
fn terminal_is_not_asked_of_a_program_without_one() {
    for message in [ToAgent::Resize(SIZE), ToAgent::HangUp] {
        let (mut near, far) = UnixStream::pair().unwrap();
        let agent = std::process::Command::new(env!("CARGO_BIN_EXE_kiln-agent"))
            .args(["serve", "--socket-fd", "0"])
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let cat = Exec { argv: vec!["cat".to_owned()], stdin: true, ..Exec::default() };
        near.write_all(&encode(1, ToAgent::Exec(cat)).unwrap()).unwrap();
        near.write_all(&encode(1, message).unwrap()).unwrap();
        let output = agent.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("does not belong to its request"), "{said}");
    }
}
