//! Every way in which a machine can end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bell::Bell;
use crate::bus::UnclaimedAccess;

/// How a machine ended. A guest's failure is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest powered itself off through ACPI.
    PowerOff,
    /// The guest asked for a reset (i8042, ACPI's reset register).
    Reset,
    /// The guest wrote `value` to the debug-exit port.
    DebugExit {
        /// What was written; the exit status is `2 * value + 1`.
        value: u32,
    },
    /// A vCPU shut down: a triple fault.
    TripleFault {
        /// Which vCPU.
        cpu: u32,
    },
    /// The guest said at the pvpanic port that it panicked, on a machine that ends by it.
    Panicked,
    /// Every vCPU halted with interrupts off: nothing but an NMI could wake the machine.
    Halted,
    /// The host ended the machine (a timeout, a signal, the end of a test).
    Stopped,
    /// The host was done with the guest, and let the machine go.
    Dismissed,
    /// The guest of a strict machine accessed what is nothing.
    Unclaimed(UnclaimedAccess),
    /// KVM could not enter the guest (`KVM_EXIT_FAIL_ENTRY`).
    FailEntry {
        /// Which vCPU.
        cpu: u32,
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`).
    InternalError {
        /// Which vCPU.
        cpu: u32,
        /// `KVM_INTERNAL_ERROR_*`: 1 is an instruction that could not be emulated.
        suberror: u32,
    },
    /// An exit that this machine has no handling for.
    UnexpectedExit {
        /// Which vCPU.
        cpu: u32,
        /// The exit's name as the KVM API has it.
        exit: String,
    },
    /// `KVM_RUN` itself failed, or a thread of the machine died.
    MachineFailed {
        /// What failed.
        error: String,
    },
}

impl Outcome {
    /// Whether somebody will ask where the processors stood: always, but for a guest that ended as it should, or was let go.
    #[must_use]
    pub fn wants_explaining(&self) -> bool {
        !matches!(self, Self::PowerOff | Self::Dismissed | Self::DebugExit { value: 0 })
    }
}

/// The handle by which anything ends the machine. The first outcome counts.
#[derive(Clone, Debug, Default)]
pub struct PowerSwitch(Arc<Switch>);

#[derive(Debug, Default)]
struct Switch {
    /// Set after the outcome: what a vCPU looks at after each exit.
    ended: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
    /// Rung when there is an outcome.
    told: Mutex<Vec<Weak<Bell>>>,
}

impl PowerSwitch {
    /// Makes the switch of a machine that runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the machine, unless it has already ended.
    pub fn end(&self, outcome: Outcome) {
        let mut slot = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(outcome);
        self.0.ended.store(true, Ordering::Release);
        self.0.changed.notify_all();
        drop(slot);
        for bell in self.0.told.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(bell) = bell.upgrade() {
                bell.ring();
            }
        }
    }

    /// Has `bell` rung at the end, or at once if that is over: for who waits for other things besides.
    pub(crate) fn tell(&self, bell: &Arc<Bell>) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|other| other.strong_count() > 0);
        told.push(Arc::downgrade(bell));
        drop(told);
        if self.ended() {
            bell.ring();
        }
    }

    /// Whether the machine has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end, for at most `limit`, and tells how the machine ended if it did.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<Outcome> {
        let slot = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let (slot, _timed_out) = self
            .0
            .changed
            .wait_timeout_while(slot, limit, |outcome| outcome.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_outcome_counts() {
        let power = PowerSwitch::new();
        assert!(!power.ended() && power.outcome().is_none());
        power.end(Outcome::Reset);
        power.end(Outcome::PowerOff);
        assert_eq!(power.wait(Duration::ZERO), Some(Outcome::Reset));
        assert!(power.ended());
    }

    #[test]
    fn bells_are_rung_at_the_end_and_after_it() {
        let power = PowerSwitch::new();
        let bell = || Arc::new(Bell::new().unwrap());
        let (before, after) = (bell(), bell());
        power.tell(&before);
        assert!(!before.heard(), "it has not ended");
        power.end(Outcome::Halted);
        power.tell(&after);
        assert_eq!([before.heard(), after.heard()], [true, true]);
    }

    #[test]
    fn waiter_is_woken_by_the_end() {
        let power = PowerSwitch::new();
        let waiter = std::thread::spawn({
            let power = power.clone();
            move || power.wait(Duration::from_secs(60))
        });
        power.end(Outcome::Halted);
        assert_eq!(waiter.join().ok().flatten(), Some(Outcome::Halted));
    }
}
