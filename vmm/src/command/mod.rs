//! What `kiln-vmm` can be asked for.

mod control;
mod options;
mod port;
mod run;
mod signals;
mod startup;
mod status;
mod table;

use std::io::{self, Write};

use anyhow::Result;
use clap::{Parser, Subcommand};
use kiln_vmm::config::registry;

use options::RunOptions;

/// Boots a kernel on a bare machine: its console is standard output, how it ended is the exit status.
///
/// A machine with a name (--name) is controlled by the other commands, from other terminals and scripts of the same user.
///
/// Images, assertions and verdicts are `kiln`'s; this is the machine alone. `kiln-vmm KERNEL` is short for `kiln-vmm
/// run KERNEL`.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = status::HELP
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a kernel, and run it until the machine ends.
    #[command(after_help = status::HELP)]
    Run(Box<RunOptions>),
    #[command(flatten)]
    Control(control::Control),
    /// List the devices that a machine can have, with their properties.
    Devices {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Understands the command line.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

/// Does what was asked for; returns the exit status.
pub(crate) fn run(cli: &Cli) -> Result<u8> {
    match &cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(options)) => run::run(options),
        Some(Command::Control(control)) => control::run(control),
        Some(Command::Devices { json: false }) => {
            write!(io::stdout(), "{}", registry::help())?;
            Ok(0)
        }
        Some(Command::Devices { json: true }) => {
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(registry::DEVICES)?)?;
            Ok(0)
        }
    }
}
