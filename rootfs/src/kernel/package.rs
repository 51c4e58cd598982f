//! Kernels out of packages: those that the distribution has, and those that a user has as files.

use std::fs;
use std::path::{Path, PathBuf};

use super::{KernelFiles, SHELF, in_entry, is_release_like};
use crate::Error;
use crate::cache::{Cache, Key, remove, sha256_of_file};
use crate::distro::deb;
use crate::progress::Progress;

/// Where a package has its kernel, before the release.
const IMAGE: &str = "boot/vmlinuz-";
/// The file of an entry that says which packages it was made of.
const ORIGIN: &str = "packages";

/// Takes from the unpacked packages in `tree` what a guest needs: the kernel, its configuration and its modules.
pub(super) fn arrange(tree: &Path, entry: &Path, release: &str) -> Result<(), Error> {
    let image = tree.join(format!("{IMAGE}{release}"));
    let place = entry.join("vmlinuz");
    fs::rename(&image, &place).map_err(Error::io("find the kernel in its package as", &image))?;
    let config = tree.join(format!("boot/config-{release}"));
    if config.is_file() {
        let place = entry.join("config");
        fs::rename(&config, &place).map_err(Error::io("move the configuration to", &place))?;
    }
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

/// The kernel in Debian packages (`.deb` files) that a user has, one of which has the kernel itself; it goes to where
/// the distribution's are. A kernel of the same release that came out of other packages is replaced.
///
/// # Errors
/// One of them is no whole package, none or several have a kernel, or the cache can't be written.
pub fn from_packages(
    cache: &Cache,
    packages: &[PathBuf],
    progress: &dyn Progress,
) -> Result<KernelFiles, Error> {
    let mut releases = Vec::new();
    for package in packages {
        if let Some(release) = deb::find(package, release_of)? {
            releases.push((package, release));
        }
    }
    let (_, release) = match releases.as_slice() {
        [one] => one,
        [] => {
            let first = packages.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
            return Err(Error::file(
                first,
                format!("there is no kernel in this package: no /{IMAGE}RELEASE"),
            ));
        }
        [.., (package, _)] => {
            return Err(Error::file(
                package,
                "a second package with a kernel: give one, and others with its modules",
            ));
        }
    };
    let origin = packages.iter().map(|package| sha256_of_file(package)).collect::<Result<Vec<_>, _>>()?;
    let origin = origin.join("\n") + "\n";
    let key = Key::named(release);
    let name = format!("replaced-{}", key.name());
    let _lock = cache.lock(&name)?;
    let place = cache.root().join(SHELF).join(key.name());
    let other = place.is_dir() && fs::read_to_string(place.join(ORIGIN)).ok().as_ref() != Some(&origin);
    // Whatever ends this process here leaves it to be removed when the cache is next opened.
    let replaced = cache.tmp().join(format!("{name}.part"));
    if other {
        remove(&replaced).map_err(Error::io("remove", &replaced))?;
        fs::rename(&place, &replaced).map_err(Error::io("replace", &place))?;
    }
    let entry = cache.entry(SHELF, &key, |dir| {
        let tree = dir.join("tree");
        deb::unpack_all(packages, &tree, "the kernel", progress)?;
        arrange(&tree, dir, release)?;
        let path = dir.join(ORIGIN);
        fs::write(&path, &origin).map_err(Error::io("write", &path))
    });
    if other {
        // A package that can't be had leaves what was there.
        let left = if entry.is_ok() { remove(&replaced) } else { fs::rename(&replaced, &place) };
        left.map_err(Error::io("put away", &replaced))?;
    }
    let entry = entry?;
    in_entry(&entry)
        .ok_or_else(|| Error::file(&entry, "there is no kernel in it: remove it and fetch it again"))
}

/// The release of the kernel that is at such a path of a package, if one is.
fn release_of(path: &str) -> Option<String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    path.strip_prefix(IMAGE).filter(|release| is_release_like(release)).map(str::to_owned)
}
