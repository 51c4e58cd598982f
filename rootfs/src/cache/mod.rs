//! Where all that is downloaded or built is kept: folders that are complete or not there at all.

mod entries;
mod key;
mod limit;
mod lock;
mod manifest;
mod pin;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use entries::Entry;
pub use key::Key;
pub use limit::LIMIT_VARIABLE;
pub(crate) use lock::Lock;

use crate::Error;

/// Backup programs know by this what they may leave out (bford.info/cachedir).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file marks a cache of kiln. Everything beside it can be made again.\n";

/// What scratch files' names begin with.
const SCRATCH: &str = "scratch-";
/// A scratch file that has not changed for so long was left by a process that died.
const SCRATCH_LIFE: Duration = Duration::from_secs(60 * 60);

const TAG_NAME: &str = "CACHEDIR.TAG";

/// All that is ever in a cache's folder.
pub const KNOWN: &[&str] = &[
    TAG_NAME,
    "agent",
    "build",
    "busybox",
    "headers",
    "ignored.jsonl",
    "images",
    "kernels",
    "modules",
    "panics",
    "programs",
    "qemu",
    "runs",
    "rustc",
    "snapshots",
    "tmp",
    "vmlinux",
];

/// A cache on disk. Any number of processes may use it at once.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// Bytes that it may take; none for no limit.
    limit: Option<u64>,
}

impl Cache {
    /// Opens the cache at `root`, or where it is by default: `KILN_CACHE`, else `kiln` in the target folder of
    /// the workspace that the current folder is in, else the user's cache folder. What a process that died left
    /// half done is removed.
    ///
    /// # Errors
    /// The folder can't be made, or [`LIMIT_VARIABLE`] holds no size.
    pub fn open(root: Option<PathBuf>) -> Result<Self, Error> {
        let root = root.unwrap_or_else(default_root);
        let root = std::path::absolute(&root).map_err(Error::io("resolve", &root))?;
        let cache = Self { root, limit: limit::chosen()? };
        fs::create_dir_all(cache.tmp()).map_err(Error::io("create", &cache.tmp()))?;
        let tag = cache.root.join(TAG_NAME);
        // A folder of somebody's own, which a user named by mistake, must not pass for a cache.
        if !tag.exists() && cache.holds_only_ours() {
            fs::write(&tag, TAG).map_err(Error::io("write", &tag))?;
        }
        cache.sweep();
        Ok(cache)
    }

    /// Whether nothing is in the folder but what a cache holds.
    #[must_use]
    pub fn holds_only_ours(&self) -> bool {
        let Ok(mut entries) = fs::read_dir(&self.root) else { return false };
        entries.all(|entry| entry.is_ok_and(|entry| KNOWN.iter().any(|known| entry.file_name() == **known)))
    }

    /// The cache where it is by default, as it is: nothing is made or removed, and it may not be there.
    #[must_use]
    pub fn look() -> Self {
        Self::look_at(&default_root())
    }

    /// As [`Cache::look`], at `root`.
    #[must_use]
    pub fn look_at(root: &Path) -> Self {
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()), limit: None }
    }

    /// The folder that everything is below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one entry; if it is not there yet, or not as it was made, `build` fills an empty folder that then
    /// becomes it. While one process builds an entry, others that want it wait. The entry stays until this process
    /// ends, whatever the cache's limit.
    ///
    /// # Errors
    /// What `build` returns, or the cache can't be written.
    pub fn entry<E: From<Error>>(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        self.entry_if(kind, key, |_| true, build)
    }

    /// As [`Cache::entry`], of those that `is_it`: another of that name is replaced once the new one is whole.
    ///
    /// # Errors
    /// Those, or another process uses the one that is to be replaced.
    pub(crate) fn entry_if<E: From<Error>>(
        &self,
        kind: &str,
        key: &Key,
        is_it: impl Fn(&Path) -> bool,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let name = key.name();
        let shelf = self.root.join(kind);
        let path = shelf.join(&name);
        let find = || is_it(&path).then(|| self.find(kind, key)).flatten();
        if let Some(path) = find() {
            return Ok(path);
        }
        let _lock = self.lock(&format!("{kind}-{name}"))?;
        if let Some(path) = find() {
            return Ok(path);
        }
        // The lock is ours, so whoever left this is dead.
        let part = self.tmp().join(format!("{kind}-{name}.part"));
        remove(&part).map_err(Error::io("remove", &part))?;
        fs::create_dir_all(&part).map_err(Error::io("create", &part))?;
        let built = build(&part).and_then(|()| {
            let is_whole = || !is_it(&path) && manifest::holds(&path);
            let _claimed = if is_whole() { Some(pin::take_over(&path)?) } else { None };
            // From the moment that it is there, it is ours.
            let part_held = pin::open(&part);
            self.keep(&part, &shelf, &path)?;
            pin::keep(&path, part_held);
            Ok(())
        });
        if built.is_err() {
            // What can't be removed now is removed when the cache is next opened.
            let _ = remove(&part);
        }
        built?;
        self.make_room();
        Ok(path)
    }

    /// The folder of an entry, if it is there and as it was made; it then stays until this process ends.
    #[must_use]
    pub fn find(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        let path = self.root.join(kind).join(key.name());
        // Held before it is looked at: what is whole now stays so.
        (pin::hold(&path) && manifest::holds(&path)).then_some(path)
    }

    /// Removes an entry that is of no use although it is as it was made, if `is_it` still: whoever wants it next makes it anew, and who
    /// has files of it open keeps them.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn give_up(&self, kind: &str, key: &Key, is_it: impl Fn(&Path) -> bool) -> Result<(), Error> {
        let name = key.name();
        let path = self.root.join(kind).join(&name);
        let _lock = self.lock(&format!("{kind}-{name}"))?;
        if is_it(&path) { self.take_away(&path).map_err(Error::io("remove", &path)) } else { Ok(()) }
    }

    /// Gives what was built its place, and what is in it an account.
    fn keep(&self, part: &Path, shelf: &Path, path: &Path) -> Result<(), Error> {
        manifest::write(part)?;
        fs::create_dir_all(shelf).map_err(Error::io("create", shelf))?;
        // It was cut off or changed. Who has files of it open keeps them.
        self.take_away(path).map_err(Error::io("replace", path))?;
        fs::rename(part, path).map_err(Error::io("finish", path))
    }

    /// Removes an entry, or whatever is in its place: at once for others, who never see half of it.
    fn take_away(&self, path: &Path) -> io::Result<()> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        fs::create_dir_all(self.tmp())?;
        let away = tempfile::Builder::new().prefix("gone-").suffix(".part").tempdir_in(self.tmp())?;
        match fs::rename(path, away.path().join("entry")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            // What can't be removed now is removed when the cache is next opened.
            Ok(()) => away.close().or(Ok(())),
        }
    }

    /// Takes the lock of that name, waiting for it.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock, Error> {
        Lock::take(&self.tmp().join(format!("{name}.lock")))
    }

    /// Where things are made before they are moved to their place.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A file in the cache's file system that is gone when it is dropped, unless it is kept.
    ///
    /// # Errors
    /// It can't be made.
    pub fn scratch(&self) -> Result<tempfile::NamedTempFile, Error> {
        // What is kept of it is for whoever may read the cache.
        let readable = fs::Permissions::from_mode(0o644);
        let made = tempfile::Builder::new().prefix(SCRATCH).permissions(readable).tempfile_in(self.tmp());
        let file = made.map_err(Error::io("create a file in", &self.tmp()))?;
        pin::lock_shared(file.as_file());
        Ok(file)
    }

    /// Removes the half-built entries that no live process holds the lock of.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.tmp()) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "part")
                && let Ok(Some(_lock)) = Lock::try_take(&path.with_extension("lock"))
            {
                let _ = remove(&path);
            }
            // One that is being made has no lock yet; it is young, too.
            let old = |metadata: &fs::Metadata| {
                metadata.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > SCRATCH_LIFE))
            };
            if entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes())
                && entry.metadata().is_ok_and(|metadata| old(&metadata))
                && pin::claim(&path).is_some()
            {
                let _ = remove(&path);
            }
        }
    }
}

/// Where the cache is if nobody says: see [`Cache::open`]. Nothing is made there.
#[must_use]
pub fn default_root() -> PathBuf {
    let root = chosen_root();
    std::path::absolute(&root).unwrap_or(root)
}

fn chosen_root() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(chosen) = variable("KILN_CACHE") {
        return chosen;
    }
    if let Some(target) = variable("CARGO_TARGET_DIR") {
        return target.join("kiln");
    }
    let here = std::env::current_dir().unwrap_or_default();
    if let Some(workspace) = here.ancestors().find(|folder| is_workspace(folder)) {
        return workspace.join("target/kiln");
    }
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map_or_else(|| here.join("target/kiln"), |caches| caches.join("kiln"))
}

fn is_workspace(folder: &Path) -> bool {
    let manifest = || fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    folder.join("Cargo.lock").is_file() || manifest().lines().any(|line| line.trim() == "[workspace]")
}

/// Removes a file or a folder with all in it; that it is not there is no error, for others clean too.
///
/// # Errors
/// The file system's own.
pub fn remove(path: &Path) -> io::Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Keeps a folder or file of a cache, which is open here, from being taken away to make room, as long as it is open.
pub fn hold(open: &File) {
    // Nobody is about to remove what has just been made or found.
    pin::lock_shared(open);
}

/// The SHA-256 of a file in an entry, in hexadecimal, if it was taken when the entry was made and the file has not
/// changed since.
#[must_use]
pub fn known_sha256(file: &Path) -> Option<String> {
    manifest::known(file)
}

/// Notes the SHA-256 of a file in an entry that was too large to be read when the entry was made.
pub(crate) fn learn_sha256(file: &Path, hash: &str) {
    // Without it, it is taken again.
    let _ = manifest::learn(file, hash);
}

/// The SHA-256 of a file's content, in hexadecimal.
///
/// # Errors
/// It can't be read.
pub fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
