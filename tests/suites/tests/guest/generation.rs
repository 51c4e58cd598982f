//! The generation ID of a guest's machine, and kernels that learn from it that they were forked.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};

use kiln::agent::Command;
use kiln::cases::{CASES, Case, linkme, machine_on};
use kiln::gate::Needs;
use kiln::guest::{Mmio, Sysfs};
use kiln::guest_test;
use kiln::protocol::addresses::{GENERATION_ID, GENERATION_ID_SIZE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use super::forks::Place;
use super::words::line;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A packaged kernel that has the driver: its options have `CONFIG_VMGENID`.
const KERNEL: &str = "6.12";
/// What such a kernel says when it has found another ID (drivers/char/random.c).
const LEARNED: &str = "crng reseeded due to virtual machine fork";
/// For how many seconds it may say nothing at all before it says so: far more than a guest in the lab takes for that.
const SILENT: i64 = 600;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static GENERATION: fn() -> Vec<Case> = || {
    let body = || kernel_learns().map_err(|error| kiln::vmm::chain(&*error));
    let case = Case::host("guest::generation::kernel_learns_of_a_fork_by_itself", Needs::Linux, body);
    vec![case.booting(KERNEL).ignore("fetches a second kernel: `cargo xtask ci` runs it")]
};

/// The ID of this guest's machine.
pub(crate) fn id() -> io::Result<String> {
    let page = Mmio::map(GENERATION_ID, 4096)?;
    Ok((0..GENERATION_ID_SIZE).map(|at| format!("{:02x}", page.read8(at))).collect())
}

#[guest_test]
fn acpi_says_where_the_generation_id_is() -> Result {
    let device = Sysfs::at("bus/acpi/devices/KILN0001:00");
    assert_eq!(device.read("modalias")?, "acpi:KILN0001:VM_GEN_COUNTER:");
    assert!(Sysfs::at("bus/acpi/devices").has("ACPI0013:00"));
    let table = fs::read("/sys/firmware/acpi/tables/DSDT")?;
    // A package of two numbers, the first in four bytes, the other zero (ACPI 6.5 §20.2).
    let head = b"ADDR\x12\x08\x02\x0c";
    let at = table.windows(head.len()).position(|bytes| bytes == head).ok_or("no ADDR")? + head.len();
    let (low, rest) = table[at..].split_first_chunk().ok_or("it ends")?;
    assert_eq!((u64::from(u32::from_le_bytes(*low)), rest[0]), (GENERATION_ID, 0));
    // Where the kernel has nothing.
    let map = fs::read_to_string("/proc/iomem")?;
    let is_there = |line: &&str| {
        let range = line.split(" : ").next().and_then(|range| range.split_once('-'));
        let (first, last) = range.unwrap_or_default();
        let number = |text| u64::from_str_radix(text, 16).ok();
        number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&GENERATION_ID))
    };
    let on = map.lines().find(is_there);
    assert!(on.is_some_and(|line| line.ends_with(" : Reserved")), "{on:?} in {map}");
    assert_ne!(id()?, "0".repeat(2 * GENERATION_ID_SIZE));
    Ok(())
}

/// Waits, for each line, until the kernel has said that it was forked, and tells its words and the ID.
#[guest_test]
fn kernel_says_that_it_was_forked() -> Result {
    for line in io::stdin().lock().lines() {
        line?;
        let said = said(LEARNED)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{} {said}", id()?)?;
        out.flush()?;
    }
    Ok(())
}

/// Waits for a record of the kernel's log with `words` in it.
fn said(words: &str) -> Result<String> {
    let nonblocking = OFlags::NONBLOCK | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut log = File::from(rustix::fs::open("/dev/kmsg", nonblocking, Mode::empty())?);
    let mut record = vec![0; 16 << 10];
    loop {
        let wait = Timespec { tv_sec: SILENT, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&log, PollFlags::IN)], Some(&wait))? == 0 {
            return Err(format!("the kernel does not say {words:?}").into());
        }
        match log.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if let Some(line) = text.lines().find(|line| line.contains(words)) {
                    return Ok(line.to_owned());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn kernel_learns() -> Result {
    let place = Place::of(machine_on(KERNEL, 1, 192)?)?;
    let snapshot = place.snapshot()?;
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let fork = place.fork(&snapshot)?;
        let argv = vec![std::env::current_exe()?.to_string_lossy().into_owned()];
        let env = ("KILN_GUEST_CASE".to_owned(), "generation::kernel_says_that_it_was_forked".to_owned());
        let command = Command { argv, env: vec![env], stdin: true, ..Command::default() };
        let mut process = fork.client.exec(command)?;
        let mut stdin = process.take_stdin().ok_or("no standard input")?;
        writeln!(stdin, "tell")?;
        let said = line(&mut process)?;
        eprintln!("{said}");
        let (id, _) = said.split_once(' ').ok_or("no words")?;
        assert!(ids.insert(id.to_owned()), "another guest had the ID {id}");
    }
    Ok(())
}
