//! `clean`: the cache, by age, by size or whole.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use kiln::rootfs::cache::{self, Cache, Entry};
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

/// How deep a case's folder, `<suite>/<case>`, is below that of the runs.
const RUNS_DEPTH: u32 = 2;

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
    let entries = match (args.older_than, args.down_to) {
        (_, Some(size)) => cache.beyond(size)?,
        (age, None) => {
            let mut entries =
                cache.entries().with_context(|| format!("failed to read {}", root.display()))?;
            let limit = age.map(|age| SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH));
            entries.retain(|entry| limit.is_none_or(|limit| entry.used < limit));
            entries
        }
    };
    let size = |entries: &[Entry]| entries.iter().map(|entry| entry.size).sum::<u64>();
    let all = size(&entries);
    if args.dry_run {
        for entry in &entries {
            ui::line(stream, &format!("{} ({})", entry.path.display(), ui::bytes(entry.size)))?;
        }
        ui::line(stream, &format!("{} would be freed, but for what is in use then", ui::bytes(all)))?;
        return Ok(Exit::PASSED);
    }
    let stayed = cache.discard(entries);
    let whole = args.older_than.is_none() && args.down_to.is_none();
    if whole && stayed.is_empty() && !cache.is_in_the_making() {
        remove(&root)?;
    } else {
        tidy_up(&root.join("runs"), RUNS_DEPTH);
    }
    for entry in &stayed {
        ui::line(stream, &format!("{} stays: it is in use, or not ours to remove", entry.path.display()))?;
    }
    let freed = ui::bytes(all - size(&stayed));
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

/// Removes links to what is gone (`latest`) and folders that are empty below that of the runs. What others put there or
/// take away meanwhile is their business.
fn tidy_up(folder: &Path, depth: u32) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == "latest" && path.is_symlink() && !path.exists() {
            let _ = fs::remove_file(path);
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tidy_up(&path, depth - 1);
            // Only one that is empty goes.
            let _ = fs::remove_dir(path);
        }
    }
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
        tidy_up(&root.path().join("runs"), RUNS_DEPTH);
        assert_eq!(fs::read_dir(root.path().join("runs")).unwrap().count(), 0);
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
