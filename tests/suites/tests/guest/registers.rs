//! Device registers, by port and by memory, read and written from the guest.

use std::io;

use kiln::guest::{Mmio, Ports};
use kiln::guest_test;
use kiln::protocol::addresses::{
    COM1, DEBUG_CONSOLE, DEBUG_CONSOLE_ANSWER, FIRMWARE_CONSOLE, FW_CFG, FW_CFG_SIZE, PROBE_MMIO,
    PROBE_MMIO_SIZE, PROBE_PIO, PROBE_PIO_SIZE, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE,
};
use kiln::protocol::probe;

/// The UART's scratch register (PC16550D data sheet, table II).
const SCRATCH: u16 = 7;
/// Virtio over MMIO (virtio 1.2, §4.2.2): `MagicValue`, `Version`, `DeviceID`.
const MAGIC: usize = 0;
const VERSION: usize = 4;
const DEVICE_ID: usize = 8;

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[guest_test]
fn uart_scratch_register_keeps_what_was_written() -> io::Result<()> {
    let com1 = Ports::take(COM1, 8)?;
    for value in [0x00, 0x5a, 0xa5, 0xff] {
        com1.write8(SCRATCH, value);
        assert_eq!(com1.read8(SCRATCH), value);
    }
    Ok(())
}

#[guest_test]
fn probe_answers_on_ports_by_each_width() -> io::Result<()> {
    let ports = Ports::take(PROBE_PIO, PROBE_PIO_SIZE)?;
    assert_eq!(ports.read32(probe::MAGIC), probe::MAGIC_VALUE);
    ports.write8(probe::SCRATCH8, 0x12);
    ports.write16(probe::SCRATCH16, 0x3456);
    ports.write32(probe::SCRATCH32, 0x789a_bcde);
    assert_eq!(ports.read8(probe::SCRATCH8), 0x12);
    assert_eq!(ports.read16(probe::SCRATCH16), 0x3456);
    assert_eq!(ports.read32(probe::SCRATCH32), 0x789a_bcde);
    assert_eq!(ports.read8(probe::WIDTH), 0x11);
    assert_eq!(ports.read16(probe::WIDTH), 0x2222);
    assert_eq!(ports.read32(probe::WIDTH), 0x4444_4444);
    Ok(())
}

#[guest_test]
fn probe_counts_and_logs_each_port_access() -> io::Result<()> {
    let ports = Ports::take(PROBE_PIO, PROBE_PIO_SIZE)?;
    ports.write32(probe::ACCESS_COUNT, 0);
    ports.write8(probe::SCRATCH8, 1);
    let _answer = ports.read16(probe::SCRATCH16);
    assert_eq!(ports.read32(probe::ACCESS_COUNT), 2);
    let entry = |offset: u16, width: u32, write: u32| u32::from(offset) | width << 8 | write << 16;
    assert_eq!(ports.read32(probe::LOG), entry(probe::SCRATCH8, 1, 1));
    assert_eq!(ports.read32(probe::LOG), entry(probe::SCRATCH16, 2, 0));
    Ok(())
}

#[guest_test]
fn probe_answers_in_memory_by_each_width() -> io::Result<()> {
    let bank = Mmio::map(PROBE_MMIO, size(PROBE_MMIO_SIZE))?;
    assert_eq!(bank.read32(probe::MAGIC.into()), probe::MAGIC_VALUE);
    bank.write8(probe::SCRATCH8.into(), 0x12);
    bank.write16(probe::SCRATCH16.into(), 0x3456);
    bank.write32(probe::SCRATCH32.into(), 0x789a_bcde);
    bank.write64(probe::SCRATCH64.into(), 0x0123_4567_89ab_cdef);
    assert_eq!(bank.read8(probe::SCRATCH8.into()), 0x12);
    assert_eq!(bank.read16(probe::SCRATCH16.into()), 0x3456);
    assert_eq!(bank.read32(probe::SCRATCH32.into()), 0x789a_bcde);
    assert_eq!(bank.read64(probe::SCRATCH64.into()), 0x0123_4567_89ab_cdef);
    assert_eq!(bank.read8(probe::WIDTH.into()), 0x11);
    assert_eq!(bank.read16(probe::WIDTH.into()), 0x2222);
    assert_eq!(bank.read32(probe::WIDTH.into()), 0x4444_4444);
    assert_eq!(bank.read64(probe::WIDTH.into()), 0x8888_8888_8888_8888);
    Ok(())
}

#[guest_test]
fn ports_and_memory_show_the_same_bank() -> io::Result<()> {
    let ports = Ports::take(PROBE_PIO, PROBE_PIO_SIZE)?;
    let bank = Mmio::map(PROBE_MMIO, size(PROBE_MMIO_SIZE))?;
    ports.write32(probe::SCRATCH32, 0xfeed_f00d);
    assert_eq!(bank.read32(probe::SCRATCH32.into()), 0xfeed_f00d);
    Ok(())
}

#[guest_test]
fn nothing_reads_as_all_ones() -> io::Result<()> {
    let ports = Ports::take(kiln::fixtures::NOTHING_PORT, 4)?;
    assert_eq!((ports.read8(0), ports.read16(0), ports.read32(0)), (0xff, 0xffff, 0xffff_ffff));
    let nothing = Mmio::map(kiln::fixtures::NOTHING_MMIO, 4096)?;
    assert_eq!((nothing.read8(0), nothing.read64(0)), (0xff, u64::MAX));
    Ok(())
}

#[guest_test(cpus = 2)]
fn fw_cfg_says_its_signature_and_how_many_processors_there_are() -> io::Result<()> {
    /// Items of fw_cfg (QEMU, docs/specs/fw_cfg.rst).
    const SIGNATURE: u16 = 0;
    const CPUS: u16 = 5;
    let ports = Ports::take(FW_CFG, FW_CFG_SIZE)?;
    let item = |item: u16| {
        ports.write16(0, item);
        [(); 4].map(|()| ports.read8(1))
    };
    assert_eq!(&item(SIGNATURE), b"QEMU");
    assert_eq!(item(CPUS), [2, 0, 0, 0]);
    Ok(())
}

#[guest_test]
fn debug_consoles_say_that_somebody_listens() -> io::Result<()> {
    for port in [DEBUG_CONSOLE, FIRMWARE_CONSOLE] {
        assert_eq!(Ports::take(port, 1)?.read8(0), DEBUG_CONSOLE_ANSWER);
    }
    Ok(())
}

#[guest_test]
fn acpi_names_what_is_there_and_no_clock() {
    let named = |id: &str| std::path::Path::new("/sys/bus/acpi/devices").join(format!("{id}:00")).exists();
    assert!(named("PNP0501") && named("QEMU0001") && named("QEMU0002") && !named("PNP0B00"));
    assert!(!std::path::Path::new("/sys/class/rtc/rtc0").exists());
}

#[guest_test(disk = scratch("1M"))]
fn virtio_mmio_says_magic_version_and_device() -> io::Result<()> {
    // virtio 1.2, §5: a console is 3, a block device 2.
    for (address, device) in (VIRTIO_MMIO_BASE..).step_by(size(VIRTIO_MMIO_SIZE)).zip([3, 2]) {
        let registers = Mmio::map(address, size(VIRTIO_MMIO_SIZE))?;
        assert_eq!(registers.read32(MAGIC), u32::from_le_bytes(*b"virt"));
        assert_eq!(registers.read32(VERSION), 2);
        assert_eq!(registers.read32(DEVICE_ID), device);
    }
    Ok(())
}
