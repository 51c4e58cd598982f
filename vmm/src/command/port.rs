//! Named virtio ports on Unix sockets.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A named port, and where it is offered.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) name: String,
    path: PathBuf,
}

/// Reads `NAME=unix:PATH`.
pub(super) fn parse(text: &str) -> Result<Port, String> {
    let (name, path) = text.split_once("=unix:").ok_or("write NAME=unix:PATH")?;
    Ok(Port { name: name.to_owned(), path: path.into() })
}

impl Port {
    /// Listens, and returns the machine's end; what the guest says before anyone connects waits.
    pub(super) fn listen(&self) -> Result<UnixStream> {
        let listener = UnixListener::bind(&self.path)
            .with_context(|| format!("can't listen on {}", self.path.display()))?;
        let (near, machine) = UnixStream::pair()?;
        kiln_vmm::thread::named(&self.name).spawn(move || -> io::Result<()> {
            let (peer, _) = listener.accept()?;
            let (mut from_peer, mut to_machine) = (peer.try_clone()?, near.try_clone()?);
            let inwards = std::thread::spawn(move || {
                let _over = io::copy(&mut from_peer, &mut to_machine);
                let _gone = to_machine.shutdown(Shutdown::Write);
            });
            let (mut from_machine, mut to_peer) = (near, peer);
            let _over = io::copy(&mut from_machine, &mut to_peer);
            let _gone = to_peer.shutdown(Shutdown::Both);
            drop(inwards);
            Ok(())
        })?;
        Ok(machine)
    }
}
