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

#[guest_test(memory = "512M")]
fn memory_is_what_was_asked_for() -> io::Result<()> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: u64 = total.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)?;
    assert!((400 << 10..=512 << 10).contains(&kib), "{kib} KiB");
    Ok(())
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
