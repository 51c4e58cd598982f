//! `kernel build`: a kernel from source.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::kernel::build::{self, BuildSpec, Built};
use kiln::run::Recipe;
use serde::Serialize;

use crate::exit::Exit;
use crate::options::{BuildOptions, module};
use crate::report::{JsonTo, Report};
use crate::ui::{self, Bars};

const FILES: &str = "\
A file of options has lines as a .config has them. In it, `# over: NAME` says what it is merged over (`nothing`: all \
that is not in it is off; without such a line kconfig's defaults are taken for it; a whole .config, known by kconfig's own head, may \
have options that this kernel has not), and `# optional`, above an \
option, that a kernel may not have it.";

/// Options of `kernel build`.
#[derive(clap::Args, Debug)]
#[command(after_help = FILES)]
pub(super) struct Build {
    /// The kernel's source tree
    #[arg(long, value_name = "DIR")]
    src: PathBuf,

    #[command(flatten)]
    options: BuildOptions,

    /// Modules to build beside the kernel, with those that they need
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        value_parser = module,
        help_heading = "Kernel build options"
    )]
    modules: Vec<String>,
}

#[derive(Serialize)]
struct Own {
    release: String,
    image: String,
    vmlinux: String,
    modules_dir: Option<String>,
    build_dir: String,
    log: String,
    base: String,
    config: Vec<String>,
    configured: bool,
    rebuilt: bool,
    objects: u64,
}

/// Builds.
pub(super) fn run(args: &Build, name: &'static str, json: &JsonTo) -> Result<Exit> {
    let cache = Cache::open(None)?;
    // With those that a guest can't do without, so that what comes of it can be booted as it is.
    let modules = args.modules.clone();
    let spec = BuildSpec { modules, modules_if_any: Recipe::MODULES, ..args.options.spec(&args.src) };
    let began = Instant::now();
    let built = build::build(&cache, &spec, &Bars::new())?;
    ui::line(ui::stream(json), &summary(&built, began.elapsed()))?;
    let own = Own {
        release: built.files.release.clone(),
        image: built.files.image.display().to_string(),
        vmlinux: built.vmlinux.display().to_string(),
        modules_dir: built.files.modules_dir.as_ref().map(|dir| dir.display().to_string()),
        build_dir: built.build_dir.display().to_string(),
        log: built.log.display().to_string(),
        base: built.base.clone(),
        config: spec.fragments,
        configured: built.configured,
        rebuilt: built.made > 0,
        objects: built.made,
    };
    Report::new(name, Exit::PASSED, own).write(json)?;
    Ok(Exit::PASSED)
}

/// The line about a kernel that was built: release, path, time, and what there was to do.
pub(crate) fn summary(built: &Built, time: Duration) -> String {
    let base = if built.configured { format!("configured from {}, ", built.base) } else { String::new() };
    let done = match (built.made, built.configured) {
        (0, false) => "nothing to do".to_owned(),
        (0, true) => format!("{base}nothing to build"),
        (1, _) => format!("{base}1 file made"),
        (made, _) => format!("{base}{made} files made"),
    };
    format!(
        "Linux {} · {} · {} · {done}",
        built.files.release,
        built.files.image.display(),
        ui::duration(time)
    )
}
