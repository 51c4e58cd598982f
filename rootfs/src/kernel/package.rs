//! Kernels out of packages: those that the distribution has, and those that a user has as files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{KernelFiles, SHELF, header, in_entry, is_release_like};
use crate::Error;
use crate::cache::{Cache, Key, sha256_of_file};
use crate::distro::deb;
use crate::progress::Progress;

/// Where a package has its kernel, before the release.
const IMAGE: &str = "boot/vmlinuz-";
/// The file of an entry that says which packages it was made of.
const ORIGIN: &str = "packages";

/// Takes from the unpacked packages in `tree` what a guest needs: the kernel, its configuration and its modules.
///
/// # Errors
/// There is no kernel of `release` in them, or what passes for it leads out of them.
pub(super) fn arrange(tree: &Path, entry: &Path, release: &str) -> Result<(), Error> {
    let named = tree.join(format!("{IMAGE}{release}"));
    let (image, metadata) = inside(tree, &named, "find the kernel in its package as")?;
    if !metadata.is_file() {
        return Err(Error::file(&named, "the kernel in the package is no file"));
    }
    let mut file = File::open(&image).map_err(Error::io("read the kernel", &image))?;
    let own = header::release(&mut file).map_err(Error::io("read the kernel", &image))?;
    if own.as_deref() != Some(release) {
        let is = own.map_or("no kernel that tells its release".to_owned(), |own| format!("Linux {own}"));
        return Err(Error::file(&named, format!("what the package has under that name is {is}")));
    }
    let place = entry.join("vmlinuz");
    fs::rename(&image, &place).map_err(Error::io("move the kernel to", &place))?;
    let config = tree.join(format!("boot/config-{release}"));
    if fs::symlink_metadata(&config).is_ok() {
        let (config, metadata) = inside(tree, &config, "find the configuration in its package as")?;
        if metadata.is_file() {
            let place = entry.join("config");
            fs::rename(&config, &place).map_err(Error::io("move the configuration to", &place))?;
        }
    }
    let modules = entry.join("lib/modules");
    fs::create_dir_all(&modules).map_err(Error::io("create", &modules))?;
    for from in [tree.join("lib/modules"), tree.join("usr/lib/modules")] {
        let from = from.join(release);
        // A package's /lib may be a link to its /usr/lib.
        if fs::symlink_metadata(&from).is_ok() {
            let (from, metadata) = inside(tree, &from, "find the modules in their package as")?;
            if !metadata.is_dir() {
                return Err(Error::file(&from, "the modules in the package are in no folder"));
            }
            let to = modules.join(release);
            fs::rename(&from, &to).map_err(Error::io("move the modules to", &to))?;
        }
    }
    fs::remove_dir_all(tree).map_err(Error::io("remove", tree))
}

/// What `path` is once all links are followed, which must not lead out of `tree`; `what` was tried with it.
fn inside(tree: &Path, path: &Path, what: &'static str) -> Result<(PathBuf, fs::Metadata), Error> {
    let root = tree.canonicalize().map_err(Error::io("resolve", tree))?;
    let real = path.canonicalize().map_err(Error::io(what, path))?;
    if real == root || !real.starts_with(&root) {
        return Err(Error::file(path, "in the package it is a link that leads out of it"));
    }
    let metadata = fs::symlink_metadata(&real).map_err(Error::io(what, path))?;
    Ok((real, metadata))
}

/// The kernel in Debian packages (`.deb` files) that a user has, one of which has the kernel itself; it goes to where
/// the distribution's are. Of a file that several have, the last one's stays. A kernel of the same release that came out of other packages is replaced, once the new one is
/// whole.
///
/// # Errors
/// One of them is no whole package, none or several have a kernel, another process uses the kernel that is to be
/// replaced, or the cache can't be written.
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
    let is_same = |entry: &Path| fs::read_to_string(entry.join(ORIGIN)).ok().as_ref() == Some(&origin);
    let entry = cache.entry_if(SHELF, &key, is_same, |dir| -> Result<(), Error> {
        let tree = dir.join("tree");
        // One after the other: of a file that several have, it is always the last one's that stays.
        for package in packages {
            deb::unpack_all(std::slice::from_ref(package), &tree, "the kernel", progress)?;
        }
        arrange(&tree, dir, release)?;
        let path = dir.join(ORIGIN);
        fs::write(&path, &origin).map_err(Error::io("write", &path))
    })?;
    in_entry(&entry)
        .ok_or_else(|| Error::file(&entry, "there is no kernel in it: remove it and fetch it again"))
}

/// The release of the kernel that is at such a path of a package, if one is.
fn release_of(path: &str) -> Option<String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    path.strip_prefix(IMAGE).filter(|release| is_release_like(release)).map(str::to_owned)
}
