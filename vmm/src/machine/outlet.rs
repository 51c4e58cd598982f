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

/// Output that its writer did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostOutput {
    /// Whose it is; what several devices say to standard output is [`STDOUT`]'s.
    pub device: String,
    /// How many bytes.
    pub bytes: u64,
    /// The kind of the first error; that of a writer which was not done in time when the machine had ended is
    /// [`io::ErrorKind::TimedOut`].
    pub kind: io::ErrorKind,
    /// That error, in words.
    pub error: String,
}

/// The name of standard output among devices.
pub const STDOUT: &str = "standard output";

impl LostOutput {
    /// Whether somebody who read standard output wanted no more of it, as `head` does: no failure of anybody's.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.device == STDOUT && self.kind == io::ErrorKind::BrokenPipe
    }
}

impl std::fmt::Display for LostOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, bytes, error, .. } = self;
        let plural = if *bytes == 1 { "" } else { "s" };
        write!(f, "{device} lost {bytes} byte{plural} of output: {error}")
    }
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// How much the writer has in hand.
    under_way: usize,
    /// What the writer did not take, and the first reason.
    lost: Option<(u64, io::ErrorKind, String)>,
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

impl State {
    fn lose(&mut self, bytes: usize, error: &io::Error) {
        let lost = self.lost.get_or_insert_with(|| (0, error.kind(), error.to_string()));
        lost.0 = lost.0.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
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
    Outlet {
        device: String,
        shared: Arc<Shared>,
    },
    /// A device that holds output back before it comes to an outlet, and what feeds it.
    Device {
        device: Arc<dyn Held>,
        _feed: Option<Feed>,
    },
}

/// Puts a thread before `writer`, which takes what `device` says.
pub(super) fn outlet(
    device: &str,
    mut writer: Box<dyn Write + Send>,
    power: PowerSwitch,
) -> io::Result<(Outlet, Drain)> {
    let shared = Arc::new(Shared::default());
    let own = shared.clone();
    crate::thread::named(device).spawn(move || {
        pump(&own, &mut *writer);
        // What the writer holds goes with it, before anyone is told that all is out.
        drop(writer);
        own.lock().done = true;
        own.changed.notify_all();
    })?;
    let outlet = Outlet { shared: shared.clone(), power };
    Ok((outlet, Drain(Kept::Outlet { device: device.to_owned(), shared })))
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
        state.under_way = bytes.len();
        drop(state);
        shared.changed.notify_all();
        let written = write(writer, &bytes);
        bytes.clear();
        let mut state = shared.lock();
        state.under_way = 0;
        // A writer that fails is asked again with what comes next: the guest must not notice.
        if let Err((lost, error)) = written {
            state.lose(lost, &error);
        }
    }
}

/// Writes all of `bytes`; or tells how many of them are lost, and why.
fn write(writer: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match writer.write(rest) {
            Ok(0) => return Err((rest.len(), io::ErrorKind::WriteZero.into())),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((rest.len(), error)),
        }
    }
    // What a writer took, and then can't pass on, may be all of it.
    writer.flush().map_err(|error| (bytes.len(), error))
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

    /// Waits until the writer took all that there was, for a bounded time; tells what it did not take since the machine began.
    pub(super) fn finish(&self) -> Option<LostOutput> {
        let (device, shared) = match &self.0 {
            Kept::Outlet { device, shared } => (device, shared),
            Kept::Device { device, .. } => {
                device.finish();
                return None;
            }
        };
        let deadline = Instant::now() + GRACE;
        let mut state = shared.lock();
        state.closed = true;
        shared.changed.notify_all();
        while !state.done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let left = state.waiting.len().saturating_add(state.under_way);
                if left > 0 {
                    let late = format!("it was not taken within {GRACE:?} of the machine's end");
                    state.lose(left, &io::Error::new(io::ErrorKind::TimedOut, late));
                }
                break;
            }
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (bytes, kind, error) = state.lost.clone()?;
        Some(LostOutput { device: device.clone(), bytes, kind, error })
    }
}

impl Drop for Drain {
    /// The thread ends when it has written what there is, however long its writer takes.
    fn drop(&mut self) {
        if let Kept::Outlet { shared, .. } = &self.0 {
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
        assert_eq!(drain.finish(), None);
        assert_eq!(seen.try_iter().flatten().collect::<Vec<u8>>(), b"one two three");
    }

    /// Takes some bytes, then has no room, and in the end is closed.
    struct Full(Vec<io::Result<usize>>);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.pop().unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_that_are_not_taken_are_counted_with_the_first_reason() {
        let turns =
            vec![Err(io::ErrorKind::StorageFull.into()), Err(io::ErrorKind::Interrupted.into()), Ok(3)];
        let (mut outlet, drain) = outlet("COM9", Box::new(Full(turns)), PowerSwitch::new()).unwrap();
        outlet.write_all(b"onetwo").unwrap();
        // Only then comes the second piece.
        while outlet.shared.lock().lost.is_none() {
            std::thread::yield_now();
        }
        outlet.write_all(b"!").unwrap();
        let lost = drain.finish().unwrap();
        assert_eq!((lost.bytes, lost.kind), (4, io::ErrorKind::StorageFull));
        assert!(lost.to_string().starts_with("COM9 lost 4 bytes of output: "), "{lost}");
        assert!(!lost.is_unwanted());
        let closed = LostOutput { device: STDOUT.to_owned(), kind: io::ErrorKind::BrokenPipe, ..lost };
        assert!(closed.is_unwanted());
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
