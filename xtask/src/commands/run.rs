//! `run`: a command in a guest.

use std::path::PathBuf;

use crate::exit::Exit;
use crate::options::{ImageOptions, MachineOptions};

/// Options of `run`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    image: ImageOptions,

    /// Write one JSON object to a file: standard output is the command's
    #[arg(long, value_name = "FILE", require_equals = true, help_heading = "Output options")]
    pub(crate) json: Option<PathBuf>,

    /// The command to run in the guest, and its arguments
    #[arg(last = true, required = true, value_name = "CMD", help_heading = "Arguments")]
    command: Vec<String>,
}

/// Runs it; its exit status becomes ours.
pub(crate) fn run(_args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("run is not wired yet")
}
