//! `shell` on a real terminal of this host, with a person played by the test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use kiln::rootfs::cache::Cache;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process, setsid};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// A terminal, and `kiln shell` on it.
struct Person {
    kiln: Child,
    /// Screen and keyboard. It also tells the modes.
    terminal: File,
    before: String,
    /// What was shown and not looked at yet.
    seen: Vec<u8>,
}

/// All that there is to a terminal's modes.
fn modes(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

impl Person {
    fn at(arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = File::from(open(name, flags, Mode::empty()).unwrap());
        let terminal = File::from(master);
        resize(&terminal, 30, 100);
        let before = modes(&terminal);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        // A limit, for a guest that does not come to what the test waits for.
        command.args(["shell", "--timeout=4m"]).args(arguments).env("TERM", "vt102");
        let end = || line.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both are system calls that take no memory.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                Ok(ioctl_tiocsctty(std::io::stdin())?)
            });
        }
        let kiln = command.spawn().unwrap();
        Self { kiln, terminal, before, seen: Vec::new() }
    }

    fn types(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for more on the screen; false once nobody is at the other end any more.
    fn looks(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = self.terminal.read(&mut buffer).unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Waits until the screen shows `wanted`, and returns what is before that.
    fn sees(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = self.seen.windows(wanted.len()).position(|seen| seen == wanted.as_bytes()) {
                let text = self.seen.drain(..at + wanted.len()).collect::<Vec<_>>();
                return String::from_utf8_lossy(&text[..at]).into_owned();
            }
            assert!(self.looks(), "no {wanted:?} in {:?}", String::from_utf8_lossy(&self.seen));
        }
    }

    /// Waits for the end, after which the terminal is as it was.
    fn ends(mut self) -> (ExitStatus, String) {
        while self.looks() {}
        let status = self.kiln.wait().unwrap();
        assert_eq!(modes(&self.terminal), self.before, "the modes are put back");
        (status, String::from_utf8_lossy(&self.seen).into_owned())
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

/// A file of the last run of a case of `shell`: each test has a case of its own.
fn evidence(case: &str, file: &str) -> PathBuf {
    Cache::look().root().join("runs/shell").join(case).join("latest").join(file)
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn person_sits_at_a_shell_whose_window_follows_and_leaves_it() {
    let mut person = Person::at(&[]);
    person.sees("]# ");
    let raw = tcgetattr(&person.terminal).unwrap();
    assert!(!raw.local_modes.intersects(LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO));
    person.types("stty size; tty; echo $TERM-$((6*7))\r");
    assert!(person.sees("vt102-42\r\n").ends_with("\r\n30 100\r\n/dev/pts/0\r\n"));
    resize(&person.terminal, 50, 132);
    person.types(
        "trap 'stty size' WINCH; while ! stty size | grep '50 132'; do read -t 1 x; done; echo grown\r",
    );
    person.sees("50 132\r\n");
    person.sees("grown\r\n");
    // The interrupt is the guest's: it ends what runs there, and the shell goes on.
    person.types("sh -c 'echo sl''eeps; exec sleep 1000'\r");
    person.sees("sleeps\r\n");
    person.types("\x03");
    person.sees("]# ");
    person.types("echo status-$?\r");
    person.sees("status-130\r\n");
    person.types("\x01x");
    let (status, said) = person.ends();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("left; "), "{said}");
    assert!(evidence("sh", "passed").exists());
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn status_of_the_command_is_the_status_of_the_shell() {
    let mut person = Person::at(&["--", "env", "sh", "-c", "echo runs; read x; kill -TERM $$"]);
    person.sees("runs\r\n");
    person.types("\r");
    let (status, said) = person.ends();
    assert_eq!(status.code(), Some(128 + 15), "{said}");
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn guest_that_its_person_powers_off_is_a_good_end() {
    let mut person = Person::at(&["--", "env", "-i", "sh"]);
    person.types("poweroff\r");
    let (status, said) = person.ends();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn keys_struck_before_the_guest_is_there_come_to_the_command() {
    let mut person = Person::at(&["--", "cat"]);
    person.types("early\r");
    // Once by the guest's terminal, once by the command.
    person.sees("early\r\nearly\r\n");
    person.types("\x03");
    let (status, said) = person.ends();
    assert_eq!(status.code(), Some(128 + 2), "{said}");
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn shell_that_is_killed_gives_the_terminal_back_and_its_run_says_so() {
    let mut person = Person::at(&["--", "ash", "-c", "echo runs; exec sleep 1000"]);
    person.sees("runs\r\n");
    kill_process(Pid::from_child(&person.kiln), Signal::TERM).unwrap();
    let (status, said) = person.ends();
    assert_eq!(status.signal(), Some(15), "{said}");
    assert_eq!(std::fs::read_to_string(evidence("ash", "failed")).unwrap(), "interrupted\n");
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn crash_of_the_guest_gives_the_terminal_back_and_a_verdict() {
    let crash = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger";
    let (status, said) = Person::at(&["--", "busybox", "sh", "-c", crash]).ends();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("\r\nevidence: ") && said.contains("sysrq"), "{said}");
}
