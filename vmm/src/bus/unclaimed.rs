//! Accesses to nothing: told of at a bounded rate, or the end of a strict machine.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::{AllowedRange, BusKind};
use crate::outcome::Outcome;

/// How many accesses are told of at a time. The rest are counted.
const TOLD: usize = 8;

/// An access some of whose bytes no device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnclaimedAccess {
    /// Which vCPU made it; none where that can't be known: writes that KVM collects don't say.
    pub cpu: Option<u32>,
    /// Which bus it was on.
    pub bus: BusKind,
    /// Whether it was a write.
    pub write: bool,
    /// The port, or the guest-physical address.
    pub address: u64,
    /// How many bytes wide.
    pub width: u8,
}

impl fmt::Display for UnclaimedAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cpu {
            Some(cpu) => write!(f, "vCPU {cpu} ")?,
            None => f.write_str("a vCPU ")?,
        }
        let (did, bytes) =
            (if self.write { "wrote" } else { "read" }, if self.width == 1 { "byte" } else { "bytes" });
        let place = if self.bus == BusKind::Pio { "port" } else { "address" };
        write!(f, "{did} {} {bytes} at {place} {:#x}, where no device is", self.width, self.address)
    }
}

/// What there is to tell of accesses to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnclaimedReport {
    /// The first ones since the last report, each place once for each direction.
    pub accesses: Vec<UnclaimedAccess>,
    /// How many there were beside them.
    pub more: u64,
}

impl UnclaimedReport {
    /// The first of them, and how many followed: for where a line each would be in the way.
    #[must_use]
    pub fn summary(&self) -> String {
        let followed = self.more + self.accesses.len().saturating_sub(1) as u64;
        match (self.accesses.first(), followed) {
            (Some(first), 0) => first.to_string(),
            (Some(first), more) => format!("{first} (and {more} more such accesses)"),
            (None, more) => format!("{more} more accesses to where no device is"),
        }
    }

    /// What it says, a line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let accesses = self.accesses.iter().map(ToString::to_string);
        let more = (self.more > 0).then(|| format!("{} more accesses to where no device is", self.more));
        accesses.chain(more)
    }
}

/// Takes accesses to nothing from all vCPUs. A flood of them takes no room; one from many places takes no lock, either.
#[derive(Default)]
pub(crate) struct Unclaimed {
    /// What a strict machine lets pass; none: it is not strict.
    strict: Option<Vec<AllowedRange>>,
    first: Mutex<Vec<UnclaimedAccess>>,
    full: AtomicBool,
    more: AtomicU64,
}

impl Unclaimed {
    /// Of a machine that ends by such an access, unless it lies within `allowed`.
    pub(crate) fn strict(allowed: Vec<AllowedRange>) -> Arc<Self> {
        Arc::new(Self { strict: Some(allowed), ..Self::default() })
    }

    /// Takes an access; tells how the machine ends by it.
    #[cold]
    pub(crate) fn note(&self, access: UnclaimedAccess) -> Option<Outcome> {
        self.keep(access);
        let allowed = self.strict.as_ref()?;
        let UnclaimedAccess { bus, address, width, .. } = access;
        let passes = allowed.iter().any(|range| range.holds(bus, address, width));
        (!passes).then_some(Outcome::Unclaimed(access))
    }

    fn keep(&self, access: UnclaimedAccess) {
        if !self.full.load(Ordering::Relaxed) {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            let place = |one: &UnclaimedAccess| (one.bus, one.address, one.write);
            let known = first.iter().any(|one| place(one) == place(&access));
            if !known && first.len() < TOLD {
                first.push(access);
                self.full.store(first.len() == TOLD, Ordering::Relaxed);
                return;
            }
        }
        self.more.fetch_add(1, Ordering::Relaxed);
    }

    /// What came since the last time, if anything did.
    pub(crate) fn take(&self) -> Option<UnclaimedReport> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let accesses = std::mem::take(&mut *first);
        self.full.store(false, Ordering::Relaxed);
        let more = self.more.swap(0, Ordering::Relaxed);
        (!accesses.is_empty() || more > 0).then_some(UnclaimedReport { accesses, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(address: u64) -> UnclaimedAccess {
        UnclaimedAccess { cpu: Some(1), bus: BusKind::Pio, write: false, address, width: 2 }
    }

    #[test]
    fn flood_is_told_of_by_its_first_places_and_a_count() {
        let unclaimed = Unclaimed::default();
        assert_eq!(unclaimed.take(), None);
        for address in (0..20).chain(0..20) {
            assert_eq!(unclaimed.note(read(address)), None);
        }
        let report = unclaimed.take().unwrap();
        assert_eq!((report.accesses.len(), report.accesses[7], report.more), (TOLD, read(7), 32));
        unclaimed.note(read(5));
        unclaimed.note(read(5));
        assert_eq!(unclaimed.take().unwrap(), UnclaimedReport { accesses: vec![read(5)], more: 1 });
    }

    #[test]
    fn report_names_the_vcpu_direction_width_and_place() {
        let write =
            UnclaimedAccess { cpu: None, bus: BusKind::Mmio, write: true, address: 0xd020_0000, width: 1 };
        let report = UnclaimedReport { accesses: vec![read(0xb00), write], more: 3 };
        assert_eq!(
            report.lines().collect::<Vec<_>>(),
            [
                "vCPU 1 read 2 bytes at port 0xb00, where no device is",
                "a vCPU wrote 1 byte at address 0xd0200000, where no device is",
                "3 more accesses to where no device is",
            ]
        );
        assert_eq!(
            report.summary(),
            "vCPU 1 read 2 bytes at port 0xb00, where no device is (and 4 more such accesses)"
        );
    }

    #[test]
    fn strict_machine_ends_by_what_is_not_allowed_whole() {
        let allowed = AllowedRange { bus: BusKind::Pio, base: 0xcf8, size: 8 };
        let unclaimed = Unclaimed::strict(vec![allowed]);
        assert_eq!(unclaimed.note(read(0xcf8)), None);
        assert_eq!(unclaimed.note(read(0xcfe)), None);
        for address in [0xcf7, 0xcff, u64::MAX] {
            assert_eq!(unclaimed.note(read(address)), Some(Outcome::Unclaimed(read(address))));
        }
        let memory = UnclaimedAccess { bus: BusKind::Mmio, ..read(0xcf8) };
        assert!(unclaimed.note(memory).is_some());
    }
}
