//! `clean`: the cache, by age or whole.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use kiln::rootfs::cache::{self, Cache};

use crate::exit::Exit;
use crate::options;
use crate::report::JsonTo;
use crate::ui;

/// Options of `clean`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Remove only what has not changed for so long: 12h, 7d, 2w
    #[arg(long, value_name = "AGE", value_parser = options::age)]
    older_than: Option<Duration>,

    /// Say what would go, and leave it
    #[arg(long)]
    dry_run: bool,
}

/// What goes as a whole: a kernel, an image, one run.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    /// Bytes on disk.
    size: u64,
    /// Seconds since 1970 of the latest change of anything in it: the inode's, for an unpacked package's
    /// files carry the packager's times of modification.
    changed: i64,
}

/// Empties the cache, or takes from it what is old.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let cache = Cache::look();
    let root = cache.root().to_owned();
    let stream = ui::stream(&JsonTo::Nowhere);
    if !exists(&root)? {
        ui::line(stream, &format!("{} is not there: nothing to clean", root.display()))?;
        return Ok(Exit::PASSED);
    }
    check_ours(&cache)?;
    let mut entries = entries(&root).with_context(|| format!("failed to read {}", root.display()))?;
    if let Some(age) = args.older_than {
        let limit = seconds_ago(age);
        entries.retain(|entry| entry.changed < limit);
    }
    let freed = ui::bytes(entries.iter().map(|entry| entry.size).sum());
    if args.dry_run {
        for entry in &entries {
            ui::line(stream, &format!("{} ({})", entry.path.display(), ui::bytes(entry.size)))?;
        }
        ui::line(stream, &format!("{freed} would be freed"))?;
        return Ok(Exit::PASSED);
    }
    if args.older_than.is_some() {
        for entry in &entries {
            remove(&entry.path)?;
        }
        tidy_up(&root, &root).with_context(|| format!("failed to tidy up {}", root.display()))?;
    } else {
        remove(&root)?;
    }
    ui::line(stream, &format!("{freed} freed in {}", root.display()))?;
    Ok(Exit::PASSED)
}

/// Refuses a folder that does not look like our cache: `KILN_CACHE` may name anything, a home folder too.
fn check_ours(cache: &Cache) -> anyhow::Result<()> {
    let root = cache.root();
    if cache.holds_only_ours() {
        return Ok(());
    }
    bail!(
        "{} holds what is not kiln's, so nothing was removed; if KILN_CACHE is right, remove the folder by hand",
        root.display()
    )
}

/// What the cache holds, in the order of the paths.
fn entries(root: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for kind in folders(root)? {
        // `runs/<suite>/<case>/<run>`, else `<kind>/<entry>`.
        let depth = if kind.ends_with("runs") { 3 } else { 1 };
        collect(&kind, depth, &mut found)?;
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if depth > 1 && entry.file_type()?.is_dir() {
            collect(&entry.path(), depth - 1, found)?;
        } else if !entry.file_type()?.is_symlink() {
            let (size, changed) = weigh(&entry.path())?;
            found.push(Entry { path: entry.path(), size, changed });
        }
    }
    Ok(())
}

/// The bytes that `path` and all below it take on disk, and its latest change.
fn weigh(path: &Path) -> io::Result<(u64, i64)> {
    let metadata = match fs::symlink_metadata(path) {
        // A run that ends while we look.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        other => other?,
    };
    // `st_blocks` counts 512 bytes, whatever the file system's block is (stat(2)).
    let (mut size, mut changed) = (metadata.blocks().saturating_mul(512), metadata.ctime());
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            let below = weigh(&entry?.path())?;
            size = size.saturating_add(below.0);
            changed = changed.max(below.1);
        }
    }
    Ok((size, changed))
}

/// Removes links to what is gone (`latest`) and folders that are empty, but not `root`.
fn tidy_up(folder: &Path, root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() && !entry.path().exists() && entry.file_name() == "latest" {
            fs::remove_file(entry.path())?;
        } else if kind.is_dir() && entry.path().strip_prefix(root).is_ok_and(|p| p.components().count() <= 3)
        {
            tidy_up(&entry.path(), root)?;
        }
    }
    if folder != root && fs::read_dir(folder)?.next().is_none() {
        fs::remove_dir(folder)?;
    }
    Ok(())
}

fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    cache::remove(path).with_context(|| format!("failed to remove {}", path.display()))
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| format!("failed to look at {}", path.display()))
}

fn seconds_ago(age: Duration) -> i64 {
    let then = SystemTime::now().checked_sub(age).and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    then.and_then(|then| i64::try_from(then.as_secs()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn cache() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in ["kernels/6.1/vmlinuz", "kernels/6.12/vmlinuz", "runs/smoke/boot/1-2/console.log"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [1; 5000]).unwrap();
        }
        symlink("1-2", root.path().join("runs/smoke/boot/latest")).unwrap();
        root
    }

    #[test]
    fn entries_are_kernels_and_single_runs() {
        let root = cache();
        let entries = entries(root.path()).unwrap();
        let paths: Vec<_> = entries
            .iter()
            .map(|entry| entry.path.strip_prefix(root.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(paths, ["kernels/6.1", "kernels/6.12", "runs/smoke/boot/1-2"]);
        assert!(entries.iter().all(|entry| entry.size >= 5000 && entry.changed > 0));
    }

    #[test]
    fn tidying_up_takes_dead_links_and_empty_folders_and_leaves_the_rest() {
        let root = cache();
        remove(&root.path().join("runs/smoke/boot/1-2")).unwrap();
        tidy_up(root.path(), root.path()).unwrap();
        assert!(!root.path().join("runs").exists());
        assert!(root.path().join("kernels/6.1/vmlinuz").exists());
    }

    #[test]
    fn folder_with_foreign_files_is_refused() {
        let root = cache();
        check_ours(&Cache::look_at(root.path())).unwrap();
        fs::write(root.path().join("thesis.tex"), "").unwrap();
        assert!(check_ours(&Cache::look_at(root.path())).unwrap_err().to_string().contains("not kiln's"));
    }
}
