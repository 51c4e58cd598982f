//! `run`: a command in a guest.

use std::path::PathBuf;

use anyhow::Result;
use kiln::rootfs::cache::Cache;
use kiln::run::{CommandPlan, Task};

use crate::exit::Exit;
use crate::guest::{self, Show};
use crate::options::{ImageOptions, MachineOptions};
use crate::report::JsonTo;

/// Options of `run`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    image: ImageOptions,

    /// Write one JSON object to a file: standard output is the command's
    #[arg(long, value_name = "FILE", require_equals = true)]
    pub(crate) json: Option<PathBuf>,

    /// The command to run in the guest, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it; its exit status becomes ours.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let cache = Cache::open(None)?;
    let recipe = guest::recipe(&args.machine, Some(&args.image));
    let program = args.command.first().map_or("", String::as_str);
    let case = program.rsplit('/').next().unwrap_or(program).to_owned();
    let task = Task::Command(CommandPlan { argv: args.command, ..CommandPlan::default() });
    let done = guest::boot(&cache, &recipe, task, args.machine.accel.accel, ("run", &case), Show::Command)?;
    let exit = guest::exit_of_command(&done)?;
    if args.machine.trace {
        guest::show_trace(&done.directory)?;
    }
    guest::report("run", &done, exit, &args.json.map_or(JsonTo::Nowhere, JsonTo::File))?;
    Ok(exit)
}
