//! Bare-metal payloads on the machine: each ends, and says, what it promises.

#[path = "payloads/coalesced.rs"]
mod coalesced;
#[path = "payloads/control.rs"]
mod control;
#[path = "payloads/dumps.rs"]
mod dumps;
#[path = "payloads/gdb.rs"]
mod gdb;
#[path = "payloads/interrupts.rs"]
mod interrupts;
#[path = "payloads/memory.rs"]
mod memory;
#[path = "payloads/socket.rs"]
mod socket;
#[path = "payloads/state.rs"]
mod state;
#[path = "payloads/steps.rs"]
mod steps;
#[path = "payloads/strict.rs"]
mod strict;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::fixtures::{self, Ends, Mode, Payload};
use kiln::gate::Needs;
use kiln::vmm::config::{Boot, CpuMode, MachineConfig};
use kiln::vmm::machine::{Ended, Machine, MachineIo};
use kiln::vmm::outcome::Outcome;

/// Far more than any payload that ends takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);
/// How long one that never ends is let run.
const GLIMPSE: Duration = Duration::from_millis(200);

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static PAYLOADS: fn() -> Vec<Case> = || {
    let mut cases = Vec::new();
    for payload in fixtures::all() {
        let name = payload.name.replace('-', "_");
        for (way, with) in WAYS {
            let path = format!("payloads::{way}::{name}");
            cases.push(Case::host(&path, Needs::Payload, move || run(payload, *with)));
        }
    }
    cases
};

/// The machines that each payload runs on.
const WAYS: &[(&str, Stage)] = &[("flat", flat), ("without_irqchip", without_irqchip), ("elf", elf)];

/// A machine, and the kernel file that it boots if it boots one.
struct Staged(MachineConfig, Option<tempfile::NamedTempFile>);

fn flat(payload: &Payload) -> io::Result<Staged> {
    let mode = match payload.mode {
        Mode::Real16 => CpuMode::Real16,
        Mode::Protected32 => CpuMode::Protected32,
        Mode::Long64 => CpuMode::Long64,
    };
    let boot = Boot::Flat { code: payload.code.to_vec(), address: payload.address, mode };
    Ok(Staged(MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() }, None))
}

fn without_irqchip(payload: &Payload) -> io::Result<Staged> {
    let Staged(config, _) = flat(payload)?;
    Ok(Staged(MachineConfig { irqchip: false, ..config }, None))
}

fn elf(payload: &Payload) -> io::Result<Staged> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&payload.elf())?;
    let boot = Boot::Kernel { kernel: file.path().to_owned(), initrd: None, cmdline: String::new() };
    Ok(Staged(MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() }, Some(file)))
}

/// Makes the machine for a payload.
type Stage = fn(&Payload) -> io::Result<Staged>;

/// What the payload wrote to COM1.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(payload: &Payload, stage: Stage) -> Came {
    let Staged(config, _kernel) = stage(payload).map_err(|error| error.to_string())?;
    let said = Said::default();
    let machine = MachineIo { serial: Box::new(said.clone()), console: None, ports: Vec::new() };
    let limit = if payload.ends == Ends::Never { GLIMPSE } else { LIMIT };
    let ended = Machine::new(&config, machine)
        .and_then(Machine::start)
        .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?
        .wait(Some(Instant::now() + limit));
    let said = said.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    judge(payload, &ended, &String::from_utf8_lossy(&said))
}

fn judge(payload: &Payload, ended: &Ended, said: &str) -> Came {
    let as_promised = match payload.ends {
        Ends::Exit(value) => ended.outcome == Outcome::DebugExit { value },
        Ends::Halted => ended.outcome == Outcome::Halted,
        Ends::TripleFault => ended.outcome == Outcome::TripleFault { cpu: 0 },
        Ends::InternalError => ended.outcome == Outcome::InternalError { cpu: 0, suberror: 1 },
        Ends::Never => ended.outcome == Outcome::Stopped,
    };
    let last = ended.trace.vcpus.first().and_then(|vcpu| vcpu.accesses.last());
    if !as_promised {
        return Err(format!(
            "{:?} was promised, {:?} came; its last access: {last:?}",
            payload.ends, ended.outcome
        ));
    }
    let spoke = match (payload.ends, payload.says_last) {
        // One that never ends was cut off somewhere: all that came is what it says over and over.
        (Ends::Never, _) if payload.says.is_empty() => said.is_empty(),
        (Ends::Never, _) => said.starts_with(payload.says) || payload.says.starts_with(said),
        (_, true) => said.ends_with(payload.says),
        (_, false) => said == payload.says,
    };
    if spoke { Ok(()) } else { Err(format!("it was to say {:?}, it said {said:?}", payload.says)) }
}

kiln::main!();
