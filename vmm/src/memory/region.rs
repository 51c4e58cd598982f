//! What there can be at a guest-physical address: RAM, a ROM, a device's window.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MmapRegion, VolatileMemory};
use vmm_sys_util::eventfd::EventFd;

use super::GuestMemory;
use crate::bus::{BusDevice, Shared};

/// Bytes that the guest reads, and can't change.
pub(crate) struct Rom {
    bytes: MmapRegion,
    /// It stays where it is when all else is taken from the map but RAM.
    stays: bool,
    /// The file that is there, if one was put there.
    file: Mutex<Option<FileStamp>>,
}

/// Device, inode, size and time of the last change.
type FileStamp = (u64, u64, u64, (i64, i64));

impl Rom {
    /// Makes a ROM with a copy of `bytes`, which must not be none.
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        let region = MmapRegion::new(bytes.len()).map_err(io::Error::other)?;
        region.as_volatile_slice().copy_from(bytes);
        Ok(Self { bytes: region, stays: false, file: Mutex::default() })
    }

    /// Makes a place of `size` bytes for files, zero at first, that stays in the map.
    pub(crate) fn place(size: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let bytes = MmapRegion::build(None, size, libc::PROT_READ, flags).map_err(io::Error::other)?;
        Ok(Self { bytes, stays: true, file: Mutex::default() })
    }

    /// Puts a file of so many bytes in a place, or none: behind its end there are zeros. What was there before is gone. One that is there
    /// already stays as it is, with all of it that is in KVM's tables.
    pub(crate) fn put(&self, file: Option<(&File, u64)>) -> io::Result<()> {
        use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
        let stamp = |(file, length): (&File, u64)| -> io::Result<FileStamp> {
            let meta = file.metadata()?;
            Ok((meta.dev(), meta.ino(), length, (meta.mtime(), meta.mtime_nsec())))
        };
        let wanted = file.map(stamp).transpose()?;
        let mut there = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if *there == wanted {
            return Ok(());
        }
        let (at, size) = (self.bytes.as_ptr().cast(), self.bytes.size());
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the range is the mapping that this value owns, whole, and takes the place of its bytes. Nobody has a
        // reference to them: they are read by volatile copies, and by KVM, which is told.
        #[allow(unsafe_code)]
        unsafe { mmap_anonymous(at, size, ProtFlags::READ, flags) }?;
        *there = None;
        let Some((file, length)) = file else { return Ok(()) };
        let length = usize::try_from(length).map_err(io::Error::other)?;
        if length > size {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has more than {size} bytes"),
            ));
        }
        if length > 0 {
            // SAFETY: as above, of a part of it.
            #[allow(unsafe_code)]
            unsafe { mmap(at, length, ProtFlags::READ, flags, file, 0) }?;
        }
        *there = wanted;
        Ok(())
    }

    /// Whether it stays where it is when all else is taken from the map but RAM.
    pub(crate) fn stays(&self) -> bool {
        self.stays
    }

    /// Copies the bytes at `offset`, if all of them are there.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> bool {
        let Ok(offset) = usize::try_from(offset) else { return false };
        let bytes = self.bytes.get_slice(offset, to.len());
        bytes.map(|bytes| bytes.copy_to(to)).is_ok()
    }
}

/// A ROM as the bus sees it: KVM answers reads, only writes get there, and are lost. They are counted under the ROM's name.
pub(super) struct RomOnBus(pub(super) Arc<Rom>);

impl BusDevice for RomOnBus {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Only for a moment, while the ROM comes or goes.
        self.0.read(offset, data);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

/// What one of KVM's slots points at. It keeps the memory alive.
#[derive(Clone)]
pub(crate) enum SlotMemory {
    /// The region of guest RAM with that index.
    Ram(GuestMemory, usize),
    /// A ROM.
    Rom(Arc<Rom>),
}

impl SlotMemory {
    /// Where it is in this process, and its size in bytes.
    pub(crate) fn host(&self) -> (u64, u64) {
        let (at, size) = match self {
            Self::Ram(memory, index) => memory
                .iter()
                .nth(*index)
                .map_or((0, 0), |region| (MmapRegion::as_ptr(region).addr(), region.size())),
            Self::Rom(rom) => (rom.bytes.as_ptr().addr(), rom.bytes.size()),
        };
        (u64::try_from(at).unwrap_or(u64::MAX), u64::try_from(size).unwrap_or(u64::MAX))
    }

    /// Whether the guest may only read it.
    pub(crate) fn read_only(&self) -> bool {
        matches!(self, Self::Rom(_))
    }

    /// The log of what the VMM writes there.
    pub(super) fn log(&self) -> Option<&super::WriteLog> {
        match self {
            Self::Ram(memory, index) => memory.iter().nth(*index).map(|region| MmapRegion::bitmap(region)),
            Self::Rom(_) => None,
        }
    }
}

/// The regions of `memory`, each with where it begins.
pub(super) fn ram(memory: &GuestMemory) -> impl Iterator<Item = (u64, SlotMemory)> + '_ {
    let of = |(index, base)| (base, SlotMemory::Ram(memory.clone(), index));
    memory.iter().map(|region| region.start_addr().raw_value()).enumerate().map(of)
}

/// A write that KVM counts in an eventfd, with no exit: the four bytes `value` at `offset` of a window. Writes of other widths, and
/// those that come while the window is on its way, reach the device, which must do the same.
pub(crate) struct Doorbell {
    pub(crate) offset: u64,
    pub(crate) value: u32,
    pub(crate) event: Arc<EventFd>,
}

/// Addresses of a window whose writes KVM collects in the VM's ring, with no exit until it is full.
///
/// Whoever reads a register of the zone sees all writes before it. A device behind one must not need to see a
/// write at once: it comes with the next exit of any vCPU.
#[derive(Clone, Copy)]
pub(crate) struct Zone {
    pub(crate) offset: u64,
    pub(crate) size: u32,
}

/// A device's addresses on MMIO. Its doorbells and zones go where it goes.
pub(crate) struct Window {
    pub(crate) size: u64,
    pub(crate) device: Shared<dyn BusDevice>,
    pub(crate) doorbells: Vec<Doorbell>,
    pub(crate) zones: Vec<Zone>,
    /// By which the device has it moved.
    pub(crate) mover: Option<Arc<Mover>>,
}

impl Window {
    /// A window of `size` bytes that stays where it is put, with no doorbells and no zones.
    pub(crate) fn new(size: u64, device: Shared<dyn BusDevice>) -> Self {
        Self { size, device, doorbells: Vec::new(), zones: Vec::new(), mover: None }
    }
}

/// The requests of devices to move their windows: how many there were, and how many of them have been seen to.
#[derive(Default)]
pub(crate) struct Requests {
    asked: AtomicU32,
    seen_to: AtomicU32,
}

impl Requests {
    /// Whether some wait. A vCPU sees those that its own accesses led to.
    #[inline]
    pub(crate) fn wait(&self) -> bool {
        self.asked.load(Ordering::Relaxed) != self.seen_to.load(Ordering::Acquire)
    }

    /// How many there have been; to be told to [`Requests::done`] when these have been seen to.
    pub(super) fn asked(&self) -> u32 {
        self.asked.load(Ordering::Acquire)
    }

    pub(super) fn done(&self, asked: u32) {
        self.seen_to.store(asked, Ordering::Release);
    }
}

/// By which a device moves its own window, out of a register write: the vCPU that wrote does it after the access, and before it
/// enters the guest again. Of several requests before that, the last counts.
pub(crate) struct Mover {
    requests: Arc<Requests>,
    asked: Mutex<Option<Option<u64>>>,
    refused: AtomicBool,
    /// Where the last request that was granted put the window.
    placed: Mutex<Option<Option<u64>>>,
}

impl Mover {
    pub(super) fn new(requests: Arc<Requests>) -> Self {
        Self { requests, asked: Mutex::default(), refused: AtomicBool::new(false), placed: Mutex::default() }
    }

    /// Asks for the window to begin at `base`, or to be nowhere. Where that can't be, because something else is there, it stays
    /// where it is.
    pub(crate) fn ask(&self, base: Option<u64>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(base);
        self.requests.asked.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the last request was refused.
    pub(crate) fn refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Option<Option<u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The request was granted, for the place `moved`, or refused.
    pub(super) fn answer(&self, moved: Option<Option<u64>>) {
        self.refused.store(moved.is_none(), Ordering::Release);
        if moved.is_some() {
            *self.placed.lock().unwrap_or_else(PoisonError::into_inner) = moved;
        }
    }

    /// Where the window is, if it has been moved; where it is nowhere, none.
    pub(crate) fn placed(&self) -> Option<Option<u64>> {
        *self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
