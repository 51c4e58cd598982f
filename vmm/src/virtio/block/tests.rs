//! Requests to a disk, honest and hostile.

use super::*;
use crate::virtio::testing::{BUFFERS, Driver, INDIRECT, NEXT, RAM, WRITE};

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 16;
const DATA: u64 = BUFFERS + 0x1000;

fn start(read_only: bool) -> (Driver, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..8 * 512).map(|at| u8::try_from(at / 512).unwrap()).collect();
    std::fs::write(file.path(), bytes).unwrap();
    let disk = RawDisk::open(file.path(), read_only).unwrap();
    let device = BlockDevice::new(disk, "vda".to_owned());
    let features = device.features() & !FEATURE_EVENT_IDX;
    let mut driver = Driver::new(Box::new(device));
    driver.start(features, 1);
    assert_eq!(driver.get(0x70), 15);
    (driver, file)
}

/// Makes a request with one data buffer; the answer is its status and used length.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
    let mut header = [0; 16];
    header[0..4].copy_from_slice(&kind.to_le_bytes());
    header[8..16].copy_from_slice(&sector.to_le_bytes());
    driver.put(HEADER, &header);
    driver.put(STATUS, &[0xee]);
    let mut parts = vec![(HEADER, 16, false)];
    parts.extend_from_slice(data);
    parts.push((STATUS, 1, true));
    let head = driver.add(0, &parts);
    let (id, used) = driver.used(0);
    assert_eq!(id, u32::from(head));
    (driver.take(STATUS, 1)[0], used)
}

#[test]
fn sectors_are_read_into_scattered_buffers() {
    let (mut driver, _file) = start(false);
    let parts = [(DATA, 100, true), (DATA + 0x1000, 924, true)];
    assert_eq!(request(&mut driver, 0, 3, &parts), (0, 1025));
    assert_eq!(driver.take(DATA, 100), [3; 100]);
    let rest = driver.take(DATA + 0x1000, 924);
    assert_eq!((rest[411], rest[412], rest[923]), (3, 4, 4));
}

#[test]
fn pages_that_sectors_are_read_into_are_in_the_dirty_log() {
    use crate::memory::{map::MemoryMap, table::Table};
    let (mut driver, _file) = start(false);
    let map = MemoryMap::new(Table::new(1, 36), (*driver.memory).clone(), Vec::new()).unwrap();
    map.log_start().unwrap();
    assert_eq!(request(&mut driver, 0, 0, &[(DATA + 0xf00, 512, true), (DATA + 0x4000, 512, true)]).0, 0);
    // The driver, which plays the guest, writes no data.
    let pages: Vec<u64> = map.log_take().unwrap().addresses().filter(|page| *page >= DATA).collect();
    assert_eq!(pages, [DATA, DATA + 0x1000, DATA + 0x4000]);
}

#[test]
fn sectors_are_written_and_flushed() {
    let (mut driver, file) = start(false);
    driver.put(DATA, &[0x5a; 512]);
    assert_eq!(request(&mut driver, 1, 7, &[(DATA, 512, false)]), (0, 1));
    assert_eq!(request(&mut driver, 4, 0, &[]), (0, 1));
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes.len(), 8 * 512);
    assert_eq!(bytes[7 * 512..], [0x5a; 512]);
}

#[test]
fn a_request_may_lie_in_an_indirect_table() {
    let (mut driver, _file) = start(false);
    driver.put(HEADER, &[0; 16]);
    let table = BUFFERS + 0x8000;
    let parts = [(HEADER, 16_u32, NEXT, 1_u16), (DATA, 1024, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)];
    for (at, (addr, len, flags, next)) in (0..).zip(parts) {
        let mut entry = [0; 16];
        entry[0..8].copy_from_slice(&addr.to_le_bytes());
        entry[8..12].copy_from_slice(&len.to_le_bytes());
        entry[12..14].copy_from_slice(&flags.to_le_bytes());
        entry[14..16].copy_from_slice(&next.to_le_bytes());
        driver.put(table + 16 * at, &entry);
    }
    driver.descriptor(0, 9, table, 48, INDIRECT, 0);
    driver.offer(0, 9);
    assert_eq!(driver.used(0), (9, 1025));
    assert_eq!(driver.take(DATA + 512, 512), [1; 512]);
}

#[test]
fn the_serial_is_the_name() {
    let (mut driver, _file) = start(false);
    assert_eq!(request(&mut driver, 8, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(&driver.take(DATA, 4), b"vda\0");
}

#[test]
fn the_config_tells_the_size() {
    let (mut driver, _file) = start(true);
    assert_eq!((driver.get(0x100), driver.get(0x104)), (8, 0));
    assert_eq!((driver.get(0x10c), driver.get(0x114)), (126, 512));
    assert_eq!(driver.get(0x200), 0);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let (mut driver, file) = start(true);
    let before = std::fs::read(file.path()).unwrap();
    assert_eq!(request(&mut driver, 1, 0, &[(DATA, 512, false)]).0, 1);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn what_is_not_on_the_disk_is_an_error_and_the_device_goes_on() {
    let (mut driver, _file) = start(false);
    for sector in [8, u64::MAX, u64::MAX / 512 + 1] {
        assert_eq!(request(&mut driver, 0, sector, &[(DATA, 512, true)]).0, 1);
        assert_eq!(request(&mut driver, 1, sector, &[(DATA, 512, false)]).0, 1);
    }
    // Half a sector, nothing at all, and data of the wrong direction.
    assert_eq!(request(&mut driver, 0, 0, &[(DATA, 256, true)]).0, 1);
    assert_eq!(request(&mut driver, 0, 0, &[]).0, 1);
    assert_eq!(request(&mut driver, 1, 0, &[(DATA, 512, true)]).0, 1);
    assert_eq!(request(&mut driver, 0, 0, &[(DATA, 0, true)]).0, 1);
    assert_eq!(request(&mut driver, 99, 0, &[]).0, 2);
    assert_eq!(request(&mut driver, 0, 0, &[(DATA, 512, true)]), (0, 513));
}

/// Starts a device, breaks its queue with `break_it`, and sees it ask for a reset and recover from one.
fn hostile<T>(break_it: impl FnOnce(&mut Driver) -> T) {
    let (mut driver, _file) = start(false);
    break_it(&mut driver);
    driver.needs_reset();
    driver.set(0x70, 0);
    assert_eq!(driver.get(0x70), 0);
    driver.start(0, 1);
    assert_eq!(request(&mut driver, 0, 1, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn a_loop_of_descriptors_ends() {
    hostile(|driver| {
        driver.descriptor(0, 0, HEADER, 16, NEXT, 1);
        driver.descriptor(0, 1, DATA, 16, NEXT, 0);
        driver.offer(0, 0);
    });
}

#[test]
fn buffers_outside_memory_are_refused() {
    hostile(|driver| driver.add(0, &[(RAM - 8, 16, false), (STATUS, 1, true)]));
    hostile(|driver| driver.add(0, &[(u64::MAX - 8, 16, false), (STATUS, 1, true)]));
}

#[test]
fn a_chain_without_room_for_a_status_is_refused() {
    hostile(|driver| driver.add(0, &[(HEADER, 16, false)]));
    hostile(|driver| driver.add(0, &[(HEADER, 16, false), (STATUS, 0, true)]));
}

#[test]
fn parts_in_the_wrong_order_are_refused() {
    hostile(|driver| driver.add(0, &[(STATUS, 1, true), (HEADER, 16, false)]));
}

#[test]
fn impossible_indices_are_refused() {
    hostile(|driver| driver.offer(0, 0xffff));
    hostile(|driver| {
        driver.set_avail_index(0, 0x8000);
        driver.set(0x50, 0);
    });
}

#[test]
fn an_indirect_table_may_not_name_another() {
    hostile(|driver| {
        let table = BUFFERS + 0x8000;
        let mut entry = [0; 16];
        entry[0..8].copy_from_slice(&table.to_le_bytes());
        entry[8..12].copy_from_slice(&16_u32.to_le_bytes());
        entry[12..14].copy_from_slice(&(INDIRECT | WRITE).to_le_bytes());
        driver.put(table, &entry);
        driver.descriptor(0, 0, table, 16, INDIRECT, 0);
        driver.offer(0, 0);
    });
}
