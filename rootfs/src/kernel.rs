//! Kernels: the distribution's own, or one from a file.

pub mod build;
mod header;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cache::{Cache, Key};
use crate::distro::{self, Apt};
use crate::progress::Progress;

/// The folder of the cache with one entry for each release.
const SHELF: &str = "kernels";
/// A link to the entry that is used when no release is asked for.
const LATEST: &str = "latest";
/// What to do where no package can be had.
const MEND: &str = "give a kernel with --kernel and its modules with --modules-dir";
/// What kernel packages' names end with, the one that suits a guest best first; the release is between this and
/// `linux-image-`.
const FLAVOURS: &[&str] = &["-cloud-amd64", "-kvm", "-virtual", "-generic", "-amd64"];
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
    let cached = match release {
        Some(wanted) => list(cache)?.into_iter().rfind(|kernel| is_release(&kernel.release, wanted)),
        None => fs::read_link(shelf.join(LATEST)).ok().and_then(|name| in_entry(&shelf.join(name))),
    };
    if let Some(kernel) = cached {
        return Ok(kernel);
    }
    let apt = Apt::open(cache, "the guest's kernel", MEND, progress)?;
    let package = match release {
        Some(wanted) => named(&apt, wanted)?,
        None => current(&apt)?,
    };
    let name = package.trim_start_matches("linux-image-").to_owned();
    let entry = cache.entry(SHELF, &Key::named(&name), |dir| {
        let mut packages = vec![package.clone()];
        // Ubuntu has the modules in a package of their own.
        packages.extend(apt.depends(&package)?.into_iter().filter(|p| *p == format!("linux-modules-{name}")));
        let tree = dir.join("tree");
        apt.unpack(&packages.iter().map(String::as_str).collect::<Vec<_>>(), &tree)?;
        arrange(&tree, dir, &name)
    })?;
    if release.is_none() {
        point(&shelf.join(LATEST), &name)?;
    }
    in_entry(&entry)
        .ok_or_else(|| Error::file(&entry, "there is no kernel in it: remove it and fetch it again"))
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
    let of_dir = || modules_dir.as_ref()?.file_name().map(|name| name.to_string_lossy().into_owned());
    let release = own.or_else(of_dir).unwrap_or_else(|| "unknown".to_owned());
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
    kernels.sort_by_cached_key(|kernel| version(&kernel.release));
    Ok(kernels)
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
                    name.strip_prefix("linux-image-")
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
    let names = apt.names("linux-image-")?;
    choose(&names, wanted).ok_or_else(|| Error::NoPackage {
        what: format!("Linux {wanted} ({})", distro::name()),
        mend: MEND.to_owned(),
    })
}

fn choose(names: &[String], wanted: &str) -> Option<String> {
    let releases = names.iter().filter_map(|name| Some((name, name.strip_prefix("linux-image-")?)));
    let fitting: Vec<_> = releases.filter(|(_, release)| is_release(release, wanted)).collect();
    FLAVOURS.iter().find_map(|flavour| {
        // `-amd64` ends `-rt-amd64` and `-cloud-amd64` too.
        let own = |release: &str| {
            let rest = release.strip_suffix(flavour)?;
            (!rest.contains('-') || rest.rsplit('-').next()?.starts_with(|c: char| c.is_ascii_digit()))
                .then_some(())
        };
        let of_flavour = fitting.iter().filter(|(_, release)| own(release).is_some());
        of_flavour.max_by_key(|(_, release)| version(release)).map(|(name, _)| (*name).clone())
    })
}

/// Whether `release` is `wanted` or a closer version of it: 6.1.0-48 is 6.1, 6.12 is not.
fn is_release(release: &str, wanted: &str) -> bool {
    let rest = (!wanted.is_empty()).then(|| release.strip_prefix(wanted)).flatten();
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The numbers of a release, to compare by.
fn version(release: &str) -> Vec<u64> {
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).collect()
}

/// Takes from an unpacked package what a guest needs.
fn arrange(tree: &Path, entry: &Path, release: &str) -> Result<(), Error> {
    let image = tree.join(format!("boot/vmlinuz-{release}"));
    let place = entry.join("vmlinuz");
    fs::rename(&image, &place).map_err(Error::io("find the kernel in its package as", &image))?;
    let modules = entry.join("lib/modules");
    fs::create_dir_all(&modules).map_err(Error::io("create", &modules))?;
    for from in [tree.join("lib/modules"), tree.join("usr/lib/modules")] {
        let from = from.join(release);
        if from.is_dir() {
            let to = modules.join(release);
            fs::rename(&from, &to).map_err(Error::io("move the modules to", &to))?;
        }
    }
    fs::remove_dir_all(tree).map_err(Error::io("remove", tree))
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
