//! A small machine for a payload, and what came of it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln::cases::Outcome as Came;
use kiln::vmm::config::MachineConfig;
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
