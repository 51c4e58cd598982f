//! Debian's and Ubuntu's packages, fetched by any user into the cache.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{config, deb, download, is_absent, run};
use crate::Error;
use crate::cache::{Cache, Lock, remove};
use crate::child;
use crate::progress::Progress;

/// A package index that is younger is not asked for again.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// Apt with its state in the cache. While one process uses it, others wait.
pub struct Apt<'a> {
    root: PathBuf,
    /// The list of sources in place of the host's.
    sources: Option<PathBuf>,
    what: String,
    mend: &'static str,
    progress: &'a dyn Progress,
    _lock: Lock,
}

impl<'a> Apt<'a> {
    /// Prepares apt to fetch `what`, and brings the package index if it is old. `mend` says what to do where
    /// there is no apt.
    ///
    /// # Errors
    /// There is no apt on this host, or no index to be had.
    pub fn open(
        cache: &Cache,
        what: &str,
        mend: &'static str,
        progress: &'a dyn Progress,
    ) -> Result<Self, Error> {
        Self::open_with(cache, what, mend, progress, None)
    }

    fn open_with(
        cache: &Cache,
        what: &str,
        mend: &'static str,
        progress: &'a dyn Progress,
        sources: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let lock = cache.lock("apt")?;
        let root = cache.tmp().join("apt");
        let apt = Self { root, sources, what: what.to_owned(), mend, progress, _lock: lock };
        apt.prepare()?;
        let stamp = fs::metadata(apt.stamp()).and_then(|stamp| stamp.modified());
        let age = stamp.ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_none_or(|age| age > FRESH) {
            apt.update()?;
        }
        Ok(apt)
    }

    /// What the index says that `package` depends on: names only, alternatives too.
    ///
    /// # Errors
    /// There is no such package.
    pub fn depends(&self, package: &str) -> Result<Vec<String>, Error> {
        let output = run(self.command("apt-cache").args(["show", "--no-all-versions", package]), "show")
            .map_err(|error| self.no_package(error))?;
        Ok(depends_in(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The names of all packages that begin so.
    ///
    /// # Errors
    /// The index can't be read.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let output = run(self.command("apt-cache").args(["pkgnames", prefix]), "pkgnames")?;
        let mut names: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Downloads `packages` alone and unpacks them into `to`.
    ///
    /// # Errors
    /// A package is missing, could not be downloaded, or can't be unpacked.
    pub fn unpack(&self, packages: &[&str], to: &Path) -> Result<(), Error> {
        self.fetch(&["download"], packages, to)
    }

    /// Downloads `packages` and all that they depend on, and unpacks them into `to`.
    ///
    /// # Errors
    /// A package is missing, could not be downloaded, or can't be unpacked.
    pub fn unpack_with_depends(&self, packages: &[&str], to: &Path) -> Result<(), Error> {
        self.fetch(&["install", "--download-only"], packages, to)
    }

    fn fetch(&self, action: &[&str], packages: &[&str], to: &Path) -> Result<(), Error> {
        let archives = self.root.join("archives");
        if let Err(error) = self.download(action, packages, &archives) {
            // Not what the index says it is: another index would have to lie to let it pass.
            if is_mismatch(&error) {
                return Err(error);
            }
            // The index may be of yesterday, and the package of today.
            self.update().map_err(|_| error)?;
            self.download(action, packages, &archives)?;
        }
        let mut debs: Vec<PathBuf> = fs::read_dir(&archives)
            .map_err(Error::io("read", &archives))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Some(OsStr::new("deb")))
            .collect();
        debs.sort();
        deb::unpack_all(&debs, to, &self.what, self.progress)?;
        remove(&archives).map_err(Error::io("remove", &archives))
    }

    fn download(&self, action: &[&str], packages: &[&str], archives: &Path) -> Result<(), Error> {
        remove(archives).map_err(Error::io("remove", archives))?;
        let partial = archives.join("partial");
        fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        let command = || {
            let mut command = self.command("apt-get");
            command.arg("-o").arg(format!("Dir::Cache::archives={}", archives.display()));
            command.args(action).args(packages).current_dir(archives);
            command
        };
        let listed =
            run(command().arg("--print-uris").arg("-qq"), action[0]).map_err(|e| self.no_package(e))?;
        let total = total_in(&String::from_utf8_lossy(&listed.stdout));
        let what = format!("fetching {}", self.what);
        download::follow(
            command().args(["-o", "APT::Status-Fd=1"]),
            &self.root,
            &what,
            Some(total),
            self.progress,
        )
        .map_err(|error| self.or_mend(error))
    }

    fn update(&self) -> Result<(), Error> {
        let mut command = self.command("apt-get");
        command.args(["update", "-o", "APT::Update::Error-Mode=any", "-o", "APT::Status-Fd=1"]);
        match download::follow(&mut command, &self.root, "fetching the package index", None, self.progress) {
            Ok(()) => fs::write(self.stamp(), "").map_err(Error::io("write", &self.stamp())),
            // One source of several that is away, or no net today: what there is may do.
            Err(error @ Error::Program { .. }) if self.has_index() => {
                self.progress.note(&format!("the package index may be old: {error}"));
                Ok(())
            }
            Err(error) => Err(self.or_mend(error)),
        }
    }

    /// Apt makes its folders only as root; the configuration is made anew, for the host's may have changed.
    fn prepare(&self) -> Result<(), Error> {
        for folder in ["state/lists/partial", "cache/archives/partial", "log"] {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        let status = self.root.join("status");
        fs::write(&status, "").map_err(Error::io("write", &status))?;
        let dump = run(child::command("apt-config").arg("dump").env("LC_ALL", "C"), "dump")
            .map_err(|error| self.no_tool(error, "apt-get"))?;
        let text = config::text(&String::from_utf8_lossy(&dump.stdout), &self.root, self.sources.as_deref());
        let path = self.config();
        remove(&path).map_err(Error::io("remove", &path))?;
        // A proxy's password may be in it.
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::io("write", &path))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = child::command(program);
        command.env("APT_CONFIG", self.config()).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn config(&self) -> PathBuf {
        self.root.join("apt.conf")
    }

    fn stamp(&self) -> PathBuf {
        self.root.join("updated")
    }

    /// Whether an index was brought once.
    fn has_index(&self) -> bool {
        let Ok(lists) = fs::read_dir(self.root.join("state/lists")) else { return false };
        lists.flatten().any(|list| list.file_name().to_string_lossy().contains("_Packages"))
    }

    /// A failure of apt's with what to do instead.
    fn or_mend(&self, error: Error) -> Error {
        match error {
            Error::Program { program, status, said } if !is_mismatch_text(&said) => Error::Program {
                program,
                status,
                said: format!("{said}; without the network: {}", self.mend),
            },
            other => self.no_tool(other, "apt-get"),
        }
    }

    fn no_tool(&self, error: Error, tool: &'static str) -> Error {
        if is_absent(&error) {
            return Error::NoPackages { what: self.what.clone(), tool, mend: self.mend };
        }
        error
    }

    fn no_package(&self, error: Error) -> Error {
        match error {
            Error::Program { said, .. } => {
                Error::NoPackage { what: self.what.clone(), mend: format!("{}; apt said: {said}", self.mend) }
            }
            other => self.no_tool(other, "apt-get"),
        }
    }
}

/// The packages named by the `Depends` and `Pre-Depends` of a package's record.
fn depends_in(record: &str) -> Vec<String> {
    let lines =
        record.lines().filter_map(|line| line.strip_prefix("Pre-").unwrap_or(line).strip_prefix("Depends:"));
    let names = lines.flat_map(|line| line.split([',', '|']));
    names
        .filter_map(|one| one.split([' ', '(', ':']).find(|word| !word.is_empty()))
        .map(str::to_owned)
        .collect()
}

/// The bytes of all downloads that `--print-uris` lists: `'URI' FILE SIZE HASH`.
fn total_in(list: &str) -> u64 {
    let sizes = list.lines().filter(|line| line.starts_with('\''));
    sizes.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

/// Whether a package was not what the index says of it.
fn is_mismatch(error: &Error) -> bool {
    matches!(error, Error::Program { said, .. } if is_mismatch_text(said))
}

/// Apt's words for it; it is told to speak no other language.
fn is_mismatch_text(said: &str) -> bool {
    said.contains("Hash Sum mismatch") || said.contains("unexpected size")
}

#[cfg(test)]
mod tests;
