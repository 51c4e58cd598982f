//! The end of a guest, and its next beginning: asked for from inside, and taken from outside.

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kiln::agent::{Command, ProcessEvent, Status};
use kiln::cases::{Fault, Guest};
use kiln::guest::Sysfs;
use kiln::{guest_test, vm_test};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than any of these takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

#[vm_test]
fn power_off_by_the_guest_ends_the_machine(guest: &mut Guest) -> Result {
    guest.sysrq('o')?;
    guest.wait_for_console("reboot: Power down", LIMIT)?;
    let error = guest.wait_for_console("no more words", LIMIT).unwrap_err();
    assert!(matches!(error.fault, Fault::Ended { .. }), "{error:?}");
    Ok(())
}

#[vm_test(disk = scratch("1M"))]
fn reset_boots_anew_on_the_disk_as_it_was(guest: &mut Guest) -> Result {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let first = guest.read_text(BOOT_ID)?;
    guest.write("/tmp/in/memory", &b"x"[..])?;
    guest.write("/dev/vda", &b"kept across a reset"[..])?;
    guest.client().sync()?;
    guest.reset()?;
    assert_ne!(guest.read_text(BOOT_ID)?, first);
    assert!(guest.read("/tmp/in/memory").is_err(), "memory is as new");
    assert!(guest.read("/dev/vda")?.starts_with(b"kept across a reset"));
    Ok(())
}

/// Does nothing: that it can be run is the point.
#[guest_test]
fn program_of_the_case_runs() {}

/// Where a fork has the case's program; a guest that booted has it in its image.
const CASE_DISK: &str = "/run/kiln/case";

#[vm_test]
fn fork_that_is_reset_boots_afresh(guest: &mut Guest) -> Result {
    let is_fork =
        |guest: &Guest| guest.read_text("/proc/mounts").map(|text| text.contains(&format!(" {CASE_DISK} ")));
    let boot_id = |guest: &Guest| guest.read_text("/proc/sys/kernel/random/boot_id");
    if !is_fork(guest)? {
        kiln::skip!("its guest booted: no other case has the same machine, or no snapshots are wanted");
    }
    let first = boot_id(guest)?;
    guest.write("/tmp/in/memory", &b"x"[..])?;
    guest.reset()?;
    assert!(!is_fork(guest)?);
    assert_ne!(boot_id(guest)?, first);
    assert!(guest.read("/tmp/in/memory").is_err(), "memory is as new");
    assert!(guest.read("/dev/vda").is_err(), "no disk of the fork's is left");
    let argv = vec![std::env::current_exe()?.to_string_lossy().into_owned()];
    let env = vec![("KILN_GUEST_CASE".to_owned(), "power::program_of_the_case_runs".to_owned())];
    let mut process = guest.client().exec(Command { argv, env, ..Command::default() })?;
    loop {
        match process.next_event()? {
            ProcessEvent::Exited(status) => break assert_eq!(status, Status::Code(0)),
            event => eprintln!("{event:?}"),
        }
    }
    Ok(())
}

#[vm_test(disk = scratch("1M"))]
fn what_was_synced_outlives_a_loss_of_power(guest: &mut Guest) -> Result {
    guest.write("/dev/vda", &b"written and synced"[..])?;
    guest.client().sync()?;
    guest.cut_power();
    let mut bytes = [0; 18];
    guest.open_disk(0)?.read_exact_at(&mut bytes, 0)?;
    assert_eq!(&bytes, b"written and synced");
    assert!(guest.run(&["/sbin/kiln-agent", "--version"]).is_err(), "nobody is there any more");
    Ok(())
}

#[vm_test]
fn sysrq_is_answered_on_the_console(guest: &mut Guest) -> Result {
    guest.sysrq('h')?;
    let line = guest.wait_for_console("sysrq: HELP : .*reboot\\(b\\)", LIMIT)?;
    assert!(line.contains("crash(c)"), "{line}");
    Ok(())
}

#[vm_test(cpus = 2)]
fn dump_of_a_paused_guest_lays_every_processor_open(guest: &mut Guest) -> Result {
    guest.pause()?;
    let dumps = guest.dump()?;
    assert_eq!(dumps.iter().map(|dump| dump.index).collect::<Vec<_>>(), [0, 1]);
    assert!(dumps.iter().all(|dump| dump.registers.rip != 0));
    guest.resume()?;
    assert!(guest.read_text("/proc/version")?.starts_with("Linux"));
    Ok(())
}

#[guest_test]
fn reset_goes_by_the_keyboard_controller() -> io::Result<()> {
    assert_eq!(Sysfs::at("kernel/reboot").read("type")?, "kbd");
    Ok(())
}

#[guest_test]
fn firmware_says_that_the_hardware_is_reduced() -> io::Result<()> {
    /// The flags of the FADT, and the bit (ACPI 6.5, §5.2.9, table 5.10).
    const FLAGS: usize = 112;
    const HW_REDUCED: u32 = 1 << 20;
    let table = std::fs::read("/sys/firmware/acpi/tables/FACP")?;
    let flags = table.get(FLAGS..FLAGS + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    assert!(flags.is_some_and(|flags| flags & HW_REDUCED != 0), "{flags:x?}");
    Ok(())
}
