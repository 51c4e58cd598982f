//! What a guest sees of the machine as a whole.

use std::fs;
use std::io;

use kiln::guest_test;

/// The processors that are online, as `/sys` lists them.
fn online() -> io::Result<String> {
    Ok(fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned())
}

#[guest_test]
fn one_processor_is_online() -> io::Result<()> {
    assert_eq!(online()?, "0");
    Ok(())
}

#[guest_test(cpus = 2)]
fn both_processors_come_online() -> io::Result<()> {
    assert_eq!(online()?, "0-1");
    Ok(())
}

#[guest_test(cpus = 4, timeout = 300)]
fn four_processors_come_online_and_run() -> io::Result<()> {
    assert_eq!(online()?, "0-3");
    assert_eq!(std::thread::available_parallelism()?.get(), 4);
    Ok(())
}

#[guest_test(memory = "512M")]
fn memory_of_512_mib_is_all_there() -> io::Result<()> {
    memory_is(512 << 20)
}

// The host has less than these: what is not touched is not there.
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
    let above = above.filter(|frame| *frame >= HOLE_END / PAGE as u64).count();
    assert!(above > 0, "no page lies above 4 GiB");
    for (page, byte) in (0u32..).zip(pages.iter().step_by(PAGE)) {
        assert_eq!(*byte, page.to_le_bytes()[0] | 1, "page {page}");
    }
    Ok(())
}

/// A page, in bytes.
const PAGE: usize = 4096;
/// Where the hole for devices begins, and where memory goes on.
const HOLE: u64 = 0xd000_0000;
const HOLE_END: u64 = 1 << 32;

/// Looks whether the guest has `size` bytes, and has them where they are.
fn memory_is(size: u64) -> io::Result<()> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)?;
    // The kernel keeps a part for itself: 1/64 for its page structures, and some more.
    let least = (size - size / 16 - (64 << 20)) >> 10;
    assert!((least..=size >> 10).contains(&total), "{total} KiB");

    let map = fs::read_to_string("/proc/iomem")?;
    let range = |line: &str| -> Option<(u64, u64)> {
        let (range, what) = line.split_once(" : ")?;
        let (from, to) = range.trim().split_once('-').filter(|_| what == "System RAM")?;
        Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
    };
    let ranges: Vec<(u64, u64)> = map.lines().filter_map(range).collect();
    let end_below = ranges.iter().filter(|(from, _)| *from < HOLE_END).map(|(_, to)| to + 1).max();
    assert_eq!(end_below, Some(size.min(HOLE)), "{map}");
    let above: Vec<&(u64, u64)> = ranges.iter().filter(|(from, _)| *from >= HOLE_END).collect();
    match size.checked_sub(HOLE).filter(|rest| *rest > 0) {
        Some(rest) => assert_eq!(above, [&(HOLE_END, HOLE_END + rest - 1)], "{map}"),
        None => assert!(above.is_empty(), "{map}"),
    }
    Ok(())
}

/// The guest-physical page that is at an address of this process (the kernel's `Documentation/admin-guide/mm/pagemap.rst`).
fn frame(address: usize) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    const FRAME: u64 = (1 << 55) - 1;
    let mut entry = [0; 8];
    let at = u64::try_from(address / PAGE * entry.len()).map_err(io::Error::other)?;
    fs::File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
    Ok(u64::from_le_bytes(entry) & FRAME)
}

#[guest_test(append = "kiln.said=so")]
fn command_line_arrives_whole() -> io::Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    assert!(line.starts_with("console=ttyS0 ") && line.trim_end().ends_with(" kiln.said=so"), "{line}");
    Ok(())
}

#[guest_test]
fn kernel_is_not_tainted() -> io::Result<()> {
    assert_eq!(fs::read_to_string("/proc/sys/kernel/tainted")?.trim(), "0");
    Ok(())
}
