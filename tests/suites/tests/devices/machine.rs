//! A small machine for a payload, and what came of it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln::cases::{Case, Outcome as Came};
use kiln::fixtures::{self, Mode, Payload};
use kiln::gate::Needs;
use kiln::vmm::config::{Boot, CpuMode, MachineConfig};
use kiln::vmm::machine::{Ended, Machine, MachineIo};
use kiln::vmm::outcome::Outcome;

/// Far more than any payload that ends takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

/// What the payload wrote to COM1.
#[derive(Clone, Default)]
pub(crate) struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A case of this suite that runs on the host.
pub(crate) fn case(module: &str, name: &str, body: fn() -> Came) -> Case {
    Case::host(&format!("devices::{module}::{name}"), Needs::Payload, body)
}

/// A machine of 16 MiB for the payload of that name.
pub(crate) fn config(name: &str) -> Result<MachineConfig, String> {
    let payload = payload(name)?;
    let mode = match payload.mode {
        Mode::Real16 => CpuMode::Real16,
        Mode::Protected32 => CpuMode::Protected32,
        Mode::Long64 => CpuMode::Long64,
    };
    let boot = Boot::Flat { code: payload.code.to_vec(), address: payload.address, mode };
    Ok(MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() })
}

/// The payload of that name among those that need devices.
pub(crate) fn payload(name: &str) -> Result<Payload, String> {
    let found = fixtures::with_devices().into_iter().find(|payload| payload.name == name);
    found.ok_or_else(|| format!("no payload named {name}"))
}

/// Builds the machine, and keeps what it says on COM1.
pub(crate) fn build(config: &MachineConfig) -> Result<(Machine, Said), String> {
    let said = Said::default();
    let ends = MachineIo { serial: Box::new(said.clone()), console: None, ports: Vec::new() };
    let machine = Machine::new(config, ends);
    Ok((machine.map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?, said))
}

/// Lets the machine run to its end, which must be the value 0 at the debug-exit port.
pub(crate) fn passes(machine: Machine) -> Came {
    let running = machine.start().map_err(|error| error.to_string())?;
    let ended = running.wait(Some(Instant::now() + LIMIT));
    if ended.outcome == (Outcome::DebugExit { value: 0 }) {
        return Ok(());
    }
    let last = ended.trace.vcpus.first().and_then(|vcpu| vcpu.accesses.last());
    Err(format!("it ended with {:?}; its last access: {last:?}", ended.outcome))
}

/// Fails unless what came is what was expected.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(came: T, expected: T) -> Came {
    if came == expected { Ok(()) } else { Err(format!("{expected:?} was expected, {came:?} came")) }
}

/// Runs the machine to its end; tells how it ended and what it said on COM1.
pub(crate) fn run(config: &MachineConfig) -> Result<(Ended, String), String> {
    let said = Said::default();
    let ends = MachineIo { serial: Box::new(said.clone()), console: None, ports: Vec::new() };
    let ended = Machine::new(config, ends)
        .and_then(Machine::start)
        .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?
        .wait(Some(Instant::now() + LIMIT));
    Ok((ended, said.text()))
}

/// Runs the machine, which must end with `value` written to the debug-exit port and `says` on COM1.
pub(crate) fn expect(config: &MachineConfig, value: u32, says: &str) -> Came {
    let (ended, said) = run(config)?;
    if ended.outcome != (Outcome::DebugExit { value }) {
        let last = ended.trace.vcpus.first().and_then(|vcpu| vcpu.accesses.last());
        return Err(format!(
            "it ended with {:?}; it said {said:?}; its last access: {last:?}",
            ended.outcome
        ));
    }
    if said == says { Ok(()) } else { Err(format!("it was to say {says:?}, it said {said:?}")) }
}

/// A file with `bytes`, for as long as it is held.
pub(crate) fn file(bytes: &[u8]) -> Result<tempfile::NamedTempFile, String> {
    let written = tempfile::NamedTempFile::new().and_then(|mut file| file.write_all(bytes).map(|()| file));
    written.map_err(|error| error.to_string())
}
