//! `bench`: what a boot costs, side by side with the peers.

use anyhow::Result;
use clap::ValueEnum;
use kiln::rootfs::cache::Cache;
use serde::Serialize;

use crate::bench::{self, Measured};
use crate::exit::Exit;
use crate::options::JsonOption;
use crate::report::{RanOn, Report};
use crate::ui::{self, Bars};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// From exec to the first guest instruction, init and the agent's hello
    Boot,
}

/// Options of `bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which benchmark: boot; without a name all of them
    #[arg(hide_possible_values = true)]
    name: Option<Name>,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

#[derive(Serialize)]
struct Own {
    boot: Vec<Measured>,
}

/// Runs them.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let stream = ui::stream(&json);
    let cache = Cache::open(None)?;
    let measured = match args.name {
        None | Some(Name::Boot) => bench::boot(&cache, &Bars::new())?,
    };
    let failed = measured.iter().any(|one| one.error.is_some());
    let exit = if failed { Exit::UNTESTABLE } else { Exit::PASSED };
    ui::line(stream, &bench::table(&measured).to_string())?;
    ui::line(
        stream,
        "milliseconds of the lab's clock, which counts instructions (1 ms = 500,000), since the VMM was started; \
         medians of warm runs; cold is the first run",
    )?;
    let mut report = Report::new("bench", exit, Own { boot: measured });
    report.accel = Some(RanOn::Lab);
    report.write(&json)?;
    Ok(exit)
}
