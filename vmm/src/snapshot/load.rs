//! A folder, into a machine that is put together.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use kvm_ioctls::Kvm;

use super::checksum::Checksum;
use super::save::{DiskStamp, Part};
use super::time::Time;
use super::{PersistError, SnapshotError, State, early, file, host, lost_pages};
use crate::config::{HugePages, MachineConfig, MemoryBacking};
use crate::kvm::Vm;
use crate::machine::MachineError;
use crate::memory::{self, GuestMemory};
use crate::vcpu::state::VcpuState;

/// Write permission of the group and of everybody.
const OTHERS_WRITE: u32 = 0o022;

/// A snapshot that was found to be whole and this host's.
#[derive(Clone)]
pub(crate) struct Loaded {
    state: Arc<State>,
    memory: Arc<File>,
    folder: PathBuf,
}

impl Loaded {
    /// Opens the snapshot `folder`, and checks it: whole, of this version, of this host, its disks as they were.
    pub(crate) fn open(kvm: &Kvm, folder: &Path) -> Result<Self, SnapshotError> {
        let path = folder.join(file::MEMORY);
        let owner = std::fs::metadata(folder).map_err(read(folder))?;
        if owner.uid() != rustix::process::geteuid().as_raw() || owner.mode() & OTHERS_WRITE != 0 {
            return Err(SnapshotError::Owner { path: folder.to_owned() });
        }
        let state = file::read(&folder.join(file::STATE))?;
        host::compare(&state.host, &host::facts(kvm)?)?;
        let memory = File::open(&path).map_err(read(&path))?;
        let whole = usize::try_from(state.config.cpus).ok() == Some(state.vcpus.len())
            && state.time.ahead.len() == state.vcpus.len()
            && state.disks.len() == state.config.disks.len()
            && state.interrupts.is_some() == state.config.irqchip;
        if !whole {
            let path = folder.join(file::STATE);
            return Err(SnapshotError::Damaged { path, what: "its parts don't fit each other".to_owned() });
        }
        let loaded = Self { state: Arc::new(state), memory: Arc::new(memory), folder: folder.to_owned() };
        loaded.check_files()?;
        Ok(loaded)
    }

    /// Looks whether it is still what it was when it was opened.
    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        let path = self.folder.join(file::MEMORY);
        let identity = |meta: &Metadata| (meta.dev(), meta.ino());
        let there = std::fs::metadata(&path).map_err(read(&path))?;
        let open = self.memory.metadata().map_err(read(&path))?;
        if identity(&there) != identity(&open) {
            return Err(SnapshotError::Damaged { path, what: "another one has taken its place".to_owned() });
        }
        self.check_files()
    }

    /// Looks whether RAM is what was saved, and the disks as they were then.
    fn check_files(&self) -> Result<(), SnapshotError> {
        let path = self.folder.join(file::MEMORY);
        let damaged = |what| SnapshotError::Damaged { path: path.clone(), what };
        self.state.memory.check(&self.memory).map_err(read(&path))?.map_err(damaged)?;
        for (disk, stamp) in self.state.config.disks.iter().zip(&self.state.disks) {
            if DiskStamp::of(&disk.path).map_err(read(&disk.path))? != *stamp {
                return Err(SnapshotError::Disk { path: disk.path.clone() });
            }
        }
        Ok(())
    }

    /// What the machine is made of.
    pub(crate) fn config(&self) -> &MachineConfig {
        &self.state.config
    }

    /// Where it lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn vcpus(&self) -> &[VcpuState] {
        &self.state.vcpus
    }

    pub(crate) fn time(&self) -> &Time {
        &self.state.time
    }

    /// RAM as it was saved: each page is the file's until it is written. On small pages: a huge one would have a machine that
    /// writes a byte take 2 MiB of the host.
    pub(crate) fn memory(&self, config: &MachineConfig) -> Result<GuestMemory, MachineError> {
        let backing = MemoryBacking { huge_pages: HugePages::Off, ..MemoryBacking::default() };
        let memory = memory::allocate_on(config.memory, backing)?;
        self.map_under(&memory)?;
        early::bring(&memory, &self.folder);
        Ok(memory)
    }

    /// Gives RAM of [`Loaded::memory`], whose machine has ended, the bytes again that were saved.
    pub(crate) fn bring_back(&self, memory: &GuestMemory) -> io::Result<()> {
        self.state.memory.bring_back(memory, &self.memory)
    }

    fn map_under(&self, memory: &GuestMemory) -> Result<(), SnapshotError> {
        let path = || self.folder.join(file::MEMORY);
        lost_pages::tell();
        self.state
            .memory
            .map_under(memory, &self.memory)
            .map_err(|source| SnapshotError::Read { path: path(), source })?
            .map_err(|what| SnapshotError::Damaged { path: path(), what })
    }

    /// Gives the shared interrupt controllers their state, once all vCPUs have theirs; then each device, which may
    /// raise interrupts from then on. `places` is the checksum of where this machine has its devices.
    pub(crate) fn restore(
        &self,
        vm: &Vm,
        parts: &[Part],
        places: Checksum,
    ) -> Result<Restored, SnapshotError> {
        if places != self.state.places {
            return Err(SnapshotError::Map { made_by: self.state.kiln.clone() });
        }
        if let Some(interrupts) = &self.state.interrupts {
            interrupts.set(vm)?;
        }
        for (name, device) in parts {
            let refused = |source| SnapshotError::Device { device: name.clone(), source };
            let missing = || PersistError::Refused("the snapshot has none".to_owned());
            let state = self.state.devices.get(name).cloned().ok_or_else(|| refused(missing()))?;
            device.lock().unwrap_or_else(PoisonError::into_inner).restore(state).map_err(refused)?;
        }
        Ok(Restored(self.state.clone()))
    }
}

/// What is left to be done when a restored machine starts: its time goes on.
pub(crate) struct Restored(Arc<State>);

impl Restored {
    pub(crate) fn vcpus(&self) -> &[VcpuState] {
        &self.0.vcpus
    }

    pub(crate) fn time(&self) -> &Time {
        &self.0.time
    }
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Read { path, source }
}
