//! What machines boot: kernels, and images with this binary in them, made once a process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_rootfs::cache::Cache;
use kiln_rootfs::image::{self, DiskSpec};
use kiln_rootfs::kernel::{self, KernelFiles};
use kiln_rootfs::progress::Progress;
use kiln_rootfs::{elf, modules};
use serde::{Deserialize, Serialize};

use super::{Case, Disk, Options};
use crate::run::{Recipe, Told, vmlinux_of};

/// Names the kernels that were brought into the lab for cases which ask for one: see [`Carried`].
pub(crate) const CARRIED: &str = "KILN_CARRIED_KERNELS";

/// Names the modules that were built, for cases which ask for their source, and brought into the lab: see [`Built`].
pub(crate) const BUILT: &str = "KILN_BUILT_MODULES";

/// Of each kernel that is asked for, the folders with modules' sources, and the files that were built of them, or why
/// there are none.
pub(crate) type Built = BTreeMap<String, BTreeMap<String, Result<Vec<String>, String>>>;

/// The most of why a module does not build that goes into the lab: what a variable can hold is bounded.
const WHY_MAX: usize = 16 << 10;

/// So much in a binary that only debuggers read is left out of guests.
const DEBUG_MAX: u64 = 32 << 20;

/// The file with a packaged kernel's options, beside its image.
pub(crate) const CONFIG: &str = "config";

/// A kernel in the lab: its image, and the folder with its modules.
pub(crate) type Carried = BTreeMap<String, (PathBuf, Option<PathBuf>)>;

/// What cases need that is not in their binary, for whoever carries it elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cargo {
    /// Each kernel that is asked for, with the modules that it is asked for with (names, files, folders with sources);
    /// under the empty name, the run's own.
    pub(crate) kernels: BTreeMap<String, BTreeSet<String>>,
    /// Files, which are at the same place there.
    pub(crate) files: BTreeSet<PathBuf>,
    /// The memory of the largest guest, in MiB.
    pub(crate) memory_mib: u64,
}

impl Cargo {
    /// What `cases` need.
    pub(super) fn of<'a>(cases: impl Iterator<Item = &'a Case>) -> Self {
        let mut cargo = Self::default();
        for case in cases {
            if let Some(kernel) = case.kernel {
                cargo.kernels.entry(kernel.to_owned()).or_default();
            }
            let Some(options) = case.options() else { continue };
            let modules = cargo.kernels.entry(kernel_name(options)).or_default();
            let named = options.modules.iter().chain(&options.loadable);
            modules.extend(named.map(|module| module_name(options, module)));
            cargo.memory_mib = cargo.memory_mib.max(options.memory_mib);
            cargo.files.extend(options.files.iter().map(|(from, _)| options.file(from)));
            cargo.files.extend(options.disks.iter().filter_map(|disk| match disk {
                Disk::Image(name) => Some(options.file(name)),
                Disk::Scratch(_) | Disk::ReadOnly(_) => None,
            }));
        }
        cargo
    }

    /// Adds what `other` needs.
    pub(crate) fn add(&mut self, other: Self) {
        for (kernel, modules) in other.kernels {
            self.kernels.entry(kernel).or_default().extend(modules);
        }
        self.files.extend(other.files);
        self.memory_mib = self.memory_mib.max(other.memory_mib);
    }
}

/// A kernel as it is asked for: the path of the crate's file if there is one, else a release; empty for the run's own.
fn kernel_name(options: &Options) -> String {
    let Some(name) = options.kernel else { return String::new() };
    let file = options.file(name);
    if file.exists() { file.to_string_lossy().into_owned() } else { name.to_owned() }
}

/// A module as it is asked for: its name; with a `/` in it, where the file is, or the folder with the source.
fn module_name(options: &Options, name: &str) -> String {
    if !name.contains('/') {
        return name.to_owned();
    }
    // Without `.` in it: the same folder has one name.
    let path: PathBuf = options.file(name).components().collect();
    path.to_string_lossy().into_owned()
}

/// Whether such a module is still to be built.
fn is_source(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    name.contains('/') && !file.ends_with(".ko") && !file.contains(".ko.")
}

/// Builds the modules among `names` that are asked for by their source; what they are, or why they are not.
pub(crate) fn build_sources(
    cache: &Cache,
    kernel: &KernelFiles,
    names: &BTreeSet<String>,
    progress: &dyn Progress,
) -> BTreeMap<String, Result<Vec<String>, String>> {
    let build = |name: &String| {
        let built = kernel::build_modules(cache, kernel, Path::new(name), progress);
        let built = built.map(|files| files.iter().map(|file| file.to_string_lossy().into_owned()).collect());
        let why = |error| kiln_vmm::chain(&error).chars().take(WHY_MAX).collect();
        (name.clone(), built.map_err(why))
    };
    names.iter().filter(|name| is_source(name)).map(build).collect()
}

/// `names` with the files that were built in the place of modules' sources, here or before they came into the lab.
fn with_built(
    cache: &Cache,
    asked_for: &str,
    kernel: &KernelFiles,
    names: &[String],
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut built = match std::env::var(BUILT) {
        Ok(text) => serde_json::from_str::<Built>(&text)?.remove(asked_for).unwrap_or_default(),
        Err(_) => build_sources(cache, kernel, &names.iter().cloned().collect(), &Told),
    };
    let mut modules = Vec::new();
    for name in names {
        match built.remove(name) {
            Some(files) => modules.extend(files?),
            None => modules.push(name.clone()),
        }
    }
    Ok(modules)
}

/// What a machine boots.
pub(super) struct Prepared {
    pub(super) cache: Cache,
    pub(super) kernel: KernelFiles,
    pub(super) vmlinux: PathBuf,
    /// The image with all but this binary in it.
    pub(super) base: PathBuf,
    pub(super) own: PathBuf,
    key: Key,
    whole: OnceLock<Result<PathBuf, String>>,
    disk: OnceLock<Result<PathBuf, String>>,
}

impl Prepared {
    /// The image with this binary in it, and what it needs.
    pub(super) fn image(&self) -> Result<PathBuf, String> {
        let build = || {
            let built = build(&self.key, &self.cache, &self.kernel, Some(&self.own));
            built.map_err(|error| kiln_vmm::chain(&*error))
        };
        self.whole.get_or_init(build).clone()
    }

    /// The disk that brings this binary, and what it needs, to a guest that booted without it.
    pub(super) fn disk(&self) -> Result<PathBuf, String> {
        let spec = DiskSpec { execs: vec![self.own.clone()], ..DiskSpec::default() };
        let build = || image::disk(&self.cache, &spec).map_err(|error| kiln_vmm::chain(&error));
        self.disk.get_or_init(build).clone()
    }
}

/// What makes images differ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kernel: String,
    modules: Vec<String>,
    loadable: Vec<String>,
    files: Vec<(PathBuf, &'static str)>,
}
type Place = Arc<OnceLock<Result<Arc<Prepared>, String>>>;

/// The kernel that `options` ask for, and the images that go with it.
pub(super) fn prepared(options: &Options) -> Result<Arc<Prepared>, String> {
    static PREPARED: Mutex<BTreeMap<Key, Place>> = Mutex::new(BTreeMap::new());
    let key = Key {
        kernel: kernel_name(options),
        modules: options.modules.iter().map(|module| module_name(options, module)).collect(),
        loadable: options.loadable.iter().map(|module| module_name(options, module)).collect(),
        files: options.files.iter().map(|&(from, to)| (options.file(from), to)).collect(),
    };
    let place =
        PREPARED.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone();
    place.get_or_init(|| prepare(&key).map(Arc::new).map_err(|error| kiln_vmm::chain(&*error))).clone()
}

fn prepare(key: &Key) -> Result<Prepared, Box<dyn std::error::Error>> {
    let cache = Cache::open(None)?;
    let own = without_debug(&cache, std::env::current_exe()?)?;
    let kernel = recipe_for(&key.kernel)?.kernel(&cache, &Told)?;
    let vmlinux = vmlinux_of(&cache, &kernel.image)?.unwrap_or_else(|| kernel.image.clone());
    let base = build(key, &cache, &kernel, None)?;
    let key = key.clone();
    Ok(Prepared { cache, kernel, vmlinux, base, own, key, whole: OnceLock::new(), disk: OnceLock::new() })
}

/// Builds the image of what `key` says, and of `program` with what that needs; or finds it built.
fn build(
    key: &Key,
    cache: &Cache,
    kernel: &KernelFiles,
    program: Option<&Path>,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut recipe = recipe_for(&key.kernel)?;
    recipe.image.execs.extend(program.map(Path::to_owned));
    recipe.image.files = key.files.iter().map(|(from, to)| (from.clone(), (*to).to_owned())).collect();
    // Where a packaged kernel's options are kept beside it, a guest finds them where its distribution has them.
    let options = kernel.image.with_file_name(CONFIG);
    if options.is_file() {
        recipe.image.files.push((options, format!("/boot/config-{}", kernel.release)));
    }
    recipe.modules = with_built(cache, &key.kernel, kernel, &key.modules)?;
    if program.is_none() {
        // What a disk with the program takes; built into some kernels.
        recipe.modules.extend(kernel.modules_dir.as_deref().map(disk_modules).unwrap_or_default());
    }
    // Decompressed here, and gone when the image is made.
    let unpacked = tempfile::tempdir()?;
    let loadable = with_built(cache, &key.kernel, kernel, &key.loadable)?;
    if let (false, Some(dir)) = (loadable.is_empty(), &kernel.modules_dir) {
        let names: Vec<&str> = loadable.iter().map(String::as_str).collect();
        for module in modules::closure(dir, &names)? {
            if names.iter().any(|name| modules::name_of(name) == module.name) {
                let file = unpacked.path().join(&module.name);
                std::fs::write(&file, module.read_for(&kernel.release)?)?;
                recipe.image.files.push((file, format!("/lib/modules/{}/{}", kernel.release, module.path)));
            } else {
                recipe.modules.push(module.name);
            }
        }
    }
    Ok(recipe.image(cache, kernel, &Told)?)
}

/// The modules that a fork's disk takes, of those in `dir`: of the file system, of what it asks the kernel for by another name
/// than a module's, and of persistent memory. Kernels have them built in, or not at all, but for the file system.
pub fn disk_modules(dir: &Path) -> Vec<String> {
    const IF_THERE: [&str; 3] = ["crc32c_generic", "virtio_pmem", "nd_pmem"];
    let there = |name: &&str| modules::closure(dir, &[name]).is_ok();
    IF_THERE.into_iter().filter(there).chain(["ext4"]).map(str::to_owned).collect()
}

/// The program as it goes into guests, which have no room for much that only debuggers read.
fn without_debug(cache: &Cache, own: PathBuf) -> Result<PathBuf, kiln_rootfs::Error> {
    let Some(bytes) = elf::loaded(&own, DEBUG_MAX)? else { return Ok(own) };
    let name = own.file_name().unwrap_or_default();
    let key = kiln_rootfs::cache::Key::new("program-1").field("content", &bytes);
    let entry = cache.entry("programs", &key, |dir| {
        let file = dir.join(name);
        std::fs::write(&file, &bytes).map_err(|source| kiln_rootfs::Error::Io {
            what: "write",
            path: file,
            source,
        })
    })?;
    Ok(entry.join(name))
}

/// The recipe with the kernel of that name.
fn recipe_for(kernel: &str) -> Result<Recipe, serde_json::Error> {
    if kernel.is_empty() {
        return Ok(Recipe::of_environment());
    }
    let carried = match std::env::var(CARRIED) {
        Ok(text) => serde_json::from_str::<Carried>(&text)?.remove(kernel),
        Err(_) => None,
    };
    let (kernel, modules_dir) = carried.unwrap_or_else(|| (Path::new(kernel).to_owned(), None));
    Ok(Recipe { kernel: Some(kernel), modules_dir, ..Recipe::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_what_cases_name_and_what_is_not_in_their_binary() {
        let options = Options {
            kernel: Some("6.12"),
            loadable: vec!["dummy", "./driver"],
            files: vec![("Cargo.toml", "/etc/x")],
            disks: vec![Disk::Scratch(512), Disk::Image("src/lib.rs")],
            folder: env!("CARGO_MANIFEST_DIR"),
            ..Options::default()
        };
        let here = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let cases = [
            Case::guest("c::one", options, || Ok(())),
            Case::vm("c::two", Options::default(), |_| Ok(())),
            Case::host("c::three", crate::gate::Needs::Linux, || Ok(())).booting("6.1"),
        ];
        let mut cargo = Cargo::of(cases.iter());
        let driver = here("driver").to_string_lossy().into_owned();
        assert!(is_source(&driver) && !is_source("dummy") && !is_source("/x/y.ko.xz"));
        assert_eq!(cargo.kernels["6.12"], ["dummy".to_owned(), driver].into());
        assert_eq!(cargo.memory_mib, 256);
        assert!(cargo.kernels[""].is_empty() && cargo.kernels["6.1"].is_empty());
        assert_eq!(cargo.files, [here("Cargo.toml"), here("src/lib.rs")].into());
        cargo.add(Cargo {
            kernels: [("6.12".to_owned(), ["loop".to_owned()].into())].into(),
            ..Cargo::default()
        });
        assert_eq!(cargo.kernels["6.12"].len(), 3);
    }
}
