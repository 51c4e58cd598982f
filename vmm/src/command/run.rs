//! `kiln-vmm run`: a machine from its first instruction to its exit status.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kiln_vmm::config::registry;
use kiln_vmm::gdb;
use kiln_vmm::machine::{Controller, Machine, MachineIo, Owner};
use kiln_vmm::outcome::Outcome;

use super::options::{ConfigFormat, RunOptions};
use super::port::Port;
use super::signals;
use super::startup;
use super::status::status;
use crate::FAILED;

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
    // In the order of the machine's own.
    let named = config.ports.iter().filter_map(|name| options.ports.iter().find(|port| port.name == *name));
    let ports = named.map(Port::listen).collect::<Result<_>>()?;
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports };
    let mut machine = Machine::new_on(&options.kvm, &config, io)?;
    // Now, and not when the guest has run in vain; but no machine that can't be made empties the trace of another.
    let unwritable = |path: &Path| format!("can't write the trace to {}", path.display());
    let trace = match &options.trace {
        Some(path) => Some((File::create(path).with_context(|| unwritable(path))?, path)),
        None => None,
    };
    for (device, path) in machine.ptys() {
        writeln!(io::stderr(), "kiln-vmm: {device} is {}", path.display())?;
    }
    machine.tell_unclaimed(|report| {
        let _nobody_reads_it = writeln!(io::stderr(), "kiln-vmm: {}", report.summary());
    });
    let notice = machine.panic_notice();
    let door = match &options.gdb {
        Some(address) => Some(gdb::Server::bind(machine.controller(), address, options.gdb_wait)?),
        None => None,
    };
    let tracer = Owner::new("instruction trace").with_running_deadline();
    if options.trace_instructions.is_some() {
        machine.controller().hold(&tracer)?;
    }
    let events = machine.event_loop()?;
    let caught = signals::end_in_order(&events, machine.controller())?;
    startup::let_go_later(&events)?;
    let running = machine.start()?;
    let deadline =
        options.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    if let Some(path) = &options.trace_instructions {
        trace_instructions(&running.controller(), path, options.trace_limit, &tracer)?;
    }
    let gdb = match door {
        Some(door) => {
            let waits = if options.gdb_wait { "; the guest waits for it" } else { "" };
            writeln!(io::stderr(), "kiln-vmm: in gdb: target remote {}{waits}", door.address())?;
            Some(door.start()?)
        }
        None => None,
    };
    let ended = running.wait(deadline);
    // A debugger that is there is told how it ended.
    drop(gdb);
    if let Some((mut file, path)) = trace {
        let text = serde_json::to_string_pretty(&ended.trace)?;
        file.write_all(text.as_bytes()).with_context(|| unwritable(path))?;
    }
    let mut lost_some = false;
    for lost in ended.lost.iter().filter(|lost| !lost.is_unwanted()) {
        writeln!(io::stderr(), "kiln-vmm: {lost}")?;
        lost_some = true;
    }
    caught.die_by_it();
    let (status, word) = status(&ended.outcome, options.exit_status, notice.panicked());
    if status != 0 {
        writeln!(io::stderr(), "kiln-vmm: {word}")?;
        if unexplained(&ended.outcome) {
            for dump in &ended.dumps {
                write!(io::stderr(), "{dump}")?;
            }
        }
    }
    Ok(if lost_some { FAILED } else { status })
}

/// Whether nothing but where the processors stood tells why the machine ended.
fn unexplained(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::DebugExit { .. } | Outcome::Reset | Outcome::Panicked | Outcome::PowerOff)
}

/// Writes down what is carried out from the first instruction on, by a machine that was held for it.
fn trace_instructions(controller: &Controller, path: &Path, limit: u64, tracer: &Owner) -> Result<()> {
    let file =
        File::create(path).with_context(|| format!("can't write the instructions to {}", path.display()))?;
    controller.trace_instructions(limit, Box::new(BufWriter::new(file)))?;
    Ok(controller.release(tracer)?)
}
