//! The probe as a guest sees it.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device::testing::{Broken, Edges};

/// RAM of the tests: 1 MiB, a hole of 1 MiB, 2 MiB more.
const HOLE: u64 = 1 << 20;
const UPPER: u64 = 2 << 20;
const UPPER_SIZE: u64 = 2 << 20;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20), (GuestAddress(UPPER), 2 << 20)]).unwrap()
}

fn probe() -> (ProbeWindow, GuestMemory, Arc<Edges>) {
    let (memory, edges) = (memory(), Arc::new(Edges::default()));
    (Probe::new(memory.clone(), edges.clone()).mmio(), memory, edges)
}

fn read<const N: usize>(device: &mut ProbeWindow, offset: u16) -> [u8; N] {
    let mut data = [0xaa; N];
    device.read(offset.into(), &mut data);
    data
}

fn read32(device: &mut ProbeWindow, offset: u16) -> u32 {
    u32::from_le_bytes(read(device, offset))
}

fn write32(device: &mut ProbeWindow, offset: u16, value: u32) {
    device.write(offset.into(), &value.to_le_bytes());
}

/// Does a DMA, and returns its status and its checksum.
fn dma(device: &mut ProbeWindow, command: u32, address: u64, length: u32) -> (u32, u32) {
    device.write(reg::DMA_ADDRESS.into(), &address.to_le_bytes());
    write32(device, reg::DMA_LENGTH, length);
    write32(device, reg::DMA_COMMAND, command);
    (read32(device, reg::DMA_COMMAND), read32(device, reg::DMA_CHECKSUM))
}

fn entry(offset: u16, width: u32, write: bool) -> u32 {
    u32::from(offset) | width << 8 | u32::from(write) << 16
}

#[test]
fn scratch_of_each_width_keeps_what_was_written() {
    let (mut device, ..) = probe();
    device.write(reg::SCRATCH8.into(), &[1]);
    device.write(reg::SCRATCH16.into(), &[2, 3]);
    device.write(reg::SCRATCH32.into(), &[4, 5, 6, 7]);
    device.write(reg::SCRATCH64.into(), &[8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(read(&mut device, reg::SCRATCH8), [1]);
    assert_eq!(read(&mut device, reg::SCRATCH16), [2, 3]);
    assert_eq!(read(&mut device, reg::SCRATCH32), [4, 5, 6, 7]);
    assert_eq!(read(&mut device, reg::SCRATCH64), [8, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn scratch64_is_reached_by_halves() {
    let (mut device, ..) = probe();
    write32(&mut device, reg::SCRATCH64, 0x0403_0201);
    write32(&mut device, reg::SCRATCH64 + 4, 0x0807_0605);
    assert_eq!(read(&mut device, reg::SCRATCH64), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read32(&mut device, reg::SCRATCH64 + 4), 0x0807_0605);
}

#[test]
fn scratch_accessed_by_another_width_reads_all_ones_and_keeps_its_value() {
    let (mut device, ..) = probe();
    write32(&mut device, reg::SCRATCH32, 0x1234_5678);
    device.write(reg::SCRATCH32.into(), &[0xee]);
    device.write(u64::from(reg::SCRATCH32) + 2, &[0xee, 0xee]);
    assert_eq!(read(&mut device, reg::SCRATCH32), [0xff; 2]);
    assert_eq!(read32(&mut device, reg::SCRATCH32), 0x1234_5678);
}

#[test]
fn access_to_no_register_reads_all_ones_at_any_offset() {
    let (mut device, ..) = probe();
    for offset in [0x01, 0x24, 0x3d, 0x40, 0xff8, u64::from(u16::MAX), u64::MAX] {
        let mut data = [0];
        device.read(offset, &mut data);
        assert_eq!(data, [0xff], "offset {offset:#x}");
    }
}

#[test]
fn magic_reads_its_value_and_cannot_be_written() {
    let (mut device, ..) = probe();
    write32(&mut device, reg::MAGIC, 0);
    assert_eq!(read(&mut device, reg::MAGIC), *b"KILN");
}

#[test]
fn width_answers_by_width() {
    let (mut device, ..) = probe();
    assert_eq!(read(&mut device, reg::WIDTH), [0x11]);
    assert_eq!(read(&mut device, reg::WIDTH), [0x22; 2]);
    assert_eq!(read(&mut device, reg::WIDTH), [0x44; 4]);
    assert_eq!(read(&mut device, reg::WIDTH), [0x88; 8]);
}

#[test]
fn access_count_leaves_out_the_access_that_reads_it() {
    let (mut device, ..) = probe();
    device.write(0x40, &[0]);
    let counts = [read32(&mut device, reg::ACCESS_COUNT), read32(&mut device, reg::ACCESS_COUNT)];
    assert_eq!(counts, [1, 2]);
}

#[test]
fn access_count_written_resets_it_and_the_log() {
    let (mut device, ..) = probe();
    read32(&mut device, reg::MAGIC);
    device.write(reg::ACCESS_COUNT.into(), &[7]);
    assert_eq!(read32(&mut device, reg::ACCESS_COUNT), 0);
    assert_eq!(read32(&mut device, reg::LOG), entry(reg::ACCESS_COUNT, 4, false));
    assert_eq!(read32(&mut device, reg::LOG), u32::MAX);
}

#[test]
fn log_gives_accesses_in_order_and_leaves_out_its_own() {
    let (mut device, ..) = probe();
    device.write(reg::SCRATCH8.into(), &[1]);
    read::<2>(&mut device, 0x3e);
    read::<2>(&mut device, reg::LOG);
    assert_eq!(read32(&mut device, reg::LOG), entry(reg::SCRATCH8, 1, true));
    assert_eq!(read32(&mut device, reg::LOG), entry(0x3e, 2, false));
    assert_eq!(read32(&mut device, reg::LOG), u32::MAX);
    assert_eq!(read32(&mut device, reg::ACCESS_COUNT), 6);
}

#[test]
fn log_offset_past_a_byte_shows_as_its_largest() {
    let (mut device, ..) = probe();
    device.read(0xffc, &mut [0; 4]);
    assert_eq!(read32(&mut device, reg::LOG), entry(0xff, 4, false));
}

#[test]
fn log_full_keeps_the_last() {
    let (mut device, ..) = probe();
    read::<1>(&mut device, 0x30);
    for _ in 0..reg::LOG_MAX {
        read::<1>(&mut device, 0x31);
    }
    let entries =
        std::iter::from_fn(|| Some(read32(&mut device, reg::LOG)).filter(|entry| *entry != u32::MAX));
    assert_eq!(entries.collect::<Vec<_>>(), vec![entry(0x31, 1, false); reg::LOG_MAX]);
}

#[test]
fn interrupt_written_by_any_width_raises_once_each() {
    let (mut device, _, edges) = probe();
    device.write(reg::INTERRUPT.into(), &[1]);
    device.write(reg::INTERRUPT.into(), &[0; 4]);
    assert_eq!((read32(&mut device, reg::INTERRUPT), edges.count()), (2, 2));
}

#[test]
fn interrupt_that_fails_is_not_counted_as_raised() {
    let mut device = Probe::new(memory(), Arc::new(Broken)).pio();
    write32(&mut device, reg::INTERRUPT, 1);
    assert_eq!(read32(&mut device, reg::INTERRUPT), 0);
}

#[test]
fn dma_fill_writes_a_counting_pattern_and_sums_it() {
    let (mut device, memory, _) = probe();
    assert_eq!(dma(&mut device, reg::DMA_FILL, 0x1234, 5000), (reg::DMA_OK, 19 * 32640 + 68 * 135));
    let mut bytes = vec![0; 5002];
    memory.read_slice(&mut bytes, GuestAddress(0x1233)).unwrap();
    let pattern = (0..=u8::MAX).cycle().take(5000);
    assert_eq!(bytes, std::iter::once(0).chain(pattern).chain([0]).collect::<Vec<_>>());
}

#[test]
fn dma_read_sums_what_the_guest_wrote() {
    let (mut device, memory, _) = probe();
    memory.write_slice(&[250, 250, 1], GuestAddress(UPPER)).unwrap();
    assert_eq!(dma(&mut device, reg::DMA_READ, UPPER, 3), (reg::DMA_OK, 501));
}

#[test]
fn dma_of_the_most_it_moves_works_up_to_the_end_of_ram() {
    let (mut device, ..) = probe();
    let address = UPPER + UPPER_SIZE - u64::from(reg::DMA_MAX);
    assert_eq!(dma(&mut device, reg::DMA_FILL, address, reg::DMA_MAX).0, reg::DMA_OK);
}

#[test]
fn dma_too_long_faults() {
    let (mut device, ..) = probe();
    assert_eq!(dma(&mut device, reg::DMA_READ, UPPER, reg::DMA_MAX + 1), (reg::DMA_FAULT, 0));
}

#[test]
fn dma_outside_ram_faults_and_moves_nothing() {
    let (mut device, memory, _) = probe();
    memory.write_slice(&[7; 16], GuestAddress(HOLE - 16)).unwrap();
    for (address, length) in [(HOLE - 16, 17), (HOLE, 1), (UPPER - 1, 2), (u64::MAX, 2), (u64::MAX - 1, 1)] {
        let result = dma(&mut device, reg::DMA_FILL, address, length);
        assert_eq!(result, (reg::DMA_FAULT, 0), "{length} bytes at {address:#x}");
    }
    assert_eq!(memory.read_obj::<[u8; 16]>(GuestAddress(HOLE - 16)).unwrap(), [7; 16]);
}

#[test]
fn dma_of_nothing_is_done_anywhere() {
    let (mut device, ..) = probe();
    assert_eq!(dma(&mut device, reg::DMA_READ, u64::MAX, 0), (reg::DMA_OK, 0));
}

#[test]
fn dma_unknown_command_faults_until_the_next_succeeds() {
    let (mut device, ..) = probe();
    assert_eq!(dma(&mut device, 3, 0, 16).0, reg::DMA_FAULT);
    assert_eq!(dma(&mut device, reg::DMA_READ, 0, 16).0, reg::DMA_OK);
}

#[test]
fn dma_command_of_another_width_does_nothing() {
    let (mut device, ..) = probe();
    device.write(reg::DMA_COMMAND.into(), &[9]);
    assert_eq!(read32(&mut device, reg::DMA_COMMAND), reg::DMA_OK);
}

#[test]
fn windows_share_one_bank() {
    let probe = Probe::new(memory(), Arc::new(Edges::default()));
    probe.pio().write(reg::SCRATCH8.into(), &[0x5a]);
    assert_eq!(read(&mut probe.mmio(), reg::SCRATCH8), [0x5a]);
    assert_eq!(read32(&mut probe.pio(), reg::ACCESS_COUNT), 2);
}

#[test]
fn stream_counts_writes_in_order_and_those_astray() {
    let probe = Probe::new(memory(), Arc::new(Edges::default()));
    let (mut mmio, mut pio) = (probe.mmio(), probe.stream());
    write32(&mut mmio, reg::STREAM, 0);
    pio.write(0, &1u32.to_le_bytes());
    pio.write(0, &7u32.to_le_bytes());
    write32(&mut mmio, reg::STREAM, 2);
    assert_eq!((read32(&mut mmio, reg::STREAM), read32(&mut mmio, reg::STREAM_ASTRAY)), (3, 1));
    assert_eq!((read32(&mut pio, 0), read32(&mut pio, 4)), (3, 1));
    write32(&mut mmio, reg::ACCESS_COUNT, 0);
    assert_eq!((read32(&mut mmio, reg::STREAM), read32(&mut mmio, reg::STREAM_ASTRAY)), (0, 0));
}
