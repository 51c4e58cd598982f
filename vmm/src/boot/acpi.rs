//! ACPI's tables (ACPI 6.5): what a hardware-reduced machine says of itself.
//!
//! What is not there is said not to be: a kernel that has to find out by itself that a machine has no RTC makes
//! 40,000 exits over it.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::config::{Backend, MachineConfig, PvPanicConfig};
use crate::device::power::SLEEP_TYPE_S5;
use crate::layout::{
    ACPI, ACPI_RESET, ACPI_RESET_VALUE, ACPI_SLEEP, ACPI_TABLES_END, COM, COM_GSIS, EVENT_GSI, FW_CFG,
    FW_CFG_SIZE, GENERATION_ID, IOAPIC, LAPIC, PVPANIC, RTC, VIRTIO_MMIO_SIZE, virtio_mmio_address,
    virtio_mmio_gsi,
};
use crate::memory::GuestMemory;

const OEM: [u8; 6] = *b"KILN  ";
const OEM_TABLE: [u8; 8] = *b"KILNTEST";
/// `IAPC_BOOT_ARCH` (table 5.11): no VGA. Its bit for an i8042 is left out: there is one for resets alone, which a
/// kernel must not probe.
const NO_VGA: u16 = 1 << 2;
/// `IAPC_BOOT_ARCH`: no RTC of a PC.
const NO_RTC: u16 = 1 << 5;
/// Where the tables begin behind the RSDP.
const TABLES: u64 = ACPI + 0x40;

/// Bytes that tables and AML are written to.
#[derive(Default)]
struct Sink(Vec<u8>);

impl AmlSink for Sink {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(of: &dyn Aml) -> Vec<u8> {
    let mut sink = Sink::default();
    of.to_aml_bytes(&mut sink);
    sink.0
}

/// Writes the tables of a machine with `virtio` virtio-mmio devices; returns where the RSDP is.
pub(super) fn write(memory: &GuestMemory, config: &MachineConfig, virtio: usize) -> Result<u64, BootError> {
    let mut next = TABLES;
    let mut place = |table: &[u8]| {
        let address = next;
        let end = address + u64::try_from(table.len()).unwrap_or(u64::MAX).min(ACPI_TABLES_END);
        if end > ACPI_TABLES_END || memory.write_slice(table, GuestAddress(address)).is_err() {
            return Err(BootError::Tables("ACPI tables"));
        }
        next = end.next_multiple_of(16);
        Ok(address)
    };
    let dsdt = place(dsdt(config, virtio).as_slice())?;
    let fadt = place(&fadt(dsdt, config.rtc))?;
    let madt = place(&madt(config.cpus))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt))?;
    memory
        .write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(ACPI))
        .map_err(|_| BootError::Tables("ACPI tables"))?;
    Ok(ACPI)
}

fn fadt(dsdt: u64, rtc: bool) -> Vec<u8> {
    let port =
        |address: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    let no_rtc = if rtc { 0 } else { NO_RTC };
    fadt.iapc_boot_arch = (NO_VGA | no_rtc).into();
    fadt.reset_reg = port(ACPI_RESET);
    fadt.reset_value = ACPI_RESET_VALUE;
    fadt.sleep_control_reg = port(ACPI_SLEEP);
    fadt.sleep_status_reg = port(ACPI_SLEEP + 1);
    bytes(&fadt.finalize())
}

fn madt(cpus: u32) -> Vec<u8> {
    let address = u32::try_from(LAPIC).unwrap_or_default();
    let mut madt = MADT::new(OEM, OEM_TABLE, 1, LocalInterruptController::Address(address));
    // A machine has at most 254 vCPUs: each has an ID of eight bits.
    for index in (0..=u8::MAX).zip(0..cpus).map(|(index, _)| index) {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, u32::try_from(IOAPIC).unwrap_or_default(), 0));
    bytes(&madt)
}

/// A device on ports of its own, by what a driver matches.
fn on_ports(name: &str, hid: &dyn Aml, (port, size): (u16, u8), gsi: Option<u32>) -> Vec<u8> {
    let hid = Name::new("_HID".into(), hid);
    let ports = IO::new(port, port, 1, size);
    let line = gsi.map(interrupt);
    let mut resources: Vec<&dyn Aml> = vec![&ports];
    resources.extend(line.as_ref().map(|line| line as &dyn Aml));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let device = Device::new(Path::new(name), vec![&hid, &crs]);
    bytes(&Scope::new("_SB_".into(), vec![&device]))
}

/// Where the generation ID is (Microsoft, "Virtual Machine Generation ID", 2012), and the event by which a guest is told of a new
/// one: hardware-reduced ACPI tells of events by a Generic Event Device (ACPI 6.5 §5.6.9).
fn generation_id() -> Vec<u8> {
    /// What a device of this kind is notified of: the ID is another one.
    const CHANGED: u8 = 0x80;
    const KIND: &str = "VM_Gen_Counter";
    let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or_default();
    let (low, high) = (half(GENERATION_ID), half(GENERATION_ID >> 32));
    let hid = Name::new("_HID".into(), &"KILN0001");
    let cid = Name::new("_CID".into(), &KIND);
    let ddn = Name::new("_DDN".into(), &KIND);
    let address = Name::new("ADDR".into(), &Package::new(vec![&low, &high]));
    let id = Device::new("VGID".into(), vec![&hid, &cid, &ddn, &address]);

    let hid = Name::new("_HID".into(), &"ACPI0013");
    let uid = Name::new("_UID".into(), &0u8);
    let line = interrupt(EVENT_GSI);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&line]));
    let (changed, it_is) = (Path::new("VGID"), Equal::new(&Arg(0), &EVENT_GSI));
    let notify = Notify::new(&changed, &CHANGED);
    let told = If::new(&it_is, vec![&notify]);
    let event = Method::new("_EVT".into(), 1, true, vec![&told]);
    let events = Device::new("GED_".into(), vec![&hid, &uid, &crs, &event]);
    bytes(&Scope::new("_SB_".into(), vec![&id, &events]))
}

/// The namespace: soft off, the devices on ports, the generation ID, and each virtio-mmio device as what Linux's driver matches
/// (`LNRO0005`).
fn dsdt(config: &MachineConfig, virtio: usize) -> Vec<u8> {
    let s5 = Package::new(vec![&SLEEP_TYPE_S5, &0u8, &0u8, &0u8]);
    let mut aml = bytes(&Name::new("_S5_".into(), &s5));
    let others = [&config.com2, &config.com3, &config.com4].map(|backend| *backend != Backend::Absent);
    let there = [true].into_iter().chain(others);
    for (index, ((port, gsi), there)) in (1..).zip(COM.into_iter().zip(COM_GSIS).zip(there)) {
        if !there {
            continue;
        }
        aml.extend(on_ports(&format!("COM{index}"), &EISAName::new("PNP0501"), (port, 8), Some(gsi)));
    }
    if config.rtc {
        aml.extend(on_ports("RTC_", &EISAName::new("PNP0B00"), (RTC, 2), None));
    }
    if config.pvpanic != PvPanicConfig::Off {
        aml.extend(on_ports("PEVT", &"QEMU0001", (PVPANIC, 1), None));
    }
    if config.fw_cfg {
        aml.extend(on_ports("FWCF", &"QEMU0002", (FW_CFG, u8::try_from(FW_CFG_SIZE).unwrap_or(0)), None));
    }
    aml.extend(generation_id());
    for index in 0..virtio {
        let hid = Name::new("_HID".into(), &"LNRO0005");
        let uid = Name::new("_UID".into(), &index);
        // The driver's DMA is coherent (ACPI 6.5 §6.2.17).
        let cca = Name::new("_CCA".into(), &1u8);
        let base = u32::try_from(virtio_mmio_address(index)).unwrap_or_default();
        let registers = Memory32Fixed::new(true, base, u32::try_from(VIRTIO_MMIO_SIZE).unwrap_or_default());
        let line = interrupt(virtio_mmio_gsi(index));
        let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &line]));
        let device = Device::new(Path::new(&format!("V{index:03X}")), vec![&hid, &uid, &cca, &crs]);
        aml.extend(bytes(&Scope::new("_SB_".into(), vec![&device])));
    }
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, 1);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// A line that devices share as edges, active high.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    fn sums_to_zero(table: &[u8]) -> bool {
        table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }

    fn table(memory: &GuestMemory, address: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn word(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn tables_are_found_from_the_rsdp_and_their_checksums_hold() {
        let memory = memory::allocate(2 << 20).unwrap();
        let config = MachineConfig { cpus: 3, ..MachineConfig::default() };
        let rsdp = write(&memory, &config, 2).unwrap();
        let mut bytes = [0; 36];
        memory.read_slice(&mut bytes, GuestAddress(rsdp)).unwrap();
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert!(sums_to_zero(&bytes[..20]) && sums_to_zero(&bytes));
        let xsdt = table(&memory, word(&bytes, 24));
        assert!(xsdt.starts_with(b"XSDT") && sums_to_zero(&xsdt));
        let fadt = table(&memory, word(&xsdt, 36));
        assert!(fadt.starts_with(b"FACP") && sums_to_zero(&fadt));
        let madt = table(&memory, word(&xsdt, 44));
        assert!(madt.starts_with(b"APIC") && sums_to_zero(&madt));
        assert_eq!(madt.len(), 44 + 3 * 8 + 12, "three local APICs, one I/O APIC");
        let dsdt = table(&memory, word(&fadt, 140));
        assert!(dsdt.starts_with(b"DSDT") && sums_to_zero(&dsdt));
        assert_eq!(dsdt.windows(8).filter(|bytes| bytes == b"LNRO0005").count(), 2);
    }

    #[test]
    fn tables_of_the_largest_machine_fit() {
        let memory = memory::allocate(2 << 20).unwrap();
        let config = MachineConfig {
            cpus: 254,
            com2: Backend::Nothing,
            com3: Backend::Nothing,
            com4: Backend::Nothing,
            rtc: true,
            ..MachineConfig::default()
        };
        write(&memory, &config, crate::layout::VIRTIO_MMIO_MAX).unwrap();
    }

    #[test]
    fn generation_id_is_where_no_table_and_no_kernel_is() {
        // Notify(VGID, 0x80) if the event is that of its line.
        let told = [&b"_EVT\x09\xa0"[..], b"\x0c\x93\x68\x0a\x09\x86VGID\x0a\x80"].concat();
        let address = b"ADDR\x12\x08\x02\x0c\x00\xf0\x0f\x00\x00";
        let dsdt = dsdt(&MachineConfig::default(), 0);
        for part in [&told[..], address, b"_CID\x0dVM_Gen_Counter\0", b"_HID\x0dACPI0013\0"] {
            assert!(dsdt.windows(part.len()).any(|bytes| bytes == part), "{part:02x?} is not in {dsdt:02x?}");
        }
        const { assert!(GENERATION_ID.is_multiple_of(8) && GENERATION_ID >= ACPI_TABLES_END) };
        let size = u64::try_from(crate::layout::GENERATION_ID_SIZE).unwrap();
        let map = super::super::params::memory_map(&memory::allocate(2 << 20).unwrap());
        let on = map.iter().find(|(base, length, _)| {
            (*base..base + length).contains(&GENERATION_ID) && GENERATION_ID + size <= base + length
        });
        // RAM is 1, and what is reserved 2 (ACPI 6.5, table 15.4).
        assert_eq!(on.map(|(_, _, kind)| *kind), Some(2));
    }

    #[test]
    fn clock_is_said_to_be_there_only_where_it_is() {
        for (rtc, boot_arch) in [(false, NO_VGA | NO_RTC), (true, NO_VGA)] {
            let fadt = fadt(0, rtc);
            assert_eq!(fadt.get(109..111), Some(&boot_arch.to_le_bytes()[..]));
            let config = MachineConfig { rtc, ..MachineConfig::default() };
            let node = dsdt(&config, 0).windows(4).any(|name| name == b"RTC_");
            assert_eq!(node, rtc);
        }
    }
}
