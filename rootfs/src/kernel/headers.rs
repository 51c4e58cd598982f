//! What a module is built against: the folder that kbuild calls a kernel's build folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::KernelFiles;
use crate::Error;
use crate::cache::{Cache, Key};
use crate::distro::Apt;
use crate::progress::Progress;

/// The folder of the cache with one entry for each release.
const SHELF: &str = "headers";
/// Where packages have such folders.
const SOURCES: &str = "usr/src";
/// What the names of packages with them begin with; the release follows.
const PREFIX: &str = "linux-headers-";
/// What to do where no package can be had.
const MEND: &str = "name a kernel by its image in the folder that it was built in (…/arch/x86/boot/bzImage)";
/// The configuration as C sees it, which every folder that was built in has.
const CONFIGURED: &str = "include/generated/autoconf.h";

/// The build folder of `kernel`: the one that its image lies in, the `build` of its modules' folder, or what the
/// distribution has for its release, from the cache if it is there.
///
/// # Errors
/// There is none of the three.
pub(super) fn folder(cache: &Cache, kernel: &KernelFiles, progress: &dyn Progress) -> Result<PathBuf, Error> {
    let built = kernel.image.canonicalize().ok().and_then(|image| {
        let root = image.parent()?.ends_with("arch/x86/boot").then(|| image.ancestors().nth(4))??;
        Some(root.to_owned())
    });
    let beside = kernel.modules_dir.as_ref().map(|dir| dir.join("build"));
    for folder in built.into_iter().chain(beside) {
        if folder.join(CONFIGURED).is_file() {
            return Ok(folder);
        }
    }
    packaged(cache, &kernel.release, progress)
}

/// The distribution's, for such a release.
fn packaged(cache: &Cache, release: &str, progress: &dyn Progress) -> Result<PathBuf, Error> {
    let entry = cache.entry(SHELF, &Key::named(release), |dir| -> Result<(), Error> {
        let what = format!("the headers of Linux {release}");
        let apt = Apt::open(cache, &what, MEND, progress)?;
        let packages = all_of(&format!("{PREFIX}{release}"), |package| apt.depends(package))?;
        apt.unpack(&packages.iter().map(String::as_str).collect::<Vec<_>>(), dir)?;
        let folder = dir.join(SOURCES).join(format!("{PREFIX}{release}"));
        // It is there for the types of BPF programs, which a test's module has none of.
        let types = folder.join("vmlinux");
        crate::cache::remove(&types).map_err(Error::io("remove", &types))?;
        move_in(&folder.join("Makefile"))
    })?;
    Ok(entry.join(SOURCES).join(format!("{PREFIX}{release}")))
}

/// The package and those with other parts of the same headers, of all that it depends on.
fn all_of(package: &str, depends: impl Fn(&str) -> Result<Vec<String>, Error>) -> Result<Vec<String>, Error> {
    let mut all = vec![package.to_owned()];
    let mut next = 0;
    while let Some(package) = all.get(next) {
        let parts = depends(package)?;
        let is_part = |name: &String| name.contains("-headers-") || name.starts_with("linux-kbuild-");
        let fresh: Vec<String> =
            parts.into_iter().filter(|name| is_part(name) && !all.contains(name)).collect();
        all.extend(fresh);
        next += 1;
    }
    Ok(all)
}

/// Debian's Makefile includes another by its place in the system: here it is found from where the first one is.
fn move_in(makefile: &Path) -> Result<(), Error> {
    let text = fs::read_to_string(makefile).map_err(Error::io("read", makefile))?;
    let moved =
        text.replace(&format!("include /{SOURCES}/"), "include $(dir $(lastword $(MAKEFILE_LIST)))../");
    if moved == text {
        return Ok(());
    }
    fs::write(makefile, moved).map_err(Error::io("write", makefile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_headers_are_taken_and_nothing_else() {
        let depends = |package: &str| {
            Ok(match package {
                "linux-headers-6.1.0-1-amd64" => {
                    vec!["linux-headers-6.1.0-1-common", "linux-kbuild-6.1", "linux-compiler-gcc-12-x86"]
                }
                "linux-headers-6.1.0-1-common" => vec!["linux-kbuild-6.1"],
                "linux-kbuild-6.1" => vec!["libc6", "libelf1"],
                other => panic!("{other}"),
            }
            .into_iter()
            .map(str::to_owned)
            .collect())
        };
        let all = all_of("linux-headers-6.1.0-1-amd64", depends).unwrap();
        assert_eq!(all, ["linux-headers-6.1.0-1-amd64", "linux-headers-6.1.0-1-common", "linux-kbuild-6.1"]);
    }

    #[test]
    fn makefile_finds_its_other_half_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let makefile = folder.path().join("Makefile");
        fs::write(&makefile, "include /usr/src/linux-headers-6.1-common/Makefile\n").unwrap();
        move_in(&makefile).unwrap();
        let text = fs::read_to_string(&makefile).unwrap();
        assert_eq!(text, "include $(dir $(lastword $(MAKEFILE_LIST)))../linux-headers-6.1-common/Makefile\n");
    }

    #[test]
    fn kernel_in_the_folder_that_it_was_built_in_needs_no_package() {
        let tree = tempfile::tempdir().unwrap();
        let tree = tree.path().canonicalize().unwrap();
        let image = tree.join("arch/x86/boot/bzImage");
        for path in [&image, &tree.join(CONFIGURED)] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let kernel = KernelFiles { image, modules_dir: None, release: "6.1".to_owned() };
        let cache = Cache::open(Some(tree.join("cache"))).unwrap();
        assert_eq!(folder(&cache, &kernel, &crate::progress::Silent).unwrap(), tree);
    }
}
