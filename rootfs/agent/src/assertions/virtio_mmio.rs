//! The virtio-mmio devices that the kernel knows are such devices.

use std::collections::BTreeSet;
use std::fs;

use kiln_protocol::addresses::{PROBE_MMIO, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};

use super::physical::Page;
use super::{Case, Outcome, expect};

pub(super) const CASES: &[Case] = &[
    ("virtio_mmio::every_device_has_magic_and_version", every_device_has_magic_and_version),
    ("virtio_mmio::first_device_is_the_console", first_device_is_the_console),
];

const MAGIC: u16 = 0x00;
const VERSION: u16 = 0x04;
const DEVICE_ID: u16 = 0x08;
/// "virt".
const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
/// The version without legacy.
const MODERN: u32 = 2;
/// The console's id.
const CONSOLE: u32 = 3;

/// Where the devices are, by what the kernel lists in `/proc/iomem`.
fn addresses(iomem: &str) -> BTreeSet<u64> {
    let begin = |line: &str| u64::from_str_radix(line.trim_start().split_once('-')?.0, 16).ok();
    let device = |at: &u64| {
        (VIRTIO_MMIO_BASE..PROBE_MMIO).contains(at)
            && (at - VIRTIO_MMIO_BASE).is_multiple_of(VIRTIO_MMIO_SIZE)
    };
    iomem.lines().filter_map(begin).filter(device).collect()
}

fn listed() -> Result<BTreeSet<u64>, String> {
    let iomem =
        fs::read_to_string("/proc/iomem").map_err(|error| format!("/proc/iomem can't be read: {error}"))?;
    let found = addresses(&iomem);
    if found.is_empty() { Err("/proc/iomem lists no virtio-mmio device".to_owned()) } else { Ok(found) }
}

fn every_device_has_magic_and_version() -> Outcome {
    for address in listed()? {
        let page = Page::map(address)?;
        expect(&format!("the magic at {address:#x}"), page.read(MAGIC)?, MAGIC_VALUE)?;
        expect(&format!("the version at {address:#x}"), page.read(VERSION)?, MODERN)?;
    }
    Ok(())
}

fn first_device_is_the_console() -> Outcome {
    let first = listed()?.first().copied().unwrap_or(VIRTIO_MMIO_BASE);
    expect(&format!("the device id at {first:#x}"), Page::map(first)?.read(DEVICE_ID)?, CONSOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_among_other_ranges_once_each() {
        let iomem = "00001000-0009ffff : System RAM\nd0000000-d0000fff : LNRO0005:00\n  \
                     d0000000-d0000fff : LNRO0005:00 LNRO0005:00\nd0001000-d0001fff : virtio-mmio.1\n\
                     d0001010-d00010ff : odd\nd0100000-d0100fff : probe\nnonsense\n";
        assert_eq!(addresses(iomem).into_iter().collect::<Vec<_>>(), [0xd000_0000, 0xd000_1000]);
        assert!(addresses("").is_empty());
    }
}
