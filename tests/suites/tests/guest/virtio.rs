//! Virtio devices on their bus and in their registers.

use std::fs;
use std::io;

use kiln::guest::{Block, Mmio, Sysfs};
use kiln::guest_test;
use kiln::protocol::addresses::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};

/// Registers of virtio over MMIO (virtio 1.2, §4.2.2).
const DEVICE_FEATURES: usize = 0x10;
const DEVICE_FEATURES_SEL: usize = 0x14;
const QUEUE_SEL: usize = 0x30;
const QUEUE_NUM_MAX: usize = 0x34;
const STATUS: usize = 0x70;
const INTERRUPT_STATUS: usize = 0x60;
const CONFIG: usize = 0x100;

/// Device status: acknowledged, driven, features agreed on, driver at work (virtio 1.2, §2.1).
const AT_WORK: u32 = 1 | 2 | 8 | 4;
/// The bit of `VIRTIO_F_VERSION_1` (virtio 1.2, §6).
const VERSION_1: usize = 32;

/// The registers of device `index`; its driver has claimed them, and `iomem=relaxed` lets go of them.
fn registers(index: u64) -> io::Result<Mmio> {
    let size = usize::try_from(VIRTIO_MMIO_SIZE).map_err(io::Error::other)?;
    Mmio::map(VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_SIZE, size)
}

fn device(index: usize) -> Sysfs {
    Sysfs::at("bus/virtio/devices").folder(&format!("virtio{index}"))
}

#[guest_test(disk = scratch("1M"), console)]
fn bus_lists_every_device_and_its_driver() -> io::Result<()> {
    let names = Sysfs::at("bus/virtio/devices").names()?;
    let driver = |name: &String| -> io::Result<String> {
        let link = fs::read_link(format!("/sys/bus/virtio/devices/{name}/driver"))?;
        Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
    };
    let mut drivers = names.iter().map(driver).collect::<io::Result<Vec<_>>>()?;
    drivers.sort();
    drivers.dedup();
    assert_eq!(drivers, ["virtio_blk", "virtio_console"], "{names:?}");
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn device_and_driver_agree_on_version_1() -> io::Result<()> {
    for index in 0..2 {
        // A character for each feature, from bit 0 on.
        assert_eq!(device(index).read("features")?.as_bytes().get(VERSION_1), Some(&b'1'));
    }
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn status_says_that_the_driver_is_at_work() -> io::Result<()> {
    assert_eq!(registers(0)?.read32(STATUS), AT_WORK);
    assert_eq!(registers(1)?.read32(STATUS), AT_WORK);
    Ok(())
}

#[guest_test]
fn features_come_by_halves_and_end_there() -> io::Result<()> {
    let registers = registers(0)?;
    let half = |number: u32| {
        registers.write32(DEVICE_FEATURES_SEL, number);
        registers.read32(DEVICE_FEATURES)
    };
    assert!(half(1) & 1 == 1, "VIRTIO_F_VERSION_1 is the first of the second half");
    assert_eq!((half(2), half(u32::MAX)), (0, 0));
    Ok(())
}

#[guest_test(disk = scratch("5M"))]
fn capacity_stands_in_the_configuration() -> io::Result<()> {
    let registers = registers(1)?;
    let sectors = u64::from(registers.read32(CONFIG)) | u64::from(registers.read32(CONFIG + 4)) << 32;
    assert_eq!(sectors * 512, Block::open("vda")?.size()?);
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn queue_that_is_not_there_has_no_size() -> io::Result<()> {
    let registers = registers(1)?;
    registers.write32(QUEUE_SEL, 0);
    let size = registers.read32(QUEUE_NUM_MAX);
    assert!(size.is_power_of_two() && size >= 2, "{size}");
    registers.write32(QUEUE_SEL, 1000);
    assert_eq!(registers.read32(QUEUE_NUM_MAX), 0);
    Ok(())
}

#[guest_test(disk = scratch("1M"))]
fn interrupt_is_acknowledged_once_a_request_is_done() -> io::Result<()> {
    let _sector = Block::open("vda")?.read(0, 1)?;
    assert_eq!(registers(1)?.read32(INTERRUPT_STATUS), 0);
    Ok(())
}

#[guest_test]
fn place_of_a_device_that_is_not_there_reads_as_all_ones() -> io::Result<()> {
    // Behind all that a case asks for, and the disk that brings this program.
    let nobody = registers(7)?;
    assert_eq!((nobody.read32(0), nobody.read32(STATUS)), (u32::MAX, u32::MAX));
    Ok(())
}

#[guest_test(console)]
fn console_is_a_terminal() -> io::Result<()> {
    let terminal = Sysfs::at("class/tty/hvc0");
    assert!(terminal.has("dev") && fs::metadata("/dev/hvc0").is_ok());
    Ok(())
}
