//! A machine put together: what is where, and who is connected to whom.

use std::path::Path;
use std::sync::{Arc, Mutex};

use kiln_protocol::probe::{STREAM, STREAM_SIZE};
use kvm_ioctls::IoEventAddress;

use super::outlet::outlet;
use super::{ConsoleEnd, Machine, MachineError, MachineIo};
use crate::block::RawDisk;
use crate::bus::{Bus, BusDevice};
use crate::config::MachineConfig;
use crate::device::debug_exit::DebugExit;
use crate::device::i8042::I8042;
use crate::device::post::Post;
use crate::device::power::AcpiPower;
use crate::device::probe::Probe;
use crate::device::uart::Uart;
use crate::irq::{Interrupt, Irqfd, Unconnected};
use crate::kvm::{self, KvmError, Vm};
use crate::layout::{
    ACPI_SLEEP, COM1, COM1_GSI, DEBUG_EXIT, I8042 as I8042_PORT, POST, PROBE_GSI, PROBE_MMIO,
    PROBE_MMIO_SIZE, PROBE_PIO, PROBE_PIO_SIZE, PROBE_STREAM_PIO, PROBE_STREAM_PIO_SIZE, VIRTIO_MMIO_SIZE,
    virtio_mmio_address, virtio_mmio_gsi,
};
use crate::memory::{self, GuestMemory};
use crate::outcome::PowerSwitch;
use crate::vcpu::{Buses, Ready};
use crate::virtio::block::BlockDevice;
use crate::virtio::console::ConsoleDevice;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mmio::{MmioTransport, NOTIFY_OFFSET};

pub(super) fn assemble(node: &Path, config: &MachineConfig, io: MachineIo) -> Result<Machine, MachineError> {
    config.validate()?;
    let kvm = kvm::open(node)?;
    let most = kvm.get_max_vcpus();
    if usize::try_from(config.cpus).is_ok_and(|cpus| cpus > most) {
        return Err(KvmError::Vcpus { asked: config.cpus, most }.into());
    }
    let bits = kvm::physical_address_bits(&kvm)?;
    if memory::regions(config.memory).iter().any(|(base, size)| (base + size) >> bits > 0) {
        return Err(KvmError::AddressWidth { mib: config.memory >> 20, bits }.into());
    }
    let memory = memory::allocate(config.memory)
        .map_err(|source| MachineError::Memory { mib: config.memory >> 20, source })?;
    let power = PowerSwitch::new();
    let (serial, drain) = outlet("serial", io.serial, power.clone()).map_err(MachineError::Io)?;
    let mut drains = vec![drain];
    let console = match io.console {
        Some(ConsoleEnd { input, output }) => {
            let (output, drain) = outlet("console", output, power.clone()).map_err(MachineError::Io)?;
            drains.push(drain);
            Some(ConsoleEnd { input, output: Box::new(output) })
        }
        None => None,
    };
    let devices = virtio_devices(config, console, io.ports)?;
    let entry = crate::boot::load(&memory, config, devices.len())?;

    let vm = Vm::new(&kvm, memory.clone(), config.irqchip)?;
    let mut wiring = Wiring { vm: &vm, irqchip: config.irqchip, pio: Bus::new(), mmio: Bus::new() };
    let uart = Arc::new(Mutex::new(Uart::new(wiring.line(COM1_GSI)?, Box::new(serial))));
    wiring.pio.insert("COM1", (COM1.into(), 8), uart.clone())?;
    wiring.pio("i8042", I8042_PORT, 5, I8042::new(power.clone()))?;
    wiring.pio("ACPI power", ACPI_SLEEP, 3, AcpiPower::new(power.clone()))?;
    wiring.pio("debug-exit", DEBUG_EXIT, 4, DebugExit::new(power.clone()))?;
    wiring.pio("POST", POST, 1, Post::new())?;
    if config.probe {
        let probe = Probe::new(memory.clone(), wiring.line(PROBE_GSI)?);
        wiring.pio("probe", PROBE_PIO, PROBE_PIO_SIZE, probe.pio())?;
        wiring.pio("probe", PROBE_STREAM_PIO, PROBE_STREAM_PIO_SIZE, probe.stream())?;
        vm.coalesce(IoEventAddress::Pio(PROBE_STREAM_PIO.into()), STREAM_SIZE)?;
        vm.coalesce(IoEventAddress::Mmio(PROBE_MMIO + u64::from(STREAM)), STREAM_SIZE)?;
        let mmio = Arc::new(Mutex::new(probe.mmio()));
        wiring.mmio.insert("probe", (PROBE_MMIO, PROBE_MMIO_SIZE), mmio)?;
    }
    let memory = Arc::new(memory);
    let virtio = devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| wiring.virtio(index, device, &memory))
        .collect::<Result<_, _>>()?;
    let buses = Arc::new(Buses { pio: wiring.pio, mmio: wiring.mmio });
    let vcpus = Ready::new(&kvm, vm, (config.cpus, config.irqchip), entry, buses, power.clone())?;
    Ok(Machine { vcpus, power, uart, virtio, drains })
}

pub(super) fn check(config: &MachineConfig, and_load: bool) -> Result<(), MachineError> {
    config.validate()?;
    for disk in &config.disks {
        RawDisk::open(&disk.path, disk.read_only)?;
    }
    if and_load {
        let memory = memory::allocate(config.memory)
            .map_err(|source| MachineError::Memory { mib: config.memory >> 20, source })?;
        crate::boot::load(&memory, config, config.disks.len() + 1)?;
    }
    Ok(())
}

/// The virtio devices, in the order of their addresses: the console first, then the disks.
fn virtio_devices(
    config: &MachineConfig,
    console: Option<ConsoleEnd>,
    ports: Vec<std::os::unix::net::UnixStream>,
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
    for (disk, letter) in config.disks.iter().zip('a'..='z') {
        let raw = RawDisk::open(&disk.path, disk.read_only)?;
        devices.push(Box::new(BlockDevice::new(raw, format!("vd{letter}"))));
    }
    Ok(devices)
}

/// The buses and lines of a VM while it is put together.
struct Wiring<'a> {
    vm: &'a Vm,
    irqchip: bool,
    pio: Bus,
    mmio: Bus,
}

impl Wiring<'_> {
    fn pio(
        &mut self,
        name: &str,
        port: u16,
        size: u16,
        device: impl BusDevice + 'static,
    ) -> Result<(), MachineError> {
        Ok(self.pio.insert(name, (port.into(), size.into()), Arc::new(Mutex::new(device)))?)
    }

    /// An interrupt line to `gsi`, which leads nowhere on a machine without interrupt controllers.
    fn line(&self, gsi: u32) -> Result<Arc<dyn Interrupt>, MachineError> {
        if !self.irqchip {
            return Ok(Arc::new(Unconnected));
        }
        let line = Irqfd::new().map_err(MachineError::Io)?;
        self.vm.connect(line.eventfd(), gsi)?;
        Ok(Arc::new(line))
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
        for (queue, kick) in (0..).zip(transport.kicks()) {
            self.vm.ioevent(kick, base + NOTIFY_OFFSET, queue)?;
        }
        let name = transport.name();
        let transport = Arc::new(Mutex::new(transport));
        self.mmio.insert(&name, (base, VIRTIO_MMIO_SIZE), transport.clone())?;
        Ok(transport)
    }
}
