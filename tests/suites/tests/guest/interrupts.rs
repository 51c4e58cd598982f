//! Interrupts: who asked for them, that they come, and that none comes astray.

use std::fs;
use std::io;

use kiln::guest::{Block, Mmio, Sysfs};
use kiln::guest_test;
use kiln::protocol::addresses::{PROBE_MMIO, PROBE_MMIO_SIZE};
use kiln::protocol::probe;

/// The line of `/proc/interrupts` that ends or begins with `name`: the counts of all processors together.
pub(crate) fn count(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let is_named = |line: &&str| {
        line.split_whitespace().next_back() == Some(name)
            || line.trim_start().starts_with(&format!("{name}:"))
    };
    let line = text.lines().find(is_named).ok_or_else(|| io::Error::other(format!("no {name} in {text}")))?;
    Ok(line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum())
}

#[guest_test(disk = scratch("1M"))]
fn each_request_to_a_disk_ends_by_an_interrupt() -> io::Result<()> {
    let disk = Block::open("vda")?;
    let before = count("virtio1")?;
    for sector in 0..20 {
        let _sector = disk.read(sector, 1)?;
    }
    let came = count("virtio1")? - before;
    assert!(came >= 20, "{came}");
    Ok(())
}

#[guest_test]
fn interrupt_of_the_acpi_and_errors_stay_away() -> io::Result<()> {
    assert_eq!((count("ERR")?, count("MIS")?), (0, 0));
    Ok(())
}

#[guest_test(cpus = 2)]
fn processors_call_each_other() -> io::Result<()> {
    let before = count("CAL")? + count("RES")?;
    // Taking a processor away and bringing it back goes by calls to the others.
    let second = Sysfs::at("devices/system/cpu/cpu1");
    second.write("online", "0")?;
    second.write("online", "1")?;
    assert!(count("CAL")? + count("RES")? > before);
    Ok(())
}

#[guest_test]
fn probe_counts_the_interrupts_that_it_raises() -> io::Result<()> {
    let bank = Mmio::map(PROBE_MMIO, usize::try_from(PROBE_MMIO_SIZE).map_err(io::Error::other)?)?;
    let before = bank.read32(probe::INTERRUPT.into());
    for _ in 0..3 {
        bank.write32(probe::INTERRUPT.into(), 1);
    }
    assert_eq!(bank.read32(probe::INTERRUPT.into()), before + 3);
    Ok(())
}
