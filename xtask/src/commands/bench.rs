//! `bench`: what a boot costs, side by side with the peers.

use clap::ValueEnum;

use crate::exit::Exit;
use crate::options::{JsonOption, KernelOptions};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// From exec to the first guest instruction, the kernel's entry, init and the agent's hello
    Boot,
}

/// Options of `bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which benchmark: boot; without a name all of them
    #[arg(hide_possible_values = true)]
    name: Option<Name>,

    #[command(flatten)]
    kernel: KernelOptions,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// Runs them.
pub(crate) fn run(_args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("bench is not wired yet")
}
