//! How programs are started: by posix_spawn(3), which makes no copy of the agent. After a fork both sides write to pages that
//! they share, and each of those is copied then: some 50 for a program.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

use crate::descriptors::EVENTS;
use crate::system::set_of;

/// What is to run.
pub(crate) struct Program<'a> {
    /// Its name, and its arguments. A name without a slash is looked for in the folders of the environment's PATH.
    pub(crate) argv: &'a [String],
    pub(crate) environment: &'a [(&'a str, &'a str)],
    pub(crate) cwd: &'a str,
    pub(crate) standard: Standard<'a>,
    /// What it finds as descriptor 3.
    pub(crate) events: Option<BorrowedFd<'a>>,
}

/// Its standard input, output and error.
pub(crate) enum Standard<'a> {
    Streams(&'a [OwnedFd]),
    /// The file of a terminal, which becomes that of its session.
    Terminal(&'a CStr),
}

/// What runs a script that does not say what runs it, as with execvp(3).
const SHELL: &CStr = c"/bin/sh";

impl Program<'_> {
    /// Starts it in a session of its own, with signals as they are by default.
    ///
    /// # Errors
    /// What execve(2) says of the program, or why there is no process.
    pub(crate) fn spawn(&self) -> io::Result<Pid> {
        let argv: Vec<CString> =
            self.argv.iter().map(|word| Ok(CString::new(&**word)?)).collect::<io::Result<_>>()?;
        let pair = |(name, value): &(&str, &str)| Ok(CString::new(format!("{name}={value}"))?);
        let environment: Vec<CString> = self.environment.iter().map(pair).collect::<io::Result<_>>()?;
        let actions = self.actions()?;
        let attributes = Attributes::new()?;
        let mut refused = io::Error::from_raw_os_error(libc::ENOENT);
        for path in self.paths()? {
            let mut came = start(&path, &argv, &environment, &actions, &attributes);
            if matches!(&came, Err(error) if error.raw_os_error() == Some(libc::ENOEXEC)) {
                let script: Vec<CString> =
                    [SHELL.to_owned(), path].into_iter().chain(argv.iter().skip(1).cloned()).collect();
                came = start(SHELL, &script, &environment, &actions, &attributes);
            }
            match came.as_ref().map_err(io::Error::raw_os_error) {
                Err(Some(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(Some(libc::EACCES)) => refused = io::Error::from_raw_os_error(libc::EACCES),
                _ => return came,
            }
        }
        Err(refused)
    }

    /// Where the program may be.
    fn paths(&self) -> io::Result<Vec<CString>> {
        let name = self.argv.first().map_or("", String::as_str);
        if name.is_empty() {
            return Ok(Vec::new());
        }
        if name.contains('/') {
            return Ok(vec![CString::new(name)?]);
        }
        let path = self.environment.iter().find(|(name, _)| *name == "PATH").map_or("", |(_, path)| path);
        path.split(':')
            .map(|folder| {
                Ok(CString::new(format!("{}/{name}", if folder.is_empty() { "." } else { folder }))?)
            })
            .collect()
    }

    fn actions(&self) -> io::Result<Actions> {
        let mut actions = Actions::new()?;
        match &self.standard {
            Standard::Streams(streams) => {
                for (stream, to) in streams.iter().zip(0..) {
                    actions.duplicate(stream.as_raw_fd(), to)?;
                }
            }
            Standard::Terminal(path) => {
                // The first terminal that the leader of a new session opens is that session's.
                actions.open(0, path)?;
                actions.duplicate(0, 1)?;
                actions.duplicate(0, 2)?;
            }
        }
        if let Some(events) = &self.events {
            actions.duplicate(events.as_raw_fd(), EVENTS)?;
        }
        actions.change_folder(&CString::new(self.cwd)?)?;
        Ok(actions)
    }
}

/// These functions return an errno.
fn check(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

fn start(
    path: &CStr,
    argv: &[CString],
    environment: &[CString],
    actions: &Actions,
    attributes: &Attributes,
) -> io::Result<Pid> {
    let pointers = |words: &[CString]| -> Vec<*mut libc::c_char> {
        words.iter().map(|word| word.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (argv, environment) = (pointers(argv), pointers(environment));
    let mut pid = 0;
    // SAFETY: both lists end with a null pointer, and what they point at outlives the call, which does not write there; actions
    // and attributes are initialised.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// What is done in the new process, in that order.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, if it succeeds.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init()))
        }
    }

    fn duplicate(&mut self, from: i32, to: i32) -> io::Result<()> {
        // SAFETY: the actions are initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }

    fn open(&mut self, to: i32, path: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised, and copy the path.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, to, path.as_ptr(), libc::O_RDWR, 0)
        })
    }

    fn change_folder(&mut self, path: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised, and copy the path.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, path.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: they are initialised, and nobody uses them any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// What the new process is given, before any action.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A session of its own, no signal blocked, and none ignored.
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, if it succeeds.
        let mut attributes = unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            Self(attributes.assume_init())
        };
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = i32::from(libc::POSIX_SPAWN_SETSID) | flags;
        // Two are libc's own, and it leaves them out itself.
        let (none, all) = (set_of(&[]), set_of(&(1..=64).collect::<Vec<_>>()));
        // SAFETY: the attributes are initialised, as are the sets, which are copied.
        unsafe {
            check(libc::posix_spawnattr_setflags(
                &raw mut attributes.0,
                flags.try_into().map_err(io::Error::other)?,
            ))?;
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const none))?;
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const all))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialised, and nobody uses them any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
