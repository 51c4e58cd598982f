//! A Unix socket inside the lab, reachable from the host.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::agent::Client;

/// Listens on the host and passes every connection on to a socket inside, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Listens on `host`, which must not exist, for connections to `inside`.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn start(client: Client, host: &Path, inside: &str) -> io::Result<Self> {
        let listener = UnixListener::bind(host)?;
        let over = Arc::new(AtomicBool::new(false));
        let (inside, flag) = (inside.to_owned(), over.clone());
        let thread = std::thread::Builder::new().name("forward".to_owned()).spawn(move || {
            for near in listener.incoming().flatten() {
                if flag.load(Ordering::SeqCst) {
                    break;
                }
                // A refusal inside shows outside as a connection that ends at once.
                if let Ok(far) = client.connect_unix(&inside) {
                    join(near, far);
                }
            }
        })?;
        Ok(Self { path: host.to_owned(), over, thread: Some(thread) })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Copies both ways until both ends are done.
fn join(near: UnixStream, far: UnixStream) {
    let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
    for (from, to) in pairs {
        if let (Ok(mut from), Ok(mut to)) = (from, to) {
            std::thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    }
}
