//! The thread that serves a machine's debuggers, one after the other.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::address::GdbAddress;
use super::session::{Over, Session};
use super::target::Mailbox;
use super::wire::Stream;
use crate::bell::Bell;
use crate::vcpu::{ControlError, Controller, Owner};

/// Why a machine can't be debugged.
#[derive(Debug, thiserror::Error)]
pub enum GdbError {
    /// The address can't be listened on.
    #[error("gdb can't be listened for on {address}")]
    Listen {
        /// The address.
        address: GdbAddress,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The machine has a door already.
    #[error("the machine is open to gdb already: target remote {address}")]
    Open {
        /// Where, as gdb takes it.
        address: String,
    },
    /// The machine can't be held for a debugger.
    #[error("the machine can't be held for gdb")]
    Hold(#[from] ControlError),
    /// The host has no room for what it takes.
    #[error("gdb can't be served")]
    Io(#[from] io::Error),
}

/// A debugger's door to a machine, not yet open.
pub struct Server {
    controller: Controller,
    owner: Owner,
    listener: Listener,
    address: GdbAddress,
    // In this order: the machine has a door until nobody listens any more.
    _open: Open,
}

/// A machine has one door while this lives.
struct Open(Controller);

impl Open {
    /// Has `listen` open the door, which it is told of as gdb takes it.
    fn claim<T>(
        controller: &Controller,
        listen: impl FnOnce() -> Result<(T, String), GdbError>,
    ) -> Result<(T, Self), GdbError> {
        let mut door = controller.door();
        if let Some(address) = &*door {
            return Err(GdbError::Open { address: address.clone() });
        }
        let (listener, address) = listen()?;
        *door = Some(address);
        Ok((listener, Self(controller.clone())))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.door() = None;
    }
}

/// While this lives, debuggers are served. When it is dropped, one that is there is told of the machine's end if it
/// has ended, and the guest goes on as if there had been none if it has not.
pub struct Handle {
    address: GdbAddress,
    quit: Arc<AtomicBool>,
    wake: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Serves debuggers of a machine that runs, from now on.
///
/// # Errors
/// The address can't be listened on, or the host has no room for a thread.
pub fn serve(controller: Controller, address: &GdbAddress) -> Result<Handle, GdbError> {
    Server::bind(controller, address, false)?.start()
}

impl Server {
    /// Listens on `address`; whoever connects waits until the server is started. With `wait`, a machine that has not
    /// been started will start held, until a debugger lets it go.
    ///
    /// # Errors
    /// The address can't be listened on, the machine is listened for elsewhere, or it can't be held.
    pub fn bind(controller: Controller, address: &GdbAddress, wait: bool) -> Result<Self, GdbError> {
        let refused = |source| GdbError::Listen { address: address.clone(), source };
        let ((listener, address), open) = Open::claim(&controller, || {
            let listener = Listener::bind(address).map_err(refused)?;
            let address = listener.address(address).map_err(refused)?;
            let shown = address.to_string();
            Ok(((listener, address), shown))
        })?;
        let owner = Owner::new("gdb");
        if wait {
            controller.hold(&owner)?;
        }
        Ok(Self { controller, owner, listener, address, _open: open })
    }

    /// Where it listens: with the port that the host chose, if it was asked to.
    #[must_use]
    pub fn address(&self) -> &GdbAddress {
        &self.address
    }

    /// Serves; the machine should have been started.
    ///
    /// # Errors
    /// The host has no room for a thread.
    pub fn start(self) -> Result<Handle, GdbError> {
        let wake = Arc::new(Bell::new()?);
        let quit = Arc::new(AtomicBool::new(false));
        let address = self.address.clone();
        self.controller.tell_of_the_end(&wake);
        let thread = crate::thread::named("gdb").spawn({
            let (wake, quit) = (wake.clone(), quit.clone());
            move || self.run(wake, &quit)
        })?;
        Ok(Handle { address, quit, wake, thread: Some(thread) })
    }

    fn run(self, wake: Arc<Bell>, quit: &AtomicBool) {
        let mailbox = Arc::new(Mailbox::new(wake));
        let mut session: Option<Session> = None;
        loop {
            // What a client had said by then is still heard, and its answer is how the machine ended. `wake` is rung after that.
            let last = quit.load(Ordering::SeqCst);
            let Ok([woken, client, sent]) = self.wait(&mailbox.wake, session.as_ref(), last) else { return };
            if woken {
                mailbox.wake.heard();
            }
            if let Some(current) = &mut session {
                // A packet that the protocol's crate stumbles over costs the session, and nothing else.
                let turn = catch_unwind(AssertUnwindSafe(|| {
                    if woken || last {
                        current.look()?;
                    }
                    if sent { current.read(&self.controller, &self.owner, &mailbox) } else { Ok(()) }
                }));
                if !matches!(turn, Ok(Ok(()))) {
                    session = None;
                    if matches!(turn, Ok(Err(Over::Ended | Over::Killed))) {
                        return;
                    }
                }
            }
            if last {
                return;
            }
            if client {
                // A second one is turned away: it finds its connection ended.
                match self.listener.accept() {
                    Ok(stream) if session.is_none() && stream.prepare().is_ok() => {
                        session = Some(Session::new(stream));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Waits until there is something to do: told of, somebody at the door, something sent. At the `last` it only looks.
    fn wait(&self, wake: &Bell, session: Option<&Session>, last: bool) -> io::Result<[bool; 3]> {
        let mut fds = vec![
            PollFd::new(wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        if let Some(session) = session {
            fds.push(PollFd::new(&session.stream, PollFlags::IN));
        }
        let at_once = last.then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
        loop {
            match poll(&mut fds, at_once.as_ref()) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok([ready(0), ready(1), ready(2)])
    }
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &GdbAddress {
        &self.address
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::SeqCst);
        self.wake.ring();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    fn bind(address: &GdbAddress) -> io::Result<Self> {
        match address {
            GdbAddress::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                let listener = Self::Unix(listener, path.clone());
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                Ok(listener)
            }
            GdbAddress::Tcp(address) => TcpListener::bind(address).map(Self::Tcp),
        }
    }

    fn address(&self, asked: &GdbAddress) -> io::Result<GdbAddress> {
        match self {
            Self::Unix(..) => Ok(asked.clone()),
            Self::Tcp(listener) => listener.local_addr().map(GdbAddress::Tcp),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _gone_already = std::fs::remove_file(path);
        }
    }
}
