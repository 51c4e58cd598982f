//! pvpanic: a port by which a guest's kernel says that it panicked (QEMU, docs/specs/pvpanic.rst).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::BusDevice;
use crate::outcome::{Outcome, PowerSwitch};
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};

/// The guest panicked, and the host is to deal with it.
pub const PANICKED: u8 = 1;
/// The guest panicked, and runs its crash kernel.
pub const CRASH_LOADED: u8 = 1 << 1;
/// What the port reads: the events that it takes.
const SUPPORTED: u8 = PANICKED | CRASH_LOADED;

/// What the guest has said at the port. A clone is another handle on the same.
#[derive(Clone, Debug, Default)]
pub struct PanicNotice(Arc<AtomicU8>);

impl PanicNotice {
    /// Whether the guest said that it panicked.
    #[must_use]
    pub fn panicked(&self) -> bool {
        self.0.load(Ordering::Acquire) & PANICKED != 0
    }

    /// Whether the guest said that it runs its crash kernel.
    #[must_use]
    pub fn crash_loaded(&self) -> bool {
        self.0.load(Ordering::Acquire) & CRASH_LOADED != 0
    }
}

/// The port.
pub struct PvPanic {
    notice: PanicNotice,
    /// What a panic ends, if it ends the machine.
    ends: Option<PowerSwitch>,
}

impl PvPanic {
    /// Makes a port that notes what the guest says in `notice`, and ends the machine behind `ends` when it panicked.
    #[must_use]
    pub fn new(notice: PanicNotice, ends: Option<PowerSwitch>) -> Self {
        Self { notice, ends }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = SUPPORTED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let events = data.first().copied().unwrap_or(0) & SUPPORTED;
        self.notice.0.fetch_or(events, Ordering::AcqRel);
        if events & PANICKED != 0
            && let Some(power) = &self.ends
        {
            power.end(Outcome::Panicked);
        }
    }
}

impl Persist for PvPanic {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        to_value(self.notice.0.load(Ordering::Acquire))
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        self.notice.0.store(from_value::<u8>(state)? & SUPPORTED, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::power_switch;

    #[test]
    fn pvpanic_reads_the_events_that_it_takes() {
        let mut data = [0xff; 2];
        PvPanic::new(PanicNotice::default(), None).read(0, &mut data);
        assert_eq!(data, [3, 0]);
    }

    #[test]
    fn pvpanic_panic_is_noted_and_ends_what_it_is_to_end() {
        let (power, ended) = power_switch();
        let notice = PanicNotice::default();
        PvPanic::new(notice.clone(), Some(power)).write(0, &[PANICKED]);
        assert!(notice.panicked() && !notice.crash_loaded());
        assert_eq!(ended(), Some(Outcome::Panicked));
    }

    #[test]
    fn pvpanic_crash_kernel_is_noted_and_ends_nothing() {
        let (power, ended) = power_switch();
        let notice = PanicNotice::default();
        PvPanic::new(notice.clone(), Some(power)).write(0, &[CRASH_LOADED]);
        assert!(!notice.panicked() && notice.crash_loaded());
        assert_eq!(ended(), None);
    }

    #[test]
    fn pvpanic_unknown_events_are_nothing() {
        let notice = PanicNotice::default();
        PvPanic::new(notice.clone(), None).write(0, &[0xfc]);
        assert!(!notice.panicked() && !notice.crash_loaded());
    }
}
