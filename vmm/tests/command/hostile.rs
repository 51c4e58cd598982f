//! Guests that do harm for as long as they are let: the machine's memory stays as it is.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::gate::Needs;
use kiln_fixtures::{Ends, Payload};

/// The processor time, in clock ticks of a hundredth of a second, by which such a guest is at work; and by which it has
/// done a lot of it.
const AT_WORK: u64 = 30;
const LONG_AT_WORK: u64 = 90;
/// What a machine may grow by meanwhile, in KiB: threads that wake for the first time, an allocator's slack.
const GROWTH: u64 = 512;
/// Far longer than that takes on a busy host.
const LIMIT: Duration = Duration::from_secs(120);

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static HOSTILE: fn() -> Vec<Case> = || {
    let all = kiln_fixtures::all().iter().copied().chain(kiln_fixtures::with_interrupts());
    // Those that say something, or measure, mean no harm.
    let hostile = |one: &Payload| {
        one.ends == Ends::Never && ["flood", "storm", "endless"].iter().any(|word| one.name.ends_with(word))
    };
    let case = |payload: Payload| {
        let path = format!("command::hostile::{}_does_not_grow_the_machine", payload.name.replace('-', "_"));
        Case::host(&path, Needs::Payload, move || does_not_grow(&payload))
    };
    all.filter(hostile).map(case).collect()
};

/// Ends with the case.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _it_has_ended = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Running {
    fn read(&self, file: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{file}", self.0.id());
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }

    /// The processor time that it has used, in clock ticks (proc(5), `stat`: the 14th and 15th fields).
    fn cpu_time(&self) -> Result<u64, String> {
        let stat = self.read("stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>());
        ticks.sum::<Result<_, _>>().map_err(|error| error.to_string())
    }

    /// Its own memory and the guest's, in KiB.
    fn memory(&self) -> Result<u64, String> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        kib.ok_or_else(|| "no RssAnon: it has ended".to_owned())
    }

    fn wait_for(&self, ticks: u64) -> Came {
        let deadline = Instant::now() + LIMIT;
        while self.cpu_time()? < ticks {
            if Instant::now() > deadline {
                return Err(format!("it has not used {ticks} ticks within {LIMIT:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn does_not_grow(payload: &Payload) -> Came {
    let kernel = super::file(&payload.elf())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-vmm"));
    command.args(["run", "--mem", "16"]).arg(kernel.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let machine = Running(command.spawn().map_err(|error| error.to_string())?);
    machine.wait_for(AT_WORK)?;
    let before = machine.memory()?;
    machine.wait_for(LONG_AT_WORK)?;
    let after = machine.memory()?;
    if after <= before + GROWTH { Ok(()) } else { Err(format!("{before} KiB, then {after} KiB")) }
}
