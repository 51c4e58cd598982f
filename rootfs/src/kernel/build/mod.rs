//! Kernels from source: configured, built where it does no harm, and no more of them than is needed.

mod configure;
mod fragment;
mod kconfig;
mod make;
mod merge;
mod modules;
mod place;
mod state;
#[cfg(test)]
mod tests;
mod toolchain;

use std::fs;
use std::path::PathBuf;

pub use fragment::names;

use super::KernelFiles;
use crate::Error;
use crate::cache::Cache;
use crate::progress::Progress;
use configure::Lists;
use make::Make;
use place::{Held, Place};
pub(super) use toolchain::Toolchain;

/// The base if none is named and the tree has no configuration.
pub const DEFAULT_BASE: &str = "tiny";

/// What is to be built.
#[derive(Clone, Debug, Default)]
pub struct BuildSpec {
    /// The kernel's source tree.
    pub source: PathBuf,
    /// The options that all begins with: one of [`names`], or a file.
    pub base: Option<String>,
    /// Options that are merged over it, in order: each one of [`names`], or a file.
    pub fragments: Vec<String>,
    /// Where it is built; a folder of the cache if none is given.
    pub build_dir: Option<PathBuf>,
    /// Modules to build beside the kernel, with those that they need.
    pub modules: Vec<String>,
    /// As [`BuildSpec::modules`], as far as the configuration makes modules of them.
    pub modules_if_any: &'static [&'static str],
}

/// A kernel that was built.
///
/// As long as this lives, no one else builds where it was built, so that its files stay as they are.
#[derive(Debug)]
pub struct Built {
    /// The kernel, with the folder of the modules that were asked for.
    pub files: KernelFiles,
    /// The ELF with its symbols.
    pub vmlinux: PathBuf,
    /// Where it was built.
    pub build_dir: PathBuf,
    /// All that make said.
    pub log: PathBuf,
    /// What the options began with.
    pub base: String,
    /// Whether the configuration was made anew.
    pub configured: bool,
    /// How many files were made; 0 means that all was up to date.
    pub made: u64,
    /// The lock of the folder.
    _held: Held,
}

/// Whether this host has what a recent kernel is built with.
///
/// # Errors
/// Names all that is missing, and how to install it.
pub fn check_tools() -> Result<(), Error> {
    Toolchain::of_environment().check_programs(true)
}

/// Builds a kernel, or as much of it as has changed. What the compiler says goes to `progress` line by line.
///
/// # Errors
/// A tool is missing, the options can't be had, or the build fails.
pub fn build(cache: &Cache, spec: &BuildSpec, progress: &dyn Progress) -> Result<Built, Error> {
    build_with(&Toolchain::of_environment(), cache, spec, progress)
}

fn build_with(
    tools: &Toolchain,
    cache: &Cache,
    spec: &BuildSpec,
    progress: &dyn Progress,
) -> Result<Built, Error> {
    let source = place::tree(&spec.source)?;
    let lists = Lists::read(spec)?;
    tools.check(&source)?;
    let place = Place::find(cache, spec, source, &tools.choices())?;
    let held = place.lock(progress)?;
    let make = Make::new(tools, &place, &held, progress)?;
    let configured = configure::configure(&make, &place, spec, lists, &tools.identity(), progress)?;
    tools.check_for(&configured.values)?;
    let mut made = make.run("building the kernel", &["bzImage"], &[])?.0;
    let (image, vmlinux) = (place.made("arch/x86/boot/bzImage"), place.made("vmlinux"));
    for path in [&image, &vmlinux] {
        if !path.is_file() {
            let log = make.log.display();
            return Err(Error::file(
                path,
                format!("make ended well and did not make it; all that it said is in {log}"),
            ));
        }
    }
    let release = release(&place)?;
    let mut modules_dir = None;
    if !spec.modules.is_empty() || (configured.values.is_yes("MODULES") && !spec.modules_if_any.is_empty()) {
        let catalogue = modules::Catalogue::read(&place.source)?;
        let kconfig = kconfig::read(&place.source)?;
        let targets = catalogue.targets(&spec.modules, spec.modules_if_any, &kconfig, &configured.values)?;
        if !targets.is_empty() {
            let names: Vec<&str> = targets.iter().map(String::as_str).collect();
            made += make.run("building modules", &names, &[])?.0;
        }
        if !targets.is_empty() || !spec.modules.is_empty() {
            modules_dir = Some(modules::lay_out(&place, &release, &targets)?);
        }
    }
    // The folder is locked, and so is none of what goes.
    cache.make_room();
    Ok(Built {
        files: KernelFiles { image, modules_dir, release },
        vmlinux,
        log: make.log.clone(),
        build_dir: place.output.clone(),
        base: configured.base,
        configured: configured.anew,
        made,
        _held: held,
    })
}

/// What `uname -r` says in the guest.
fn release(place: &Place) -> Result<String, Error> {
    let path = place.made("include/config/kernel.release");
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Ok(text.trim().to_owned())
}
