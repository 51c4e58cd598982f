//! A guest's accesses on their way to the buses: each noted as one, those to nothing told of.

use std::sync::Arc;

use crate::bus::{Bus, Published, Taken, Unclaimed, UnclaimedAccess};
use crate::config::BusKind;
use crate::memory::map::MemoryMap;
use crate::outcome::Outcome;
use crate::trace::Recorder;

/// The devices that a machine's accesses go to.
pub(crate) struct Buses {
    /// Ports: they stay where they are.
    pub(crate) pio: Bus,
    /// Memory: windows may move.
    pub(crate) mmio: Arc<Published>,
    /// Who moves them.
    pub(crate) map: Arc<MemoryMap>,
}

/// What carries out the accesses of one exit.
pub(super) struct Accesses<'a> {
    pub(super) pio: &'a Bus,
    pub(super) mmio: &'a Bus,
    pub(super) unclaimed: &'a Unclaimed,
    pub(super) recorder: &'a mut Recorder,
    /// The outcome by which one of them ends a strict machine, and what is to be said of it.
    pub(super) end: Option<(Outcome, String)>,
}

impl<'a> Accesses<'a> {
    #[inline]
    fn of(&self, bus: BusKind) -> &'a Bus {
        match bus {
            BusKind::Pio => self.pio,
            BusKind::Mmio => self.mmio,
        }
    }

    /// A read by vCPU `cpu`.
    #[inline]
    pub(super) fn read(&mut self, cpu: u32, bus: BusKind, address: u64, data: &mut [u8]) {
        let taken = self.of(bus).read(address, data);
        self.recorder.access(taken, (bus, false), address, data);
        if taken.nobodys {
            self.nobodys(Some(cpu), (bus, false), address, data.len());
        }
    }

    /// A write by vCPU `cpu`; none where nobody knows.
    #[inline]
    pub(super) fn write(&mut self, cpu: Option<u32>, bus: BusKind, address: u64, data: &[u8]) {
        let taken: Taken<'_> = self.of(bus).write(address, data);
        self.recorder.access(taken, (bus, true), address, data);
        if taken.nobodys {
            self.nobodys(cpu, (bus, true), address, data.len());
        }
    }

    #[cold]
    fn nobodys(&mut self, cpu: Option<u32>, (bus, write): (BusKind, bool), address: u64, length: usize) {
        let width = u8::try_from(length).unwrap_or(u8::MAX);
        let access = UnclaimedAccess { cpu, bus, write, address, width };
        if let Some(outcome) = self.unclaimed.note(access) {
            self.end.get_or_insert_with(|| (outcome, access.to_string()));
        }
    }
}
