//! A disk that brings programs to a guest which runs already: an ext4 file system that is full, without a journal.
//!
//! It is made for each program that is built, and asked for by each process that runs it, so it is known in the cache by what
//! changes with the files that go in, not by their bytes: asking for one that is there reads nothing but the programs' headers.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::tree::{Node, Source, Tree};
use super::{contents, ext4, writer};
use crate::Error;
use crate::cache::{Cache, Key};

/// The disk's name in its entry.
const NAME: &str = "disk.ext4";
/// Changes whenever the same files make another disk.
const FORM: &str = "disk-1";

/// What goes on a disk, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSpec {
    /// Programs of this host, each with its interpreter and shared libraries, at their own paths.
    pub execs: Vec<PathBuf>,
    /// Files of this host, and where they go.
    pub files: Vec<(PathBuf, String)>,
}

/// The disk in the cache, made if it is not there: the same bytes for the same content. Its size is a multiple of 4 KiB.
///
/// # Errors
/// Something that goes on it is missing or changes while it is read, two things would be at one path, or the cache can't be
/// written.
pub fn disk(cache: &Cache, spec: &DiskSpec) -> Result<PathBuf, Error> {
    let tree = contents::of_disk(spec)?;
    let key = key(&tree)?;
    let entry = cache.entry("images", &key, |dir| {
        let path = dir.join(NAME);
        let mut file = File::create(&path).map_err(Error::io("create", &path))?;
        ext4::write_full(&tree, &mut file).map_err(|error| writer::failed_in(error, &path))?;
        // What was copied is what the key says only if no file became another meanwhile.
        match self::key(&tree)?.name() == key.name() {
            true => Ok(()),
            false => Err(Error::file(&path, "what goes on it changed meanwhile: try again")),
        }
    })?;
    Ok(entry.join(NAME))
}

/// A disk of `size` bytes of zeros in the cache, at the same place for all who want one of that size: nobody writes to it.
///
/// # Errors
/// The cache can't be written.
pub fn empty_disk(cache: &Cache, size: u64) -> Result<PathBuf, Error> {
    const EMPTY: &str = "disk.raw";
    let entry = cache.entry("images", &Key::new("empty-1").field("size", &size.to_le_bytes()), |dir| {
        let path = dir.join(EMPTY);
        File::create(&path).and_then(|file| file.set_len(size)).map_err(Error::io("create", &path))
    })?;
    Ok(entry.join(EMPTY))
}

/// Of every path, and of what changes with a file's content.
fn key(tree: &Tree) -> Result<Key, Error> {
    tree.iter().try_fold(Key::new(FORM), |key, (path, node)| {
        let what = match node {
            Node::Dir { mode } => format!("folder {mode:o}"),
            Node::File { source: Source::Host(host), executable } => format!("{executable} {}", stamp(host)?),
            // Made here, of a few bytes; and a disk has none of the others.
            other => format!("{other:?}"),
        };
        Ok(key.field(path, what.as_bytes()))
    })
}

fn stamp(host: &Path) -> Result<String, Error> {
    let m = fs::metadata(host).map_err(Error::io("measure", host))?;
    let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
    Ok(format!("{:x} {:x} {:x} {modified:?} {changed:?}", m.dev(), m.ino(), m.size()))
}
