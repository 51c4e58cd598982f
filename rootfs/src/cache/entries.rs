//! What the cache holds, piece by piece.

use std::fs::{self, DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Cache, manifest};

/// The shelf of runs' evidence, which has a folder for the suite and one for the case.
const RUNS: &str = "runs";
/// How deep `runs/<suite>/<case>/<run>` is below the cache.
const RUNS_DEPTH: u32 = 3;

/// What goes as a whole: a kernel, an image, one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its folder or file.
    pub path: PathBuf,
    /// Bytes on disk.
    pub size: u64,
    /// When it was last used or changed.
    pub used: SystemTime,
}

impl Cache {
    /// All that the cache holds, in the order of the paths. What can't be looked into counts for nothing; what is half
    /// made looks after itself.
    ///
    /// # Errors
    /// The cache can't be read.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for shelf in fs::read_dir(self.root())?.collect::<Result<Vec<_>, _>>()? {
            if shelf.file_type()?.is_dir() && shelf.path() != self.tmp() {
                let depth = if shelf.file_name() == RUNS { RUNS_DEPTH } else { 1 };
                collect(&shelf.path(), depth, &mut found)?;
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// What is in a folder; nothing if it is gone, for others clean too, or another user's.
fn list(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            Ok(Vec::new())
        }
        entries => entries?.collect(),
    }
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<Entry>) -> io::Result<()> {
    for entry in list(folder)? {
        let kind = entry.file_type()?;
        if depth > 1 && kind.is_dir() {
            collect(&entry.path(), depth - 1, found)?;
        } else if !kind.is_symlink() {
            found.extend(weigh(&entry.path())?);
        }
    }
    Ok(())
}

fn weigh(path: &Path) -> io::Result<Option<Entry>> {
    let Some(metadata) = look(path)? else { return Ok(None) };
    let (size, changed) = walk(path, &metadata)?;
    let used = if manifest::is_in(path) {
        // What is accounted for does not change, and its folder's time is that of its last use.
        metadata.modified()?
    } else {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(changed).unwrap_or(0))
    };
    Ok(Some(Entry { path: path.to_owned(), size, used }))
}

/// The bytes that `path` and all below it take on disk, and the seconds of its latest change: of the inode's, for an
/// unpacked package's files carry the packager's times of modification.
fn walk(path: &Path, metadata: &Metadata) -> io::Result<(u64, i64)> {
    // `st_blocks` counts 512 bytes, whatever the file system's block is (stat(2)).
    let (mut size, mut changed) = (metadata.blocks().saturating_mul(512), metadata.ctime());
    if metadata.is_dir() {
        for entry in list(path)? {
            let path = entry.path();
            let Some(metadata) = look(&path)? else { continue };
            let below = walk(&path, &metadata)?;
            size = size.saturating_add(below.0);
            changed = changed.max(below.1);
        }
    }
    Ok((size, changed))
}

/// None for what a run that ends while we look has taken away.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn entries_are_kernels_and_single_runs() {
        let root = tempfile::tempdir().unwrap();
        for file in ["kernels/6.1/vmlinuz", "kernels/6.12/vmlinuz", "runs/smoke/boot/1-2/console.log"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [1; 5000]).unwrap();
        }
        symlink("1-2", root.path().join("runs/smoke/boot/latest")).unwrap();
        let entries = Cache::look_at(root.path()).entries().unwrap();
        let paths: Vec<_> = entries
            .iter()
            .map(|entry| entry.path.strip_prefix(root.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(paths, ["kernels/6.1", "kernels/6.12", "runs/smoke/boot/1-2"]);
        assert!(entries.iter().all(|entry| entry.size >= 5000 && entry.used > UNIX_EPOCH));
    }
}
