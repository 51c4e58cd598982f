//! `rootfs`: the minimal guest image.

mod list;
mod output;
mod verify;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image;
use kiln::run::Task;
use serde::Serialize;

use self::output::Output;
use crate::exit::Exit;
use crate::guest::{self, Show};
use crate::options::{Compress, Format, FormatOptions, ImageOptions, JsonOption, MachineOptions};
use crate::report::Report;
use crate::ui::{self, Bars};

/// Options of `rootfs`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where the image goes; without it, it stays in the cache
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Build the image twice, each time from scratch, and compare the bytes
    #[arg(long)]
    verify: bool,

    /// List what is in the image
    #[arg(long)]
    list: bool,

    /// Boot the image up to its agent's hello, show its console, and keep the console in the run's directory
    #[arg(long)]
    run: bool,

    #[command(flatten)]
    format: FormatOptions,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

#[derive(Serialize)]
struct Own {
    image: String,
    sha256: String,
    bytes: u64,
    format: Format,
    /// None for a disk.
    compress: Option<Compress>,
    /// Whether two builds were compared.
    verified: bool,
}

/// Makes the image, and boots it if asked to.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let stream = ui::stream(&json);
    let format = args.format.image()?;
    let output = args.output.as_deref().map(Output::find).transpose()?;
    let cache = Cache::open(None)?;
    let mut recipe = guest::recipe(&args.machine, Some(&args.image));
    recipe.format = format;
    let bars = Bars::new();
    let kernel = recipe.kernel(&cache, &bars)?;
    let contents = recipe.contents(&cache, &kernel, &bars)?;
    let built = image::build(&cache, &contents, format)?;
    if args.verify {
        verify::verify(&contents, format, &built)?;
    }
    let bytes = fs::metadata(&built).with_context(|| format!("failed to measure {}", built.display()))?.len();
    let sha256 = image::sha256(&built, &bars)?;
    if let Some(output) = output {
        output.write(&built)?;
    }
    let image = args.output.unwrap_or_else(|| built.clone());
    ui::line(stream, &format!("{} · {} · sha256 {sha256}", image.display(), ui::bytes(bytes)))?;
    if args.verify {
        ui::line(stream, "verified: two builds, the same bytes")?;
    }
    if args.list {
        ui::line(stream, &list::table(&contents, format, &built)?.to_string())?;
    }
    if !args.run {
        let own = Own {
            image: image.display().to_string(),
            sha256,
            bytes,
            format: args.format.format,
            compress: args.format.compress(),
            verified: args.verify,
        };
        Report::new("rootfs", Exit::PASSED, own).write(&json)?;
        return Ok(Exit::PASSED);
    }
    // The whole boot is wanted here, at the price of the UART's exits.
    recipe.append = format!("loglevel=7 {}", recipe.append).trim_end().to_owned();
    // A busybox image is a system of its own: its inittab starts the agent.
    if args.image.busybox && args.image.init.is_none() {
        recipe.append = format!("rdinit=/sbin/init {}", recipe.append);
    }
    recipe.initrd = Some(image);
    let task = if args.image.init.is_some() { Task::Watch } else { Task::Boot };
    let done =
        guest::boot(&cache, &recipe, task, args.machine.accel.accel, ("rootfs", "run"), Show::Console)?;
    let exit = Exit::status(done.report.verdict.exit());
    guest::explain(&done)?;
    if args.machine.trace {
        guest::show_trace(&done.directory)?;
    }
    guest::report("rootfs", &done, exit, &json)?;
    ui::line(stream, &guest::summary(&done, stream))?;
    ui::line(stream, &format!("console: {}", done.directory.join("console.log").display()))?;
    Ok(exit)
}
