//! Which file a module is in, and what it depends on.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{content, normal};
use crate::Error;

/// Deeper than any kernel's own folders: what is below is not looked at.
const DEEPEST: usize = 24;

/// Of each module by name: its file, seen from the folder, and the names of those that it depends on.
pub(crate) type Listed = BTreeMap<String, (String, Vec<String>)>;

/// What is known of a modules' folder.
pub(super) struct Index {
    dir: PathBuf,
    builtin: BTreeSet<String>,
    /// From `modules.dep`.
    listed: Listed,
    /// What the folders hold, if they had to be looked through.
    found: OnceCell<BTreeMap<String, String>>,
}

impl Index {
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        fs::read_dir(dir).map_err(Error::io("read the modules' folder", dir))?;
        let builtin = read_if_there(&dir.join("modules.builtin"))?;
        let builtin = builtin.lines().filter_map(module_of).collect();
        let listed = listed_in(&read_if_there(&dir.join("modules.dep"))?);
        Ok(Self { dir: dir.to_owned(), builtin, listed, found: OnceCell::new() })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether there is a list of what is built in.
    pub(super) fn has_builtin(&self) -> bool {
        !self.builtin.is_empty()
    }

    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// The module's file, seen from the folder.
    pub(super) fn file(&self, name: &str) -> Result<Option<String>, Error> {
        // A package's `modules.dep` is made when it is installed, and may be of another time than the files.
        if let Some((file, _)) = self.listed.get(name)
            && self.dir.join(file).is_file()
        {
            return Ok(Some(file.clone()));
        }
        if self.is_builtin(name) {
            return Ok(None);
        }
        if self.found.get().is_none() {
            let mut found = BTreeMap::new();
            walk(&self.dir, "", DEEPEST, &mut found)?;
            let _ = self.found.set(found);
        }
        Ok(self.found.get().and_then(|found| found.get(name)).cloned())
    }

    pub(super) fn dependencies(&self, name: &str, source: &Path) -> Result<Vec<String>, Error> {
        match self.listed.get(name) {
            // The last is to be loaded first.
            Some((_, dependencies)) => Ok(dependencies.iter().rev().cloned().collect()),
            None => content::dependencies(source),
        }
    }
}

/// What a `modules.dep` says. What leads out of the folder, or makes no sense, is as if it were not there.
pub(crate) fn listed_in(text: &str) -> Listed {
    let mut listed = Listed::new();
    for line in text.lines() {
        let Some((file, dependencies)) = line.split_once(':') else { continue };
        let Some(name) = module_of(file).filter(|_| is_inside(file)) else { continue };
        let dependencies = dependencies.split_whitespace().filter_map(module_of).collect();
        listed.insert(name, (file.to_owned(), dependencies));
    }
    listed
}

fn read_if_there(path: &Path) -> Result<String, Error> {
    // Opening a pipe would wait for whoever writes to it.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return Err(Error::file(path, "a list of modules is a file"));
    }
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The name of the module in such a file.
fn module_of(file: &str) -> Option<String> {
    let name = content::uncompressed_name(file.trim()).strip_suffix(".ko")?;
    let name = name.rsplit('/').next().filter(|name| !name.is_empty())?;
    Some(normal(name))
}

fn is_inside(file: &str) -> bool {
    !file.starts_with('/') && !file.split('/').any(|part| part == "..")
}

/// Looks at names only: a distribution has thousands of modules.
fn walk(folder: &Path, below: &str, depth: usize, found: &mut BTreeMap<String, String>) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        let kind = entry.file_type().map_err(Error::io("read", &entry.path()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let inside = if below.is_empty() { name } else { format!("{below}/{name}") };
        // `build` and `source` are links to the kernel's sources.
        if kind.is_dir() && depth > 0 {
            walk(&entry.path(), &inside, depth - 1, found)?;
        } else if !kind.is_dir()
            && let Some(module) = module_of(&inside)
        {
            let best = found.entry(module).or_insert_with(|| inside.clone());
            if rank(&inside) < rank(best) {
                *best = inside;
            }
        }
    }
    Ok(())
}

/// As depmod has it, what is in `updates` goes before the kernel's own.
fn rank(file: &str) -> (bool, &str) {
    (!file.starts_with("updates/"), file)
}
