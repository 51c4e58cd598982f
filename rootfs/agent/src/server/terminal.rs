//! A terminal for one program: a pseudo-terminal whose master end is ours.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kiln_protocol::wire::TerminalSize;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{
    InputModes, OptionalActions, SpecialCodeIndex, Winsize, tcgetattr, tcsetattr, tcsetwinsize,
};

use super::Refusal;

/// The most that a program can have written and nobody read: what the two ends of a pseudo-terminal hold (some 20 KiB,
/// drivers/tty/pty.c and n_tty.c), and as much again. Others may go on writing for ever.
pub(super) const BUFFERED_MAX: usize = 64 << 10;

/// How long programs have, once they are hung up, to end by themselves.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The numbers below are of descriptors that mean something to programs.
const FIRST_FREE: i32 = crate::descriptors::EVENTS + 1;

pub(super) struct Terminal {
    master: OwnedFd,
    /// The program's end, held so that the master's does not hang up while the program closes and opens it; none once
    /// the program ended.
    slave: Option<OwnedFd>,
    /// That end's file.
    name: CString,
    /// Whether what was typed last is not the end of a line.
    within_line: bool,
    /// How often the end-of-file character is still to be typed, once there is no more input.
    ends_left: Option<u8>,
}

impl Terminal {
    /// Makes a terminal with a window of `size`.
    pub(super) fn open(size: TerminalSize) -> Result<Self, Refusal> {
        // Not the kernel's own number, which may mean that the program is not there.
        let no_terminal = |error: Errno| Refusal {
            errno: libc::ENODEV,
            message: format!(
                "no terminal to run on: {error} (the kernel needs CONFIG_UNIX98_PTYS, and devpts mounted on /dev/pts)"
            ),
        };
        let open = || -> Result<(OwnedFd, OwnedFd, CString), Errno> {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            unlockpt(&master)?;
            let name = ptsname(&master, Vec::new())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let slave = rustix::fs::open(&*name, flags, Mode::empty())?;
            Ok((master, slave, name))
        };
        let (master, slave, name) = open().map_err(no_terminal)?;
        ioctl_fionbio(&master, true)?;
        // Erasing takes away a character, not a byte of one.
        let mut settings = tcgetattr(&slave)?;
        settings.input_modes |= InputModes::IUTF8;
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        let terminal = Self { master, slave: Some(slave), name, within_line: false, ends_left: None };
        terminal.resize(size)?;
        Ok(terminal)
    }

    /// The file of the program's end of it.
    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    /// Our end, once to read what is shown, and once to type.
    pub(super) fn ends(&self) -> Result<(OwnedFd, OwnedFd), Errno> {
        let end = || fcntl_dupfd_cloexec(&self.master, FIRST_FREE);
        Ok((end()?, end()?))
    }

    /// Gives its window a size; the kernel tells the programs in its foreground.
    pub(super) fn resize(&self, size: TerminalSize) -> Result<(), Errno> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size)
    }

    /// Notes what is going to be typed.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.within_line = !matches!(last, b'\n' | b'\r');
        }
    }

    /// Types the end of all input; true when that is done, or can't be.
    pub(super) fn type_end(&mut self) -> bool {
        // Within a line the first only ends what is read, as if it were a line.
        let left = self.ends_left.get_or_insert(if self.within_line { 2 } else { 1 });
        while *left > 0 {
            let Ok(settings) = tcgetattr(&self.master) else { return true };
            let end = settings.special_codes[SpecialCodeIndex::VEOF];
            if end == 0 {
                // _POSIX_VDISABLE: the program wants none.
                return true;
            }
            match rustix::io::write(&self.master, &[end]) {
                Ok(_) => *left -= 1,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
        true
    }

    /// The program ended.
    pub(super) fn program_ended(&mut self) {
        self.slave = None;
    }
}

/// A session whose terminal was taken away.
pub(super) struct HungUp {
    pub(super) leader: Pid,
    /// When what is left of it is killed.
    pub(super) deadline: Instant,
}

impl HungUp {
    pub(super) fn now(leader: Pid) -> Self {
        Self { leader, deadline: Instant::now() + PATIENCE }
    }
}

/// Kills all processes of the session that `leader` began.
pub(super) fn kill_session(leader: Pid) {
    /// One that starts others while it is being looked for is found the next time.
    const ROUNDS: usize = 8;
    let mut killed = BTreeSet::new();
    for _ in 0..ROUNDS {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let members = pids.filter(|&pid| crate::system::session(pid) == leader.as_raw_nonzero().get());
        let mut found = false;
        for pid in members.filter_map(Pid::from_raw) {
            found |= killed.insert(pid.as_raw_nonzero());
            // One that ended meanwhile needs no killing.
            let _ = kill_process(pid, Signal::KILL);
        }
        if !found {
            return;
        }
    }
}
