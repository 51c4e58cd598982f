//! Machines that are saved, and go on in this process and in another one.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, linkme};
use kiln::fixtures::carries_on::{self, COUNT};
use kiln::gate::Needs;
use kiln::protocol::addresses::{GENERATION_ID, GENERATION_ID_SIZE};
use kiln::vmm::config::MachineConfig;
use kiln::vmm::layout::RESERVED_MEMORY;
use kiln::vmm::machine::{
    Chassis, Controller, DebugRequest, Machine, MachineState, Owner, ReservedDisk, RestoreIo, Running,
};
use kiln::vmm::outcome::Outcome;
use kiln::vmm::snapshot::SnapshotError;
use kiln::vmm::vcpu::state::MpState;
use kiln::vmm::vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::control::{Result, build};

/// Far more than any of these takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);
/// The word that ends the guest, and one that is the host's.
const OVER: u64 = COUNT + 8;
const HOSTS: u64 = COUNT + 16;
/// Tells a process that it is to go on from the snapshot of that name.
const GO_ON_FROM: &str = "KILN_SUITES_SNAPSHOT";
const CHILD: &str = "snapshots::machine_goes_on_in_another_process";
/// Likewise, and that it is to lose that snapshot's memory.
const LOSE: &str = "KILN_SUITES_LOST_SNAPSHOT";
const LOSER: &str = "snapshots::process_that_loses_its_snapshots_memory_says_why";
/// The signal's number on x86-64 (signal(7)).
const SIGBUS: i32 = 7;
/// No difference.
const NONE: [String; 0] = [];

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static SNAPSHOTS: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::snapshots::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| kiln::vmm::chain(&*error)))
    };
    vec![
        case("machines_go_on_from_where_one_stood", many_at_once),
        case("machine_goes_on_in_another_process", in_another_process),
        case("machine_without_interrupt_controllers_goes_on", without_irqchip),
        case("each_machine_that_goes_on_is_another_generation", generations),
        case("restored_state_is_the_saved_one", state_is_the_same),
        case("machine_that_went_on_is_saved_again", again),
        case("damaged_snapshot_is_refused_in_words", damaged),
        case("snapshot_takes_nobodys_place", nobodys_place),
        case("snapshot_that_is_removed_leaves_its_machines_alone", removed),
        case("paused_machine_is_saved_by_who_does_not_hold_it", paused),
        case("machine_with_a_debugger_is_not_saved", debugged),
        case("machine_goes_on_with_the_pages_that_another_has_noted", early_pages),
        case("machine_on_what_another_left_finds_nothing_of_it", on_a_chassis),
        case("machine_that_was_not_dismissed_leaves_nothing", no_chassis),
        case("reserved_memory_takes_files_that_fit", reserved_memory),
        case("chassis_of_a_snapshot_that_was_made_anew_is_refused", outdated_chassis),
        case("processor_that_was_never_started_still_waits", never_started),
        case("process_that_loses_its_snapshots_memory_says_why", cut_off),
    ]
};

fn start(irqchip: bool) -> Result<Running> {
    let super::Staged(config, _) = super::flat(&carries_on::payload())?;
    Ok(build(&MachineConfig { irqchip, ..config })?.start()?)
}

/// The word at `at`.
fn word(machine: &Controller, at: u64) -> Result<u64> {
    Ok(machine.memory().read_obj(GuestAddress(at))?)
}

/// Waits until the guest has counted beyond `from`.
fn counted(machine: &Controller, from: u64) -> Result<u64> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match word(machine, COUNT)? {
            now if now > from => return Ok(now),
            now if machine.state() == MachineState::Stopped || Instant::now() > deadline => {
                return Err(format!("it stands at {now} and not past {from}: {:?}", machine.state()).into());
            }
            _ => std::thread::yield_now(),
        }
    }
}

/// A machine in mid-run, saved in `to`; what it had counted.
fn save(to: &Path, irqchip: bool) -> Result<()> {
    let running = start(irqchip)?;
    counted(&running.controller(), 1000)?;
    let ended = running.save(to)?;
    assert_eq!(ended.outcome, Outcome::Stopped);
    Ok(())
}

fn nobody() -> RestoreIo {
    let serial = Box::new(std::io::sink());
    RestoreIo { name: None, serial, console: None, ports: Vec::new(), reserved_disk: None }
}

fn restore(from: &Path) -> std::result::Result<Machine, SnapshotError> {
    Machine::restore(from, nobody())
}

/// Has the guest go on for a while, and end by itself: it has found all of its counts in step until then.
fn finish(running: Running) -> Result<()> {
    let controller = running.controller();
    let now = word(&controller, COUNT)?;
    counted(&controller, now + 1000)?;
    controller.memory().write_obj(1u64, GuestAddress(OVER))?;
    let ended = running.wait(Some(Instant::now() + LIMIT));
    assert_eq!(ended.outcome, Outcome::DebugExit { value: 0 }, "{:?}", ended.dumps);
    Ok(())
}

fn many_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let machines = (0..8).map(|_| restore(&at)).collect::<std::result::Result<Vec<_>, _>>()?;
    let stood = word(&machines[0].controller(), COUNT)?;
    assert!(stood > 1000);
    let mut running = Vec::new();
    for (own, machine) in (1u64..).zip(machines) {
        // What the siblings before it counted and were told is not here.
        assert_eq!(word(&machine.controller(), COUNT)?, stood);
        assert_eq!(word(&machine.controller(), HOSTS)?, 0);
        machine.controller().memory().write_obj(own, GuestAddress(HOSTS))?;
        let machine = machine.start()?;
        counted(&machine.controller(), stood)?;
        running.push(machine);
    }
    for (own, machine) in (1u64..).zip(running) {
        assert_eq!(word(&machine.controller(), HOSTS)?, own);
        finish(machine)?;
    }
    Ok(())
}

fn in_another_process() -> Result<()> {
    if let Some(from) = std::env::var_os(GO_ON_FROM) {
        return finish(restore(Path::new(&from))?.start()?);
    }
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let mut other = Command::new(std::env::current_exe()?);
    let done = other.args(["--exact", CHILD]).env(GO_ON_FROM, &at).output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    // And here as well.
    finish(restore(&at)?.start()?)
}

fn without_irqchip() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, false)?;
    finish(restore(&at)?.start()?)
}

/// The generation ID of a machine.
fn generation(machine: &Controller) -> Result<[u8; GENERATION_ID_SIZE]> {
    Ok(machine.memory().read_obj(GuestAddress(GENERATION_ID))?)
}

fn generations() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // What boots a kernel has ACPI's tables, with or without interrupt controllers.
    for (name, irqchip) in [("with", true), ("without", false)] {
        let super::Staged(config, _kernel) = super::elf(&carries_on::payload())?;
        let running = build(&MachineConfig { irqchip, ..config })?.start()?;
        counted(&running.controller(), 1000)?;
        let mut seen = BTreeSet::from([generation(&running.controller())?]);
        let mut at = folder.path().join(name);
        running.save(&at)?;
        for next in 0..3u8 {
            let machine = restore(&at)?;
            let own = generation(&machine.controller())?;
            assert!(seen.insert(own), "{own:x?} is another's");
            let running = machine.start()?;
            counted(&running.controller(), 1000)?;
            assert_eq!(generation(&running.controller())?, own, "it is the same as long as it runs");
            // Of one that went on itself, the next time.
            if next == 1 {
                at = folder.path().join(format!("{name}-again"));
                running.save(&at)?;
            } else {
                finish(running)?;
            }
        }
        assert_eq!(seen.len(), 4);
    }
    // Bare code has no tables, and its memory is its own.
    let at = folder.path().join("flat");
    save(&at, true)?;
    let machine = restore(&at)?;
    assert_eq!(generation(&machine.controller())?, [0; GENERATION_ID_SIZE]);
    finish(machine.start()?)
}

fn state_is_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let running = start(true)?;
    counted(&running.controller(), 1000)?;
    let owner = Owner::new("test");
    running.controller().hold(&owner)?;
    let saved = running.controller().vcpu_states()?;
    running.save(&at)?;

    let machine = restore(&at)?;
    machine.controller().hold(&owner)?;
    let running = machine.start()?;
    let restored = running.controller().vcpu_states()?;
    assert_eq!(restored[0].differences(&saved[0]), NONE);
    // The time stamp counter goes on: neither anew, nor by the time for which nobody ran.
    let [before, after] = [&saved, &restored].map(|states| states[0].msrs[&0x10]);
    let khz = running.controller().run_on_vcpu(0, |vcpu| vcpu.get_tsc_khz())??;
    let most = LIMIT.as_secs() * 1000 * u64::from(khz);
    assert!((before..before + most).contains(&after), "{before} before, {after} after, {khz} kHz");
    running.controller().release(&owner)?;
    finish(running)
}

fn again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut at = folder.path().join("0");
    save(&at, true)?;
    let mut stood = 1000;
    for generation in 1..4 {
        let running = restore(&at)?.start()?;
        stood = counted(&running.controller(), stood + 1000)?;
        at = folder.path().join(generation.to_string());
        running.save(&at)?;
    }
    let machine = restore(&at)?;
    assert!(word(&machine.controller(), COUNT)? >= stood);
    finish(machine.start()?)
}

/// A copy of the snapshot `from`, with `change` made to its file `name`.
fn changed(from: &Path, name: &str, change: impl Fn(&mut Vec<u8>)) -> Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    for file in ["state.json", "memory"] {
        if file == name {
            let mut bytes = std::fs::read(from.join(file))?;
            change(&mut bytes);
            std::fs::write(copy.path().join(file), bytes)?;
        } else {
            std::os::unix::fs::symlink(from.join(file), copy.path().join(file))?;
        }
    }
    Ok(copy)
}

/// Why the snapshot is refused.
fn refused(from: &Path) -> Result<String> {
    match restore(from) {
        Ok(_) => Err("a damaged snapshot was taken for a good one".into()),
        Err(error) if error.is_stale() => Ok(kiln::vmm::chain(&error)),
        Err(error) => Err(format!("it is not said that it is of no use: {error}").into()),
    }
}

fn damaged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let length = std::fs::metadata(at.join("state.json"))?.len();
    for end in (0..usize::try_from(length)?).step_by(4096) {
        let copy = changed(&at, "state.json", |bytes| bytes.truncate(end))?;
        let why = refused(copy.path())?;
        assert!(why.contains("state.json") && why.contains("damaged"), "{end} bytes: {why}");
    }
    let copy = changed(&at, "state.json", |bytes| *bytes.last_mut().unwrap_or(&mut 0) ^= 1)?;
    assert!(refused(copy.path())?.contains("not those that were written"));
    let copy = changed(&at, "state.json", |bytes| {
        let text = String::from_utf8_lossy(bytes).replacen("\"kiln_snapshot\":", "\"kiln_snapshot\":9", 1);
        *bytes = text.into_bytes();
    })?;
    assert!(refused(copy.path())?.contains("is of version 9"));
    // What was copied whole is good, though each of its bytes had to be read to know.
    let copy = changed(&at, "memory", |_| {})?;
    finish(restore(copy.path())?.start()?)?;

    std::fs::remove_file(copy.path().join("state.json"))?;
    assert!(refused(copy.path())?.contains("can't read"));
    let memory = at.join("memory");
    let whole = std::fs::read(&memory)?;
    std::fs::set_permissions(&memory, std::fs::Permissions::from_mode(0o600))?;
    let mut other = whole.clone();
    other[usize::try_from(COUNT)?] ^= 1;
    for bytes in [&other, &whole[..whole.len() - 4096].to_vec()] {
        std::fs::write(&memory, bytes)?;
        let why = refused(&at)?;
        assert!(why.contains("memory is damaged"), "{why}");
    }
    std::fs::remove_file(&memory)?;
    assert!(refused(&at)?.contains("can't read"));
    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777))?;
    assert!(refused(&at)?.contains("not trusted"));
    Ok(())
}

fn nobodys_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let running = start(true)?;
    let error = running.save(folder.path()).map(drop).unwrap_err();
    assert!(matches!(error, SnapshotError::Write { .. }), "{error}");
    let running = start(true)?;
    let error = running.save(&folder.path().join("none/snapshot")).map(drop).unwrap_err();
    assert!(matches!(error, SnapshotError::Write { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "nothing is left behind");
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let reserved_disk = Some(ReservedDisk::Block(at.join("memory")));
    let error = Machine::restore(&at, RestoreIo { reserved_disk, ..nobody() });
    assert!(matches!(error.map(drop), Err(SnapshotError::NoReservedDisk)));
    Ok(())
}

fn removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let machines = (0..4).map(|_| restore(&at)).collect::<std::result::Result<Vec<_>, _>>()?;
    std::fs::remove_dir_all(&at)?;
    machines.into_iter().try_for_each(|machine| finish(machine.start()?))
}

fn paused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let running = start(true)?;
    counted(&running.controller(), 1000)?;
    running.pause()?;
    let stood = word(&running.controller(), COUNT)?;
    running.save(&at)?;
    let machine = restore(&at)?;
    assert_eq!(word(&machine.controller(), COUNT)?, stood);
    finish(machine.start()?)
}

fn debugged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let running = start(true)?;
    running.controller().attach_debugger(&Owner::new("test"), |_| true)?;
    let error = running.save(&at).map(drop).unwrap_err();
    assert!(matches!(error, SnapshotError::Debugged) && error.to_string().contains("detach it first"));
    // One that has left its wishes behind.
    let running = start(true)?;
    let step = DebugRequest { hardware: Some(([1, 0, 0, 0], 2)), ..DebugRequest::default() };
    running.controller().set_debug_requests(vec![step])?;
    let error = running.save(&at).map(drop).unwrap_err();
    assert!(matches!(error, SnapshotError::Debugged), "{error}");
    assert!(!at.exists());
    // And one that is gone.
    let running = start(true)?;
    running.controller().attach_debugger(&Owner::new("test"), |_| true)?;
    running.controller().set_debug_requests(vec![step])?;
    running.controller().set_debug_requests(vec![DebugRequest::default()])?;
    running.controller().detach_debugger();
    running.save(&at)?;
    finish(restore(&at)?.start()?)
}

/// A file in the reserved disk's place as memory must be one, and fit.
fn reserved_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let super::Staged(config, _) = super::flat(&carries_on::payload())?;
    let running = build(&MachineConfig { reserved_disk: true, ..config })?.start()?;
    counted(&running.controller(), 1000)?;
    running.save(&at)?;
    let with = |disk: &Path| {
        let reserved_disk = Some(ReservedDisk::Memory(disk.to_owned()));
        Machine::restore(&at, RestoreIo { reserved_disk, ..nobody() })
    };
    let (fits, large) = (folder.path().join("fits"), folder.path().join("large"));
    for (path, size) in [(&fits, RESERVED_MEMORY), (&large, RESERVED_MEMORY + 4096)] {
        std::fs::File::create(path)?.set_len(size)?;
    }
    for (bad, words) in [
        (large.as_path(), "has more than 268435456 bytes"),
        (folder.path(), "is neither a regular file nor a block device"),
        (&folder.path().join("none"), "there is no such file"),
    ] {
        let error = with(bad).map(drop).unwrap_err();
        let text = kiln::vmm::chain(&error);
        assert!(text.contains(words) && text.contains(&*bad.to_string_lossy()), "{text}");
    }
    finish(with(&fits)?.start()?)?;
    // Another file takes the place of that one, on what the first machine left.
    let other = folder.path().join("other");
    std::fs::write(&other, [7; 4096])?;
    let mut chassis = dismissed(with(&fits)?.start()?)?;
    for disk in [&other, &other, &fits] {
        let reserved_disk = Some(ReservedDisk::Memory(disk.clone()));
        let machine = Machine::restore_on_chassis(chassis, RestoreIo { reserved_disk, ..nobody() })?;
        let running = machine.start()?;
        counted(&running.controller(), 1000)?;
        chassis = dismissed(running)?;
    }
    finish(Machine::restore_on_chassis(chassis, nobody())?.start()?)
}

/// What a machine is, before its first instruction: its vCPUs, and all of its RAM.
fn before_start(machine: &Machine) -> Result<Vec<u8>> {
    let memory = machine.controller().memory().clone();
    let mut bytes = vec![0; usize::try_from(memory.last_addr().0 + 1)?];
    memory.read_slice(&mut bytes, GuestAddress(0))?;
    Ok(bytes)
}

/// Lets a machine go while its guest runs, and gives what it leaves.
fn dismissed(running: Running) -> Result<Chassis> {
    running.controller().dismiss();
    let (ended, chassis) = running.wait_and_keep(Some(Instant::now() + LIMIT));
    assert_eq!(ended.outcome, Outcome::Dismissed);
    assert!(ended.dumps.is_empty(), "nobody asked where it stood");
    Ok(chassis.ok_or("a machine that was dismissed left nothing")?)
}

fn on_a_chassis() -> Result<()> {
    for (irqchip, cpus) in [(true, 1), (false, 1), (true, 2)] {
        let folder = tempfile::tempdir()?;
        let at = folder.path().join("snapshot");
        let super::Staged(config, _) = super::flat(&carries_on::payload())?;
        let running = build(&MachineConfig { irqchip, cpus, ..config })?.start()?;
        counted(&running.controller(), 1000)?;
        running.save(&at)?;
        let owner = Owner::new("test");
        let machine = restore(&at)?;
        let fresh = before_start(&machine)?;
        machine.controller().hold(&owner)?;
        let mut running = machine.start()?;
        let states = running.controller().vcpu_states()?;
        running.controller().release(&owner)?;
        for round in 0..20 {
            // It writes where it likes, and so does the host; it ends anywhere, in the middle of an access to a port, too.
            let stood = word(&running.controller(), COUNT)?;
            counted(&running.controller(), stood + 100 * round)?;
            running.controller().memory().write_obj(round + 1, GuestAddress(HOSTS))?;
            let last = running.controller().memory().last_addr();
            running.controller().memory().write_obj(1u8, last)?;
            let chassis = dismissed(running)?;
            assert!(chassis.is_current() && chassis.folder() == at);
            let machine = Machine::restore_on_chassis(chassis, nobody())?;
            assert!(before_start(&machine)? == fresh, "RAM is not the snapshot's");
            machine.controller().hold(&owner)?;
            running = machine.start()?;
            let again = running.controller().vcpu_states()?;
            for (again, before) in again.iter().zip(&states) {
                assert_eq!(again.differences(before), NONE, "in round {round}");
            }
            running.controller().release(&owner)?;
        }
        finish(running)?;
    }
    Ok(())
}

fn no_chassis() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let left = |running: Running| running.wait_and_keep(Some(Instant::now() + LIMIT)).1;
    // One that booted.
    let running = start(true)?;
    running.controller().dismiss();
    assert!(left(running).is_none());
    // One that ended otherwise, and one that a debugger looked at.
    let running = restore(&at)?.start()?;
    running.controller().stop();
    running.controller().dismiss();
    assert!(left(running).is_none());
    let running = restore(&at)?.start()?;
    running.controller().attach_debugger(&Owner::new("test"), |_| true)?;
    running.controller().dismiss();
    assert!(left(running).is_none());
    Ok(())
}

fn outdated_chassis() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let chassis = [(); 2].map(|()| dismissed(restore(&at)?.start()?));
    std::fs::remove_dir_all(&at)?;
    save(&at, true)?;
    for chassis in chassis {
        let chassis = chassis?;
        assert!(!chassis.is_current());
        let error = Machine::restore_on_chassis(chassis, nobody()).map(drop).unwrap_err();
        assert!(error.is_stale(), "{error}");
        assert!(error.to_string().contains("damaged"), "{error}");
    }
    finish(restore(&at)?.start()?)
}

fn early_pages() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let running = start(true)?;
    assert_eq!(running.note_early_pages()?, 0, "it went on from nothing");
    counted(&running.controller(), 1000)?;
    running.save(&at)?;
    let first = restore(&at)?.start()?;
    let stood = word(&first.controller(), COUNT)?;
    counted(&first.controller(), stood + 1000)?;
    assert!(first.note_early_pages()? > 0, "it has counted in a page of its own");
    finish(first)?;
    let machines = (0..3).map(|_| restore(&at)).collect::<std::result::Result<Vec<_>, _>>()?;
    assert!(
        word(&machines[0].controller(), COUNT)? <= stood,
        "it has the page, and not what was written there"
    );
    machines.into_iter().try_for_each(|machine| finish(machine.start()?))
}

fn never_started() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let super::Staged(config, _) = super::flat(&carries_on::payload())?;
    let running = build(&kiln::vmm::config::MachineConfig { cpus: 2, ..config })?.start()?;
    counted(&running.controller(), 1000)?;
    running.save(&at)?;
    let running = restore(&at)?.start()?;
    let states = running.controller().vcpu_states()?;
    assert_eq!(states[1].mp_state, MpState::Uninitialized);
    finish(running)
}

fn cut_off() -> Result<()> {
    if let Some(from) = std::env::var_os(LOSE) {
        let machine = restore(Path::new(&from))?;
        let memory = Path::new(&from).join("memory");
        std::fs::set_permissions(&memory, std::fs::Permissions::from_mode(0o600))?;
        std::fs::OpenOptions::new().write(true).open(&memory)?.set_len(0)?;
        return Err(format!("it has read {} where nothing is", word(&machine.controller(), COUNT)?).into());
    }
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    save(&at, true)?;
    let mut other = Command::new(std::env::current_exe()?);
    let done = other.args(["--exact", LOSER]).env(LOSE, &at).current_dir(folder.path()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.signal(), Some(SIGBUS), "{:?}: {said}", done.status);
    assert!(said.contains("SIGBUS") && said.contains("was cut off"), "{said}");
    Ok(())
}
