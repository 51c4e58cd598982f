//! Where a kernel is built: in its tree if that holds a configuration, else in a folder of its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::BuildSpec;
use crate::Error;
use crate::cache::{Cache, Key};
use crate::progress::Progress;

/// The folder of the cache with one entry for each source tree and list of options.
const SHELF: &str = "build";
/// What a build leaves beside what make does.
const OWN: &str = ".kiln";
/// The way out of a folder that make can't build in.
const ELSEWHERE: &str = "name another folder with --build-dir";

/// Where a kernel is built.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The kernel's source tree.
    pub(super) source: PathBuf,
    /// Where what is made goes; the tree itself if it is built in place.
    pub(super) output: PathBuf,
}

impl Place {
    /// Finds it, for the tree whose absolute path is `source`.
    ///
    /// # Errors
    /// It can't be built as it was asked for.
    pub(super) fn find(
        cache: &Cache,
        spec: &BuildSpec,
        source: PathBuf,
        choices: &[(String, Vec<u8>)],
    ) -> Result<Self, Error> {
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
        // Nothing is made where nothing can be built; and a link may lead to such a place.
        makeable(&output, ELSEWHERE)?;
        fs::create_dir_all(&output).map_err(Error::io("create", &output))?;
        let output = output.canonicalize().map_err(Error::io("resolve", &output))?;
        if output == source {
            let why = "it is the source tree: without a .config in it, it is built elsewhere; leave --build-dir out";
            return Err(Error::file(&output, why));
        }
        makeable(&output, ELSEWHERE)?;
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
    pub(super) fn lock(&self, progress: &dyn Progress) -> Result<Held, Error> {
        loop {
            fs::create_dir_all(&self.output).map_err(Error::io("create", &self.output))?;
            let folder = File::open(&self.output).map_err(Error::io("open", &self.output))?;
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {
                    progress.note(&format!("waiting for another use of {}", self.output.display()));
                    while let Err(error) = flock(&folder, FlockOperation::LockExclusive) {
                        if error != Errno::INTR {
                            return Err(Error::io("lock", &self.output)(error.into()));
                        }
                    }
                }
                // A file system without locks.
                Err(error) => progress.note(&format!(
                    "{} can't be locked ({error}): let nothing else be built there meanwhile",
                    self.output.display()
                )),
            }
            // Whoever had it may have removed it.
            let ours = folder.metadata().map_err(Error::io("look at", &self.output))?;
            if fs::metadata(&self.output).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
            {
                return Ok(Held(folder));
            }
        }
    }

    /// Puts a configuration where make looks for it: at once, or not at all. Where there is a link, its target is
    /// written.
    ///
    /// # Errors
    /// The file system's own.
    pub(super) fn configure(&self, bytes: &[u8]) -> Result<(), Error> {
        let config = self.made(".config");
        let there = fs::symlink_metadata(&config).ok();
        let to = if there.as_ref().is_some_and(fs::Metadata::is_symlink) {
            config.canonicalize().map_err(Error::io("resolve", &config))?
        } else {
            config
        };
        // What is as it was keeps its time, too, by which make knows what is old.
        if fs::read(&to).is_ok_and(|now| now == bytes) {
            return Ok(());
        }
        let mode = fs::metadata(&to).map_or(0o644, |metadata| metadata.permissions().mode());
        let write = || -> io::Result<()> {
            let folder = to.parent().unwrap_or(&self.output);
            let permissions = fs::Permissions::from_mode(mode);
            let mut file =
                tempfile::Builder::new().prefix(".config-").permissions(permissions).tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.persist(&to).map(drop).map_err(|error| error.error)
        };
        write().map_err(Error::io("write", &to))
    }
}

/// The lock of a folder, held until this is dropped.
#[derive(Debug)]
pub(super) struct Held(File);

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Not only closed: what a build started may have the descriptor, too, and live on.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// The absolute path of a kernel's source tree.
///
/// # Errors
/// `given` is no kernel's tree.
pub(super) fn tree(given: &Path) -> Result<PathBuf, Error> {
    let source = given.canonicalize().map_err(Error::io("find the kernel's sources in", given))?;
    fs::read_dir(&source).map_err(Error::io("read the kernel's sources in", given))?;
    for file in ["Makefile", "Kconfig", "arch/x86/Kconfig", "scripts/kconfig/Makefile"] {
        let path = source.join(file);
        if !path.is_file() {
            return Err(Error::file(given, format!("not the source tree of a kernel: it has no {file}")));
        }
        File::open(&path).map_err(Error::io("read", &path))?;
    }
    makeable(&source, "move the tree")?;
    Ok(source)
}

/// Refuses a path that make or the shell would take for something else; `mend` is what to do then.
fn makeable(path: &Path, mend: &str) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || "/._+,@%=~-".contains(c);
    let text = path.to_string_lossy();
    match text.chars().find(|&c| !fits(c)) {
        None => Ok(()),
        Some(odd) => {
            let why = format!("no kernel can be built there: make does not take {odd:?} in a path; {mend}");
            Err(Error::file(path, why))
        }
    }
}

/// The same for the next commit of the same tree, so that little is to be built.
fn name(source: &Path, spec: &BuildSpec, choices: &[(String, Vec<u8>)]) -> Result<String, Error> {
    let mut key = Key::new("build-1").field("source", source.as_os_str().as_encoded_bytes());
    // Where there is a base, the first of them is it.
    let label = if spec.base.is_some() { "options" } else { "config" };
    for what in spec.base.iter().chain(&spec.fragments) {
        // Files by their place: what is in them may change.
        let path = Path::new(what);
        let full = if path.exists() {
            path.canonicalize().map_err(Error::io("resolve", path))?
        } else {
            path.into()
        };
        key = key.field(label, full.as_os_str().as_encoded_bytes());
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

    fn find(cache: &Cache, spec: &BuildSpec) -> Result<Place, Error> {
        Place::find(cache, spec, super::tree(&spec.source)?, &[])
    }

    fn fault(spec: &BuildSpec) -> String {
        let (_folder, cache) = cache();
        find(&cache, spec).unwrap_err().to_string()
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
        assert!(find(&cache, &spec(source.path())).unwrap().is_in_place());
        let based = BuildSpec { base: Some("tiny".to_owned()), ..spec(source.path()) };
        assert!(fault(&based).contains("--base has no use; leave it out, or `mv "));
        let elsewhere = BuildSpec { build_dir: Some("/x".into()), ..spec(source.path()) };
        assert!(fault(&elsewhere).contains("--build-dir has no use"));
    }

    #[test]
    fn folder_in_the_cache_is_the_same_for_the_same_tree_and_lists_alone() {
        let source = tree();
        let (_folder, cache) = cache();
        let find = |spec: &BuildSpec| find(&cache, spec).unwrap().output;
        let plain = spec(source.path());
        assert_eq!(find(&plain), find(&plain));
        assert!(find(&plain).starts_with(cache.root().canonicalize().unwrap().join(SHELF)));
        let based = find(&BuildSpec { base: Some("smoke".to_owned()), ..plain.clone() });
        assert_ne!(find(&plain), based);
        assert_ne!(find(&BuildSpec { fragments: vec!["smoke".to_owned()], ..plain }), based);
    }

    #[test]
    fn path_that_make_takes_for_something_else_is_refused_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let source = tree();
        let into =
            |name: &str| BuildSpec { build_dir: Some(folder.path().join(name)), ..spec(source.path()) };
        for name in ["a b", "a:b", "$HOME", "a'b", "a\"b", "a(b)", "a;b", "a*", "a#b", "a\\b", "a\nb"] {
            let said = fault(&into(name));
            assert!(said.contains("in a path; name another folder with --build-dir"), "{said}");
            assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
        }
        let (_folder, cache) = cache();
        for name in ["a@2,b", "feature%2Fx", "é", "~c+d=e"] {
            assert!(find(&cache, &into(name)).unwrap().output.ends_with(name), "{name}");
        }
        // A link to such a place is no way around.
        std::os::unix::fs::symlink(folder.path().join("a b"), folder.path().join("link")).unwrap();
        fs::create_dir(folder.path().join("a b")).unwrap();
        assert!(fault(&into("link")).contains("does not take ' '"));
    }

    #[test]
    fn configuration_is_written_through_a_link_and_kept_as_it_is_where_nothing_differs() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let place = Place { source: folder.path().join("s"), output: folder.path().join("o") };
        fs::create_dir(&place.output).unwrap();
        fs::write(&own, "CONFIG_A=y\n").unwrap();
        std::os::unix::fs::symlink(&own, place.made(".config")).unwrap();
        let inode = || fs::metadata(&own).unwrap().ino();
        let before = inode();
        place.configure(b"CONFIG_A=y\n").unwrap();
        assert_eq!(inode(), before);
        place.configure(b"CONFIG_B=y\n").unwrap();
        assert_eq!(fs::read_to_string(&own).unwrap(), "CONFIG_B=y\n");
        assert!(place.made(".config").is_symlink());
        fs::remove_file(&own).unwrap();
        assert!(place.configure(b"").unwrap_err().to_string().contains("failed to resolve"));
    }

    #[test]
    fn folder_is_locked_while_it_is_built_in() {
        let source = tree();
        let (_folder, cache) = cache();
        let place = find(&cache, &spec(source.path())).unwrap();
        let held = place.lock(&crate::progress::Silent).unwrap();
        // A build's own child that lives on does not hold it, too, once we let it go.
        let _child = held.0.try_clone().unwrap();
        let other = File::open(&place.output).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(held);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
