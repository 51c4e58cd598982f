//! The memory map of a machine that runs: changed as a whole or not at all, and told to those who carry it out.
//!
//! Slots change only while every vCPU is out of the guest: between the old and the new one an instruction fetch would find nothing.
//! Windows may move at any time; a vCPU that races with a move finds the window at its old place or its new one, or, for a
//! moment, at neither.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dirty::{DirtyPages, DirtyRegion};
use super::region::{Mover, Requests, Rom};
use super::table::{Change, Slot, Table};
use super::view::MemoryView;
use super::{GuestMemory, PAGE, RegionId};
use crate::bus::BusError;
use crate::kvm::KvmError;

/// A memory map that can't be.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// A region is empty or ends past the last address that the processors have.
    #[error("{name}: {size:#x} bytes at {base:#x} are no range of this machine's addresses")]
    NoRange {
        /// The region's name.
        name: String,
        /// Its first address.
        base: u64,
        /// How many bytes it has.
        size: u64,
    },
    /// Memory must be whole pages.
    #[error("{name}: {size:#x} bytes at {base:#x} are not whole pages of 4096 bytes")]
    NotPages {
        /// The region's name.
        name: String,
        /// Its first address.
        base: u64,
        /// How many bytes it has.
        size: u64,
    },
    /// Something else is there.
    #[error("{name} at {base:#x} would overlap {other}")]
    Overlap {
        /// The region's name.
        name: String,
        /// Its first address.
        base: u64,
        /// What is there.
        other: String,
    },
    /// KVM has no slot left.
    #[error("all {most} memory slots of this host's KVM are taken")]
    Slots {
        /// `KVM_CAP_NR_MEMSLOTS`.
        most: u32,
    },
    /// There is no such region, or it stays.
    #[error("there is no such region that can be taken away")]
    NoRegion,
    /// Nobody has started the log of what is written.
    #[error("no dirty log has been started")]
    NoLog,
    /// A ROM's memory can't be had.
    #[error("the host has no room for a ROM")]
    Rom(#[source] std::io::Error),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A device's window can't be.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A change failed midway, and what had been done could not be undone: the machine is no whole any more.
    #[error("the memory map is broken: {change}; and undoing what was done: {undo}")]
    Broken {
        /// Why the change failed.
        change: String,
        /// Why it could not be undone.
        undo: String,
    },
}

/// Who carries out a change of the map.
pub(crate) trait Listener: Send + Sync {
    /// A transaction begins.
    fn begin(&self) {}
    /// A step of it.
    fn apply(&self, change: &Change) -> Result<(), MapError>;
    /// It is over, and all steps have been done.
    fn commit(&self) {}
    /// Has writes of the guest to a slot noted, from none on, or not any more.
    fn log(&self, _slot: &Slot, _on: bool) -> Result<(), MapError> {
        Ok(())
    }
    /// Adds the pages of a slot that the guest has written since the last time to `bits`, and forgets them.
    fn written(&self, _slot: &Slot, _bits: &mut [u64]) -> Result<(), MapError> {
        Ok(())
    }
}

/// The map.
pub(crate) struct MemoryMap {
    ram: GuestMemory,
    table: Mutex<Table>,
    listeners: Vec<Arc<dyn Listener>>,
    requests: Arc<Requests>,
}

impl MemoryMap {
    /// The map of a machine with that RAM, which is in `table` from the beginning.
    pub(crate) fn new(
        table: Table,
        ram: GuestMemory,
        listeners: Vec<Arc<dyn Listener>>,
    ) -> Result<Self, MapError> {
        let map = Self { ram, table: Mutex::new(table), listeners, requests: Arc::default() };
        map.change(|table| table.ram(&map.ram))?;
        Ok(map)
    }

    /// Guest RAM.
    pub(crate) fn ram(&self) -> &GuestMemory {
        &self.ram
    }

    /// All that can be read: RAM, and the ROMs that there are now.
    pub(crate) fn view(&self) -> MemoryView {
        MemoryView::new(self.ram.clone(), self.lock().roms())
    }

    /// The ROMs that there are now, and where.
    pub(crate) fn roms(&self) -> Vec<(u64, Arc<Rom>)> {
        self.lock().roms()
    }

    /// A mover for a window that is to be put in the map.
    pub(crate) fn mover(&self) -> Arc<Mover> {
        Arc::new(Mover::new(self.requests.clone()))
    }

    /// Changes the table as `edit` says. Where slots change, no vCPU may be in the guest.
    pub(crate) fn change<R>(
        &self,
        edit: impl FnOnce(&mut Table) -> Result<R, MapError>,
    ) -> Result<R, MapError> {
        self.change_locked(&mut self.lock(), edit)
    }

    fn change_locked<R>(
        &self,
        table: &mut Table,
        edit: impl FnOnce(&mut Table) -> Result<R, MapError>,
    ) -> Result<R, MapError> {
        let mut new = table.clone();
        let result = edit(&mut new)?;
        new.check()?;
        let changes = table.changes(&new);
        for listener in &self.listeners {
            listener.begin();
        }
        self.apply(&changes)?;
        for listener in &self.listeners {
            listener.commit();
        }
        *table = new;
        Ok(result)
    }

    /// Has every listener do every step; after one that fails, what was done is undone in reverse.
    fn apply(&self, changes: &[Change]) -> Result<(), MapError> {
        let steps = || changes.iter().flat_map(|change| self.listeners.iter().map(move |to| (change, to)));
        for (done, (change, listener)) in steps().enumerate() {
            let Err(error) = listener.apply(change) else { continue };
            let done: Vec<_> = steps().take(done).collect();
            for (change, listener) in done.into_iter().rev() {
                listener.apply(&change.undo()).map_err(|undo| MapError::Broken {
                    change: crate::chain(&error),
                    undo: crate::chain(&undo),
                })?;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Whether devices wait for their windows to be moved.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.requests.wait()
    }

    /// Moves the windows whose devices asked for it; comes back when those asked for until now are done, by whomever. `drain`
    /// hands over the writes that were collected under the old map.
    ///
    /// A place that can't be had is refused, and the window stays: that is the guest's own doing.
    ///
    /// # Errors
    /// The map is broken.
    pub(crate) fn settle(&self, drain: impl FnOnce()) -> Result<(), MapError> {
        let mut table = self.lock();
        drain();
        let asked = self.requests.asked();
        for (id, window) in table.movable() {
            let Some(mover) = &window.mover else { continue };
            let Some(base) = mover.take() else { continue };
            let moved = self.change_locked(&mut table, |table| {
                table.place(id, base);
                Ok(())
            });
            mover.answer(moved.is_ok().then_some(base));
            if let Err(error @ MapError::Broken { .. }) = moved {
                return Err(error);
            }
        }
        self.requests.done(asked);
        Ok(())
    }

    /// Puts a ROM with a copy of `bytes` at `base`. No vCPU may be in the guest.
    pub(crate) fn add_rom(&self, name: &str, base: u64, bytes: &[u8]) -> Result<RegionId, MapError> {
        if bytes.is_empty() {
            return Err(MapError::NotPages { name: name.to_owned(), base, size: 0 });
        }
        let rom = Rom::new(bytes).map_err(MapError::Rom)?;
        self.change(|table| table.rom(name, base, rom.into()))
    }

    /// Takes all from the map but what is to stay and RAM, whose writes are not noted any more. No vCPU may be in the guest.
    pub(crate) fn strip(&self) -> Result<(), MapError> {
        self.log_stop()?;
        self.change(|table| {
            table.strip();
            Ok(())
        })
    }

    /// Has writes to RAM noted from now on: the guest's by KVM, the devices' by themselves.
    pub(crate) fn log_start(&self) -> Result<(), MapError> {
        let table = self.lock();
        let slots = table.ram_slots();
        for slot in &slots {
            if let Some(log) = slot.memory.log() {
                log.start();
            }
            if let Err(error) = self.log(slot, true) {
                // As before: the guest is only slower where a log stays on.
                for slot in &slots {
                    let _nothing_to_stop = self.log(slot, false);
                    slot.memory.log().into_iter().for_each(super::WriteLog::stop);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes no writes any more.
    pub(crate) fn log_stop(&self) -> Result<(), MapError> {
        let table = self.lock();
        for slot in table.ram_slots() {
            self.log(&slot, false)?;
            slot.memory.log().into_iter().for_each(super::WriteLog::stop);
        }
        Ok(())
    }

    fn log(&self, slot: &Slot, on: bool) -> Result<(), MapError> {
        self.listeners.iter().try_for_each(|listener| listener.log(slot, on))
    }

    /// The pages written since the log was started or last taken.
    pub(crate) fn log_take(&self) -> Result<DirtyPages, MapError> {
        let table = self.lock();
        let region = |slot: Slot| {
            let size = slot.memory.host().1;
            let words = usize::try_from(size.div_ceil(PAGE).div_ceil(64)).unwrap_or(0);
            let mut bits = vec![0; words];
            for listener in &self.listeners {
                listener.written(&slot, &mut bits)?;
            }
            if let Some(log) = slot.memory.log() {
                log.take(&mut bits);
            }
            Ok(DirtyRegion { base: slot.base, size, bits })
        };
        let regions = table.ram_slots().into_iter().map(region).collect::<Result<_, MapError>>()?;
        Ok(DirtyPages { regions })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
