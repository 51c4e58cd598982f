//! The device as firmware asks it.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory;

const FACTS: Facts = Facts { cpus: 3, memory: 5 << 30 };

fn device(files: Vec<File>) -> FwCfg {
    FwCfg::new(FACTS, files, memory::allocate(1 << 20).unwrap())
}

fn read(device: &mut FwCfg, item: u16, length: usize) -> Vec<u8> {
    device.write(SELECTOR, &item.to_le_bytes());
    let mut bytes = vec![0xff; length];
    for byte in &mut bytes {
        device.read(DATA, std::slice::from_mut(byte));
    }
    bytes
}

fn file(name: &str, content: &[u8]) -> File {
    File { name: name.to_owned(), content: content.to_vec() }
}

#[test]
fn fw_cfg_says_who_it_is_and_what_the_machine_has() {
    let mut device = device(Vec::new());
    assert_eq!(read(&mut device, SIGNATURE, 4), b"QEMU");
    assert_eq!(read(&mut device, ID, 4), [3, 0, 0, 0]);
    assert_eq!(read(&mut device, RAM_SIZE, 8), (5u64 << 30).to_le_bytes());
    assert_eq!(read(&mut device, CPUS, 2), [3, 0]);
    assert_eq!(read(&mut device, MAX_CPUS, 2), [3, 0]);
}

#[test]
fn fw_cfg_gives_zeros_past_an_end_and_where_nothing_is() {
    let mut device = device(Vec::new());
    assert_eq!(read(&mut device, CPUS, 4), [3, 0, 0, 0]);
    assert_eq!(read(&mut device, 0x7777, 4), [0; 4]);
}

#[test]
fn fw_cfg_files_are_found_by_their_directory() {
    let mut device = device(vec![file("opt/one", b"first"), file("opt/two", b"2")]);
    let directory = read(&mut device, FILE_DIRECTORY, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    assert_eq!(directory[4..12], [0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert!(directory[12..68].starts_with(b"opt/one\0"));
    assert_eq!(directory[68..76], [0, 0, 0, 1, 0, 0x21, 0, 0]);
    assert_eq!(read(&mut device, 0x20, 5), b"first");
    assert_eq!(read(&mut device, 0x21, 1), b"2");
}

fn request(device: &mut FwCfg, control: u32, length: u32, address: u64) -> u32 {
    let mut bytes = control.to_be_bytes().to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    device.memory.write_slice(&bytes, GuestAddress(0x100)).unwrap();
    device.write(DMA, &0u32.to_be_bytes());
    device.write(DMA + 4, &0x100u32.to_be_bytes());
    device.memory.read_obj::<u32>(GuestAddress(0x100)).unwrap().to_be()
}

#[test]
fn fw_cfg_dma_selects_skips_and_reads() {
    let mut device = device(vec![file("a", b"0123456789")]);
    let mut signature = [0; 8];
    device.read(DMA, &mut signature);
    assert_eq!(&signature, b"QEMU CFG");
    assert_eq!(request(&mut device, 0x20 << 16 | 0b1100, 4, 0), 0);
    assert_eq!(request(&mut device, 0b10, 8, 0x2000), 0);
    let mut got = [0xff; 8];
    device.memory.read_slice(&mut got, GuestAddress(0x2000)).unwrap();
    assert_eq!(&got, b"456789\0\0");
}

#[test]
fn fw_cfg_dma_outside_memory_or_for_writing_is_an_error() {
    let mut device = device(vec![file("a", b"x")]);
    assert_eq!(request(&mut device, 0x20 << 16 | 0b1010, 16, (1 << 20) - 8), 1);
    assert_eq!(request(&mut device, 0x20 << 16 | 0b1010, u32::MAX, 0x1000), 1);
    assert_eq!(request(&mut device, 0b10, 1, u64::MAX), 1);
    assert_eq!(request(&mut device, 0b1_0000, 1, 0x2000), 1);
    // A request that is not in memory can't be answered, and does no harm.
    device.write(DMA, &u64::MAX.to_be_bytes());
}

#[test]
fn fw_cfg_narrow_selector_and_wide_data_are_nothing() {
    let mut device = device(Vec::new());
    device.write(SELECTOR, &CPUS.to_le_bytes());
    device.write(SELECTOR, &[0]);
    let mut wide = [0xff; 2];
    device.read(DATA, &mut wide);
    assert_eq!(wide, [0, 0]);
    assert_eq!(read(&mut device, CPUS, 1), [3]);
}
