//! `test`: the whole suite, ours or another project's.

use std::path::PathBuf;

use crate::exit::Exit;
use crate::options::{AccelOption, JsonOption};

/// Options of `test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Run only the cases whose names hold this
    filter: Option<String>,

    /// Cargo.toml of the project whose suite is run
    #[arg(long, value_name = "FILE")]
    manifest_path: Option<PathBuf>,

    #[command(flatten)]
    accel: AccelOption,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// Runs the suite.
pub(crate) fn run(_args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("test is not wired yet")
}
