//! What the fuzz targets in `vmm/fuzz` call: the readers of files that strangers made, and the devices' buses. Built
//! only for them.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::boot;
use crate::bus::{Bus, BusDevice, Width};
use crate::config::{Boot, MachineConfig, ModuleConfig};
use crate::control;
use crate::device::debug_console::DebugConsole;
use crate::device::fw_cfg::{Facts, File, FwCfg};
use crate::device::probe::Cells;
use crate::device::pvpanic::{PanicNotice, PvPanic};
use crate::device::rtc::{NmiMask, Rtc};
use crate::device::testdev::{TestMemory, TestPorts};
use crate::device::uart::Uart;
use crate::irq::Unconnected;
use crate::layout::{COM1, DEBUG_CONSOLE, FW_CFG, FW_CFG_SIZE, PVPANIC, RTC, TESTDEV_IRQ, TESTDEV_SIZE};
use crate::memory;

/// RAM that there is room for many times over.
const RAM: u64 = 16 << 20;

fn file(bytes: &[u8]) -> Option<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new().ok()?;
    file.write_all(bytes).ok()?;
    Some(file)
}

/// Loads `bytes` as a kernel of whatever kind they are: bzImage, ELF, multiboot.
pub fn kernel(bytes: &[u8]) {
    let Some(kernel) = file(bytes) else { return };
    let kernel = kernel.path().to_owned();
    load(Boot::Kernel { kernel, initrd: None, cmdline: "a=b".to_owned() });
}

/// Loads `bytes` as a multiboot kernel, with itself as its module.
pub fn multiboot(bytes: &[u8]) {
    let Some(kernel) = file(bytes) else { return };
    let path: PathBuf = kernel.path().to_owned();
    let modules = vec![ModuleConfig { path: path.clone(), string: None }];
    load(Boot::Multiboot { kernel: path, modules, cmdline: "a=b".to_owned() });
}

fn load(boot: Boot) {
    let config = MachineConfig { boot, ..MachineConfig::default() };
    if let Ok(memory) = memory::allocate(RAM) {
        let _refused_in_words = boot::load(&memory, &config, 1);
    }
}

/// Reads `bytes` as a machine's configuration.
pub fn config(bytes: &[u8]) {
    if let Some(file) = file(bytes) {
        let _refused_in_words = MachineConfig::read(file.path());
    }
}

/// Takes `bytes` for what a client says on the control socket of a machine that has not been started: in pieces, each as long
/// as its first byte says.
pub fn control(bytes: &[u8]) {
    let Ok(memory) = memory::allocate(1 << 20) else { return };
    let com1 = Arc::new(Mutex::new(Uart::new(Arc::new(Unconnected), Box::new(std::io::sink()))));
    let Some(machine) = crate::vcpu::unstarted(memory) else { return };
    // It is never started, and so opened to no debugger.
    let (notice, socket) = (PanicNotice::default(), PathBuf::new());
    let subject = control::Subject::new("fuzzed".to_owned(), machine, 1 << 20, com1, notice, socket);
    control::converse(&subject, bytes);
}

/// Carries out `bytes` as accesses to a bus with devices: each a kind and width, a port, and what is written.
pub fn devices(bytes: &[u8]) {
    let Ok(memory) = memory::allocate(1 << 20) else { return };
    let content = File { name: "opt/x".to_owned(), content: vec![7; 99] };
    let facts = Facts { cpus: 1, memory: 1 << 20 };
    let mut bus = Bus::new();
    let mut put = |base: u16, size: u16, device: Arc<Mutex<dyn BusDevice>>| {
        let taken = bus.insert("device", (base.into(), size.into()), device);
        assert!(taken.is_ok(), "{taken:?}");
    };
    let nobody = || Box::new(std::io::sink());
    put(COM1, 8, Arc::new(Mutex::new(Uart::new(Arc::new(Unconnected), nobody()))));
    put(RTC, 2, Arc::new(Mutex::new(Rtc::new((1 << 20, 0), NmiMask::default()))));
    put(PVPANIC, 1, Arc::new(Mutex::new(PvPanic::new(PanicNotice::default(), None))));
    put(DEBUG_CONSOLE, 1, Arc::new(Mutex::new(DebugConsole::new(nobody()))));
    put(FW_CFG, FW_CFG_SIZE, Arc::new(Mutex::new(FwCfg::new(facts, vec![content], memory.clone()))));
    put(TESTDEV_IRQ, TESTDEV_SIZE, Arc::new(Mutex::new(TestPorts::new(memory))));
    put(0x100, 16, Arc::new(Mutex::new(Cells::new(Width::Byte))));
    put(0x110, 16, Arc::new(Mutex::new(Cells::new(Width::Double))));
    put(0x8000, 0x7fff, Arc::new(Mutex::new(TestMemory::new())));
    for access in bytes.chunks_exact(11) {
        let [kind, low, high, value @ ..] = access else { continue };
        let width = 1 << (kind >> 1 & 3);
        let port = u64::from(u16::from_le_bytes([*low, *high]));
        let mut value = value.to_vec();
        value.truncate(width);
        if kind & 1 == 0 {
            bus.read(port, &mut value);
        } else {
            bus.write(port, &value);
        }
    }
}
