//! `smoke`: does this kernel boot, and do its devices work?

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kiln::rootfs::cache::Cache;
use kiln::run::Task;

use crate::exit::Exit;
use crate::guest::{self, Show};
use crate::options::{JsonOption, MachineOptions};
use crate::ui;

/// Options of `smoke`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    machine: MachineOptions,

    /// Folder that gets a copy of the run's evidence, whatever the verdict
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// Boots, asserts, judges.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let cache = Cache::open(None)?;
    let recipe = guest::recipe(&args.machine, None);
    let done = guest::boot(
        &cache,
        &recipe,
        Task::Assert,
        args.machine.accel.accel,
        ("smoke", "boot"),
        Show::Nothing,
    )?;
    let exit = Exit::status(done.report.verdict.exit());
    if let Some(to) = &args.report {
        copy(&done.directory, to)?;
    }
    guest::explain(&done)?;
    if args.machine.trace {
        guest::show_trace(&done.directory)?;
    }
    guest::report("smoke", &done, exit, &json)?;
    let stream = ui::stream(&json);
    ui::line(stream, &guest::summary(&done, stream))?;
    Ok(exit)
}

/// Copies the files of `from` into the folder `to`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("failed to copy the evidence to {}", to.display());
    fs::create_dir_all(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(failed)?;
    }
    Ok(())
}
