//! The guest's output on its way to whoever takes it, at their own speed.
//!
//! A writer may block for as long as it likes (a pipe whose reader went to lunch): the guest then waits for room, but
//! the machine can still be ended. And no vCPU spends its time in a system call of somebody else's.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backend::{Feed, Held};
use crate::outcome::PowerSwitch;

/// How much waits for the writer before the guest does.
const ROOM: usize = 256 << 10;
/// How often a guest that waits for room looks whether the machine has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long the writer has for what is left when the machine has ended.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// No more will come.
    closed: bool,
    /// The writer has taken all that came, and is gone.
    done: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that devices write to. A clone is the same outlet.
#[derive(Clone)]
pub(super) struct Outlet {
    shared: Arc<Shared>,
    power: PowerSwitch,
}

/// The end that the machine keeps, to wait for the last of the output.
pub(super) struct Drain(Kept);

enum Kept {
    Outlet(Arc<Shared>),
    /// A device that holds output back before it comes to an outlet, and what feeds it.
    Device {
        device: Arc<dyn Held>,
        _feed: Option<Feed>,
    },
}

/// Puts a thread before `writer`.
pub(super) fn outlet(
    name: &str,
    mut writer: Box<dyn Write + Send>,
    power: PowerSwitch,
) -> io::Result<(Outlet, Drain)> {
    let shared = Arc::new(Shared::default());
    let own = shared.clone();
    crate::thread::named(name).spawn(move || {
        pump(&own, &mut *writer);
        // What the writer holds goes with it, before anyone is told that all is out.
        drop(writer);
        own.lock().done = true;
        own.changed.notify_all();
    })?;
    Ok((Outlet { shared: shared.clone(), power }, Drain(Kept::Outlet(shared))))
}

fn pump(shared: &Shared, writer: &mut dyn Write) {
    let mut bytes = Vec::new();
    loop {
        let mut state = shared.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut bytes, &mut state.waiting);
        drop(state);
        shared.changed.notify_all();
        // A writer that fails is asked again with what comes next: the guest must not notice.
        let _lost = writer.write_all(&bytes).and_then(|()| writer.flush());
        bytes.clear();
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        while state.waiting.len() >= ROOM {
            if self.power.ended() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let waited = self.shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting.extend_from_slice(bytes);
        self.shared.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drain {
    /// Looks after a device; its outlet has a drain of its own, to be finished later.
    pub(super) fn of_device(device: Arc<dyn Held>, feed: Option<Feed>) -> Self {
        Self(Kept::Device { device, _feed: feed })
    }

    /// Passes on what a device may be holding back; to be called now and then.
    pub(super) fn look(&self) {
        if let Kept::Device { device, .. } = &self.0 {
            device.look();
        }
    }

    /// Waits until the writer took all that there was, for a bounded time.
    pub(super) fn finish(&self) {
        let shared = match &self.0 {
            Kept::Outlet(shared) => shared,
            Kept::Device { device, .. } => return device.finish(),
        };
        let deadline = Instant::now() + GRACE;
        let mut state = shared.lock();
        state.closed = true;
        shared.changed.notify_all();
        while !state.done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Drain {
    /// The thread ends when it has written what there is, however long its writer takes.
    fn drop(&mut self) {
        if let Kept::Outlet(shared) = &self.0 {
            shared.lock().closed = true;
            shared.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::outcome::Outcome;

    /// Takes bytes only when it is told to.
    struct Slow {
        turns: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _no_more_turns = self.turns.recv();
            let _nobody_looks = self.taken.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Slow, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let ((go, turns), (taken, seen)) = (mpsc::channel(), mpsc::channel());
        (Slow { turns, taken }, go, seen)
    }

    #[test]
    fn bytes_come_in_order_and_all_before_the_end() {
        let (writer, go, seen) = slow();
        let (mut outlet, drain) = outlet("test", Box::new(writer), PowerSwitch::new()).unwrap();
        for text in ["one ", "two ", "three"] {
            outlet.write_all(text.as_bytes()).unwrap();
        }
        drop(go);
        drain.finish();
        assert_eq!(seen.try_iter().flatten().collect::<Vec<u8>>(), b"one two three");
    }

    #[test]
    fn writer_that_blocks_holds_up_no_machine_that_has_ended() {
        let (writer, go, _seen) = slow();
        let power = PowerSwitch::new();
        let (mut outlet, _drain) = outlet("test", Box::new(writer), power.clone()).unwrap();
        let guest = std::thread::spawn(move || {
            let piece = [b'x'; 4096];
            while outlet.write(&piece).is_ok() {}
        });
        power.end(Outcome::Stopped);
        guest.join().unwrap();
        drop(go);
    }
}
