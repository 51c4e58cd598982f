//! `clean`: the cache, by age or whole.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use kiln::rootfs::cache::{self, Cache};
use kiln::rootfs::size;

use crate::exit::Exit;
use crate::options;
use crate::report::JsonTo;
use crate::ui;

/// Options of `clean`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Remove only what has not been used for so long: 12h, 7d, 2w
    #[arg(long, value_name = "AGE", value_parser = options::age)]
    older_than: Option<Duration>,

    /// Remove what has not been used for longest, until so much is left: 500M, 10G
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "older_than")]
    down_to: Option<u64>,

    /// Say what would go, and leave it
    #[arg(long)]
    dry_run: bool,
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
    let failed = || format!("failed to read {}", root.display());
    let entries = match (args.older_than, args.down_to) {
        (Some(age), _) => {
            let limit = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
            let mut entries = cache.entries().with_context(failed)?;
            entries.retain(|entry| entry.used < limit);
            entries
        }
        (None, Some(size)) if args.dry_run => cache.beyond(size)?,
        (None, Some(size)) => cache.shrink(size)?,
        (None, None) => cache.entries().with_context(failed)?,
    };
    let freed = ui::bytes(entries.iter().map(|entry| entry.size).sum());
    if args.dry_run {
        for entry in &entries {
            ui::line(stream, &format!("{} ({})", entry.path.display(), ui::bytes(entry.size)))?;
        }
        ui::line(stream, &format!("{freed} would be freed"))?;
        return Ok(Exit::PASSED);
    }
    if args.older_than.is_none() && args.down_to.is_none() {
        remove(&root)?;
    } else {
        for entry in &entries {
            // Of what was to be shrunk it is gone already.
            remove(&entry.path)?;
        }
        tidy_up(&root, &root).with_context(|| format!("failed to tidy up {}", root.display()))?;
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

fn remove(path: &Path) -> anyhow::Result<()> {
    cache::remove(path).with_context(|| format!("failed to remove {}", path.display()))
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| format!("failed to look at {}", path.display()))
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
