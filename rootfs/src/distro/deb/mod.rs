//! Debian's packages, read in process: an `ar` archive that holds the files as a compressed `tar` (deb(5)).
//!
//! A package may be hostile: what it takes of memory is bounded, and nothing of it comes to be outside of the folder
//! that it is unpacked in, nor leads out of it.

mod ar;
mod entries;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Error;
use crate::packing::Packing;
use crate::progress::{Progress, Work};
use entries::Entries;
pub(crate) use entries::Kind;
pub(crate) use tree::Tree;

/// More than any package unpacks to: kernels with debug information come to some 6 GiB.
const LARGEST: u64 = 16 << 30;
/// What the member with the files is called, before the ending of its compression.
const DATA: &str = "data.tar";

/// Unpacks the package in `path` into the folder `to`, which other packages may be in already.
///
/// # Errors
/// It is no package, is cut off, or wants to be where it must not; or the folder can't be written.
pub(crate) fn unpack(path: &Path, to: &Path) -> Result<(), Error> {
    let mut tree = Tree::new(to)?;
    visit(path, |path, kind, content| tree.put(path, kind, content)).map_err(|fault| fault.of(path))
}

/// The first answer that `look` has for a file's path in the package, such as `boot/vmlinuz-6.1`.
///
/// # Errors
/// It is no package, or is cut off before that.
pub(crate) fn find<T>(path: &Path, mut look: impl FnMut(&str) -> Option<T>) -> Result<Option<T>, Error> {
    let mut found = None;
    let seen = visit(path, |name, _, _| {
        found = look(&String::from_utf8_lossy(name));
        if found.is_some() { Err(Fault::Enough) } else { Ok(()) }
    });
    match seen {
        Ok(()) | Err(Fault::Enough) => Ok(found),
        Err(fault) => Err(fault.of(path)),
    }
}

/// Why a package could not be read to its end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not what a package has to be.
    Package(String),
    /// The folder could not be written.
    Folder(Error),
    /// Whoever reads has seen enough.
    Enough,
}

impl Fault {
    fn package(why: impl Into<String>) -> Self {
        Self::Package(why.into())
    }

    /// For `map_err`: the package could not be read.
    pub(crate) fn reading(error: io::Error) -> Self {
        Self::Package(if error.kind() == io::ErrorKind::UnexpectedEof {
            "it is cut off".to_owned()
        } else {
            error.to_string()
        })
    }

    fn of(self, path: &Path) -> Error {
        match self {
            Self::Package(why) => Error::file(path, format!("not a whole Debian package: {why}")),
            Self::Folder(error) => error,
            Self::Enough => Error::file(path, "it was not read to its end"),
        }
    }
}

fn visit(
    path: &Path,
    each: impl FnMut(&[u8], &Kind, &mut dyn Read) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let open = |error| Fault::Folder(Error::io("open", path)(error));
    // It is read twice, and a folder not at all. Asked before it is opened: a named pipe would wait for its writer.
    if !fs::metadata(path).map_err(open)?.is_file() {
        return Err(Fault::package("it is no file"));
    }
    let file = File::open(path).map_err(open)?;
    read(BufReader::with_capacity(64 << 10, file), each)
}

/// Calls `each` with the path, kind and content of all that is in the package.
pub(crate) fn read(
    mut package: impl Read,
    mut each: impl FnMut(&[u8], &Kind, &mut dyn Read) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (name, member) = ar::member(&mut package, |name| name.starts_with(DATA))?;
    let (packing, plain) = Packing::of(&name);
    if plain != DATA {
        return Err(Fault::package(format!("its files are packed as {name}: xz, gz and zst are known")));
    }
    let mut tar = packing.open(member).map_err(Fault::reading)?.take(LARGEST);
    let mut entries = Entries::default();
    let mut archive = tar::Archive::new(&mut tar);
    for entry in archive.entries().map_err(Fault::reading)?.raw(true) {
        let mut entry = entry.map_err(Fault::reading)?;
        if let Some((path, kind)) = entries.next(&mut entry)? {
            each(&path, &kind, &mut entry)?;
        }
    }
    entries.end()?;
    // What is behind the archive's end has to be there too: checksums are last.
    io::copy(&mut tar, &mut io::sink()).map_err(Fault::reading)?;
    if tar.limit() == 0 {
        return Err(Fault::package("it unpacks to more than any package does"));
    }
    Ok(())
}

/// The most packages that are unpacked at a time.
const THREADS: usize = 4;

/// Unpacks all of `packages` into the folder `to`, several at a time; `what` they are is told with the progress.
///
/// # Errors
/// As [`unpack`]: of those that failed, the first in the order that they are given in.
pub(crate) fn unpack_all(
    packages: &[PathBuf],
    to: &Path,
    what: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |package| package.len());
    let work =
        Work::begin(progress, &format!("unpacking {what}"), Some(packages.iter().map(size).sum::<u64>()));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(package) = packages.get(number) else { return };
            let unpacked = unpack(package, to);
            work.advance(size(package));
            let Err(error) = unpacked else { continue };
            // Those behind it need not be begun; those before it are under way.
            next.store(packages.len(), Ordering::Relaxed);
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                *failed = Some((number, error));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(packages.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), |(_, error)| Err(error))
}
