//! KVM's system and VM handles: opened, checked and set up in the order that KVM wants.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_bindings::{
    KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY,
    KvmIrqRouting, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Irqfd, LevelIrqfd, Msi, Routes};
use crate::layout::{IDENTITY_MAP_ADDRESS, TSS_ADDRESS};
use crate::memory::map::{Listener, MapError};
use crate::memory::region::SlotMemory;
use crate::memory::table::{Change, Piece, Slot};

/// Where KVM is.
pub const KVM_NODE: &str = "/dev/kvm";

/// Why there is no KVM to make machines with, or it refused one.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The node is not there.
    #[error(
        "{0} does not exist: load the module kvm_intel or kvm_amd, or enable virtualization in the firmware"
    )]
    Missing(PathBuf),
    /// The node may not be opened.
    #[error("no permission to open {0} for reading and writing: join the group that owns it (usually kvm)")]
    Permission(PathBuf),
    /// The node could not be opened for another reason.
    #[error("can't open {path}")]
    Open {
        /// The node.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// What was opened is something else.
    #[error("{path} is no KVM device node: it does not answer KVM_GET_API_VERSION")]
    NotKvm {
        /// The node.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// What was opened does not speak KVM's stable interface.
    #[error("{path} speaks version {version} of KVM's interface; 12 is wanted")]
    ApiVersion {
        /// The node.
        path: PathBuf,
        /// What `KVM_GET_API_VERSION` said.
        version: i32,
    },
    /// KVM lacks something that every machine needs.
    #[error("this host's KVM lacks {0}")]
    Capability(&'static str),
    /// More vCPUs than KVM can run.
    #[error("{asked} CPUs: this host's KVM runs at most {most}")]
    Vcpus {
        /// How many were asked for.
        asked: u32,
        /// `KVM_CAP_MAX_VCPUS`.
        most: usize,
    },
    /// More RAM than the processor can address.
    #[error("{mib} MiB of memory: this host's processors address {bits} bits, which is less")]
    AddressWidth {
        /// How much was asked for.
        mib: u64,
        /// CPUID's leaf 0x80000008, EAX, bits 0 to 7.
        bits: u32,
    },
    /// KVM refused a step.
    #[error("KVM refused {step}")]
    Refused {
        /// The request's name in the KVM API.
        step: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl KvmError {
    /// A request that KVM refused.
    pub(crate) fn refused(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Refused { step, source: io::Error::from_raw_os_error(error.errno()) }
    }
}

/// Opens KVM at `node`, and checks that it is what machines are made of.
///
/// # Errors
/// See [`KvmError`].
pub fn open(node: &Path) -> Result<Kvm, KvmError> {
    let path = std::ffi::CString::new(node.as_os_str().as_encoded_bytes())
        .map_err(|_| KvmError::Missing(node.to_owned()))?;
    let kvm = Kvm::new_with_path(path.as_c_str()).map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing(node.to_owned()),
        libc::EACCES | libc::EPERM => KvmError::Permission(node.to_owned()),
        errno => KvmError::Open { path: node.to_owned(), source: io::Error::from_raw_os_error(errno) },
    })?;
    let version = kvm.get_api_version();
    if version < 0 {
        let source = io::Error::last_os_error();
        return Err(KvmError::NotKvm { path: node.to_owned(), source });
    }
    if i64::from(version) != i64::from(KVM_API_VERSION) {
        return Err(KvmError::ApiVersion { path: node.to_owned(), version });
    }
    for (cap, name) in [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
        (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Capability(name));
        }
    }
    Ok(kvm)
}

/// How many bits a guest-physical address has.
pub(crate) fn physical_address_bits(kvm: &Kvm) -> Result<u32, KvmError> {
    /// What a processor without the leaf has (Intel SDM, volume 3, §4.1.4).
    const DEFAULT: u32 = 36;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::refused("KVM_GET_SUPPORTED_CPUID"))?;
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    Ok(leaf.map_or(DEFAULT, |leaf| (leaf.eax & 0xff).clamp(DEFAULT, 63)))
}

/// A VM: memory in its slots, interrupt controllers if the machine has them.
pub(crate) struct Vm {
    fd: VmFd,
    /// How many slots it has room for.
    slots_most: u32,
    /// What the slots point at, by their numbers: it must live as long as the slot.
    slots: Mutex<BTreeMap<u32, SlotMemory>>,
    /// Whether there are zones whose writes are coalesced.
    coalesces: AtomicBool,
    /// Where interrupts lead; held while KVM is told.
    routes: Mutex<Routes>,
    /// The interrupt lines that KVM listens to, each with its pin.
    lines: Mutex<Vec<(Weak<Irqfd>, u32)>>,
    /// Those that are held until the guest ends the interrupt.
    levels: Mutex<Vec<(Weak<LevelIrqfd>, u32)>>,
    /// Those that raise messages.
    messages: Mutex<Vec<(EventFd, u32)>>,
    /// The ports whose writes are coalesced. Zones of memory are the memory map's.
    ports: Mutex<Vec<(u64, u32)>>,
}

/// How many pins the I/O APIC has (82093AA data sheet, §2.4).
const PINS: u32 = 24;

impl Vm {
    /// Makes the VM. The order is KVM's: the TSS and the identity map before any vCPU, the interrupt
    /// controllers before the vCPUs that get a local APIC by them.
    pub(crate) fn new(kvm: &Kvm, irqchip: bool) -> Result<Arc<Self>, KvmError> {
        // A signal may interrupt the creation: KVM allocates a lot for it.
        let fd = loop {
            match kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                other => break other.map_err(KvmError::refused("KVM_CREATE_VM"))?,
            }
        };
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(KvmError::refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(TSS_ADDRESS).unwrap_or(usize::MAX);
        fd.set_tss_address(tss).map_err(KvmError::refused("KVM_SET_TSS_ADDR"))?;
        if irqchip {
            fd.create_irq_chip().map_err(KvmError::refused("KVM_CREATE_IRQCHIP"))?;
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
            fd.create_pit2(pit).map_err(KvmError::refused("KVM_CREATE_PIT2"))?;
        }
        let slots_most = u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX);
        let limit = if irqchip { fd.check_extension_int(Cap::IrqRouting) } else { 0 };
        let routes = Mutex::new(Routes::new(u32::try_from(limit).unwrap_or(0)));
        Ok(Arc::new(Self {
            fd,
            slots_most,
            slots: Mutex::default(),
            coalesces: AtomicBool::new(false),
            routes,
            lines: Mutex::default(),
            levels: Mutex::default(),
            messages: Mutex::default(),
            ports: Mutex::default(),
        }))
    }

    /// How many memory slots there are.
    pub(crate) fn slots_most(&self) -> u32 {
        self.slots_most
    }

    pub(crate) fn create_vcpu(&self, index: u32) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(index.into()).map_err(KvmError::refused("KVM_CREATE_VCPU"))
    }

    /// Has KVM raise an edge at `gsi` for each count of `line`.
    pub(crate) fn connect(&self, line: &Arc<Irqfd>, gsi: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(line.eventfd(), gsi).map_err(KvmError::refused("KVM_IRQFD"))?;
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::downgrade(line), gsi));
        Ok(())
    }

    /// Has KVM listen to no line any more. Edges that were on their way have arrived when this returns: KVM takes them in by
    /// a thread of its own, and waits for that thread before it lets go of a line. Tells how many lines there were.
    pub(crate) fn disconnect(&self) -> Result<usize, KvmError> {
        let mut told = 0;
        for (line, gsi) in self.lines.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(line) = line.upgrade() {
                self.take_off(line.eventfd(), gsi)?;
                told += 1;
            }
        }
        for (line, gsi) in self.messages.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.take_off(&line, gsi)?;
            told += 1;
        }
        Ok(told)
    }

    fn take_off(&self, line: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd.unregister_irqfd(line, gsi).map_err(KvmError::refused("KVM_IRQFD"))
    }

    /// Takes all from the VM that its machine connected to it, but what is in the memory map: another machine may have it. No pin is left
    /// raised, which is no part of the interrupt controllers' state.
    ///
    /// The machine's devices are gone by now, and their lines closed: KVM takes those off by itself, all at once, where it takes each that
    /// it is told of by itself and waits for it.
    pub(crate) fn strip(&self, irqchip: bool) -> Result<(), KvmError> {
        let mut told = self.disconnect()?;
        for (line, gsi) in self.levels.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(line) = line.upgrade() {
                self.take_off(line.eventfds().0, gsi)?;
                told += 1;
            }
        }
        // KVM waits for all that are on their way off when it is told of one.
        if irqchip && told == 0 {
            let last = EventFd::new(0).map_err(|source| KvmError::Refused { step: "KVM_IRQFD", source })?;
            self.fd.register_irqfd(&last, 0).map_err(KvmError::refused("KVM_IRQFD"))?;
            self.take_off(&last, 0)?;
        }
        for (port, size) in self.ports.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.end_coalescing(IoEventAddress::Pio(port), size)?;
        }
        for pin in (0..PINS).filter(|_| irqchip) {
            self.set_line(pin, false)?;
        }
        Ok(())
    }

    /// For requests that are only one's own.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Has KVM raise `gsi` for each count of `raise` until the guest ends the interrupt, which counts `ended`.
    pub(crate) fn connect_level(&self, line: &Arc<LevelIrqfd>, gsi: u32) -> Result<(), KvmError> {
        if !self.fd.check_extension(Cap::IrqfdResample) {
            return Err(KvmError::Capability("KVM_CAP_IRQFD_RESAMPLE"));
        }
        let step = "KVM_IRQFD with KVM_IRQFD_FLAG_RESAMPLE";
        let (raise, ended) = line.eventfds();
        self.fd.register_irqfd_with_resample(raise, ended, gsi).map_err(KvmError::refused(step))?;
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::downgrade(line), gsi));
        Ok(())
    }

    /// Gives each count of `line` a number of its own, which leads nowhere yet.
    pub(crate) fn connect_message(&self, line: &EventFd) -> Result<u32, KvmError> {
        let mut routes = self.routes();
        let gsi = routes.allocate().ok_or(KvmError::Capability("room for interrupt routes"))?;
        let connect = || -> Result<(), KvmError> {
            self.fd.register_irqfd(line, gsi).map_err(KvmError::refused("KVM_IRQFD"))?;
            let line = line.try_clone().map_err(|source| KvmError::Refused { step: "KVM_IRQFD", source })?;
            self.messages.lock().unwrap_or_else(PoisonError::into_inner).push((line, gsi));
            Ok(())
        };
        connect().inspect_err(|_| routes.free(gsi))?;
        Ok(gsi)
    }

    /// Has `gsi`, a number of [`Self::connect_message`], lead to `msi`.
    pub(crate) fn route_message(&self, gsi: u32, msi: Msi) -> Result<(), KvmError> {
        let mut routes = self.routes();
        let before = routes.set(gsi, Some(msi));
        let published = self.publish(&routes);
        if published.is_err() {
            routes.set(gsi, before);
        }
        published
    }

    /// Takes back what [`Self::connect_message`] gave. The line goes before its number: a late count must not reach
    /// the number's next owner.
    pub(crate) fn disconnect_message(&self, line: &EventFd, gsi: u32) {
        let mut routes = self.routes();
        // A number that can't be taken back stays with the line until the VM goes.
        if self.take_off(line, gsi).is_ok() {
            self.messages.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, its)| *its != gsi);
            routes.free(gsi);
            let _the_route_stays_with_nobody_to_raise_it = self.publish(&routes);
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, routes: &Routes) -> Result<(), KvmError> {
        let step = "KVM_SET_GSI_ROUTING";
        let table = KvmIrqRouting::from_entries(&routes.entries())
            .map_err(|error| KvmError::Refused { step, source: io::Error::other(error) })?;
        self.fd.set_gsi_routing(&table).map_err(KvmError::refused(step))
    }

    /// Has KVM collect writes to the `size` ports or bytes at `zone` in the VM's ring, with no exit until it is full. Where
    /// KVM has no such zones each write exits, as without.
    ///
    /// Whoever reads a register of the zone sees all writes before it. A device behind one must not need to see a
    /// write at once: it comes with the next exit of any vCPU.
    pub(crate) fn coalesce(&self, zone: IoEventAddress, size: u32) -> Result<(), KvmError> {
        if !self.has_coalescing(zone) {
            return Ok(());
        }
        self.fd
            .register_coalesced_mmio(zone, size)
            .map_err(KvmError::refused("KVM_REGISTER_COALESCED_MMIO"))?;
        self.coalesces.store(true, Ordering::Relaxed);
        if let IoEventAddress::Pio(port) = zone {
            self.ports.lock().unwrap_or_else(PoisonError::into_inner).push((port, size));
        }
        Ok(())
    }

    /// Ends what [`Vm::coalesce`] began.
    fn end_coalescing(&self, zone: IoEventAddress, size: u32) -> Result<(), KvmError> {
        if !self.has_coalescing(zone) {
            return Ok(());
        }
        self.fd
            .unregister_coalesced_mmio(zone, size)
            .map_err(KvmError::refused("KVM_UNREGISTER_COALESCED_MMIO"))
    }

    fn has_coalescing(&self, zone: IoEventAddress) -> bool {
        self.fd.check_extension(match zone {
            IoEventAddress::Pio(_) => Cap::CoalescedPio,
            IoEventAddress::Mmio(_) => Cap::CoalescedMmio,
        })
    }

    /// Whether there are zones whose writes are coalesced.
    pub(crate) fn coalesces(&self) -> bool {
        self.coalesces.load(Ordering::Relaxed)
    }

    /// Puts a slot in place, or changes whether its writes are noted.
    fn set_slot(&self, slot: &Slot, logged: bool) -> Result<(), KvmError> {
        if slot.memory.read_only() && !self.fd.check_extension(Cap::ReadonlyMem) {
            return Err(KvmError::Capability("KVM_CAP_READONLY_MEM, which a ROM needs"));
        }
        let (host, size) = slot.memory.host();
        let flags = if slot.memory.read_only() { KVM_MEM_READONLY } else { 0 };
        let flags = if logged { flags | KVM_MEM_LOG_DIRTY_PAGES } else { flags };
        self.set_region(slot, flags, (host, size))?;
        self.slots().insert(slot.number, slot.memory.clone());
        Ok(())
    }

    fn remove_slot(&self, slot: &Slot) -> Result<(), KvmError> {
        // A size of none takes it away.
        self.set_region(slot, 0, (0, 0))?;
        self.slots().remove(&slot.number);
        Ok(())
    }

    fn set_region(&self, slot: &Slot, flags: u32, (host, size): (u64, u64)) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            slot: slot.number,
            flags,
            guest_phys_addr: slot.base,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the slot is a mapping that `slot.memory` owns, or none at all; who puts it in place keeps a handle on the
        // memory beside the VM until the slot is gone. The map has seen to it that slots don't overlap.
        #[allow(unsafe_code)]
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(KvmError::refused("KVM_SET_USER_MEMORY_REGION"))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u32, SlotMemory>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises or lowers the interrupt controllers' pin `gsi`.
    pub(crate) fn set_line(&self, gsi: u32, high: bool) -> Result<(), KvmError> {
        self.fd.set_irq_line(gsi, high).map_err(KvmError::refused("KVM_IRQ_LINE"))
    }
}

/// Where KVM has to do with the memory map: slots, doorbells, collected writes, and the log of what the guest writes.
impl Listener for Vm {
    fn apply(&self, change: &Change) -> Result<(), MapError> {
        match change {
            Change::Add(Piece::Slot(slot)) => self.set_slot(slot, false)?,
            Change::Remove(Piece::Slot(slot)) => self.remove_slot(slot)?,
            Change::Add(Piece::Doorbell { address, value, event }) => self
                .fd
                .register_ioevent(event, &IoEventAddress::Mmio(*address), *value)
                .map_err(KvmError::refused("KVM_IOEVENTFD"))?,
            // KVM knows it by all that was said of it.
            Change::Remove(Piece::Doorbell { address, value, event }) => self
                .fd
                .unregister_ioevent(event, &IoEventAddress::Mmio(*address), *value)
                .map_err(KvmError::refused("KVM_IOEVENTFD"))?,
            Change::Add(Piece::Zone { address, size }) => {
                self.coalesce(IoEventAddress::Mmio(*address), *size)?;
            }
            Change::Remove(Piece::Zone { address, size }) => {
                self.end_coalescing(IoEventAddress::Mmio(*address), *size)?;
            }
            Change::Add(Piece::Range { .. }) | Change::Remove(Piece::Range { .. }) => {}
        }
        Ok(())
    }

    fn log(&self, slot: &Slot, on: bool) -> Result<(), MapError> {
        self.set_slot(slot, on)?;
        if on {
            // It may have been on before: it begins anew.
            self.written(slot, &mut [])?;
        }
        Ok(())
    }

    fn written(&self, slot: &Slot, bits: &mut [u64]) -> Result<(), MapError> {
        let size = usize::try_from(slot.memory.host().1).unwrap_or(usize::MAX);
        let written = self.fd.get_dirty_log(slot.number, size).map_err(|error| match error.errno() {
            libc::ENOENT => MapError::NoLog,
            _ => KvmError::refused("KVM_GET_DIRTY_LOG")(error).into(),
        })?;
        for (to, from) in bits.iter_mut().zip(written) {
            *to |= from;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(path: &Path) -> String {
        open(path).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn node_that_is_not_there_is_named() {
        let text = words(Path::new("/dev/no-such-kvm"));
        assert!(text.contains("/dev/no-such-kvm does not exist"), "{text}");
    }

    #[test]
    fn file_that_is_no_kvm_is_refused() {
        let text = words(Path::new("/dev/null"));
        assert!(text.contains("/dev/null"), "{text}");
    }
}
