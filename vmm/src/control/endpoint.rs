//! Where a machine is reached: the user's own runtime folder, the lock that a name is taken by, the socket.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fstat};
use rustix::process::geteuid;

use super::fork::{self, NotInChildren};
use super::name::is_name;

/// How long a socket's path may be, its final NUL included (`sun_path`, unix(7)).
const SUN_PATH: usize = 108;
/// How often a lock is looked for whose file goes away meanwhile.
const TRIES: u32 = 100;

/// Why a machine can't be reached by its name.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The name is none.
    #[error("name {0:?}: a machine's name is 1 to 64 of A-Z a-z 0-9 . _ -, and begins with no dot or dash")]
    Name(String),
    /// The runtime folder can't be used.
    #[error("can't use the runtime folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The runtime folder is open to others, or is another's.
    #[error(
        "the runtime folder {path} {what}: it must be a folder of your own, with mode 0700 (or set XDG_RUNTIME_DIR to one)"
    )]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The socket's path is too long for the system.
    #[error(
        "the path {0} is longer than a socket's may be (107 bytes): take a shorter name or XDG_RUNTIME_DIR"
    )]
    TooLong(PathBuf),
    /// Another machine has the name.
    #[error("the name {name} is taken by a machine of process {pid}")]
    Taken {
        /// The name.
        name: String,
        /// Whose it is, as far as that can be told.
        pid: String,
    },
    /// The lock or socket can't be made.
    #[error("can't make {path}")]
    Make {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// The folders that machines may be in, the one that new ones use first: `$XDG_RUNTIME_DIR/kiln`, if that variable
/// names a folder of this user's, and `/tmp/kiln-UID`.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let uid = geteuid().as_raw();
    let ours = |path: &PathBuf| {
        path.is_absolute() && std::fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(ours);
    let mut folders: Vec<PathBuf> = runtime.map(|path| path.join("kiln")).into_iter().collect();
    folders.push(format!("/tmp/kiln-{uid}").into());
    folders
}

/// The socket of a machine in `folder`.
#[must_use]
pub fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

/// The socket of such a machine's debugger, once it was asked for.
fn debugger_socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.gdb"))
}

/// A taken name, and the socket that listens for it. Dropping it gives both up.
#[derive(Debug)]
pub(crate) struct Endpoint {
    name: String,
    socket: PathBuf,
    debugger_socket: PathBuf,
    lock_path: PathBuf,
    // In this order: a descriptor may be closed once children need no longer be kept from it.
    _not_in_children: [NotInChildren; 2],
    listener: UnixListener,
    lock: File,
    /// Whose it is: a forked child must not remove what its parent still uses.
    pid: u32,
}

impl Endpoint {
    /// Takes `name` in the first of this user's folders.
    pub(crate) fn open(name: &str) -> Result<Self, EndpointError> {
        let folder = folders().into_iter().next().unwrap_or_default();
        Self::open_in(&folder, name)
    }

    /// Takes `name` in `folder`, which is made if it is not there. What a dead machine left is reclaimed.
    pub(super) fn open_in(folder: &Path, name: &str) -> Result<Self, EndpointError> {
        if !is_name(name) {
            return Err(EndpointError::Name(name.to_owned()));
        }
        make_private(folder)?;
        let (socket, lock_path) = (socket(folder, name), folder.join(format!("{name}.lock")));
        if socket.as_os_str().len() >= SUN_PATH {
            return Err(EndpointError::TooLong(socket));
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EndpointError::Make { path, source }
        };
        let lock = take(name, &lock_path)?;
        let held = fork::keep(&lock).map_err(failed(&lock_path))?;
        let debugger_socket = debugger_socket(folder, name);
        for left in [&socket, &debugger_socket] {
            match std::fs::remove_file(left) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(left)(error)),
                _ => {}
            }
        }
        let listener = UnixListener::bind(&socket).map_err(failed(&socket))?;
        listener.set_nonblocking(true).map_err(failed(&socket))?;
        let listens = fork::keep(&listener).map_err(failed(&socket))?;
        Ok(Self {
            name: name.to_owned(),
            socket,
            debugger_socket,
            lock_path,
            _not_in_children: [held, listens],
            listener,
            lock,
            pid: std::process::id(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the machine's debugger may be listened for: nothing is there while nobody is.
    pub(crate) fn debugger_socket(&self) -> &Path {
        &self.debugger_socket
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Under the lock, nobody else can have made them meanwhile; but who takes away old files (a folder in /tmp has such)
        // may have opened the name to another machine.
        if std::process::id() == self.pid && is_at(&self.lock, &self.lock_path) {
            let _gone = std::fs::remove_file(&self.socket);
            let _gone = std::fs::remove_file(&self.lock_path);
        }
    }
}

/// Takes the lock at `path`, which lasts until its file is closed, and leaves our process's number in it.
fn take(name: &str, path: &Path) -> Result<File, EndpointError> {
    let failed = |source: io::Error| EndpointError::Make { path: path.to_owned(), source };
    for _ in 0..TRIES {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|errno| failed(errno.into()))?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _unknown = (&file).take(16).read_to_string(&mut pid);
                let pid = match pid.trim() {
                    digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits,
                    _ => "(not known yet)",
                };
                return Err(EndpointError::Taken { name: name.to_owned(), pid: pid.to_owned() });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // Its last owner may have removed the file after we opened it: such a lock keeps nobody out.
        if is_at(&file, path) {
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
            return Ok(file);
        }
    }
    Err(failed(ErrorKind::ResourceBusy.into()))
}

/// Whether `file` is what `path` leads to.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (there.dev(), there.ino()) == (ours.dev(), ours.ino())
}

/// Makes `folder` if it is not there, and sees to it that it is this user's alone.
fn make_private(folder: &Path) -> Result<(), EndpointError> {
    let failed = |source: io::Error| EndpointError::Folder { path: folder.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    check_private(folder)
}

/// Sees to it that `folder` is no symbolic link, this user's, and closed to others.
pub(super) fn check_private(folder: &Path) -> Result<(), EndpointError> {
    let not_private = |what: String| EndpointError::NotPrivate { path: folder.to_owned(), what };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(folder, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            return Err(not_private("is a symbolic link, or no folder".to_owned()));
        }
        Err(errno) => return Err(EndpointError::Folder { path: folder.to_owned(), source: errno.into() }),
    };
    let stat = fstat(&opened)
        .map_err(|errno| EndpointError::Folder { path: folder.to_owned(), source: errno.into() })?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(not_private(format!("belongs to user {}", stat.st_uid)));
    }
    match stat.st_mode & 0o777 {
        mode if mode & 0o077 != 0 => Err(not_private(format!("has mode {mode:04o}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("kiln");
        (outer, folder)
    }

    #[test]
    fn name_is_taken_once_and_free_again_when_it_is_given_up() {
        let (_outer, folder) = folder();
        let first = Endpoint::open_in(&folder, "vm").unwrap();
        assert_eq!(first.name(), "vm");
        let pid = std::process::id();
        let second = Endpoint::open_in(&folder, "vm").unwrap_err().to_string();
        assert_eq!(second, format!("the name vm is taken by a machine of process {pid}"));
        let other = Endpoint::open_in(&folder, "vm2").unwrap();
        drop(first);
        assert!(Endpoint::open_in(&folder, "vm").is_ok());
        drop(other);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn machine_whose_files_were_taken_away_leaves_those_of_the_next_alone() {
        let (_outer, folder) = folder();
        let first = Endpoint::open_in(&folder, "vm").unwrap();
        for path in [&first.socket, &first.lock_path] {
            std::fs::remove_file(path).unwrap();
        }
        let second = Endpoint::open_in(&folder, "vm").unwrap();
        drop(first);
        assert!(UnixStream::connect(&second.socket).is_ok());
        assert!(matches!(Endpoint::open_in(&folder, "vm"), Err(EndpointError::Taken { .. })));
    }

    #[test]
    fn what_a_dead_machine_left_is_reclaimed() {
        let (_outer, folder) = folder();
        let endpoint = Endpoint::open_in(&folder, "vm").unwrap();
        let (socket, lock) = (endpoint.socket.clone(), endpoint.lock_path.clone());
        let debugger = endpoint.debugger_socket().to_owned();
        drop(endpoint);
        for left in [&socket, &debugger] {
            drop(UnixListener::bind(left).unwrap());
        }
        std::fs::write(&lock, "4711\n").unwrap();
        assert!(UnixStream::connect(&socket).is_err());
        let _reclaimed = Endpoint::open_in(&folder, "vm").unwrap();
        assert!(UnixStream::connect(&socket).is_ok() && !debugger.exists());
    }

    #[test]
    fn folder_that_is_open_to_others_or_a_link_is_refused() {
        let (outer, folder) = folder();
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let error = Endpoint::open_in(&folder, "vm").unwrap_err().to_string();
        assert!(error.contains("has mode 0755"), "{error}");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        let link = outer.path().join("link");
        symlink(&folder, &link).unwrap();
        let error = Endpoint::open_in(&link, "vm").unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert!(matches!(
            Endpoint::open_in(&outer.path().join("a/b"), "vm"),
            Err(EndpointError::Folder { .. })
        ));
    }

    #[test]
    fn lock_and_socket_that_are_links_lead_nowhere() {
        let (outer, folder) = folder();
        drop(Endpoint::open_in(&folder, "other").unwrap());
        symlink(outer.path().join("elsewhere"), folder.join("vm.lock")).unwrap();
        assert!(matches!(Endpoint::open_in(&folder, "vm"), Err(EndpointError::Make { .. })));
        assert!(!outer.path().join("elsewhere").exists());
    }

    #[test]
    fn names_and_paths_that_make_no_socket_are_refused_in_words() {
        let (_outer, folder) = folder();
        assert!(matches!(Endpoint::open_in(&folder, "../vm"), Err(EndpointError::Name(_))));
        let deep = folder.join("x".repeat(60));
        std::fs::create_dir(&folder).unwrap();
        let error = Endpoint::open_in(&deep, &"y".repeat(64)).unwrap_err().to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }

    #[test]
    fn forked_child_keeps_neither_lock_nor_socket() {
        let (_outer, folder) = folder();
        let endpoint = Endpoint::open_in(&folder, "vm").unwrap();
        let socket = endpoint.socket.clone();
        let (reader, writer) = io::pipe().unwrap();
        let mut byte = 0u8;
        // SAFETY: the child only reads and ends, as the child of a process with threads may.
        #[allow(unsafe_code)]
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::close(std::os::fd::AsRawFd::as_raw_fd(&writer));
                libc::read(std::os::fd::AsRawFd::as_raw_fd(&reader), (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
            child
        };
        assert!(child > 0);
        drop(endpoint);
        assert!(Endpoint::open_in(&folder, "vm").is_ok());
        assert!(UnixStream::connect(&socket).is_err());
        drop(writer);
        // SAFETY: the child is ours, and nobody else waits for it.
        #[allow(unsafe_code)]
        let waited = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        assert_eq!(waited, child);
    }
}
