//! `rootfs`: the minimal guest image.

use std::path::PathBuf;

use crate::exit::Exit;
use crate::options::{ImageOptions, JsonOption, MachineOptions};

/// Options of `rootfs`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where the image goes
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Boot the image, and leave its console in the run's directory
    #[arg(long)]
    run: bool,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// Makes the image, and boots it if asked to.
pub(crate) fn run(_args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("rootfs is not wired yet")
}
