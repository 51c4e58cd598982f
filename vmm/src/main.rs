//! `kiln-vmm`: the machine as a command, for those who want no more than a machine.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use kiln_vmm::boot;
use kiln_vmm::config::{Boot, DiskConfig, MachineConfig};
use kiln_vmm::machine::{Machine, MachineIo, Stopper};
use kiln_vmm::outcome::Outcome;

/// Boots a kernel on a bare machine: its console is standard output, how it ended is the exit status.
///
/// Images, assertions and verdicts are `kiln`'s; this is the machine alone.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit status: 0 for a guest that powered off, 2v+1 for one that wrote v to the debug-exit port (0 for v = 0), 1 for one \
that reset, halted or triple-faulted, 124 for one ended by --timeout, 125 for a machine that could not run."
)]
struct Args {
    /// The kernel: a bzImage or an ELF vmlinux.
    kernel: PathBuf,
    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, value_name = "LINE", default_value = "console=ttyS0 panic=-1 reboot=k")]
    cmdline: String,
    /// How many CPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Guest RAM in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mem: u32,
    /// A raw disk image; may be repeated.
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// A named virtio port, offered on a Unix socket to the first who connects; may be repeated.
    #[arg(long = "port", value_name = "NAME=unix:PATH", value_parser = port)]
    ports: Vec<Port>,
    /// Refuse writes to the disks.
    #[arg(long)]
    read_only: bool,
    /// No interrupt controllers and timers: `HLT` then ends the machine at once.
    #[arg(long)]
    no_irqchip: bool,
    /// End the machine after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Keep the kernel that a bzImage decompresses to in this folder, for the next boot.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write what the machine did to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Show the exact machine, as JSON, and do not run it.
    #[arg(long)]
    print_config: bool,
}

/// What the machine itself could not do.
const FAILED: u8 = 125;
/// What `timeout(1)` ends with.
const TIMED_OUT: u8 = 124;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    match std::panic::catch_unwind(|| run(&args)) {
        Ok(Ok(status)) => ExitCode::from(status),
        // What it was is on standard error; a panic's own status would be read as a verdict.
        Err(_) => ExitCode::from(FAILED),
        Ok(Err(error)) => {
            let _closed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &Args) -> Result<u8> {
    let kernel = match &args.keep {
        Some(folder) => boot::vmlinux_of(&args.kernel, folder)?.unwrap_or_else(|| args.kernel.clone()),
        None => args.kernel.clone(),
    };
    let disk = |path: &PathBuf| DiskConfig { path: path.clone(), read_only: args.read_only };
    let config = MachineConfig {
        cpus: args.cpus,
        memory: u64::from(args.mem) << 20,
        boot: Boot::Kernel { kernel, initrd: args.initrd.clone(), cmdline: args.cmdline.clone() },
        irqchip: !args.no_irqchip,
        disks: args.disks.iter().map(disk).collect(),
        ports: args.ports.iter().map(|port| port.name.clone()).collect(),
        virtio_console: false,
        ..MachineConfig::default()
    };
    if args.print_config {
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&config)?)?;
        return Ok(0);
    }
    let deadline = args.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let ports = args.ports.iter().map(Port::listen).collect::<Result<_>>()?;
    let machine = Machine::new(&config, MachineIo { serial: Box::new(io::stdout()), console: None, ports })?;
    let running = machine.start()?;
    let caught = stop_on_signals(running.stopper())?;
    let ended = running.wait(deadline);
    if let Some(path) = &args.trace {
        let text = serde_json::to_string_pretty(&ended.trace)?;
        std::fs::write(path, text).with_context(|| format!("can't write the trace to {}", path.display()))?;
    }
    if let Some(signal) = caught.get() {
        let _dies_of_it = signal_hook::low_level::emulate_default_handler(*signal);
    }
    let (status, word) = status(&ended.outcome);
    if status != 0 {
        writeln!(io::stderr(), "kiln-vmm: {word}")?;
    }
    Ok(status)
}

/// A named port, and where it is offered.
#[derive(Clone, Debug)]
struct Port {
    name: String,
    path: PathBuf,
}

fn port(text: &str) -> Result<Port, String> {
    let (name, path) = text.split_once("=unix:").ok_or("write NAME=unix:PATH")?;
    Ok(Port { name: name.to_owned(), path: path.into() })
}

impl Port {
    /// Listens, and returns the machine's end; what the guest says before anyone connects waits.
    fn listen(&self) -> Result<UnixStream> {
        let listener = UnixListener::bind(&self.path)
            .with_context(|| format!("can't listen on {}", self.path.display()))?;
        let (near, machine) = UnixStream::pair()?;
        kiln_vmm::thread::named(&self.name).spawn(move || -> io::Result<()> {
            let (peer, _) = listener.accept()?;
            let (mut from_peer, mut to_machine) = (peer.try_clone()?, near.try_clone()?);
            let inwards = std::thread::spawn(move || {
                let _over = io::copy(&mut from_peer, &mut to_machine);
                let _gone = to_machine.shutdown(Shutdown::Write);
            });
            let (mut from_machine, mut to_peer) = (near, peer);
            let _over = io::copy(&mut from_machine, &mut to_peer);
            let _gone = to_peer.shutdown(Shutdown::Both);
            drop(inwards);
            Ok(())
        })?;
        Ok(machine)
    }
}

/// Ends the machine in order on ^C and on `SIGTERM`; a second one ends the process.
fn stop_on_signals(stopper: Stopper) -> Result<Arc<OnceLock<i32>>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let caught = Arc::new(OnceLock::new());
    let first = caught.clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    kiln_vmm::thread::named("signals").spawn(move || {
        for signal in signals.forever() {
            if first.set(signal).is_err() {
                let _dies_of_it = signal_hook::low_level::emulate_default_handler(signal);
            }
            stopper.stop();
        }
    })?;
    Ok(caught)
}

/// The exit status for how the machine ended, and the word for it.
fn status(outcome: &Outcome) -> (u8, String) {
    match outcome {
        Outcome::PowerOff => (0, "the guest powered off".to_owned()),
        Outcome::DebugExit { value: 0 } => (0, "passed".to_owned()),
        Outcome::DebugExit { value } => {
            let status = value.wrapping_mul(2).wrapping_add(1).to_le_bytes()[0];
            (status, format!("the guest exited with {value}"))
        }
        Outcome::Reset => (1, "the guest reset".to_owned()),
        Outcome::TripleFault { cpu } => (1, format!("triple fault of vCPU {cpu}")),
        Outcome::Halted => (1, "every vCPU halted with interrupts off".to_owned()),
        Outcome::Stopped => (TIMED_OUT, "ended from outside".to_owned()),
        other => (FAILED, format!("the machine failed: {other:?}")),
    }
}
