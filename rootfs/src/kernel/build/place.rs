//! Where a kernel is built: in its tree if that holds a configuration, else in a folder of its own.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::BuildSpec;
use crate::Error;
use crate::cache::{Cache, Key};
use crate::progress::Progress;

/// The folder of the cache with one entry for each source tree and list of options.
const SHELF: &str = "build";
/// What a build leaves beside what make does.
const OWN: &str = ".kiln";

/// Where a kernel is built.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The kernel's source tree.
    pub(super) source: PathBuf,
    /// Where what is made goes; the tree itself if it is built in place.
    pub(super) output: PathBuf,
}

impl Place {
    /// Finds it.
    ///
    /// # Errors
    /// `source` is no kernel's tree, or it can't be built as it was asked for.
    pub(super) fn find(
        cache: &Cache,
        spec: &BuildSpec,
        choices: &[(String, Vec<u8>)],
    ) -> Result<Self, Error> {
        let source = tree(&spec.source)?;
        if source.join(".config").exists() {
            return Self::in_place(source, spec);
        }
        for left in ["include/config", "arch/x86/include/generated"] {
            if source.join(left).is_dir() {
                let why = format!(
                    "something was built in it ({left} is there), so nothing can be built from it elsewhere: run \
                     `make mrproper` in it"
                );
                return Err(Error::file(&spec.source, why));
            }
        }
        let output = match &spec.build_dir {
            Some(dir) => std::path::absolute(dir).map_err(Error::io("resolve", dir))?,
            None => cache.root().join(SHELF).join(name(&source, spec, choices)?),
        };
        fs::create_dir_all(&output).map_err(Error::io("create", &output))?;
        let output = output.canonicalize().map_err(Error::io("resolve", &output))?;
        if output == source {
            let why = "it is the source tree: without a .config in it, it is built elsewhere; leave --build-dir out";
            return Err(Error::file(&output, why));
        }
        makeable(&output)?;
        Ok(Self { source, output })
    }

    fn in_place(source: PathBuf, spec: &BuildSpec) -> Result<Self, Error> {
        let refused = |option: &str, instead: &str| {
            let why = format!(
                "it has a .config, so it is built in place with that: {option} has no use; {instead}"
            );
            Err(Error::file(&spec.source, why))
        };
        if let Some(base) = &spec.base {
            let instead = format!(
                "leave it out, or `mv {0}/.config ELSEWHERE && make -C {0} mrproper` and give {base} as the base",
                spec.source.display()
            );
            return refused("--base", &instead);
        }
        if spec.build_dir.is_some() {
            let instead = format!(
                "leave it out, or `mv {0}/.config DIR && make -C {0} mrproper` to build in DIR with it",
                spec.source.display()
            );
            return refused("--build-dir", &instead);
        }
        Ok(Self { output: source.clone(), source })
    }

    /// Whether the tree is built in place.
    pub(super) fn is_in_place(&self) -> bool {
        self.source == self.output
    }

    /// The file `name` of what is made.
    pub(super) fn made(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }

    /// The file `name` of our own, beside what is made.
    pub(super) fn own(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.output.join(OWN);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(folder.join(name))
    }

    /// Keeps others from building here, and from making room by taking the folder away, as long as the file is held.
    /// The folder itself is locked, so that it does not matter what cache they use.
    pub(super) fn lock(&self, progress: &dyn Progress) -> Result<File, Error> {
        loop {
            fs::create_dir_all(&self.output).map_err(Error::io("create", &self.output))?;
            let folder = File::open(&self.output).map_err(Error::io("open", &self.output))?;
            if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
                progress.note(&format!("waiting for another use of {}", self.output.display()));
                while let Err(error) = flock(&folder, FlockOperation::LockExclusive) {
                    if error != rustix::io::Errno::INTR {
                        return Err(Error::io("lock", &self.output)(error.into()));
                    }
                }
            }
            // Whoever had it may have removed it.
            let ours = folder.metadata().map_err(Error::io("look at", &self.output))?;
            if fs::metadata(&self.output).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
            {
                return Ok(folder);
            }
        }
    }
}

/// The absolute path of a kernel's source tree.
fn tree(given: &Path) -> Result<PathBuf, Error> {
    let source = given.canonicalize().map_err(Error::io("find the kernel's sources in", given))?;
    fs::read_dir(&source).map_err(Error::io("read the kernel's sources in", given))?;
    for file in ["Makefile", "Kconfig", "arch/x86/Kconfig", "scripts/kconfig/Makefile"] {
        let path = source.join(file);
        if !path.is_file() {
            return Err(Error::file(given, format!("not the source tree of a kernel: it has no {file}")));
        }
        File::open(&path).map_err(Error::io("read", &path))?;
    }
    makeable(&source)?;
    Ok(source)
}

/// A kernel's Makefile takes no such path.
fn makeable(path: &Path) -> Result<(), Error> {
    let text = path.as_os_str().as_encoded_bytes();
    if text.iter().any(|&byte| byte == b':' || byte.is_ascii_whitespace()) {
        return Err(Error::file(path, "no kernel can be built there: the path has a space or a colon in it"));
    }
    Ok(())
}

/// The same for the next commit of the same tree, so that little is to be built.
fn name(source: &Path, spec: &BuildSpec, choices: &[(String, Vec<u8>)]) -> Result<String, Error> {
    let mut key = Key::new("build-1").field("source", source.as_os_str().as_encoded_bytes());
    for what in spec.base.iter().chain(&spec.fragments) {
        // Files by their place: what is in them may change.
        let path = Path::new(what);
        let full = if path.exists() {
            path.canonicalize().map_err(Error::io("resolve", path))?
        } else {
            path.into()
        };
        key = key.field("options", full.as_os_str().as_encoded_bytes());
    }
    for (name, value) in choices {
        key = key.field(name, value);
    }
    let folder = source.file_name().unwrap_or_default().to_string_lossy();
    let tag: String = key.name().chars().take(16).collect();
    Ok(Key::named(&format!("{folder}-{tag}")).name())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cache, spec, tree};
    use super::*;

    fn fault(spec: &BuildSpec) -> String {
        let (_folder, cache) = cache();
        Place::find(&cache, spec, &[]).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_tree_is_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fault(&spec(folder.path())).ends_with("not the source tree of a kernel: it has no Makefile"));
        assert!(
            fault(&spec(&folder.path().join("no"))).starts_with("failed to find the kernel's sources in ")
        );
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(fault(&spec(&file)).starts_with("failed to read the kernel's sources in "));
    }

    #[test]
    fn tree_with_leftovers_is_sent_to_mrproper() {
        let source = tree();
        fs::create_dir_all(source.path().join("include/config")).unwrap();
        assert!(fault(&spec(source.path())).contains("make mrproper"));
    }

    #[test]
    fn tree_with_a_configuration_is_built_in_place_and_takes_no_base() {
        let source = tree();
        fs::write(source.path().join(".config"), "CONFIG_X86_64=y\n").unwrap();
        let (_folder, cache) = cache();
        assert!(Place::find(&cache, &spec(source.path()), &[]).unwrap().is_in_place());
        let based = BuildSpec { base: Some("tiny".to_owned()), ..spec(source.path()) };
        assert!(fault(&based).contains("--base has no use; leave it out, or `mv "));
        let elsewhere = BuildSpec { build_dir: Some("/x".into()), ..spec(source.path()) };
        assert!(fault(&elsewhere).contains("--build-dir has no use"));
    }

    #[test]
    fn folder_in_the_cache_is_the_same_for_the_same_tree_and_lists_alone() {
        let source = tree();
        let (_folder, cache) = cache();
        let find = |spec: &BuildSpec| Place::find(&cache, spec, &[]).unwrap().output;
        let plain = spec(source.path());
        assert_eq!(find(&plain), find(&plain));
        assert!(find(&plain).starts_with(cache.root().canonicalize().unwrap().join(SHELF)));
        assert_ne!(find(&plain), find(&BuildSpec { base: Some("smoke".to_owned()), ..plain.clone() }));
    }

    #[test]
    fn path_that_make_takes_for_two_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a b");
        let source = tree();
        assert!(
            fault(&BuildSpec { build_dir: Some(dir), ..spec(source.path()) }).contains("a space or a colon")
        );
    }

    #[test]
    fn folder_is_locked_while_it_is_built_in() {
        let source = tree();
        let (_folder, cache) = cache();
        let place = Place::find(&cache, &spec(source.path()), &[]).unwrap();
        let held = place.lock(&crate::progress::Silent).unwrap();
        let other = File::open(&place.output).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(held);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
