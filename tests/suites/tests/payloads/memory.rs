//! The memory map of a machine that runs: windows that move, ROMs that come and go, pages that were written, RAM of each kind.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use kiln::cases::{CASES, Case, linkme};
use kiln::fixtures::{self, memory as fixture};
use kiln::gate::Needs;
use kiln::vmm::config::MachineConfig;
use kiln::vmm::machine::{ControlError, Controller, Ended, Machine, MachineError, MachineIo};
use kiln::vmm::memory::{MapError, MemoryError, Readable};
use kiln::vmm::outcome::Outcome;
use kiln::vmm::trace::AccessCount;
use kiln::vmm::vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::control::{Result, expect, machine, with};

/// Far more than a payload needs to come to where it waits.
const LIMIT: Duration = Duration::from_secs(60);
/// Every access of `window-moves` but those that ring and those that are collected; the ring is full twice.
const EXITS: u64 = 70;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static MEMORY: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::memory::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()))
    };
    vec![
        case("doorbell_of_a_window_that_moved_rings_with_no_exit", doorbell_rings_with_no_exit),
        case("pages_that_guest_and_devices_write_are_told_once", pages_written_are_told_once),
        case("rom_comes_and_goes_while_the_guest_runs", rom_comes_and_goes),
        case("machine_runs_on_ram_of_each_kind", machine_runs_on_ram_of_each_kind),
        case("transparent_huge_pages_are_used_where_the_host_has_them", huge_pages_are_used),
    ]
};

fn doorbell_rings_with_no_exit() -> Result<()> {
    let machine = machine("window-moves")?;
    let doorbells = machine.doorbells().ok_or("the probe has a doorbell")?;
    let ended = with(machine, |_| Ok(()))?;
    // The guest itself has seen where the window was, and how often it rang.
    expect(&ended, &Outcome::DebugExit { value: 0 })?;
    assert_eq!(doorbells.rung(), 1005);
    let exits = ended.trace.total_exits();
    assert!(exits <= EXITS, "{exits} exits: {:?}", ended.trace.vcpus[0].exits);
    // Those that are no ring.
    let writes = ended.trace.devices().get("probe window").map(|count| count.writes);
    assert_eq!(writes, Some(2 + 500));
    // At places where the window was not.
    assert_eq!(ended.trace.vcpus[0].nothing, AccessCount { reads: 3, writes: 1 });
    Ok(())
}

/// Tells of each byte that comes.
struct Line(Sender<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().try_for_each(|byte| self.0.send(*byte)).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The machine for a payload that says when it waits for its host.
fn waiting(name: &str) -> Result<(Machine, Receiver<u8>)> {
    let payload = fixtures::with_a_host().into_iter().find(|payload| payload.name == name);
    let super::Staged(config, _) = super::flat(&payload.ok_or("no such payload")?)?;
    let (said, says) = mpsc::channel();
    let io = MachineIo { serial: Box::new(Line(said)), console: None, ports: Vec::new() };
    Ok((Machine::new(&config, io)?, says))
}

fn waits(says: &Receiver<u8>) -> Result<()> {
    assert_eq!(says.recv_timeout(LIMIT)?, fixture::WAITS);
    Ok(())
}

/// The pages that were written, but for those of tables, in which a processor notes what it used.
fn fetch(controller: &Controller) -> Result<Vec<u64>> {
    const TABLES_END: u64 = 0x2_0000;
    let pages = controller.fetch_dirty_log()?;
    Ok(pages.addresses().filter(|page| *page >= TABLES_END).collect())
}

fn pages_written_are_told_once() -> Result<()> {
    let (machine, says) = waiting("pages-written")?;
    let controller = machine.controller();
    controller.start_dirty_log()?;
    let ended = with(machine, move |controller| {
        waits(&says)?;
        controller.pause()?;
        assert_eq!(fetch(controller)?, [0x30_0000, 0x30_2000, 0x30_3000, 0x30_4000, 0x50_0000]);
        assert_eq!(controller.fetch_dirty_log()?.count(), 0);
        // The VMM's own.
        go(controller)?;
        assert_eq!(fetch(controller)?, [u64::from(fixture::GO)]);
        controller.resume()?;
        Ok(())
    })?;
    expect(&ended, &Outcome::DebugExit { value: 0 })?;
    // The guest's, and its device's.
    assert_eq!(fetch(&controller)?, [0x30_7000, 0x60_0000, 0x60_1000]);
    assert_eq!(controller.fetch_dirty_log()?.count(), 0);
    controller.stop_dirty_log()?;
    go(&controller)?;
    let over = controller.fetch_dirty_log();
    assert!(matches!(over, Err(ControlError::Map(MapError::NoLog))), "{over:?}");
    Ok(())
}

/// Lets a payload go on.
fn go(controller: &Controller) -> Result<()> {
    Ok(controller.memory().write_obj(1u32, GuestAddress(fixture::GO.into()))?)
}

fn rom_comes_and_goes() -> Result<()> {
    let (machine, says) = waiting("rom-comes-and-goes")?;
    let rom = |word: u32| word.to_le_bytes().repeat(0x400);
    let [first, second] = fixture::ROM_WORDS;
    let controller = machine.controller();
    let ended = with(machine, move |controller| {
        let id = controller.add_rom("first ROM", fixture::ROM, &rom(first))?;
        waits(&says)?;
        let overlap = controller.add_rom("other ROM", fixture::ROM, &rom(second)).unwrap_err();
        assert!(format!("{overlap:?}").contains("Overlap"), "{overlap:?}");
        controller.remove_rom(id)?;
        controller.add_rom("second ROM", fixture::ROM, &rom(second))?;
        Ok(())
    })?;
    expect(&ended, &Outcome::DebugExit { value: 0 })?;
    // The guest has seen that they changed nothing.
    let devices = ended.trace.devices();
    assert_eq!(devices.get("first ROM").map(|count| count.writes), Some(2), "{devices:?}");
    assert_eq!(ended.trace.vcpus[0].nothing.writes, 0);
    let mut word = [0; 4];
    assert!(controller.view().read_at(fixture::ROM + 0xffc, &mut word));
    assert_eq!(word, second.to_le_bytes());
    Ok(())
}

fn run_on(backing: &str) -> std::result::Result<Ended, MachineError> {
    let payload = fixtures::by_name("probe-dma").map(super::flat);
    let Some(Ok(super::Staged(config, _))) = payload else {
        return Err(MachineError::Io(io::ErrorKind::NotFound.into()));
    };
    let backing = backing.parse().map_err(|error: String| MachineError::Io(io::Error::other(error)))?;
    let config = MachineConfig { memory_backing: backing, ..config };
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports: Vec::new() };
    Ok(Machine::new(&config, io)?.start()?.wait(Some(std::time::Instant::now() + LIMIT)))
}

fn machine_runs_on_ram_of_each_kind() -> Result<()> {
    for kind in ["transparent", "off", "explicit"] {
        for rest in ["", ",shared", ",prefault", ",shared,prefault"] {
            let backing = format!("huge-pages={kind}{rest}");
            match run_on(&backing) {
                Ok(ended) => expect(&ended, &Outcome::DebugExit { value: 0 })?,
                // A host that has none set aside says so.
                Err(MachineError::Memory(error)) if kind == "explicit" => {
                    let words = matches!(error, MemoryError::NoHugePages)
                        || error.to_string().contains("8 huge pages of 2 MiB")
                            && error.to_string().contains("`sysctl vm.nr_hugepages=");
                    assert!(words, "{backing}: {error}");
                }
                Err(error) => return Err(format!("{backing}: {error}").into()),
            }
        }
    }
    Ok(())
}

/// How much of the mapping at `address` lies on transparent huge pages, in KiB.
fn on_huge_pages(address: usize) -> Result<u64> {
    let mut inside = false;
    for line in std::fs::read_to_string("/proc/self/smaps")?.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        if let Some((from, to)) = range {
            let [from, to] = [from, to].map(|text| usize::from_str_radix(text, 16));
            inside = (from?..to?).contains(&address);
        } else if let (true, Some(size)) = (inside, line.strip_prefix("AnonHugePages:")) {
            return Ok(size.trim().trim_end_matches(" kB").parse()?);
        }
    }
    Err("there is no such mapping".into())
}

fn huge_pages_are_used() -> Result<()> {
    const SECOND: GuestAddress = GuestAddress(2 << 20);
    // Whether the host has one to give now: RAM that nobody but this test touches.
    let other = kiln::vmm::memory::allocate(8 << 20)?;
    other.write_obj(1u8, SECOND)?;
    let has = on_huge_pages(other.get_host_address(SECOND)?.addr())? > 0;
    let (machine, says) = waiting("pages-written")?;
    with(machine, move |controller| {
        waits(&says)?;
        let used = on_huge_pages(controller.memory().get_host_address(SECOND)?.addr())?;
        assert!(used > 0 || !has, "the guest has touched two of them");
        go(controller)
    })?;
    Ok(())
}
