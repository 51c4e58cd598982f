//! Kernels: the distribution's own, or one from a file.

pub mod build;
pub mod check;
pub(crate) mod header;
mod headers;
mod out_of_tree;
mod package;
mod release;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cache::{Cache, Key};
use crate::distro::{self, Apt};
use crate::progress::Progress;

pub use out_of_tree::build_modules;
pub use package::from_packages;
pub use release::is_release_like;
use release::{choose, flavour_of, is_release, version};

/// The folder of the cache with one entry for each release.
const SHELF: &str = "kernels";
/// A link to the entry that is used when no release is asked for.
const LATEST: &str = "latest";
/// What to do where no package can be had.
const MEND: &str = "give a kernel with --kernel and its modules with --modules-dir";
/// What the names of kernel packages begin with; the release follows.
const PREFIX: &str = "linux-image-";
/// The release of a kernel that tells none.
pub const UNKNOWN: &str = "unknown";
/// The packages that depend on the distribution's current kernel, the one that suits a guest best first.
const META: &[&str] =
    &["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-kvm", "linux-image-amd64"];

/// A kernel that a guest can boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// The kernel: a bzImage or an ELF.
    pub image: PathBuf,
    /// The folder with its modules (`…/lib/modules/RELEASE`), if it has any.
    pub modules_dir: Option<PathBuf>,
    /// What `uname -r` says in the guest.
    pub release: String,
}

/// The distribution's packaged kernel, from the cache if it is there. `release` is as much of the version as
/// matters: `6.12`; without it, the distribution's default.
///
/// # Errors
/// It is not in the cache and can't be fetched.
pub fn fetch(cache: &Cache, release: Option<&str>, progress: &dyn Progress) -> Result<KernelFiles, Error> {
    let shelf = cache.root().join(SHELF);
    let known = match release {
        Some(wanted) => in_cache(cache, wanted)?.map(|kernel| kernel.release),
        None => fs::read_link(shelf.join(LATEST)).ok().map(|name| name.to_string_lossy().into_owned()),
    };
    let cached = known.and_then(|release| cache.find(SHELF, &Key::named(&release)));
    if let Some(kernel) = cached.and_then(|entry| in_entry(&entry)) {
        return Ok(kernel);
    }
    let apt = Apt::open(cache, "the guest's kernel", MEND, progress)?;
    let package = match release {
        Some(wanted) => named(&apt, wanted)?,
        None => current(&apt)?,
    };
    let name = package.strip_prefix(PREFIX).unwrap_or(&package).to_owned();
    let entry = cache.entry(SHELF, &Key::named(&name), |dir| -> Result<(), Error> {
        let mut packages = vec![package.clone()];
        // Ubuntu has the modules in a package of their own.
        packages.extend(apt.depends(&package)?.into_iter().filter(|p| *p == format!("linux-modules-{name}")));
        let tree = dir.join("tree");
        apt.unpack(&packages.iter().map(String::as_str).collect::<Vec<_>>(), &tree)?;
        package::arrange(&tree, dir, &name)
    })?;
    if release.is_none() {
        point(&shelf.join(LATEST), &name)?;
    }
    in_entry(&entry)
        .ok_or_else(|| Error::file(&entry, "there is no kernel in it: remove it and fetch it again"))
}

/// The kernel that a user named: a file, with the modules of `modules_dir` if it is given; or, where there is no such
/// file, as much of a packaged kernel's release as matters.
///
/// # Errors
/// As [`from_files`] and [`fetch`].
pub fn find(
    cache: &Cache,
    name: &Path,
    modules_dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<KernelFiles, Error> {
    // A file goes first, whatever it is called.
    let release = name.to_str().filter(|text| is_release_like(text) && fs::symlink_metadata(name).is_err());
    match release {
        Some(release) => {
            let kernel = fetch(cache, Some(release), progress)?;
            match modules_dir {
                Some(_) => from_files(&kernel.image, modules_dir),
                None => Ok(kernel),
            }
        }
        None => from_files(name, modules_dir),
    }
}

/// A kernel of the distribution's that [`fetch`] can bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// Its release.
    pub release: String,
    /// What it is made for, such as `cloud-amd64`.
    pub flavour: String,
    /// Whether it is in the cache.
    pub is_cached: bool,
}

/// The distribution's kernels, oldest release first.
///
/// # Errors
/// There is no package index to be had, or the cache can't be read.
pub fn available(cache: &Cache, progress: &dyn Progress) -> Result<Vec<Available>, Error> {
    let apt = Apt::open(cache, "the list of kernels", MEND, progress)?;
    let cached = list(cache)?;
    let mut kernels: Vec<Available> = apt
        .names(PREFIX)?
        .iter()
        .filter_map(|name| {
            let release = name.strip_prefix(PREFIX)?;
            Some(Available {
                release: release.to_owned(),
                flavour: flavour_of(release)?.trim_start_matches('-').to_owned(),
                is_cached: cached.iter().any(|kernel| kernel.release == release),
            })
        })
        .collect();
    kernels.sort_by_cached_key(|kernel| (version(&kernel.release), kernel.release.clone()));
    Ok(kernels)
}

/// A kernel from a file, with the modules of `modules_dir` if it is given.
///
/// # Errors
/// One of them is not there or not readable.
pub fn from_files(image: &Path, modules_dir: Option<&Path>) -> Result<KernelFiles, Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("resolve", path));
    let path = absolute(image)?;
    let metadata = fs::metadata(&path).map_err(Error::io("find the kernel", &path))?;
    if !metadata.is_file() {
        return Err(Error::file(&path, "a kernel is a file"));
    }
    let mut file = File::open(&path).map_err(Error::io("read the kernel", &path))?;
    let own = header::release(&mut file).map_err(Error::io("read the kernel", &path))?;
    let modules_dir = modules_dir.map(absolute).transpose()?;
    if let Some(dir) = &modules_dir {
        fs::read_dir(dir).map_err(Error::io("read the modules' folder", dir))?;
    }
    // A folder of modules is named for its release, or it tells of none.
    let of_dir = || {
        let name = modules_dir.as_ref()?.file_name()?.to_str()?;
        is_release_like(name).then(|| name.to_owned())
    };
    let release = own.or_else(of_dir).unwrap_or_else(|| UNKNOWN.to_owned());
    Ok(KernelFiles { image: path, modules_dir, release })
}

/// The kernels in the cache, oldest release first.
///
/// # Errors
/// The cache can't be read.
pub fn list(cache: &Cache) -> Result<Vec<KernelFiles>, Error> {
    let shelf = cache.root().join(SHELF);
    let entries = match fs::read_dir(&shelf) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("read", &shelf))?,
    };
    let mut kernels: Vec<KernelFiles> = entries
        .flatten()
        .filter(|entry| entry.file_name() != LATEST)
        .filter_map(|entry| in_entry(&entry.path()))
        .collect();
    kernels.sort_by_cached_key(|kernel| (version(&kernel.release), kernel.release.clone()));
    Ok(kernels)
}

/// The cached kernel that such a release means best.
fn in_cache(cache: &Cache, wanted: &str) -> Result<Option<KernelFiles>, Error> {
    let kernels = list(cache)?;
    let best = choose(kernels.iter().map(|kernel| kernel.release.as_str()), wanted).map(str::to_owned);
    // One that was brought by hand has a release of its own kind.
    Ok(kernels.into_iter().rfind(|kernel| match &best {
        Some(best) => kernel.release == *best,
        None => is_release(&kernel.release, wanted),
    }))
}

/// The kernel in an entry of the cache.
fn in_entry(entry: &Path) -> Option<KernelFiles> {
    let image = entry.join("vmlinuz");
    let release = entry.file_name()?.to_string_lossy().into_owned();
    let modules_dir = Some(entry.join("lib/modules").join(&release)).filter(|dir| dir.is_dir());
    image.is_file().then_some(KernelFiles { image, modules_dir, release })
}

/// The package that the distribution's default kernel is in.
fn current(apt: &Apt<'_>) -> Result<String, Error> {
    let mut last = None;
    for meta in META {
        match apt.depends(meta) {
            Ok(depends) => {
                let is_image = |name: &String| {
                    name.strip_prefix(PREFIX)
                        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
                };
                if let Some(package) = depends.into_iter().find(is_image) {
                    return Ok(package);
                }
            }
            Err(error @ Error::NoPackage { .. }) => last = last.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::NoPackage {
        what: format!("a kernel ({} has none of {})", distro::name(), META.join(", ")),
        mend: MEND.to_owned(),
    }))
}

/// The package of such a release.
fn named(apt: &Apt<'_>, wanted: &str) -> Result<String, Error> {
    let names = apt.names(PREFIX)?;
    let release = choose(names.iter().filter_map(|name| name.strip_prefix(PREFIX)), wanted);
    release.map(|release| format!("{PREFIX}{release}")).ok_or_else(|| Error::NoPackage {
        what: format!("Linux {wanted} ({})", distro::name()),
        mend: "`kernel list --available` tells what it has".to_owned(),
    })
}

/// Makes `link` point to `target`, whatever it was before.
fn point(link: &Path, target: &str) -> Result<(), Error> {
    let fresh = link.with_file_name(format!(".{LATEST}.{}", std::process::id()));
    crate::cache::remove(&fresh).map_err(Error::io("remove", &fresh))?;
    std::os::unix::fs::symlink(target, &fresh).map_err(Error::io("create", &fresh))?;
    fs::rename(&fresh, link).map_err(Error::io("create", link))
}

#[cfg(test)]
mod tests;
