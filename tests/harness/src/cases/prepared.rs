//! What machines boot: kernels, and images with this binary in them, made once a process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_rootfs::cache::Cache;
use kiln_rootfs::image::{self, DiskSpec};
use kiln_rootfs::kernel::KernelFiles;
use kiln_rootfs::modules;
use kiln_rootfs::progress::Silent;
use serde::{Deserialize, Serialize};

use super::{Case, Disk, Options};
use crate::run::{Recipe, vmlinux_of};

/// Names the kernels that were brought into the lab for cases which ask for one: see [`Carried`].
pub(crate) const CARRIED: &str = "KILN_CARRIED_KERNELS";

/// The file with a packaged kernel's options, beside its image.
pub(crate) const CONFIG: &str = "config";

/// A kernel in the lab: its image, and the folder with its modules.
pub(crate) type Carried = BTreeMap<String, (PathBuf, Option<PathBuf>)>;

/// What cases need that is not in their binary, for whoever carries it elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cargo {
    /// Each kernel that is asked for, with the modules that it is asked for with; under the empty name, the run's own.
    pub(crate) kernels: BTreeMap<String, BTreeSet<String>>,
    /// Files, which are at the same place there.
    pub(crate) files: BTreeSet<PathBuf>,
}

impl Cargo {
    /// What `cases` need.
    pub(super) fn of<'a>(cases: impl Iterator<Item = &'a Case>) -> Self {
        let mut cargo = Self::default();
        for options in cases.filter_map(Case::options) {
            let modules = cargo.kernels.entry(kernel_name(options)).or_default();
            let named = options.modules.iter().chain(&options.loadable);
            modules.extend(named.map(|&module| module.to_owned()));
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
    }
}

/// A kernel as it is asked for: the path of the crate's file if there is one, else a release; empty for the run's own.
fn kernel_name(options: &Options) -> String {
    let Some(name) = options.kernel else { return String::new() };
    let file = options.file(name);
    if file.exists() { file.to_string_lossy().into_owned() } else { name.to_owned() }
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
    modules: Vec<&'static str>,
    loadable: Vec<&'static str>,
    files: Vec<(PathBuf, &'static str)>,
}
type Place = Arc<OnceLock<Result<Arc<Prepared>, String>>>;

/// The kernel that `options` ask for, and the images that go with it.
pub(super) fn prepared(options: &Options) -> Result<Arc<Prepared>, String> {
    static PREPARED: Mutex<BTreeMap<Key, Place>> = Mutex::new(BTreeMap::new());
    let key = Key {
        kernel: kernel_name(options),
        modules: options.modules.clone(),
        loadable: options.loadable.clone(),
        files: options.files.iter().map(|&(from, to)| (options.file(from), to)).collect(),
    };
    let place =
        PREPARED.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone();
    place.get_or_init(|| prepare(&key).map(Arc::new).map_err(|error| kiln_vmm::chain(&*error))).clone()
}

fn prepare(key: &Key) -> Result<Prepared, Box<dyn std::error::Error>> {
    let cache = Cache::open(None)?;
    let own = std::env::current_exe()?;
    let kernel = recipe_for(&key.kernel)?.kernel(&cache, &Silent)?;
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
    recipe.modules = key.modules.iter().map(|&module| module.to_owned()).collect();
    if program.is_none() {
        // What a disk with the program takes; built into some kernels.
        recipe.modules.extend(kernel.modules_dir.is_some().then(|| "ext4".to_owned()));
    }
    // Decompressed here, and gone when the image is made.
    let unpacked = tempfile::tempdir()?;
    if let (false, Some(dir)) = (key.loadable.is_empty(), &kernel.modules_dir) {
        let normal = |name: &str| name.replace('-', "_");
        for module in modules::closure(dir, &key.loadable)? {
            if key.loadable.iter().any(|name| normal(name) == normal(&module.name)) {
                let file = unpacked.path().join(&module.name);
                std::fs::write(&file, module.read_for(&kernel.release)?)?;
                recipe.image.files.push((file, format!("/lib/modules/{}/{}", kernel.release, module.path)));
            } else {
                recipe.modules.push(module.name);
            }
        }
    }
    Ok(recipe.image(cache, kernel, &Silent)?)
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
            loadable: vec!["dummy"],
            files: vec![("Cargo.toml", "/etc/x")],
            disks: vec![Disk::Scratch(512), Disk::Image("src/lib.rs")],
            folder: env!("CARGO_MANIFEST_DIR"),
            ..Options::default()
        };
        let here = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let cases = [
            Case::guest("c::one", options, || Ok(())),
            Case::vm("c::two", Options::default(), |_| Ok(())),
            Case::host("c::three", crate::gate::Needs::Nothing, || Ok(())),
        ];
        let mut cargo = Cargo::of(cases.iter());
        assert_eq!(cargo.kernels["6.12"], ["dummy".to_owned()].into());
        assert!(cargo.kernels[""].is_empty());
        assert_eq!(cargo.files, [here("Cargo.toml"), here("src/lib.rs")].into());
        cargo.add(Cargo {
            kernels: [("6.12".to_owned(), ["loop".to_owned()].into())].into(),
            ..Cargo::default()
        });
        assert_eq!(cargo.kernels["6.12"].len(), 2);
    }
}
