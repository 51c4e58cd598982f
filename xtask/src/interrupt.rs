//! ^C: what must not be left behind is cleaned up, then the process dies by the signal.
//!
//! Dying by the signal, rather than exiting, is how the shell above learns to stop its loop. A second ^C,
//! while the clean-ups of the first run, kills at once.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

type CleanUp = Box<dyn FnOnce() + Send>;

static CLEAN_UPS: Mutex<Vec<(u64, CleanUp)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Set by the first signal.
static HURRY: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Takes over SIGINT, SIGQUIT, SIGTERM and SIGHUP, but those that the caller had us ignore (`nohup`, `&`); once a
/// process.
///
/// # Errors
/// The system refuses the handlers or the thread.
pub(crate) fn install() -> io::Result<()> {
    static INSTALLED: Once = Once::new();
    let mut result = Ok(());
    INSTALLED.call_once(|| result = take_over());
    result
}

fn take_over() -> io::Result<()> {
    let hurry = HURRY.get_or_init(Arc::default).clone();
    let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let mut signals = vec![SIGINT, SIGQUIT, SIGTERM, SIGHUP];
    signals.retain(|signal| ignored & (1 << (signal - 1)) == 0);
    for &signal in &signals {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        flag::register_conditional_default(signal, Arc::clone(&hurry))?;
        flag::register(signal, Arc::clone(&hurry))?;
    }
    let mut pending = Signals::new(signals)?;
    thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        if let Some(signal) = pending.forever().next() {
            run_clean_ups();
            // Ends the process; the fall-back is for a signal that is blocked or can't be raised.
            let _ = low_level::emulate_default_handler(signal);
            low_level::exit(128 + signal);
        }
    })?;
    Ok(())
}

/// Comes back only if no signal has come: otherwise the process dies by it, as soon as the clean-ups have run.
pub(crate) fn give_way() {
    while HURRY.get().is_some_and(|hurry| hurry.load(Ordering::SeqCst)) {
        thread::park();
    }
}

/// The mask of ignored signals in the text of `/proc/PID/status` (proc(5), `SigIgn`): bit n-1 is signal n.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Runs what was registered, the latest first, each once.
fn run_clean_ups() {
    loop {
        let last = CLEAN_UPS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match last {
            Some((_, clean_up)) => clean_up(),
            None => return,
        }
    }
}

/// A clean-up that runs on ^C as long as this lives; dropping it takes the clean-up back, not run.
#[must_use]
pub(crate) struct OnInterrupt(u64);

/// Has `clean_up` run on ^C, on a thread of its own. It must be short, and must not wait for a lock that
/// long work holds.
pub(crate) fn on_interrupt(clean_up: impl FnOnce() + Send + 'static) -> OnInterrupt {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    CLEAN_UPS.lock().unwrap_or_else(PoisonError::into_inner).push((id, Box::new(clean_up)));
    OnInterrupt(id)
}

impl Drop for OnInterrupt {
    fn drop(&mut self) {
        CLEAN_UPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| *id != self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        assert_eq!(ignored("Name:\tkiln\nSigIgn:\t0000000000000003\nSigCgt:\t0\n"), 3);
        assert_eq!(ignored(""), 0);
    }

    #[test]
    fn clean_ups_run_once_latest_first_and_only_while_held() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = |n: u32| {
            let log = Arc::clone(&log);
            move || log.lock().unwrap().push(n)
        };
        let _first = on_interrupt(writer(1));
        drop(on_interrupt(writer(2)));
        let _third = on_interrupt(writer(3));
        run_clean_ups();
        run_clean_ups();
        assert_eq!(*log.lock().unwrap(), [3, 1]);
    }
}
