//! The folder that packages are unpacked in, as if it were the root of a system: nothing comes to be outside of it,
//! and no link in it leads out of it.
//!
//! Why that holds: whatever is made is made in a folder whose real place is known and inside; and a link's target
//! climbs first, from there and no further than the root, and then goes down only, by links of which the same is true.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::Fault;
use super::entries::Kind;
use crate::Error;

/// Deeper than any package's folders.
const DEEPEST: usize = 128;

/// Such a folder, being filled.
pub(crate) struct Tree {
    root: PathBuf,
    /// Where the folders are really, by the paths that packages have for them.
    real: HashMap<PathBuf, PathBuf>,
    buffer: Vec<u8>,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let root = root.canonicalize().map_err(Error::io("resolve", root))?;
        Ok(Self { root, real: HashMap::new(), buffer: vec![0; 128 << 10] })
    }

    /// Makes what an entry describes.
    pub(crate) fn put(&mut self, path: &[u8], kind: &Kind, content: &mut dyn Read) -> Result<(), Fault> {
        let path = inside(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The root itself is there.
            return if *kind == Kind::Folder { Ok(()) } else { Err(climbs(&path)) };
        };
        if *kind == Kind::Folder {
            return self.folder(&path).map(drop);
        }
        let place = self.folder(parent)?.join(name);
        match kind {
            Kind::Folder => Ok(()),
            Kind::File { executable } => self.file(&place, *executable, content),
            Kind::Symlink(target) => {
                let target = self.target(&place, target)?;
                replace(&place, || symlink(&target, &place)).map_err(made(&place))
            }
            Kind::Link(target) => {
                let target = inside(target)?;
                let source = match (target.parent(), target.file_name()) {
                    (Some(parent), Some(name)) => self.folder(parent)?.join(name),
                    _ => return Err(climbs(&target)),
                };
                if !fs::symlink_metadata(&source).is_ok_and(|metadata| metadata.is_file()) {
                    return Err(Fault::package(format!("{} is linked to and not there", target.display())));
                }
                if source == place {
                    return Ok(());
                }
                replace(&place, || fs::hard_link(&source, &place)).map_err(made(&place))
            }
        }
    }

    /// Where the folder is really; it is made if it is not there.
    fn folder(&mut self, path: &Path) -> Result<PathBuf, Fault> {
        if let Some(real) = self.real.get(path) {
            return Ok(real.clone());
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(self.root.clone());
        };
        let place = self.folder(parent)?.join(name);
        let real = match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => place,
            Ok(metadata) if metadata.is_symlink() => {
                let real =
                    place.canonicalize().ok().filter(|real| real.starts_with(&self.root) && real.is_dir());
                real.ok_or_else(|| Fault::package(format!("{} is no folder", path.display())))?
            }
            Ok(_) => return Err(Fault::package(format!("{} is a file and a folder", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another thread may unpack another package.
                match fs::create_dir(&place) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(folder("create", &place)(error));
                    }
                    _ => place,
                }
            }
            Err(error) => return Err(folder("find", &place)(error)),
        };
        self.real.insert(path.to_owned(), real.clone());
        Ok(real)
    }

    fn file(&mut self, place: &Path, executable: bool, content: &mut dyn Read) -> Result<(), Fault> {
        let mode = if executable { 0o755 } else { 0o644 };
        let open = || File::options().write(true).create_new(true).mode(mode).open(place);
        let mut file = replace(place, open).map_err(made(place))?;
        loop {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::reading(error)),
            };
            file.write_all(self.buffer.get(..count).unwrap_or_default()).map_err(folder("write", place))?;
        }
    }

    /// A link's target seen from the folder that the link is in, with the tree's root for the root.
    fn target(&self, place: &Path, target: &[u8]) -> Result<PathBuf, Fault> {
        let text = Path::new(OsStr::from_bytes(target));
        let leads_out = || Fault::package(format!("a link in it leads out of it, to {}", text.display()));
        let parent = place.parent().and_then(|parent| parent.strip_prefix(&self.root).ok());
        let depth = parent.map(|parent| parent.components().count()).ok_or_else(leads_out)?;
        let (mut up, mut down) = (0, PathBuf::new());
        for component in text.components() {
            match component {
                Component::RootDir => up = depth,
                Component::ParentDir if down.as_os_str().is_empty() && !text.is_absolute() => up += 1,
                // Where a step back from a link leads only the link knows.
                Component::ParentDir | Component::Prefix(_) => return Err(leads_out()),
                Component::CurDir => {}
                Component::Normal(name) => down.push(name),
            }
        }
        if up > depth {
            return Err(leads_out());
        }
        let climb: PathBuf = std::iter::repeat_n("..", up).collect();
        let whole = climb.join(down);
        Ok(if whole.as_os_str().is_empty() { ".".into() } else { whole })
    }
}

/// Makes something in the place of a file or link that is there; a folder stays, and is an error.
fn replace<T>(place: &Path, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(place)?;
            make()
        }
        other => other,
    }
}

/// A path of an entry, seen from the root.
fn inside(path: &[u8]) -> Result<PathBuf, Fault> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            _ => return Err(climbs(path)),
        }
    }
    if path.as_os_str().as_bytes().contains(&0) || inside.components().count() > DEEPEST {
        return Err(Fault::package("a path in it is no path"));
    }
    Ok(inside)
}

fn climbs(path: &Path) -> Fault {
    Fault::package(format!("{} is not a path below its root", path.display()))
}

/// For `map_err`: a file or link could not be made.
fn made(place: &Path) -> impl FnOnce(io::Error) -> Fault {
    move |error| match fs::symlink_metadata(place) {
        Ok(metadata) if metadata.is_dir() => {
            Fault::package(format!("{} is a file and a folder", place.display()))
        }
        _ => folder("create", place)(error),
    }
}

/// For `map_err`: the folder could not be written.
fn folder(what: &'static str, place: &Path) -> impl FnOnce(io::Error) -> Fault {
    move |error| Fault::Folder(Error::io(what, place)(error))
}
