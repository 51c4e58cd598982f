//! What an entry was made of, so that one which was cut off or changed is noticed before it is used.
//!
//! A file whose size and times are as they were is taken for what it was; one whose times differ is read again, unless
//! it is large: a cache that was copied or restored keeps its content and gets new times.

use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{hex, sha256_of_file};
use crate::Error;

/// The account's name in its entry.
const NAME: &str = ".kiln-entry";
/// What it begins with.
const MAGIC: &str = "kiln entry 1\n";
/// A larger file is known by its times alone: nobody waits for it to be read twice.
const LARGE: u64 = 128 << 20;
/// What stands for its hash.
const UNREAD: &str = "-";
/// Ends a record: the one byte that no path has in it.
const END: u8 = 0;

/// A file or link as it was when its entry was made.
struct Record {
    hash: String,
    stamp: Stamp,
    path: PathBuf,
}

/// What of a file changes whenever its content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Writes the account of all that is in `entry`.
pub(super) fn write(entry: &Path) -> Result<(), Error> {
    let mut records = Vec::new();
    collect(entry, Path::new(""), &mut records)?;
    save(entry, &records).map_err(Error::io("write", &entry.join(NAME)))
}

/// Whether `entry` is there, and all in it as it was made.
pub(super) fn holds(entry: &Path) -> bool {
    let Ok(text) = fs::read(entry.join(NAME)) else { return false };
    let Some(mut records) = parse(&text) else { return false };
    let mut other_times = false;
    for record in &mut records {
        let path = entry.join(&record.path);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return false };
        let stamp = Stamp::of(&metadata);
        if stamp == record.stamp {
            continue;
        }
        if record.hash == UNREAD
            || stamp.size != record.stamp.size
            || !hash_of(&path, &metadata).is_ok_and(|hash| hash == record.hash)
        {
            return false;
        }
        record.stamp = stamp;
        other_times = true;
    }
    if other_times {
        // Somebody else's cache may not be ours to write: it is read again the next time.
        let _ = save(entry, &records);
    }
    true
}

/// The SHA-256 of a file in an entry, in hexadecimal, if its account has it and the file is as it was then.
pub(super) fn known(file: &Path) -> Option<String> {
    let records = parse(&fs::read(file.parent()?.join(NAME)).ok()?)?;
    let record = records.into_iter().find(|record| file.file_name() == Some(record.path.as_os_str()))?;
    let stamp = Stamp::of(&fs::symlink_metadata(file).ok()?);
    (stamp == record.stamp && record.hash != UNREAD).then_some(record.hash)
}

/// Notes the SHA-256 of a large file in an entry, for [`known`].
pub(super) fn learn(file: &Path, hash: &str) -> Option<()> {
    let entry = file.parent()?;
    let mut records = parse(&fs::read(entry.join(NAME)).ok()?)?;
    let record = records.iter_mut().find(|record| file.file_name() == Some(record.path.as_os_str()))?;
    let stamp = Stamp::of(&fs::symlink_metadata(file).ok()?);
    if stamp == record.stamp && record.hash == UNREAD {
        hash.clone_into(&mut record.hash);
        // Somebody else's cache may not be ours to write: it is taken again the next time.
        save(entry, &records).ok()?;
    }
    Some(())
}

/// Whether there is an account in `entry`.
pub(super) fn is_in(entry: &Path) -> bool {
    entry.join(NAME).is_file()
}

fn collect(entry: &Path, below: &Path, records: &mut Vec<Record>) -> Result<(), Error> {
    let folder = entry.join(below);
    let mut found = fs::read_dir(&folder)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(Error::io("read", &folder))?;
    found.sort_by_key(fs::DirEntry::file_name);
    for one in found {
        let (path, inside) = (one.path(), below.join(one.file_name()));
        let metadata = fs::symlink_metadata(&path).map_err(Error::io("measure", &path))?;
        if metadata.is_dir() {
            collect(entry, &inside, records)?;
        } else if inside != Path::new(NAME) {
            records.push(Record {
                hash: hash_of(&path, &metadata)?,
                stamp: Stamp::of(&metadata),
                path: inside,
            });
        }
    }
    Ok(())
}

fn hash_of(path: &Path, metadata: &Metadata) -> Result<String, Error> {
    if metadata.is_file() {
        return if metadata.size() > LARGE { Ok(UNREAD.to_owned()) } else { sha256_of_file(path) };
    }
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(Error::io("read", path))?;
        return Ok(hex(&Sha256::digest(target.as_os_str().as_bytes())));
    }
    Err(Error::file(path, "neither a file nor a link: the cache can't keep it"))
}

/// What is there is whole: it is written beside it, and takes its place.
fn save(entry: &Path, records: &[Record]) -> std::io::Result<()> {
    // For whoever may read the cache.
    let readable = fs::Permissions::from_mode(0o644);
    let mut part = tempfile::Builder::new().prefix(NAME).permissions(readable).tempfile_in(entry)?;
    let mut text = MAGIC.as_bytes().to_vec();
    for Record { hash, stamp: Stamp { size, mtime, ctime }, path } in records {
        let times = format!("{}.{} {}.{}", mtime.0, mtime.1, ctime.0, ctime.1);
        write!(text, "{hash} {size} {times} ")?;
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(END);
    }
    part.write_all(&text)?;
    part.persist(entry.join(NAME)).map(drop).map_err(|error| error.error)
}

fn parse(text: &[u8]) -> Option<Vec<Record>> {
    let mut rest = text.strip_prefix(MAGIC.as_bytes())?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        // One that is cut off has no end, and then the account is none.
        let end = rest.iter().position(|byte| *byte == END)?;
        records.push(record(&rest[..end])?);
        rest = &rest[end + 1..];
    }
    Some(records)
}

fn record(text: &[u8]) -> Option<Record> {
    let mut fields = text.splitn(5, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(fields.next()?).ok();
    let (hash, size) = (word()?.to_owned(), word()?.parse().ok()?);
    let time = |word: &str| -> Option<(i64, i64)> {
        let (seconds, nanoseconds) = word.split_once('.')?;
        Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
    };
    let (mtime, ctime) = (time(word()?)?, time(word()?)?);
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(fields.next()?));
    Some(Record { hash, stamp: Stamp { size, mtime, ctime }, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a b\nc"), "content").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        write(dir.path()).unwrap();
        dir
    }

    #[test]
    fn entry_as_it_was_made_holds() {
        let dir = entry();
        assert!(is_in(dir.path()) && holds(dir.path()));
        let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "other users read it, too");
        assert!(!holds(&dir.path().join("sub")));
    }

    #[test]
    fn entry_that_is_cut_off_or_changed_or_poorer_does_not_hold() {
        let file = |dir: &tempfile::TempDir| dir.path().join("sub/a b\nc");
        let dir = entry();
        fs::write(file(&dir), "conten").unwrap();
        assert!(!holds(dir.path()));
        let dir = entry();
        fs::write(file(&dir), "CONTENT").unwrap();
        assert!(!holds(dir.path()));
        let dir = entry();
        fs::remove_file(file(&dir)).unwrap();
        assert!(!holds(dir.path()));
        let dir = entry();
        fs::remove_file(dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("link")).unwrap();
        assert!(!holds(dir.path()));
    }

    #[test]
    fn account_that_is_cut_off_does_not_hold() {
        let dir = entry();
        let account = dir.path().join(NAME);
        let whole = fs::read(&account).unwrap();
        for length in [0, 5, MAGIC.len() + 3, whole.len() - 1] {
            fs::write(&account, &whole[..length]).unwrap();
            assert!(!holds(dir.path()), "{length}");
        }
        fs::remove_file(&account).unwrap();
        assert!(!holds(dir.path()));
    }

    #[test]
    fn hash_is_known_of_a_file_as_it_was() {
        let dir = entry();
        let file = dir.path().join("file");
        fs::write(&file, "abc").unwrap();
        assert_eq!(known(&file), None);
        write(dir.path()).unwrap();
        assert_eq!(known(&file), Some(sha256_of_file(&file).unwrap()));
        fs::write(&file, "abd").unwrap();
        assert_eq!(known(&file), None);
    }

    #[test]
    fn large_file_is_known_by_its_times_alone() {
        let dir = entry();
        let file = fs::File::create(dir.path().join("large")).unwrap();
        file.set_len(LARGE + 1).unwrap();
        write(dir.path()).unwrap();
        let path = dir.path().join("large");
        assert!(holds(dir.path()) && known(&path).is_none());
        learn(&path, "hash").unwrap();
        assert!(holds(dir.path()) && known(&path).as_deref() == Some("hash"));
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(!holds(dir.path()));
    }

    #[test]
    fn entry_with_new_times_holds_and_is_stamped_anew() {
        let dir = entry();
        let before = fs::read(dir.path().join(NAME)).unwrap();
        let file = fs::File::options().write(true).open(dir.path().join("sub/a b\nc")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        drop(file);
        assert!(holds(dir.path()));
        assert_ne!(fs::read(dir.path().join(NAME)).unwrap(), before);
        assert!(holds(dir.path()));
    }
}
