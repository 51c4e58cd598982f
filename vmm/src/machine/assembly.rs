//! A machine put together: what is where, and who is connected to whom.

use std::sync::{Arc, Mutex, PoisonError};

use kiln_protocol::probe::{DOORBELL, DOORBELL_RING, STREAM, STREAM_SIZE};
use kvm_ioctls::{IoEventAddress, Kvm};

use super::backend::{BackendError, Backends, Connected};
use super::fittings::Fittings;
use super::outlet::outlet;
use super::unclaimed::UnclaimedTeller;
use super::{ConsoleEnd, Machine, MachineError, MachineIo};
use crate::block::RawDisk;
use crate::bus::{Bus, BusDevice, BusError, Unclaimed, Width};
use crate::config::{Backend, Boot, FW_CFG_E820, FwCfgFile, MachineConfig, PvPanicConfig};
use crate::device::debug_console::DebugConsole;
use crate::device::debug_exit::DebugExit;
use crate::device::fw_cfg::{Facts, File, FwCfg};
use crate::device::generation_id;
use crate::device::i8042::I8042;
use crate::device::post::Post;
use crate::device::power::AcpiPower;
use crate::device::probe::{Cells, Doorbells, Probe};
use crate::device::pvpanic::{PanicNotice, PvPanic};
use crate::device::rtc::{NmiMask, Rtc};
use crate::device::testdev::{Lines, TestLines, TestMemory, TestPorts};
use crate::device::uart::Uart;
use crate::irq::{Interrupt, Irqfd, LevelIrqfd, MsiIrqfd, Unconnected};
use crate::kvm::{self, KvmError, Vm};
use crate::layout::{
    ACPI_SLEEP, APIC_SIZE, COM, COM_GSIS, DEBUG_CONSOLE, DEBUG_EXIT, FIRMWARE_CONSOLE, FW_CFG, FW_CFG_SIZE,
    I8042 as I8042_PORT, I8042_COMMAND, IDENTITY_MAP_ADDRESS, IOAPIC, KVMS_PORTS, LAPIC, POST,
    PROBE_CELLS_MMIO, PROBE_CELLS_PIO, PROBE_CELLS_SIZE, PROBE_GSI, PROBE_LEVEL_GSI, PROBE_MMIO,
    PROBE_MMIO_SIZE, PROBE_PIO, PROBE_PIO_SIZE, PROBE_STREAM_PIO, PROBE_STREAM_PIO_SIZE, PROBE_WINDOW,
    PROBE_WINDOW_SIZE, PVPANIC, RESERVED_MEMORY, RTC, TESTDEV, TESTDEV_IRQ, TESTDEV_IRQ_SIZE, TESTDEV_MMIO,
    TESTDEV_MMIO_SIZE, TESTDEV_SIZE, TSS_ADDRESS, VIRTIO_MMIO_SIZE, reserved_memory, virtio_mmio_address,
    virtio_mmio_gsi,
};
use crate::memory::map::MemoryMap;
use crate::memory::on_bus::BusListener;
use crate::memory::region::{Doorbell, Rom, Window, Zone};
use crate::memory::table::Table;
use crate::memory::{self, GuestMemory};
use crate::outcome::PowerSwitch;
use crate::snapshot::checksum::Checksum;
use crate::snapshot::{Loaded, Part, Persist, ReservedDisk, Saver, SnapshotError};
use crate::vcpu::{Buses, Parked, Ready};
use crate::virtio::block::BlockDevice;
use crate::virtio::console::ConsoleDevice;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mmio::{MmioTransport, NOTIFY_OFFSET};
use crate::virtio::pmem::PmemDevice;

/// What a machine begins with: what it boots, or the state of another.
pub(super) enum Begin<'a> {
    Boot,
    From {
        snapshot: Box<Loaded>,
        /// What is to be the reserved disk.
        reserved_disk: Option<&'a ReservedDisk>,
        /// What it is put on, if that is not to be new.
        used: Option<Used>,
    },
}

/// What a machine has of another that has ended.
pub(super) struct Used {
    pub(super) vm: Arc<Vm>,
    pub(super) vcpus: Vec<Parked>,
    pub(super) memory: GuestMemory,
    pub(super) place: Option<Arc<Rom>>,
}

pub(super) fn assemble(
    kvm: Arc<Kvm>,
    config: &MachineConfig,
    io: MachineIo,
    mut begin: Begin<'_>,
) -> Result<Machine, MachineError> {
    let most = kvm.get_max_vcpus();
    if usize::try_from(config.cpus).is_ok_and(|cpus| cpus > most) {
        return Err(KvmError::Vcpus { asked: config.cpus, most }.into());
    }
    let bits = kvm::physical_address_bits(&kvm)?;
    if memory::regions(config.memory).iter().any(|(base, size)| (base + size) >> bits > 0) {
        return Err(KvmError::AddressWidth { mib: config.memory >> 20, bits }.into());
    }
    let memory = match &begin {
        Begin::Boot => memory::allocate_on(config.memory, config.memory_backing)?,
        Begin::From { used: Some(used), .. } => used.memory.clone(),
        Begin::From { snapshot, .. } => snapshot.memory(config)?,
    };
    let power = PowerSwitch::new();
    let mut backends = Backends::new(power.clone(), io.serial);
    let console = match io.console {
        Some(ConsoleEnd { input, output }) => {
            let (output, drain) =
                outlet("virtio console", output, power.clone()).map_err(MachineError::Io)?;
            backends.drains.push(drain);
            Some(ConsoleEnd { input, output: Box::new(output) })
        }
        None => None,
    };
    let devices = virtio_devices(config, console, io.ports, &begin)?;
    let entry = match &begin {
        Begin::Boot => Some(crate::boot::load(&memory, config, devices.len())?),
        Begin::From { .. } => None,
    };
    let has_acpi = config.boot.has_acpi();
    if has_acpi {
        generation_id::renew(&memory).map_err(MachineError::Io)?;
    }

    let (vm, used, place) = match &mut begin {
        Begin::From { used: Some(used), .. } => {
            (used.vm.clone(), Some(std::mem::take(&mut used.vcpus)), used.place.take())
        }
        _ => (Vm::new(&kvm, config.irqchip)?, None, None),
    };
    let bus = BusListener::default();
    let mmio = bus.published();
    let table = empty_table(&vm, bits, config.irqchip);
    let map = MemoryMap::new(table, memory.clone(), vec![vm.clone(), Arc::new(bus)])?;
    let place = config.reserved_disk.then(|| reserved_memory_of(config, &map, place, &begin)).transpose()?;
    let mut places = Checksum::new();
    if let Boot::Firmware { image } = &config.boot {
        let rom = crate::boot::firmware::read(image)?;
        places.add(&rom.base.to_le_bytes());
        places.add(&rom.bytes);
        map.add_rom("firmware ROM", rom.base, &rom.bytes)?;
    }
    let pio = port_bus(config.irqchip)?;
    let mut wiring = Wiring { vm: &vm, irqchip: config.irqchip, pio, map: &map, parts: Vec::new() };
    let uart = wiring.serial(0, &config.com1, &mut backends)?;
    for (index, backend) in (1..).zip([&config.com2, &config.com3, &config.com4]) {
        if *backend != Backend::Absent {
            wiring.serial(index, backend, &mut backends)?;
        }
    }
    wiring.pio("i8042", I8042_PORT, 1, I8042::new(power.clone()))?;
    wiring.view("i8042", I8042_COMMAND, 1, I8042::new(power.clone()).command())?;
    wiring.pio("ACPI power", ACPI_SLEEP, 3, AcpiPower::new(power.clone()))?;
    wiring.pio("debug-exit", DEBUG_EXIT, 4, DebugExit::new(power.clone()))?;
    wiring.pio("POST", POST, 1, Post::new())?;
    let (panic_notice, nmi_mask) = (PanicNotice::default(), NmiMask::default());
    wiring.consoles(config, &mut backends)?;
    let ends = (config.pvpanic == PvPanicConfig::End).then(|| power.clone());
    if config.pvpanic != PvPanicConfig::Off {
        wiring.pio("pvpanic", PVPANIC, 1, PvPanic::new(panic_notice.clone(), ends))?;
    }
    if config.rtc {
        let low = memory::end_of_low(&memory);
        wiring.pio("RTC", RTC, 2, Rtc::new((low, config.memory - low), nmi_mask.clone()))?;
    }
    if config.fw_cfg {
        wiring.pio("fw_cfg", FW_CFG, FW_CFG_SIZE, fw_cfg(config, &memory)?)?;
    }
    if config.testdev {
        wiring.testdev(&memory)?;
    }
    let doorbell = config.probe.then(|| wiring.probe(&memory)).transpose()?;
    let memory = Arc::new(memory);
    let virtio: Vec<_> = devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| wiring.virtio(index, device, &memory))
        .collect::<Result<_, _>>()?;
    let Wiring { pio, parts, .. } = wiring;
    for (space, bus) in [(b"pio ", &pio), (b"mmio", &*mmio.now())] {
        places.add(space);
        for (first, last, name) in bus.ranges() {
            places.add(&[first.to_le_bytes(), last.to_le_bytes()].concat());
            places.add(name.as_bytes());
        }
    }
    let map = Arc::new(map);
    let buses = Buses { pio, mmio, map: map.clone() };
    let unclaimed = if config.strict { Unclaimed::strict(config.allowed.clone()) } else { Arc::default() };
    let to = (buses, unclaimed.clone());
    let vcpus = match used {
        Some(used) => Ready::again(&kvm, vm.clone(), used, to, power.clone())?,
        None => Ready::new(&kvm, vm.clone(), (config.cpus, config.irqchip), entry, to, power.clone())?,
    };
    let mut origin = None;
    let restored = match begin {
        Begin::Boot => None,
        Begin::From { snapshot, reserved_disk, .. } => {
            vcpus.set_states(snapshot.time(), snapshot.vcpus())?;
            let restored = snapshot.restore(&vm, &parts, places)?;
            origin = Some(*snapshot);
            // Windows that had moved are where they were.
            map.settle(|| ())?;
            if has_acpi && config.irqchip {
                generation_id::announce(&vm)?;
            }
            // Behind it is the same place as persistent memory.
            let reserved = virtio.len().checked_sub(2).and_then(|index| virtio.get(index));
            if let (Some(reserved), Some(ReservedDisk::Block(_))) = (reserved, reserved_disk) {
                let reserved = reserved.lock().unwrap_or_else(PoisonError::into_inner);
                reserved.config_changed().map_err(MachineError::Io)?;
            }
            Some(restored)
        }
    };
    let roms = map.roms();
    let saver = Saver { config: config.clone(), vm, parts, places, roms, place, map, kvm, origin };
    let Backends { drains, ptys, .. } = backends;
    let teller = UnclaimedTeller::new(unclaimed);
    let fittings = Fittings { uart, virtio, drains, teller, served: None, events: None };
    Ok(Machine { vcpus, power, fittings, panic_notice, nmi_mask, doorbell, ptys, saver, restored })
}

pub(super) fn check(config: &MachineConfig, and_load: bool) -> Result<(), MachineError> {
    config.validate()?;
    for disk in &config.disks {
        RawDisk::open(&disk.path, disk.read_only)?;
    }
    if and_load {
        let memory = memory::allocate(config.memory)?;
        let devices = config.disks.len() + 1 + 2 * usize::from(config.reserved_disk);
        crate::boot::load(&memory, config, devices)?;
    }
    Ok(())
}

/// The bus of ports without devices. Where KVM's interrupt controllers and timer are, no access reaches them.
fn port_bus(irqchip: bool) -> Result<Bus, BusError> {
    let mut pio = Bus::new();
    if irqchip {
        for (owner, range) in KVMS_PORTS {
            pio.reserve(owner, *range)?;
        }
    }
    Ok(pio)
}

/// The reserved disk's place as memory: `place`, which is in the VM already, or a new one, with what `begin` puts there.
fn reserved_memory_of(
    config: &MachineConfig,
    map: &MemoryMap,
    place: Option<Arc<Rom>>,
    begin: &Begin<'_>,
) -> Result<Arc<Rom>, MachineError> {
    let place = match place {
        Some(place) => place,
        None => {
            let size = usize::try_from(RESERVED_MEMORY)
                .map_err(|error| MachineError::Io(std::io::Error::other(error)))?;
            Arc::new(Rom::place(size).map_err(MachineError::Io)?)
        }
    };
    match begin {
        Begin::From { reserved_disk: Some(ReservedDisk::Memory(path)), .. } => {
            let disk = RawDisk::open(path, true)?;
            let refused = |source| SnapshotError::Read { path: path.clone(), source };
            place.put(Some((disk.file(), disk.size()))).map_err(refused)?;
        }
        _ => place.put(None).map_err(MachineError::Io)?,
    }
    map.change(|table| {
        table.rom("reserved memory", reserved_memory(config.memory), place.clone())?;
        Ok(())
    })?;
    Ok(place)
}

/// The virtio devices, in the order of their addresses: the console first, then the disks, the reserved one last, as disk and memory.
fn virtio_devices(
    config: &MachineConfig,
    console: Option<ConsoleEnd>,
    ports: Vec<std::os::unix::net::UnixStream>,
    begin: &Begin<'_>,
) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    if config.ports.len() != ports.len() {
        let text = format!("{} port names and {} streams", config.ports.len(), ports.len());
        return Err(MachineError::Io(std::io::Error::other(text)));
    }
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    if config.virtio_console || !config.ports.is_empty() {
        let nobody = || ConsoleEnd { input: None, output: Box::new(std::io::sink()) };
        let end = config.virtio_console.then(|| console.unwrap_or_else(nobody));
        let named = config.ports.iter().cloned().zip(ports).collect();
        devices.push(Box::new(ConsoleDevice::new(end, named).map_err(MachineError::Io)?));
    }
    let mut names = ('a'..='z').map(|letter| format!("vd{letter}"));
    for (disk, name) in config.disks.iter().zip(&mut names) {
        let raw = match begin {
            Begin::From { .. } if !disk.read_only => RawDisk::open_over(&disk.path)?,
            _ => RawDisk::open(&disk.path, disk.read_only)?,
        };
        devices.push(Box::new(BlockDevice::new(raw, name)));
    }
    let reserved = match begin {
        Begin::Boot => None,
        Begin::From { reserved_disk, .. } => *reserved_disk,
    };
    match names.next().filter(|_| config.reserved_disk) {
        Some(name) => {
            let raw = match reserved {
                Some(ReservedDisk::Block(path)) => Some(RawDisk::open(path, true)?),
                _ => None,
            };
            devices.push(Box::new(BlockDevice::reserved(raw, name)));
            let place = (reserved_memory(config.memory), RESERVED_MEMORY);
            let bound = matches!(reserved, Some(ReservedDisk::Memory(_)));
            devices.push(Box::new(PmemDevice::new(place, bound)));
        }
        None if reserved.is_some() => return Err(SnapshotError::NoReservedDisk.into()),
        None => {}
    }
    Ok(devices)
}

/// A memory map with nothing in it but what is KVM's own.
fn empty_table(vm: &Vm, bits: u32, irqchip: bool) -> Table {
    const PAGE: u64 = 4096;
    let mut table = Table::new(vm.slots_most(), bits);
    table.reserve("KVM's identity map", (IDENTITY_MAP_ADDRESS, PAGE));
    table.reserve("KVM's task state", (TSS_ADDRESS, 3 * PAGE));
    if irqchip {
        table.reserve("the I/O APIC", (IOAPIC, APIC_SIZE));
        table.reserve("the local APIC", (LAPIC, APIC_SIZE));
    }
    table
}

/// fw_cfg with the files that were asked for, and the memory map that firmware looks for.
fn fw_cfg(config: &MachineConfig, memory: &GuestMemory) -> Result<FwCfg, MachineError> {
    /// An entry's kind: RAM (ACPI 6.5, table 15.4).
    const RAM: u32 = 1;
    let mut e820 = Vec::new();
    for (base, size) in memory::regions(config.memory) {
        e820.extend(base.to_le_bytes());
        e820.extend(size.to_le_bytes());
        e820.extend(RAM.to_le_bytes());
    }
    let mut files = vec![File { name: FW_CFG_E820.to_owned(), content: e820 }];
    for file in &config.fw_cfg_files {
        files.push(File { name: file.name.clone(), content: fw_cfg_content(file)? });
    }
    let facts = Facts { cpus: config.cpus, memory: config.memory };
    Ok(FwCfg::new(facts, files, memory.clone()))
}

/// More than anything that is handed to a guest this way.
const FW_CFG_FILE_MAX: u64 = 64 << 20;

fn fw_cfg_content(file: &FwCfgFile) -> Result<Vec<u8>, MachineError> {
    let refused = |source| {
        let (device, what) = (format!("fw_cfg file {}", file.name), format!("file {}", file.path.display()));
        MachineError::Backend(BackendError { device, what, source })
    };
    let meta = std::fs::metadata(&file.path).map_err(refused)?;
    if !meta.is_file() {
        return Err(refused(std::io::Error::other("it is no regular file")));
    }
    if meta.len() > FW_CFG_FILE_MAX {
        return Err(refused(std::io::Error::other("it is larger than 64 MiB")));
    }
    std::fs::read(&file.path).map_err(refused)
}

impl Lines for Vm {
    fn set(&self, gsi: u32, high: bool) {
        // A machine without interrupt controllers has no lines to set.
        let _none = self.set_line(gsi, high);
    }
}

/// The buses and lines of a VM while it is put together.
struct Wiring<'a> {
    vm: &'a Arc<Vm>,
    irqchip: bool,
    pio: Bus,
    map: &'a MemoryMap,
    /// What is saved and restored of the machine, in order.
    parts: Vec<Part>,
}

impl Wiring<'_> {
    fn pio(
        &mut self,
        name: &str,
        port: u16,
        size: u16,
        device: impl BusDevice + Persist + 'static,
    ) -> Result<(), MachineError> {
        let device = Arc::new(Mutex::new(device));
        self.part(name, device.clone());
        Ok(self.pio.insert(name, (port.into(), size.into()), device)?)
    }

    /// Another range of a device that is a part already.
    fn view(
        &mut self,
        name: &str,
        port: u16,
        size: u16,
        device: impl BusDevice + 'static,
    ) -> Result<(), MachineError> {
        Ok(self.pio.insert(name, (port.into(), size.into()), Arc::new(Mutex::new(device)))?)
    }

    fn part(&mut self, name: &str, device: Arc<Mutex<dyn Persist>>) {
        self.parts.push((name.to_owned(), device));
    }

    /// COM1 and up, by `index` from 0.
    fn serial(
        &mut self,
        index: usize,
        backend: &Backend,
        backends: &mut Backends,
    ) -> Result<Arc<Mutex<Uart>>, MachineError> {
        let name = format!("COM{}", index + 1);
        let (Some(port), Some(gsi)) = (COM.get(index), COM_GSIS.get(index)) else {
            return Err(MachineError::Io(std::io::Error::other("there are four serial ports")));
        };
        let Connected { out, source } = backends.open(&name, backend)?;
        let uart = Arc::new(Mutex::new(Uart::new(self.line(*gsi)?, out)));
        backends.attend(&name, &uart, source)?;
        self.part(&name, uart.clone());
        self.pio.insert(&name, (u64::from(*port), 8), uart.clone())?;
        Ok(uart)
    }

    /// The debug consoles.
    fn consoles(&mut self, config: &MachineConfig, backends: &mut Backends) -> Result<(), MachineError> {
        for (name, port, backend) in [
            ("debug console", DEBUG_CONSOLE, &config.debug_console),
            ("firmware console", FIRMWARE_CONSOLE, &config.firmware_console),
        ] {
            if *backend == Backend::Absent {
                continue;
            }
            let Connected { out, .. } = backends.open(name, backend)?;
            let console = Arc::new(Mutex::new(DebugConsole::new(out)));
            if *backend != Backend::Nothing {
                backends.hold(console.clone(), None);
            }
            self.part(name, console.clone());
            self.pio.insert(name, (port.into(), 1), console)?;
        }
        Ok(())
    }

    /// The probe with its interrupts of each kind.
    fn bare_probe(&self, memory: &GuestMemory) -> Result<Probe, MachineError> {
        let probe = Probe::new(memory.clone(), self.line(PROBE_GSI)?);
        if !self.irqchip {
            return Ok(probe);
        }
        let level = Arc::new(LevelIrqfd::new().map_err(MachineError::Io)?);
        self.vm.connect_level(&level, PROBE_LEVEL_GSI)?;
        Ok(probe.with(level, Arc::new(MsiIrqfd::new(self.vm.clone())?)))
    }

    /// The probe's cells, on both buses: bytes, and next to them four bytes each.
    fn cells(&mut self) -> Result<(), MachineError> {
        let size = u64::from(PROBE_CELLS_SIZE / 2);
        for (offset, width) in [(0, Width::Byte), (size, Width::Double)] {
            let mut cells = |space: &str| {
                let cells = Arc::new(Mutex::new(Cells::new(width)));
                self.part(&format!("probe cells of {} bytes, {space}", width.bytes()), cells.clone());
                cells
            };
            let (ports, memory) = (cells("PIO"), cells("MMIO"));
            self.pio.insert("probe cells", (u64::from(PROBE_CELLS_PIO) + offset, size), ports)?;
            self.window("probe cells", PROBE_CELLS_MMIO + offset, Window::new(size, memory))?;
        }
        Ok(())
    }

    fn testdev(&mut self, memory: &GuestMemory) -> Result<(), MachineError> {
        self.pio("testdev ports", TESTDEV, TESTDEV_SIZE, TestPorts::new(memory.clone()))?;
        let lines = TestLines::new(self.vm.clone());
        self.pio("testdev lines", TESTDEV_IRQ, TESTDEV_IRQ_SIZE, lines)?;
        let mmio = Arc::new(Mutex::new(TestMemory::new()));
        self.part("testdev memory", mmio.clone());
        self.window("testdev memory", TESTDEV_MMIO, Window::new(TESTDEV_MMIO_SIZE, mmio))
    }

    /// Puts a device's window at `base`.
    fn window(&self, name: &str, base: u64, window: Window) -> Result<(), MachineError> {
        self.map.change(|table| {
            table.window(name, Some(base), window);
            Ok(())
        })?;
        Ok(())
    }

    /// The probe, on both buses, with its window that moves.
    fn probe(&mut self, memory: &GuestMemory) -> Result<Doorbells, MachineError> {
        let doorbells = Doorbells::new().map_err(MachineError::Io)?;
        let probe = self.bare_probe(memory)?;
        self.view("probe", PROBE_PIO, PROBE_PIO_SIZE, probe.pio())?;
        self.view("probe", PROBE_STREAM_PIO, PROBE_STREAM_PIO_SIZE, probe.stream())?;
        self.vm.coalesce(IoEventAddress::Pio(PROBE_STREAM_PIO.into()), STREAM_SIZE)?;
        let zone = Zone { offset: STREAM.into(), size: STREAM_SIZE };
        let mmio = Window::new(PROBE_MMIO_SIZE, Arc::new(Mutex::new(probe.mmio())));
        self.window("probe", PROBE_MMIO, Window { zones: vec![zone], ..mmio })?;
        let bell =
            Doorbell { offset: DOORBELL.into(), value: DOORBELL_RING, event: doorbells.event().clone() };
        let mover = self.map.mover();
        let device = probe.window(mover.clone(), doorbells.clone());
        let movable = Window::new(PROBE_WINDOW_SIZE, Arc::new(Mutex::new(device)));
        let movable = Window { doorbells: vec![bell], zones: vec![zone], mover: Some(mover), ..movable };
        self.window("probe window", PROBE_WINDOW, movable)?;
        self.part("probe", probe.part());
        self.cells()?;
        Ok(doorbells)
    }

    /// An interrupt line to `gsi`, which leads nowhere on a machine without interrupt controllers.
    fn line(&self, gsi: u32) -> Result<Arc<dyn Interrupt>, MachineError> {
        if !self.irqchip {
            return Ok(Arc::new(Unconnected));
        }
        let line = Arc::new(Irqfd::new().map_err(MachineError::Io)?);
        self.vm.connect(&line, gsi)?;
        Ok(line)
    }

    /// A virtio device behind its transport: kicks are counted by KVM, with no exit.
    fn virtio(
        &mut self,
        index: usize,
        device: Box<dyn VirtioDevice>,
        memory: &Arc<GuestMemory>,
    ) -> Result<Arc<Mutex<MmioTransport>>, MachineError> {
        let line = self.line(virtio_mmio_gsi(index))?;
        let transport = MmioTransport::new(device, memory.clone(), line).map_err(MachineError::Io)?;
        let base = virtio_mmio_address(index);
        let bell = |(value, event)| Doorbell { offset: NOTIFY_OFFSET, value, event };
        let doorbells = (0..).zip(transport.kicks().iter().cloned()).map(bell).collect();
        let name = transport.name();
        let transport = Arc::new(Mutex::new(transport));
        self.part(&name, transport.clone());
        let window = Window::new(VIRTIO_MMIO_SIZE, transport.clone());
        self.window(&name, base, Window { doorbells, ..window })?;
        Ok(transport)
    }
}
