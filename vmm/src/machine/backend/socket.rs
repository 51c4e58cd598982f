//! A Unix socket: whoever connects talks to the serial port, one after the other.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::input::{Readable, Stop};

/// How much of the last output waits for the next who connects.
const KEPT: usize = 64 << 10;

/// The socket, and who is connected to it.
#[derive(Clone)]
pub(in crate::machine) struct Clients(Arc<Inner>);

struct Inner {
    listener: UnixListener,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<Arc<UnixStream>>,
    /// What was said to nobody.
    kept: VecDeque<u8>,
}

/// Listens at `path`.
pub(super) fn listen(path: &Path) -> io::Result<Clients> {
    let listener = UnixListener::bind(path)?;
    Ok(Clients(Arc::new(Inner { listener, path: path.to_owned(), state: Mutex::default() })))
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self) -> io::Result<()> {
        let (client, _) = self.0.listener.accept()?;
        let mut state = self.lock();
        let kept: Vec<u8> = state.kept.drain(..).collect();
        // Before anything that is said from now on.
        if (&client).write_all(&kept).is_ok() {
            state.client = Some(Arc::new(client));
        }
        Ok(())
    }
}

impl Write for Clients {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let Some(client) = state.client.clone() else {
            state.kept.extend(bytes);
            let over = state.kept.len().saturating_sub(KEPT);
            state.kept.drain(..over);
            return Ok(bytes.len());
        };
        // A client that takes its time holds up nobody but this device.
        drop(state);
        match (&*client).write(bytes) {
            Ok(count @ 1..) => Ok(count),
            _ => {
                let mut state = self.lock();
                if state.client.as_ref().is_some_and(|now| Arc::ptr_eq(now, &client)) {
                    state.client = None;
                }
                drop(state);
                self.write(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Readable for Clients {
    fn next(&mut self, bytes: &mut [u8], stop: &Stop) -> io::Result<usize> {
        loop {
            let client = self.lock().client.clone();
            let Some(client) = client else {
                if !stop.wait(Some(&self.0.listener), None) {
                    return Ok(0);
                }
                self.accept()?;
                continue;
            };
            if !stop.wait(Some(&*client), None) {
                return Ok(0);
            }
            match (&*client).read(bytes) {
                Ok(count @ 1..) => return Ok(count),
                // It is gone; the next may come.
                _ => self.lock().client = None,
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.path);
    }
}
