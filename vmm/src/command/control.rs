//! The commands that control a machine of another process, by its name.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use kiln_vmm::control::protocol::{Accesses, Door, Dump, End, Held, Request, Stats, Status};
use kiln_vmm::control::{Client, ClientError, machines};
use kiln_vmm::gdb::GdbAddress;
use kiln_vmm::machine::MachineState;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::status::{ExitStatus, status, word};
use super::table::{self, Side, Table};

/// More than a machine takes for any request: a vCPU that is held up is given up before.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a machine in a list has to say what it does.
const SOON: Duration = Duration::from_secs(2);

pub(super) const HELP: &str = "\
Exit status: 0 if it was done; 125 if not: no machine of that name, it does not answer, it refuses.";

const WAIT_HELP: &str = "\
Exit status: as `kiln-vmm run` of that machine ends: 0 for a guest that powered off, 2v+1 for one that wrote v to the debug-exit port (0 \
for v = 0, unless --exit-status raw), 1 for one that reset, halted, panicked or triple-faulted, 124 for one ended from outside or \
by --timeout, 125 for a machine that could not run, or that can't be waited for.";

/// A machine, and how what it says is shown.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The machine's name (`kiln-vmm run --name NAME`; `kiln-vmm list` shows those that run).
    name: String,
    /// As JSON, as the machine says it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Control {
    /// List the machines that run and have a name.
    #[command(after_help = HELP)]
    List {
        /// As JSON: `{"machines": [{"name", "status"} or {"name", "error"}, …]}`.
        #[arg(long)]
        json: bool,
    },
    /// Show what a machine is and does.
    #[command(after_help = HELP)]
    Status(Target),
    /// Hold a machine until it is resumed: when this ends every vCPU is out of the guest.
    ///
    /// Meanwhile the guest's clock goes on, and the machine's --timeout stands still.
    #[command(after_help = HELP)]
    Pause {
        #[command(flatten)]
        target: Target,
        /// Who holds it: each name is a hold of its own, and ends by a resume with that name.
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
    /// End a hold; the machine goes on if nobody else holds it.
    #[command(after_help = HELP)]
    Resume {
        #[command(flatten)]
        target: Target,
        /// Whose hold.
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
    /// End a machine in order; when this ends its name is free.
    #[command(after_help = HELP)]
    Stop(Target),
    /// End a machine as its reset line does. Nothing boots anew: a reset is an end.
    #[command(after_help = HELP)]
    Reset(Target),
    /// Give a vCPU a non-maskable interrupt.
    #[command(after_help = HELP)]
    Nmi {
        #[command(flatten)]
        target: Target,
        /// Which vCPU, from 0.
        #[arg(long, value_name = "N", default_value_t = 0)]
        cpu: u32,
    },
    /// Send Linux a magic SysRq: a break and the key on COM1.
    ///
    /// The kernel takes it where its console is ttyS0 and something has that open. Its mask (/proc/sys/kernel/sysrq) may
    /// refuse the key, which it says on the console: Debian's, 0x1b6, takes `h`, `s`, `u`, `b`, `r`, `k` and the log levels, and
    /// refuses the dumps `t`, `w`, `l`, `m`; the boot option sysrq_always_enabled lifts it. A kernel without
    /// MAGIC_SYSRQ_SERIAL takes the key for input.
    #[command(after_help = HELP)]
    Sysrq {
        #[command(flatten)]
        target: Target,
        /// The key, a letter or digit; `h` for help.
        key: char,
    },
    /// Lay every vCPU open: registers, code, page walk, stack.
    #[command(after_help = HELP)]
    Dump(Target),
    /// Show how often what happened: exits by reason, accesses by device.
    #[command(after_help = HELP)]
    Stats(Target),
    /// Show the last accesses of each vCPU.
    #[command(after_help = HELP)]
    Trace {
        #[command(flatten)]
        target: Target,
        /// How many of each vCPU; all that are kept if not given.
        #[arg(long, value_name = "N")]
        last: Option<usize>,
    },
    /// Open a machine to gdb, and print what to type there.
    ///
    /// It stays open until the machine ends, and takes one debugger at a time. A machine that is open already is not opened
    /// again. `monitor help` in gdb tells what else there is.
    #[command(after_help = HELP)]
    Gdb {
        #[command(flatten)]
        target: Target,
        /// unix:PATH, or tcp:[127.0.0.1:]PORT (0: any), which is open to every user of this host [default: a socket beside
        /// the machine's own].
        address: Option<GdbAddress>,
    },
    /// Wait until a machine ends.
    #[command(after_help = WAIT_HELP)]
    Wait {
        #[command(flatten)]
        target: Target,
        /// What a guest's write to the debug-exit port becomes.
        #[arg(long, value_name = "KIND", default_value = "verdict")]
        exit_status: ExitStatus,
    },
}

/// Does it; returns the exit status.
pub(super) fn run(control: &Control) -> Result<u8> {
    match control {
        Control::List { json } => list(*json)?,
        Control::Status(target) => target.show(Request::Status {}, status_text)?,
        Control::Pause { target, owner } => {
            target.show(Request::Pause { owner: owner.clone() }, held_text)?;
        }
        Control::Resume { target, owner } => {
            target.show(Request::Resume { owner: owner.clone() }, held_text)?;
        }
        Control::Stop(target) => target.end(Request::Stop {})?,
        Control::Reset(target) => target.end(Request::Reset {})?,
        Control::Nmi { target, cpu } => target.show(Request::Nmi { cpu: *cpu }, nothing)?,
        Control::Sysrq { target, key } => target.show(Request::Sysrq { key: *key }, nothing)?,
        Control::Dump(target) => target.show(Request::Dump {}, dump_text)?,
        Control::Stats(target) => target.show(Request::Stats {}, stats_text)?,
        Control::Trace { target, last } => target.show(Request::Trace { last: *last }, trace_text)?,
        Control::Gdb { target, address } => {
            let address = address.as_ref().map(from_root).transpose()?;
            target
                .show(Request::Gdb { address }, |door: &Door| format!("target remote {}\n", door.address))?;
        }
        Control::Wait { target, exit_status } => return target.wait(*exit_status),
    }
    Ok(0)
}

impl Target {
    fn connect(&self) -> Result<Client> {
        let client = Client::connect(&self.name)?;
        client.set_limit(Some(LIMIT))?;
        Ok(client)
    }

    /// Asks for something, and shows what comes.
    fn show<T: DeserializeOwned>(&self, request: Request, text: impl FnOnce(&T) -> String) -> Result<()> {
        let result = self.connect()?.ask(request)?;
        self.print(result, text)
    }

    fn print<T: DeserializeOwned>(&self, result: Value, text: impl FnOnce(&T) -> String) -> Result<()> {
        let shown = if self.json {
            serde_json::to_string_pretty(&result)? + "\n"
        } else {
            text(&serde_json::from_value(result)?)
        };
        Ok(write!(io::stdout(), "{shown}")?)
    }

    /// Ends the machine, and waits until it has let go of its name.
    fn end(&self, request: Request) -> Result<()> {
        let mut client = self.connect()?;
        let result = client.ask(request)?;
        match client.next_event() {
            Err(ClientError::Connection { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(ClientError::Connection { source, .. })
                if source.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        self.print(result, |end: &End| format!("{}: {}\n", self.name, word(end)))
    }

    fn wait(&self, kind: ExitStatus) -> Result<u8> {
        let mut client = self.connect()?;
        client.set_limit(None)?;
        let result = client.ask(Request::Wait {})?;
        let end: End = serde_json::from_value(result.clone())?;
        self.print(result, |end: &End| format!("{}: {}\n", self.name, word(end)))?;
        Ok(status(&end.outcome, kind, end.panicked).0)
    }
}

/// An address as a process in another folder understands it.
fn from_root(address: &GdbAddress) -> Result<String> {
    Ok(match address {
        GdbAddress::Unix(path) => {
            let path = std::path::absolute(path)?;
            anyhow::ensure!(path.to_str().is_some(), "{} is no text, which a request is", path.display());
            GdbAddress::Unix(path).given()
        }
        tcp @ GdbAddress::Tcp(_) => tcp.given(),
    })
}

fn list(as_json: bool) -> Result<()> {
    let ask = |(name, client): (String, Result<Client, ClientError>)| {
        let status = client.and_then(|mut client| {
            // Who can't be given a limit is asked all the same.
            let _without_limit = client.set_limit(Some(SOON));
            client.ask_for::<Status>(Request::Status {})
        });
        (name, status)
    };
    let all: Vec<(String, Result<Status, ClientError>)> = machines().into_iter().map(ask).collect();
    if as_json {
        let machines: Vec<Value> = all
            .iter()
            .map(|(name, status)| match status {
                Ok(status) => json!({"name": name, "status": status}),
                Err(error) => json!({"name": name, "error": kiln_vmm::chain(error)}),
            })
            .collect();
        let text = serde_json::to_string_pretty(&json!({ "machines": machines }))?;
        return Ok(writeln!(io::stdout(), "{text}")?);
    }
    if all.is_empty() {
        return Ok(writeln!(io::stdout(), "no machine runs that has a name")?);
    }
    let mut table = Table::new(&[
        ("NAME", Side::Left),
        ("PID", Side::Right),
        ("STATE", Side::Left),
        ("CPUS", Side::Right),
        ("MEMORY", Side::Right),
        ("UPTIME", Side::Right),
        ("EXITS", Side::Right),
        ("HELD BY", Side::Left),
    ]);
    for (name, status) in &all {
        match status {
            Ok(status) => table.row(vec![
                name.clone(),
                status.pid.to_string(),
                state(status.state).to_owned(),
                status.cpus.to_string(),
                table::size(status.memory),
                table::time(status.uptime_ms),
                status.exits.map_or_else(|| "?".to_owned(), |exits| exits.to_string()),
                status.holders.join(", "),
            ]),
            Err(error) => table.row(vec![name.clone(), "?".to_owned(), kiln_vmm::chain(error)]),
        }
    }
    Ok(write!(io::stdout(), "{table}")?)
}

fn state(state: MachineState) -> &'static str {
    match state {
        MachineState::Created => "created",
        MachineState::Running => "running",
        MachineState::Paused => "paused",
        MachineState::Stopped => "ended",
    }
}

fn status_text(status: &Status) -> String {
    let mut table = Table::new(&[("", Side::Left), ("", Side::Left)]);
    let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    row("name", status.name.clone());
    row("process", status.pid.to_string());
    row("state", state(status.state).to_owned());
    if !status.holders.is_empty() {
        row("held by", status.holders.join(", "));
    }
    if status.deadline_stands {
        row("deadline", "it stands still, if there is one".to_owned());
    }
    if let Some(outcome) = &status.outcome {
        row("ended", word(&End { outcome: outcome.clone(), panicked: status.panicked }));
    } else if status.panicked {
        row("guest", "it said that it panicked".to_owned());
    }
    row("CPUs", status.cpus.to_string());
    row("memory", table::size(status.memory));
    row("uptime", table::time(status.uptime_ms));
    row("exits", status.exits.map_or_else(|| "? (a vCPU does not answer)".to_owned(), |n| n.to_string()));
    table.to_string()
}

fn held_text(held: &Held) -> String {
    match held.holders.as_slice() {
        [] => format!("{}\n", state(held.state)),
        holders => format!("{}, held by {}\n", state(held.state), holders.join(", ")),
    }
}

fn nothing(_: &Value) -> String {
    String::new()
}

fn dump_text(dump: &Dump) -> String {
    dump.vcpus.iter().map(|vcpu| format!("{vcpu}\n")).collect()
}

fn stats_text(stats: &Stats) -> String {
    let mut exits = Table::new(&[("EXIT", Side::Left), ("COUNT", Side::Right)]);
    for (kind, count) in &stats.exits {
        exits.row(vec![kind.name().to_owned(), count.to_string()]);
    }
    for (cpu, count) in stats.vcpus.iter().enumerate() {
        exits.row(vec![format!("all of vCPU {cpu}"), count.to_string()]);
    }
    let mut devices = Table::new(&[("DEVICE", Side::Left), ("READS", Side::Right), ("WRITES", Side::Right)]);
    let nothing = ("(nothing)", &stats.nothing);
    let named = stats.devices.iter().map(|(name, count)| (name.as_str(), count));
    for (name, count) in named.chain([nothing]) {
        devices.row(vec![name.to_owned(), count.reads.to_string(), count.writes.to_string()]);
    }
    format!("{exits}\n{devices}")
}

fn trace_text(trace: &Accesses) -> String {
    let mut table = Table::new(&[
        ("CPU", Side::Right),
        ("MILLISECONDS", Side::Right),
        ("DEVICE", Side::Left),
        ("ACCESS", Side::Left),
        ("ADDRESS", Side::Right),
        ("BYTES", Side::Right),
        ("VALUE", Side::Right),
    ]);
    for vcpu in &trace.vcpus {
        for access in &vcpu.accesses {
            let (space, way) =
                (if access.pio { "port" } else { "MMIO" }, if access.write { "write" } else { "read" });
            table.row(vec![
                vcpu.index.to_string(),
                format!("{}.{:06}", access.time_ns / 1_000_000, access.time_ns % 1_000_000),
                access.device.clone().unwrap_or_else(|| "(nothing)".to_owned()),
                format!("{space} {way}"),
                format!("{:#x}", access.address),
                access.width.to_string(),
                format!("{:#x}", access.value),
            ]);
        }
    }
    table.to_string()
}
