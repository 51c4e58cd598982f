//! A machine that is held, into a folder.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checksum::Checksum;
use super::interrupts::Interrupts;
use super::load::Loaded;
use super::persist::Persist;
use super::time::{Counter, Time};
use super::{SnapshotError, State, early, file, host, memory};
use crate::config::MachineConfig;
use crate::kvm::Vm;
use crate::memory::map::MemoryMap;
use crate::memory::region::Rom;
use crate::vcpu::{ControlError, Controller};

/// A device of the machine, under the name that its state has in a snapshot.
pub(crate) type Part = (String, Arc<Mutex<dyn Persist>>);

/// A ROM, and its address before it.
type PlacedRom = (u64, Arc<Rom>);

/// What of a machine is saved, beside its vCPUs.
pub(crate) struct Saver {
    pub(crate) config: MachineConfig,
    pub(crate) vm: Arc<Vm>,
    /// In the order in which they are saved and restored.
    pub(crate) parts: Vec<Part>,
    /// The checksum of where devices and ROMs were at first.
    pub(crate) places: Checksum,
    /// The ROMs that there were at first.
    pub(crate) roms: Vec<PlacedRom>,
    /// The reserved disk's place as memory.
    pub(crate) place: Option<Arc<Rom>>,
    pub(crate) map: Arc<MemoryMap>,
    /// The KVM that it runs on.
    pub(crate) kvm: Arc<Kvm>,
    /// The snapshot that it went on from, if it did.
    pub(crate) origin: Option<Loaded>,
}

/// What a disk's file was like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiskStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl DiskStamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), modified })
    }
}

impl Saver {
    /// Saves the machine, which is held by its caller and does not go on afterwards, to the new folder `to`.
    ///
    /// The order matters: first devices, which may still raise interrupts; then the interrupts' lines, so that those on
    /// their way arrive; then the controllers and vCPUs that they arrive at; RAM, which devices wrote to, at last.
    pub(crate) fn save(&self, controller: &Controller, to: &Path) -> Result<(), SnapshotError> {
        let same = |(now, first): (&PlacedRom, &PlacedRom)| now.0 == first.0 && Arc::ptr_eq(&now.1, &first.1);
        let roms = self.map.roms();
        if roms.len() != self.roms.len() || !roms.iter().zip(&self.roms).all(same) {
            return Err(SnapshotError::Roms);
        }
        let mut folder = Folder::make(to)?;
        let devices = self.devices()?;
        self.vm.disconnect()?;
        let interrupts = self.config.irqchip.then(|| Interrupts::get(&self.vm)).transpose()?;
        let vcpus = controller.vcpu_states()?;
        for (cpu, state) in (0..).zip(&vcpus) {
            if let Some(why) = state.more_than_this() {
                return Err(SnapshotError::Unsaved { cpu, why });
            }
        }
        let time = self.time(controller)?;
        let disk = |path: &PathBuf| {
            DiskStamp::of(path).map_err(|source| SnapshotError::Read { path: path.clone(), source })
        };
        let disks = self.config.disks.iter().map(|own| disk(&own.path)).collect::<Result<_, _>>()?;
        let memory =
            folder.memory(controller, self.origin.is_none() && !self.config.memory_backing.shared)?;
        folder.state(&State {
            kiln: env!("CARGO_PKG_VERSION").to_owned(),
            host: host::facts(&self.kvm)?,
            config: self.config.clone(),
            places: self.places,
            memory,
            vcpus,
            interrupts,
            time,
            disks,
            devices,
        })?;
        folder.keep()
    }

    /// Notes in the snapshot that the machine went on from which pages it has written since; tells how many.
    pub(crate) fn note_early_pages(&self, controller: &Controller) -> Result<u64, SnapshotError> {
        let Some(folder) = self.origin.as_ref().map(Loaded::folder) else { return Ok(0) };
        early::note(controller.memory(), folder)
            .map_err(|source| SnapshotError::Write { path: folder.to_owned(), source })
    }

    fn devices(&self) -> Result<BTreeMap<String, Value>, SnapshotError> {
        let save = |(name, device): &Part| {
            let state = device.lock().unwrap_or_else(PoisonError::into_inner).save();
            let state = state.map_err(|source| SnapshotError::Device { device: name.clone(), source })?;
            Ok((name.clone(), state))
        };
        self.parts.iter().map(save).collect()
    }

    fn time(&self, controller: &Controller) -> Result<Time, SnapshotError> {
        let counters = controller.run_on_all_vcpus(|_, vcpu| Counter::of(vcpu))?;
        let counters = (0..)
            .zip(counters)
            .map(|(cpu, counter)| counter.map_err(|source| ControlError::State { cpu, source }))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Time::get(&self.vm, &counters)?)
    }
}

/// A folder in the making: gone, unless it is kept.
struct Folder {
    /// Where it is made, beside its place.
    at: PathBuf,
    to: PathBuf,
    kept: bool,
}

impl Folder {
    fn make(to: &Path) -> Result<Self, SnapshotError> {
        /// Tells apart what threads of this process make.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let write = |source| SnapshotError::Write { path: to.to_owned(), source };
        if to.symlink_metadata().is_ok() {
            return Err(write(io::ErrorKind::AlreadyExists.into()));
        }
        let name = to.file_name().ok_or_else(|| write(io::ErrorKind::InvalidInput.into()))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = format!(".{}.{}-{number}.making", name.to_string_lossy(), std::process::id());
        let at = to.with_file_name(own);
        DirBuilder::new().mode(0o700).create(&at).map_err(write)?;
        Ok(Self { at, to: to.to_owned(), kept: false })
    }

    /// Has `fill` write a file, which nobody writes to again.
    fn file<T>(&self, name: &str, fill: impl FnOnce(&File) -> io::Result<T>) -> Result<T, SnapshotError> {
        let path = self.at.join(name);
        let make = || {
            let file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path)?;
            file.set_permissions(Permissions::from_mode(0o400))?;
            fill(&file)
        };
        make().map_err(|source| SnapshotError::Write { path: self.to.join(name), source })
    }

    fn memory(&mut self, controller: &Controller, blank: bool) -> Result<memory::MemoryFile, SnapshotError> {
        self.file(file::MEMORY, |file| {
            let mut written = memory::write(controller.memory(), file, blank)?;
            written.stamp(file)?;
            Ok(written)
        })
    }

    fn state(&mut self, state: &State) -> Result<(), SnapshotError> {
        self.file(file::STATE, |file| {
            let mut to = BufWriter::new(file);
            file::write(state, &mut to)?;
            io::Write::flush(&mut to)
        })
    }

    /// Puts it in its place, unless something is there by now.
    fn keep(mut self) -> Result<(), SnapshotError> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, &self.at, CWD, &self.to, RenameFlags::NOREPLACE)
            // A file system without that kind: a folder takes the place of an empty one at most.
            .or_else(|_| std::fs::rename(&self.at, &self.to))
            .map_err(|source| SnapshotError::Write { path: self.to.clone(), source })?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            // What can't be removed is in nobody's way.
            let _left = std::fs::remove_dir_all(&self.at);
        }
    }
}
