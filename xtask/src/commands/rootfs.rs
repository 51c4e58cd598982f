//! `rootfs`: the minimal guest image.

mod list;
mod output;
mod verify;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::{self, PROMPT};
use kiln::run::Task;
use serde::Serialize;

use self::output::Output;
use crate::exit::Exit;
use crate::guest::{self, SITTING, Show};
use crate::interrupt::on_interrupt;
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

    /// Boot the image and show its console, which is kept in the run's directory. What comes on standard input is typed
    /// on it, and the guest runs until it ends (`poweroff`); if nothing comes, until its agent has said hello. On a
    /// terminal Ctrl-a x leaves (as ^C does), and there is no time limit unless one is given. A disk is booted as a copy:
    /// the image stays as it was made
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

impl Args {
    /// What has no use is refused.
    fn check(&self) -> Result<()> {
        if self.machine.initrd.is_some() {
            bail!(
                "--initrd has no use with rootfs, which makes the image: boot one that is made with run or smoke"
            );
        }
        let machine = &self.machine;
        let given = [
            ("--append", machine.append.is_some()),
            ("--mem", machine.mem.is_some()),
            ("--disk", !machine.disks.is_empty()),
            ("--timeout", machine.timeout.timeout.is_some()),
            ("--trace", machine.trace),
        ];
        match given.iter().find(|(_, given)| *given && !self.run) {
            Some((option, _)) => bail!("{option} is for the guest's machine: it goes with --run"),
            None => Ok(()),
        }
    }
}

/// Makes the image, and boots it if asked to.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let stream = ui::stream(&json);
    let format = args.format.image()?;
    args.check()?;
    let output = args.output.as_deref().map(Output::find).transpose()?;
    let cache = Cache::open(None)?;
    let mut recipe = guest::recipe(&args.machine, Some(&args.image));
    recipe.format = format;
    let bars = Bars::new();
    let kernel = recipe.kernel(&cache, &bars)?;
    let contents = recipe.contents(&cache, &kernel, &bars)?;
    let built = image::build(&cache, &contents, format)?;
    if args.verify {
        verify::verify(&cache, &contents, format, &built)?;
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
    let system = args.image.busybox && args.image.init.is_none();
    // The whole boot is wanted here, at the price of the UART's exits.
    recipe.append = format!("loglevel=7 {}", recipe.append).trim_end().to_owned();
    let disk = matches!(args.format.format, Format::Ext4);
    // A busybox image is a system of its own: its inittab starts the agent.
    let init = if system { "/sbin/init" } else { "/init" };
    recipe.append = format!("{}={init} {}", if disk { "init" } else { "rdinit" }, recipe.append);
    // A guest may write to its disk, and the image is what its hash says.
    let copy = if disk { Some(output::copy(&built, cache.scratch()?)?) } else { None };
    let leftover = copy.as_ref().map(|copy| copy.path().to_owned());
    let _gone_on_interrupt = leftover.map(|path| on_interrupt(move || drop(fs::remove_file(path))));
    let boot = copy.as_ref().map_or(built, |copy| copy.path().to_owned());
    recipe = recipe.boot_from(&cache, &kernel, boot, &bars)?;
    let task = match args.image.init {
        Some(_) => Task::Watch,
        None => Task::Console { prompt: system.then(|| PROMPT.to_owned()) },
    };
    if args.machine.timeout.timeout.is_none() && ui::can_converse() {
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
