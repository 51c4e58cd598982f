//! `bench`: what a boot, a fork, an exit and an image cost, side by side with the peers.

use anyhow::Result;
use clap::ValueEnum;
use kiln::rootfs::cache::Cache;
use serde::Serialize;

use crate::bench::{self, Exits, Forks, Images, Measured};
use crate::exit::Exit;
use crate::options::JsonOption;
use crate::report::{RanOn, Report};
use crate::ui::{self, Bars};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// From exec to the first guest instruction, init and the agent's hello
    Boot,
    /// A case in a machine that goes on from a snapshot, beside one that boots
    Fork,
    /// A port or memory access of a guest, and the machine's own memory
    Exits,
    /// A minimal image, made anew and out of the cache
    Rootfs,
}

/// Options of `bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which benchmark: boot, fork, exits or rootfs; without a name all of them
    #[arg(hide_possible_values = true)]
    name: Option<Name>,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// A key for each benchmark that ran.
#[derive(Default, Serialize)]
struct Own {
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Vec<Measured>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fork: Option<Forks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exits: Option<Exits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<Images>,
}

/// Runs them.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let stream = ui::stream(&json);
    let cache = Cache::open(None)?;
    let wanted = |name| args.name.is_none_or(|one| one == name);
    let (mut own, mut failed) = (Own::default(), false);
    if wanted(Name::Rootfs) {
        let images = bench::rootfs(&cache, &Bars::new())?;
        failed |= images.failed();
        ui::line(stream, &images.table().to_string())?;
        ui::line(
            stream,
            "milliseconds of this host; medians of runs that took turns: only ratios mean anything",
        )?;
        own.rootfs = Some(images);
    }
    if wanted(Name::Exits) {
        let exits = bench::exits(&Bars::new())?;
        ui::line(stream, &exits.table().to_string())?;
        let words = format!(
            "nanoseconds of this host's KVM, at level {}; of each turn the shortest round, of those the median",
            exits.level()
        );
        ui::line(stream, &words)?;
        own.exits = Some(exits);
    }
    if wanted(Name::Boot) {
        let measured = bench::boot(&cache, &Bars::new())?;
        failed |= measured.iter().any(|one| one.error.is_some());
        ui::line(stream, &bench::table(&measured).to_string())?;
        ui::line(
            stream,
            "milliseconds of the lab's clock, which counts instructions (1 ms = 500,000), since the VMM was started; \
             medians of warm runs; cold is the first run",
        )?;
        own.boot = Some(measured);
    }
    if wanted(Name::Fork) {
        let forks = bench::fork(&cache, &Bars::new())?;
        ui::line(stream, &forks.goals().to_string())?;
        ui::line(stream, &forks.steps().to_string())?;
        ui::line(
            stream,
            "milliseconds of the lab's clock, which counts instructions (1 ms = 500,000); medians; memory is anonymous, \
             of guest and machine",
        )?;
        own.fork = Some(forks);
    }
    let exit = if failed { Exit::UNTESTABLE } else { Exit::PASSED };
    let on_kvm = own.exits.is_some().then_some(RanOn::Kvm);
    let accel = (own.boot.is_some() || own.fork.is_some()).then_some(RanOn::Lab).or(on_kvm);
    let mut report = Report::new("bench", exit, own);
    report.accel = accel;
    report.write(&json)?;
    Ok(exit)
}
