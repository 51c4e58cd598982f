//! The agent and the host's client, over a socket pair and without a guest.

mod host {
    mod terminal;
}

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kiln::agent::{Adoption, AgentError, Client, Command, Process, ProcessEvent, Status};

/// Far more than a process takes to die on a busy host, and far less than any of these would sleep.
const LIMIT: Duration = Duration::from_secs(120);

/// An agent process, its client, and a folder for the test.
struct Fixture {
    child: Child,
    client: Client,
    folder: PathBuf,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_kiln-agent"))
            .args(["serve", "--socket-fd", "0"])
            .stdin(Stdio::from(OwnedFd::from(far)))
            .spawn()
            .unwrap();
        let client = Client::connect(near).unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", child.id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { child, client, folder }
    }

    fn shell(&self, script: &str) -> Process {
        self.client.exec(shell(script)).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn shell(script: &str) -> Command {
    Command { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Command::default() }
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    events: Vec<u8>,
}

fn finish(process: &mut Process) -> (Output, Status) {
    let mut output = Output::default();
    loop {
        match process.next_event().unwrap() {
            ProcessEvent::Started(pid) => assert!(pid > 1),
            ProcessEvent::Stdout(bytes) => output.stdout.extend(bytes),
            ProcessEvent::Stderr(bytes) => output.stderr.extend(bytes),
            ProcessEvent::Events(bytes) => output.events.extend(bytes),
            ProcessEvent::Exited(status) => return (output, status),
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[test]
fn hello_tells_version_and_kernel() {
    let fixture = Fixture::new("hello");
    assert_eq!(fixture.client.hello().agent, env!("CARGO_PKG_VERSION"));
    assert!(!fixture.client.hello().kernel.is_empty());
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let fixture = Fixture::new("status");
    for code in [0, 1, 7, 255] {
        assert_eq!(finish(&mut fixture.shell(&format!("exit {code}"))).1, Status::Code(code));
    }
    assert_eq!(finish(&mut fixture.shell("kill -9 $$")).1, Status::Signal(9));
    // Signals that this process ignores or blocks work in its programs.
    assert_eq!(finish(&mut fixture.shell("kill -PIPE $$")).1, Status::Signal(13));
}

#[test]
fn output_error_and_events_come_apart() {
    let fixture = Fixture::new("streams");
    let mut command = shell("echo out; echo err >&2; echo event >&3; pwd; echo $HOME$EXTRA");
    command.events = true;
    command.cwd = Some("/usr".to_owned());
    command.env = vec![("EXTRA".to_owned(), "+extra".to_owned())];
    let (output, status) = finish(&mut fixture.client.exec(command).unwrap());
    assert_eq!(status, Status::Code(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n/usr\n/root+extra\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.events, b"event\n");
}

#[test]
fn descriptors_beside_the_standard_ones_are_closed_without_events() {
    let fixture = Fixture::new("closed");
    let (output, _) = finish(&mut fixture.shell("ls /proc/self/fd | sort -n | tr '\\n' ' '; cat"));
    let text = String::from_utf8(output.stdout).unwrap();
    // The fourth is the folder that is being read.
    assert_eq!(text, "0 1 2 3 ");
}

#[test]
fn ten_mebibytes_go_through_cat_and_back() {
    let fixture = Fixture::new("cat");
    let mut process = fixture
        .client
        .exec(Command { argv: vec!["cat".to_owned()], stdin: true, ..Command::default() })
        .unwrap();
    let mut stdin = process.take_stdin().unwrap();
    assert!(process.take_stdin().is_none());
    let sent = pattern(10 << 20);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let (output, status) = finish(&mut process);
    writer.join().unwrap().unwrap();
    assert_eq!(status, Status::Code(0));
    assert!(output.stdout == sent);
}

#[test]
fn writer_learns_that_the_program_is_gone() {
    let fixture = Fixture::new("gone");
    let mut command = shell("exit 0");
    command.stdin = true;
    let mut process = fixture.client.exec(command).unwrap();
    let mut stdin = process.take_stdin().unwrap();
    let writer = std::thread::spawn(move || io::copy(&mut io::repeat(0), &mut stdin));
    assert_eq!(finish(&mut process).1, Status::Code(0));
    assert_eq!(writer.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn slow_consumer_holds_up_nobody_else() {
    let fixture = Fixture::new("slow");
    // Nobody reads what this one writes without end.
    let endless = fixture.shell("yes");
    assert_eq!(finish(&mut fixture.shell("exit 3")).1, Status::Code(3));
    let mut endless = endless;
    let mut seen = 0;
    while seen < 2 << 20 {
        if let ProcessEvent::Stdout(bytes) = endless.next_event().unwrap() {
            seen += bytes.len();
        }
    }
    endless.kill(15).unwrap();
    assert_eq!(finish(&mut endless).1, Status::Signal(15));
}

#[test]
fn background_children_do_not_keep_a_program_from_ending() {
    let fixture = Fixture::new("background");
    let (output, status) = finish(&mut fixture.shell("sleep 1000 & echo $!; exit 4"));
    assert_eq!(status, Status::Code(4));
    let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    finish(&mut fixture.shell(&format!("kill {pid}")));
}

#[test]
fn refusals_bear_the_guests_errno() {
    let fixture = Fixture::new("refused");
    let errno = |argv: &str| {
        let command = Command { argv: vec![argv.to_owned()], ..Command::default() };
        match fixture.client.exec(command) {
            Err(AgentError::Refused { errno, .. }) => errno,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(errno("no-such-program"), libc::ENOENT);
    assert_eq!(errno("/etc/passwd"), libc::EACCES);
    let long = Command { argv: vec!["x".repeat(1 << 20)], ..Command::default() };
    assert!(matches!(fixture.client.exec(long), Err(AgentError::Refused { errno: libc::E2BIG, .. })));
    assert!(matches!(
        fixture.client.get("/no/such", &mut Vec::new()),
        Err(AgentError::Refused { errno: libc::ENOENT, .. })
    ));
    assert!(matches!(
        fixture.client.connect_unix("/no/such"),
        Err(AgentError::Refused { errno: libc::ENOENT, .. })
    ));
    assert!(matches!(
        fixture.client.put("/proc/no/such", 0o644, &mut pattern(1 << 20).as_slice()),
        Err(AgentError::Refused { .. })
    ));
    // None of them ended the connection.
    fixture.client.sync().unwrap();
}

#[test]
fn programs_are_found_in_the_path_they_are_given_and_scripts_need_no_first_line() {
    let fixture = Fixture::new("path");
    let put = |path: &str, mode, text: &str| {
        fixture.client.put(&fixture.path(path), mode, &mut text.as_bytes()).unwrap();
    };
    put("first/tool", 0o644, "not a program\n");
    put("second/tool", 0o755, "echo $1 of $0 in $PWD\n");
    let run = |name: &str, path: String| {
        let argv = vec![name.to_owned(), "one".to_owned()];
        let env = vec![("PATH".to_owned(), path)];
        let cwd = Some(fixture.path("second"));
        fixture.client.exec(Command { argv, env, cwd, ..Command::default() })
    };
    let (first, second) = (fixture.path("first"), fixture.path("second"));
    let said = |process: Result<Process, AgentError>| {
        let (output, status) = finish(&mut process.unwrap());
        assert_eq!(status, Status::Code(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let found = format!("one of {second}/tool in {second}\n");
    assert_eq!(said(run("tool", format!("/no/such:{first}:{second}"))), found);
    // An empty name in the path is the folder that it runs in, and so is what a relative path begins from.
    assert_eq!(said(run("tool", String::new())), format!("one of ./tool in {second}\n"));
    assert_eq!(said(run("../second/tool", first.clone())), format!("one of ../second/tool in {second}\n"));
    let errno = |process: Result<Process, AgentError>| match process {
        Err(AgentError::Refused { errno, .. }) => errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(errno(run("tool", first.clone())), libc::EACCES);
    assert_eq!(errno(run("no-tool", format!("{first}:{second}"))), libc::ENOENT);
    assert_eq!(errno(run("", second)), libc::ENOENT);
}

#[test]
fn machine_that_is_no_guest_is_neither_settled_nor_adopted() {
    let fixture = Fixture::new("ground");
    let adoption = Adoption {
        entropy: vec![1; 64],
        hostname: Some("somebody-else".to_owned()),
        machine_id: Some([1; 16]),
        ..Adoption::default()
    };
    for refused in [fixture.client.settle().unwrap_err(), fixture.client.adopt(&adoption).unwrap_err()] {
        assert!(matches!(refused, AgentError::Refused { errno: libc::EPERM, .. }), "{refused}");
    }
    let name = rustix::system::uname();
    assert_ne!(name.nodename().to_bytes(), b"somebody-else");
    fixture.client.sync().unwrap();
}

#[test]
fn files_go_in_and_come_out() {
    let fixture = Fixture::new("files");
    let path = fixture.path("a/b/file");
    let sent = pattern((3 << 20) + 17);
    fixture.client.put(&path, 0o750, &mut sent.as_slice()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o750);
    let mut got = Vec::new();
    fixture.client.get(&path, &mut got).unwrap();
    assert!(got == sent);
    fixture.client.put(&path, 0o600, &mut io::empty()).unwrap();
    got.clear();
    fixture.client.get(&path, &mut got).unwrap();
    assert!(got.is_empty());
    assert_eq!(
        std::fs::read_dir(fixture.folder.join("a/b")).unwrap().count(),
        1,
        "no temporary file is left"
    );
    fixture.client.get("/proc/self/status", &mut got).unwrap();
    assert!(String::from_utf8(got).unwrap().contains("kiln-agent"));
    fixture.client.put("/dev/null", 0o600, &mut sent.as_slice()).unwrap();
}

#[test]
fn file_without_end_gives_what_is_there() {
    let fixture = Fixture::new("endless");
    let path = fixture.path("pipe");
    assert_eq!(finish(&mut fixture.shell(&format!("mkfifo {path}"))).1, Status::Code(0));
    // It has a writer all the time, who says no more.
    let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
    pipe.write_all(b"so far").unwrap();
    let mut got = Vec::new();
    fixture.client.get(&path, &mut got).unwrap();
    assert_eq!(got, b"so far");
}

#[test]
fn file_that_stops_half_way_leaves_nothing() {
    struct Fails(u32);
    impl Read for Fails {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 { Err(io::Error::other("no more")) } else { Ok(buffer.len()) }
        }
    }
    let fixture = Fixture::new("half");
    assert!(matches!(fixture.client.put(&fixture.path("x"), 0o644, &mut Fails(0)), Err(AgentError::Io(_))));
    fixture.client.sync().unwrap();
    assert_eq!(std::fs::read_dir(&fixture.folder).unwrap().count(), 0);
}

#[test]
fn sockets_are_relayed_both_ways_with_half_closing() {
    let fixture = Fixture::new("sockets");
    let path = fixture.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        all.reverse();
        socket.write_all(&all).unwrap();
    });
    let mut socket = fixture.client.connect_unix(&path).unwrap();
    let mut sent = pattern(1 << 20);
    socket.write_all(&sent).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    server.join().unwrap();
    sent.reverse();
    assert!(got == sent);
}

#[test]
fn lost_agent_is_told_at_once_to_all_who_wait() {
    let mut fixture = Fixture::new("lost");
    // It ends with its input, and so with the agent.
    let command = Command { argv: vec!["cat".to_owned()], stdin: true, ..Command::default() };
    let mut process = fixture.client.exec(command).unwrap();
    assert!(matches!(process.next_event(), Ok(ProcessEvent::Started(_))));
    let waiting = std::thread::spawn(move || process.next_event());
    fixture.child.kill().unwrap();
    assert!(matches!(waiting.join().unwrap(), Err(AgentError::Lost)));
    assert!(matches!(fixture.client.exec(shell("true")), Err(AgentError::Lost)));
    assert!(matches!(fixture.client.sync(), Err(AgentError::Lost)));
}

#[test]
fn agent_ends_when_the_host_goes_or_asks() {
    let mut fixture = Fixture::new("end");
    fixture.client.power_off().unwrap();
    assert!(fixture.child.wait().unwrap().success());

    let (near, far) = UnixStream::pair().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kiln-agent"))
        .args(["serve", "--socket-fd", "0"])
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn()
        .unwrap();
    drop(Client::connect(near).unwrap());
    assert!(child.wait().unwrap().success());
}

#[test]
fn garbage_ends_the_agent_with_a_failure() {
    let (mut near, far) = UnixStream::pair().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kiln-agent"))
        .args(["serve", "--socket-fd", "0"])
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    near.write_all(&[0xff; 64]).unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the host sent a frame"));
}

#[test]
fn assertions_are_reported_on_the_events_descriptor() {
    let fixture = Fixture::new("assert");
    let argv = [env!("CARGO_BIN_EXE_kiln-agent"), "assert"].map(str::to_owned).to_vec();
    let command = Command { argv, events: true, ..Command::default() };
    let (output, status) = finish(&mut fixture.client.exec(command).unwrap());
    // This host is no guest: its command line says nothing of a machine.
    assert_eq!(status, Status::Code(1));
    assert!(output.stdout.is_empty());
    let events = String::from_utf8(output.events).unwrap();
    assert!(events.lines().count() > 10);
    assert!(events.lines().all(|line| line.starts_with("{\"name\":\"") && line.ends_with('}')));
}

#[test]
fn dropped_process_is_killed() {
    let fixture = Fixture::new("dropped");
    let mut process = fixture.shell("echo; exec sleep 1000");
    let Ok(ProcessEvent::Started(pid)) = process.next_event() else { panic!("it did not start") };
    drop(process);
    // Requests are answered in order: it is killed once this is.
    fixture.client.sync().unwrap();
    dies(pid);
}

/// Waits until a process that was killed is dead: between the signal and that, it takes processor time to get there. It may
/// stay a zombie.
fn dies(pid: u32) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ") {
            return;
        }
        assert!(Instant::now() < deadline, "{stat}");
        std::thread::yield_now();
    }
}

#[test]
fn forwarded_socket_carries_bytes_both_ways_and_goes_with_its_forward() {
    let fixture = Fixture::new("forward");
    let (inside, outside) = (fixture.path("inside"), fixture.folder.join("outside"));
    let listener = UnixListener::bind(&inside).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        bytes.reverse();
        peer.write_all(&bytes).unwrap();
    });
    let forward = kiln::lab::Forward::start(fixture.client.clone(), &outside, &inside).unwrap();
    let mut near = UnixStream::connect(&outside).unwrap();
    near.write_all(b"stressed").unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = String::new();
    near.read_to_string(&mut back).unwrap();
    assert_eq!(back, "desserts");
    echo.join().unwrap();
    drop(forward);
    assert!(!outside.exists());
}
