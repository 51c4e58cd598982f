//! `rootfs`: the minimal guest image.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kiln::rootfs::cache::{Cache, sha256_of_file};
use kiln::rootfs::image::PROMPT;
use kiln::run::Task;
use serde::Serialize;

use crate::exit::Exit;
use crate::guest::{self, Show};
use crate::options::{ImageOptions, JsonOption, MachineOptions};
use crate::report::Report;
use crate::ui::{self, Bars};

/// Options of `rootfs`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where the image goes; without it, it stays in the cache
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Boot the image and show its console, which is kept in the run's directory. What comes on standard input is typed
    /// on it, and the guest runs until it ends (`poweroff`); if nothing comes, until its agent has said hello. On a
    /// terminal Ctrl-a x leaves, and there is no time limit unless one is given
    #[arg(long)]
    run: bool,

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
}

/// Nobody sits at a guest for longer.
const SITTING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Makes the image, and boots it if asked to.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let stream = ui::stream(&json);
    let cache = Cache::open(None)?;
    let mut recipe = guest::recipe(&args.machine, Some(&args.image));
    let bars = Bars::new();
    let kernel = recipe.kernel(&cache, &bars)?;
    let built = recipe.image(&cache, &kernel, &bars)?;
    let image = match args.output {
        None => built,
        Some(output) => {
            fs::copy(&built, &output).with_context(|| format!("failed to write {}", output.display()))?;
            output
        }
    };
    let bytes = fs::metadata(&image).with_context(|| format!("failed to measure {}", image.display()))?.len();
    let sha256 = sha256_of_file(&image)?;
    ui::line(stream, &format!("{} · {} · sha256 {sha256}", image.display(), ui::bytes(bytes)))?;
    if !args.run {
        let own = Own { image: image.display().to_string(), sha256, bytes };
        Report::new("rootfs", Exit::PASSED, own).write(&json)?;
        return Ok(Exit::PASSED);
    }
    let system = args.image.busybox && args.image.init.is_none();
    // The whole boot is wanted here, at the price of the UART's exits.
    recipe.append = format!("loglevel=7 {}", recipe.append).trim_end().to_owned();
    // A busybox image is a system of its own: its inittab starts the agent.
    if system {
        recipe.append = format!("rdinit=/sbin/init {}", recipe.append);
    }
    recipe.initrd = Some(image);
    let task = match args.image.init {
        Some(_) => Task::Watch,
        None => Task::Console { prompt: system.then(|| PROMPT.to_owned()) },
    };
    if args.machine.timeout.timeout.is_none() && io::stdin().is_terminal() {
        recipe.timeout = SITTING;
    }
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
