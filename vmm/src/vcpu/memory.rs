//! What can be done with a machine's memory from outside: its view, its ROMs, the log of what is written.

use super::controller::{ControlError, Controller};
use super::hold::Owner;
use crate::memory::{DirtyPages, MemoryView, RegionId};

impl Controller {
    /// All of the guest's memory that can be read, ROMs with it. What is read while the machine runs may be half written.
    #[must_use]
    pub fn view(&self) -> MemoryView {
        self.0.map().view()
    }

    /// Puts a ROM with a copy of `bytes` at guest-physical address `base`; both are whole pages. The machine is held
    /// meanwhile. The guest's writes to it are lost, and counted under `name`.
    ///
    /// # Errors
    /// Something else is there, KVM has no room for it, or as [`Controller::hold`].
    pub fn add_rom(&self, name: &str, base: u64, bytes: &[u8]) -> Result<RegionId, ControlError> {
        self.while_held(|| Ok(self.0.map().add_rom(name, base, bytes)?))
    }

    /// Takes a ROM away; the machine is held meanwhile.
    ///
    /// # Errors
    /// It is not there, or as [`Controller::hold`].
    pub fn remove_rom(&self, rom: RegionId) -> Result<(), ControlError> {
        self.while_held(|| Ok(self.0.map().change(|table| table.remove(rom))?))
    }

    /// Has every write to guest RAM noted from now on, a bit a page: the guest's own and those of devices. One who starts it
    /// again begins with no page written.
    ///
    /// # Errors
    /// KVM refused.
    pub fn start_dirty_log(&self) -> Result<(), ControlError> {
        Ok(self.0.map().log_start()?)
    }

    /// The pages written since the log was started or last fetched; the log begins anew with them. Only a paused machine whose
    /// devices have nothing to do has pages of one moment: else a page may come with the next fetch though what was written
    /// is seen already.
    ///
    /// # Errors
    /// KVM refused, as it does where no log was started.
    pub fn fetch_dirty_log(&self) -> Result<DirtyPages, ControlError> {
        Ok(self.0.map().log_take()?)
    }

    /// Ends the log: the guest writes at full speed again.
    ///
    /// # Errors
    /// KVM refused.
    pub fn stop_dirty_log(&self) -> Result<(), ControlError> {
        Ok(self.0.map().log_stop()?)
    }

    /// Does `work` while every vCPU is out of the guest, whoever else holds the machine.
    fn while_held<R>(&self, work: impl FnOnce() -> Result<R, ControlError>) -> Result<R, ControlError> {
        let owner = Owner::new("memory map");
        self.hold(&owner)?;
        let result = work();
        // A machine that has ended needs no release.
        let _over = self.release(&owner);
        result
    }
}
