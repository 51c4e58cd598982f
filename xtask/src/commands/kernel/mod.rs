//! `kernel`: kernels in the cache.

mod available;
mod build;
mod check;

use std::path::PathBuf;

pub(crate) use build::summary;

use anyhow::Result;
use clap::Subcommand;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::kernel::{self, KernelFiles};
use serde::Serialize;

use crate::exit::Exit;
use crate::options::JsonOption;
use crate::report::{JsonTo, Report};
use crate::ui::{self, Align, Bars, Table};

/// Options of `kernel`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch the distribution's packaged kernel with its modules; needs no root
    Fetch(Fetch),
    /// List the kernels in the cache
    List(List),
    /// Build a kernel from source, or as much of it as has changed
    Build(build::Build),
    /// Tell what a kernel is, and which options that a guest needs it lacks
    Check(check::Args),
}

/// Options of `kernel fetch`.
#[derive(clap::Args, Debug)]
struct Fetch {
    /// Kernel version, as far as it matters: 6.12; without it the distribution's default
    #[arg(long, value_name = "VERSION")]
    release: Option<String>,

    /// Package with a kernel, such as `make bindeb-pkg` leaves, in place of the distribution's; again for one with its
    /// modules
    #[arg(long = "package", value_name = "FILE.deb", conflicts_with = "release")]
    packages: Vec<PathBuf>,
}

/// Options of `kernel list`.
#[derive(clap::Args, Debug)]
struct List {
    /// List the distribution's kernels, which `kernel fetch --release` brings
    #[arg(long)]
    available: bool,
}

impl Args {
    /// The command's whole name.
    pub(crate) fn name(&self) -> &'static str {
        match self.action {
            Action::Fetch(_) => "kernel fetch",
            Action::List(_) => "kernel list",
            Action::Build(_) => "kernel build",
            Action::Check(_) => "kernel check",
        }
    }
}

#[derive(Serialize)]
struct Own {
    kernels: Vec<Kernel>,
}

#[derive(Serialize)]
struct Kernel {
    release: String,
    image: String,
    modules_dir: Option<String>,
}

impl From<&KernelFiles> for Kernel {
    fn from(files: &KernelFiles) -> Self {
        Self {
            release: files.release.clone(),
            image: files.image.display().to_string(),
            modules_dir: files.modules_dir.as_ref().map(|dir| dir.display().to_string()),
        }
    }
}

/// Fetches, lists or checks.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let json = args.json.to();
    let name = args.name();
    let cache = Cache::open(None)?;
    let kernels = match args.action {
        Action::Fetch(fetch) if fetch.packages.is_empty() => {
            vec![kernel::fetch(&cache, fetch.release.as_deref(), &Bars::new())?]
        }
        Action::Fetch(fetch) => vec![kernel::from_packages(&cache, &fetch.packages, &Bars::new())?],
        Action::List(List { available: true }) => return available::run(&cache, &json),
        Action::List(List { available: false }) => kernel::list(&cache)?,
        Action::Build(args) => return build::run(&args, name, &json),
        Action::Check(args) => return check::run(args, &json),
    };
    let kernels: Vec<Kernel> = kernels.iter().map(Kernel::from).collect();
    show(&kernels, &json)?;
    Report::new(name, Exit::PASSED, Own { kernels }).write(&json)?;
    Ok(Exit::PASSED)
}

fn show(kernels: &[Kernel], json: &JsonTo) -> Result<()> {
    let stream = ui::stream(json);
    if kernels.is_empty() {
        ui::line(stream, "no kernel in the cache: `kernel fetch` brings one")?;
        return Ok(());
    }
    let mut table = Table::new(&[Align::Left, Align::Left]);
    for kernel in kernels {
        table.row([kernel.release.clone(), kernel.image.clone()]);
    }
    ui::line(stream, &table.to_string())?;
    Ok(())
}
