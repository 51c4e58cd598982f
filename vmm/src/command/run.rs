//! `kiln-vmm run`: a machine from its first instruction to its exit status.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kiln_vmm::config::registry;
use kiln_vmm::machine::{Machine, MachineIo};

use super::options::{ConfigFormat, RunOptions};
use super::port::Port;
use super::signals;
use super::status::status;

pub(super) fn run(options: &RunOptions) -> Result<u8> {
    if options.devices.iter().any(|device| device == "help") {
        write!(io::stdout(), "{}", registry::help())?;
        return Ok(0);
    }
    let config = options.machine()?;
    if let Some(format) = options.print_config {
        // What is shown can be built, as far as that can be told without KVM.
        config.validate()?;
        let text = match format {
            ConfigFormat::Json => config.to_json()? + "\n",
            ConfigFormat::Toml => config.to_toml()?,
        };
        write!(io::stdout(), "{text}")?;
        return Ok(0);
    }
    let deadline =
        options.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    // In the order of the machine's own.
    let named = config.ports.iter().filter_map(|name| options.ports.iter().find(|port| port.name == *name));
    let ports = named.map(Port::listen).collect::<Result<_>>()?;
    let mut machine =
        Machine::new(&config, MachineIo { serial: Box::new(io::sink()), console: None, ports })?;
    for (device, path) in machine.ptys() {
        writeln!(io::stderr(), "kiln-vmm: {device} is {}", path.display())?;
    }
    machine.tell_unclaimed(|report| {
        let _nobody_reads_it = writeln!(io::stderr(), "kiln-vmm: {}", report.summary());
    });
    let notice = machine.panic_notice();
    let events = machine.event_loop()?;
    let caught = signals::end_in_order(&events, machine.controller())?;
    let running = machine.start()?;
    let ended = running.wait(deadline);
    if let Some(path) = &options.trace {
        let text = serde_json::to_string_pretty(&ended.trace)?;
        std::fs::write(path, text).with_context(|| format!("can't write the trace to {}", path.display()))?;
    }
    caught.die_by_it();
    let (status, word) = status(&ended.outcome, options.exit_status, notice.panicked());
    if status != 0 {
        writeln!(io::stderr(), "kiln-vmm: {word}")?;
    }
    Ok(status)
}
