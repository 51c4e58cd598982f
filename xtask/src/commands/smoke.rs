//! `smoke`: does this kernel boot, and do its devices work?

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::kernel::build::{self, BuildSpec, Built};
use kiln::run::{Recipe, Task};

use crate::exit::Exit;
use crate::guest::{self, Show};
use crate::options::{BuildOptions, JsonOption, MachineOptions};
use crate::ui::{self, Bars, Stream};

/// Options of `smoke`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Source tree of a kernel, which is built first, or as much of it as has changed
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kernel", "modules_dir"])]
    src: Option<PathBuf>,

    #[command(flatten)]
    build: BuildOptions,

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
    let mut recipe = guest::recipe(&args.machine, None);
    // Held until the end: no one builds another over the kernel that runs.
    let _built =
        args.src.as_ref().map(|source| build(&cache, &args.build.spec(source), &mut recipe)).transpose()?;
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

/// Builds the kernel that is to be booted, with the modules that a guest can't do without.
fn build(cache: &Cache, spec: &BuildSpec, recipe: &mut Recipe) -> Result<Built> {
    let spec = BuildSpec { modules_if_any: Recipe::MODULES, ..spec.clone() };
    let began = Instant::now();
    let built = build::build(cache, &spec, &Bars::new())?;
    ui::line(Stream::Stderr, &super::kernel::summary(&built, began.elapsed()))?;
    recipe.kernel = Some(built.files.image.clone());
    recipe.modules_dir.clone_from(&built.files.modules_dir);
    Ok(built)
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
