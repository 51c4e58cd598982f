//! Memory: how much there is, where it is, and what a device sees of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use kiln::guest::{Mmio, Ports};
use kiln::guest_test;
use kiln::protocol::addresses::{PROBE_MMIO, PROBE_MMIO_SIZE, VIRTIO_MMIO_BASE};
use kiln::protocol::probe::{
    DMA_ADDRESS, DMA_CHECKSUM, DMA_COMMAND, DMA_FAULT, DMA_FILL, DMA_LENGTH, DMA_MAX, DMA_OK, DMA_READ,
};

const PAGE: usize = 4096;
/// Where the hole for devices begins, and where memory goes on.
const HOLE: u64 = 0xd000_0000;
const HOLE_END: u64 = 1 << 32;

/// A page of this process, and where it is in the guest's physical address space.
struct Page {
    memory: Vec<u8>,
    from: usize,
    address: u64,
}

impl Page {
    fn filled_with(byte: u8) -> io::Result<Self> {
        let memory = vec![byte; 2 * PAGE];
        let from = memory.as_ptr().align_offset(PAGE);
        let address = frame(memory.as_ptr().addr() + from)? * 4096;
        Ok(Self { memory, from, address })
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + PAGE]
    }
}

/// The guest-physical page that is at an address of this process (Documentation/admin-guide/mm/pagemap.rst).
fn frame(address: usize) -> io::Result<u64> {
    /// The frame's number in an entry, and the bit that says that it is there.
    const FRAME: u64 = (1 << 55) - 1;
    const PRESENT: u64 = 1 << 63;
    let mut entry = [0; 8];
    let offset = u64::try_from(address / PAGE * entry.len()).map_err(io::Error::other)?;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, offset)?;
    let entry = u64::from_le_bytes(entry);
    if entry & PRESENT == 0 {
        return Err(io::Error::other(format!("the page is not there: {entry:#x}")));
    }
    Ok(entry & FRAME)
}

fn bank() -> io::Result<Mmio> {
    Mmio::map(PROBE_MMIO, usize::try_from(PROBE_MMIO_SIZE).map_err(io::Error::other)?)
}

/// Has the probe do `command` with `length` bytes at `address`, and says how it ended.
fn dma(bank: &Mmio, command: u32, address: u64, length: u32) -> u32 {
    bank.write64(DMA_ADDRESS.into(), address);
    bank.write32(DMA_LENGTH.into(), length);
    bank.write32(DMA_COMMAND.into(), command);
    bank.read32(DMA_COMMAND.into())
}

/// The ranges of `/proc/iomem` that are called `name`.
fn ranges(name: &str) -> io::Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string("/proc/iomem")?;
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(io::Error::other);
    let lines = text.lines().filter_map(|line| line.trim().split_once(" : "));
    lines
        .filter(|(_, owner)| *owner == name)
        .map(|(range, _)| {
            let (first, last) = range.split_once('-').ok_or(io::ErrorKind::InvalidData)?;
            Ok((number(first)?, number(last)?))
        })
        .collect()
}

/// Looks whether the guest has `size` bytes, and has them where they are.
fn memory_is(size: u64) -> io::Result<()> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)?;
    // The kernel keeps a part for itself: 1/64 for its page structures, and some more.
    let least = (size - size / 16 - (64 << 20)) >> 10;
    assert!((least..=size >> 10).contains(&total), "{total} KiB");

    let ram = ranges("System RAM")?;
    let end_below = ram.iter().filter(|(first, _)| *first < HOLE_END).map(|(_, last)| last + 1).max();
    assert_eq!(end_below, Some(size.min(HOLE)), "{ram:x?}");
    let above: Vec<_> = ram.iter().copied().filter(|(first, _)| *first >= HOLE_END).collect();
    match size.checked_sub(HOLE).filter(|rest| *rest > 0) {
        Some(rest) => assert_eq!(above, [(HOLE_END, HOLE_END + rest - 1)], "{ram:x?}"),
        None => assert!(above.is_empty(), "{ram:x?}"),
    }
    Ok(())
}

// The host has less than some of these: what is not touched is not there.
#[guest_test(memory = "320M")]
fn memory_of_320_mib_is_all_there() -> io::Result<()> {
    memory_is(320 << 20)
}

#[guest_test(memory = "512M")]
fn memory_of_512_mib_is_all_there() -> io::Result<()> {
    memory_is(512 << 20)
}

#[guest_test(memory = "3G", timeout = 300)]
fn memory_of_3_gib_is_all_there_below_the_hole() -> io::Result<()> {
    memory_is(3 << 30)
}

#[guest_test(memory = "5G", timeout = 300)]
fn memory_of_5_gib_is_there_on_both_sides_of_the_hole() -> io::Result<()> {
    memory_is(5 << 30)?;
    // The kernel gives away its highest memory first.
    let mut pages = vec![0u8; 4 << 20];
    for (page, byte) in (0u32..).zip(pages.iter_mut().step_by(PAGE)) {
        *byte = page.to_le_bytes()[0] | 1;
    }
    let above = pages.chunks(PAGE).filter_map(|page| frame(page.as_ptr().addr()).ok());
    let above = above.filter(|frame| *frame >= HOLE_END / 4096).count();
    assert!(above > 0, "no page lies above 4 GiB");
    for (page, byte) in (0u32..).zip(pages.iter().step_by(PAGE)) {
        assert_eq!(*byte, page.to_le_bytes()[0] | 1, "page {page}");
    }
    Ok(())
}

#[guest_test]
fn devices_lie_outside_of_ram() -> io::Result<()> {
    let ram = ranges("System RAM")?;
    assert!(ram.iter().all(|&(_, last)| last < VIRTIO_MMIO_BASE), "{ram:x?}");
    let text = fs::read_to_string("/proc/iomem")?;
    assert!(text.contains("d0000000-d0000fff : LNRO0005:00"), "{text}");
    Ok(())
}

#[guest_test]
fn every_page_keeps_what_was_written() {
    let words = 48 << 17;
    let pattern = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let memory: Vec<u64> = (0..words).map(pattern).collect();
    let astray = (0..words).zip(&memory).find(|&(n, &word)| word != pattern(n));
    assert_eq!(astray, None);
}

#[guest_test]
fn device_reads_the_bytes_that_the_guest_wrote() -> io::Result<()> {
    let page = Page::filled_with(0xa5)?;
    let bank = bank()?;
    assert_eq!(dma(&bank, DMA_READ, page.address, 4096), DMA_OK);
    assert_eq!(bank.read32(DMA_CHECKSUM.into()), 4096 * 0xa5);
    Ok(())
}

#[guest_test]
fn guest_reads_the_bytes_that_the_device_wrote() -> io::Result<()> {
    let page = Page::filled_with(0xff)?;
    assert_eq!(dma(&bank()?, DMA_FILL, page.address + 256, 1000), DMA_OK);
    let bytes = std::hint::black_box(&page).bytes();
    let wanted = (0..1000_u32).map(|n| n.to_le_bytes()[0]);
    assert!(bytes[256..1256].iter().copied().eq(wanted), "{:?}", &bytes[256..272]);
    assert!(bytes[..256].iter().chain(&bytes[1256..]).all(|&byte| byte == 0xff), "bytes around it changed");
    Ok(())
}

#[guest_test]
#[case::that_is_no_ram(0xd000_0000, 16, DMA_READ)]
#[case::across_the_end_of_ram((256 << 20) - 8, 16, DMA_FILL)]
#[case::that_wraps_round(u64::MAX - 7, 16, DMA_READ)]
#[case::longer_than_any(0x10_0000, DMA_MAX + 1, DMA_READ)]
#[case::by_no_command(0x10_0000, 16, 0x77)]
fn device_refuses_memory(address: u64, length: u32, command: u32) -> io::Result<()> {
    let bank = bank()?;
    assert_eq!(dma(&bank, command, address, length), DMA_FAULT);
    // The machine goes on, and so does the device.
    let page = Page::filled_with(1)?;
    assert_eq!(dma(&bank, DMA_READ, page.address, 4), DMA_OK);
    assert_eq!(bank.read32(DMA_CHECKSUM.into()), 4);
    Ok(())
}

#[guest_test]
fn address_of_a_transfer_is_set_by_halves_from_ports() -> io::Result<()> {
    use kiln::protocol::addresses::{PROBE_PIO, PROBE_PIO_SIZE};
    let page = Page::filled_with(3)?;
    let ports = Ports::take(PROBE_PIO, PROBE_PIO_SIZE)?;
    let bytes = page.address.to_le_bytes();
    let half = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    ports.write32(DMA_ADDRESS, half(0));
    ports.write32(DMA_ADDRESS + 4, half(4));
    ports.write32(DMA_LENGTH, 100);
    ports.write32(DMA_COMMAND, DMA_READ);
    assert_eq!((ports.read32(DMA_COMMAND), ports.read32(DMA_CHECKSUM)), (DMA_OK, 300));
    Ok(())
}
