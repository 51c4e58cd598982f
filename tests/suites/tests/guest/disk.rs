//! Bytes on a disk, from the host to the guest and back.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use kiln::cases::Guest;
use kiln::vm_test;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// Not a multiple of anything that a disk likes.
const OFFSET: u64 = 3 * 4096 + 512;

/// Bytes that tell their place: no block looks like another.
fn pattern(length: usize, seed: u32) -> Vec<u8> {
    (0..)
        .flat_map(|n: u32| n.wrapping_add(seed).wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

#[vm_test(disk = scratch("16M"))]
fn a_host_write_reaches_the_guest(guest: &mut Guest) -> Result {
    let wanted = pattern(1 << 20, 1);
    guest.open_disk(0)?.write_all_at(&wanted, OFFSET)?;
    let mut seen = Vec::new();
    guest.client().get("/dev/vda", &mut seen)?;
    assert_eq!(seen.len(), 16 << 20, "the guest sees the disk's size");
    let at = usize::try_from(OFFSET)?;
    assert!(seen[at..at + wanted.len()] == wanted[..], "the guest reads what the host wrote");
    Ok(())
}

#[vm_test(disk = scratch("16M"))]
fn a_guest_write_reaches_the_host(guest: &mut Guest) -> Result {
    let wanted = pattern(16 << 20, 2);
    guest.client().put("/dev/vda", 0o600, &mut wanted.as_slice())?;
    guest.client().sync()?;
    let mut file = guest.open_disk(0)?;
    let mut seen = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut seen)?;
    assert!(seen == wanted, "the host reads what the guest wrote");
    Ok(())
}

#[vm_test(disk = scratch("1M"), disk = scratch("2M"))]
fn disks_keep_their_order(guest: &mut Guest) -> Result {
    guest.open_disk(1)?.write_all(b"the second")?;
    let mut seen = Vec::new();
    guest.client().get("/dev/vdb", &mut seen)?;
    assert_eq!(seen.len(), 2 << 20);
    assert!(seen.starts_with(b"the second"));
    Ok(())
}
