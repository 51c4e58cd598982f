//! `smoke`: does this kernel boot, and do its devices work?

use crate::exit::Exit;
use crate::options::{JsonOption, MachineOptions};

/// Options of `smoke`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// Boots, asserts, judges.
pub(crate) fn run(_args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("smoke is not wired yet")
}
