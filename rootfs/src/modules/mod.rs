//! Kernel modules: which are needed, in which order, and what is in them.

mod content;
mod index;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::Error;
use index::Index;

#[cfg(fuzzing)]
pub(crate) use {content::Info, index::listed_in};

/// What depmod and the kernel's build leave beside the modules, and we read.
const INDEX_FILES: &[&str] = &["modules.builtin", "modules.dep", "modules.order"];

/// A module of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The file it is in, maybe compressed.
    pub source: PathBuf,
    /// Where it belongs below `/lib/modules/RELEASE`, decompressed.
    pub path: String,
}

impl Module {
    /// The module itself, decompressed and otherwise not a byte changed, for the kernel of `release`; which that is may
    /// be [`UNKNOWN`](crate::kernel::UNKNOWN).
    ///
    /// # Errors
    /// The file can't be read or decompressed, is no module, or is one of another kernel.
    pub fn read_for(&self, release: &str) -> Result<Vec<u8>, Error> {
        let bytes = content::read(&self.source)?;
        let made_for = content::Info::of(&bytes).map_err(|why| Error::file(&self.source, why))?.release;
        match made_for {
            Some(own) if own != release && release != crate::kernel::UNKNOWN => Err(Error::file(
                &self.source,
                format!(
                    "a module for Linux {own}, and the kernel is {release}: give the modules of that kernel with \
                     --modules-dir"
                ),
            )),
            _ => Ok(bytes),
        }
    }
}

/// The modules `names` of the kernel whose modules are in `dir`, and all that they need, in the order to load
/// them. What is built into the kernel is left out. A name with a `/` in it is the file of a module that is not the
/// kernel's own.
///
/// # Errors
/// A module is missing or can't be read.
pub fn closure(dir: &Path, names: &[&str]) -> Result<Vec<Module>, Error> {
    let own = names.iter().filter(|name| name.contains('/'));
    let files = own.map(|name| (name_of(name), PathBuf::from(name))).collect();
    let mut walk = Walk { index: Index::read(dir)?, files, order: Vec::new(), seen: BTreeSet::new() };
    for name in names {
        walk.visit(&name_of(name))?;
    }
    Ok(walk.order)
}

/// The name of the module that `name` asks for in [`closure`], with `_` for `-`.
#[must_use]
pub fn name_of(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    match content::uncompressed_name(file).strip_suffix(".ko") {
        Some(stem) if name.contains('/') => normal(stem),
        _ => normal(file),
    }
}

/// The files of [`closure`], and those in `dir` that say what is where.
///
/// # Errors
/// As [`closure`].
pub fn files(dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let modules = closure(dir, names)?.into_iter().map(|module| module.source);
    let index = INDEX_FILES.iter().map(|name| dir.join(name)).filter(|path| path.is_file());
    Ok(modules.chain(index).collect())
}

/// What is where in a modules' folder.
pub(crate) struct Found(Index);

impl Found {
    /// Reads the folder's own lists.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        Index::read(dir).map(Self)
    }

    /// The file of such a module.
    pub(crate) fn file(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        Ok(self.0.file(&normal(name))?.map(|file| self.0.dir().join(file)))
    }

    /// Whether it is listed as built into the kernel.
    pub(crate) fn is_builtin(&self, name: &str) -> bool {
        self.0.is_builtin(&normal(name))
    }

    /// Whether there is a list of what is built in.
    pub(crate) fn lists_builtin(&self) -> bool {
        self.0.has_builtin()
    }
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

struct Walk {
    index: Index,
    /// The files of modules that are not the kernel's own.
    files: BTreeMap<String, PathBuf>,
    order: Vec<Module>,
    seen: BTreeSet<String>,
}

/// A module whose dependencies are being visited.
struct Begun {
    name: String,
    source: PathBuf,
    path: String,
    rest: std::vec::IntoIter<String>,
}

impl Walk {
    /// Visits a module after all that it needs. How deep that goes is the files' to say, so it is no recursion.
    fn visit(&mut self, name: &str) -> Result<(), Error> {
        let mut begun: Vec<Begun> = self.begin(name, None)?.into_iter().collect();
        while let Some(mut last) = begun.pop() {
            let Some(next) = last.rest.next() else {
                self.order.push(Module { name: last.name, source: last.source, path: last.path });
                continue;
            };
            let next = self.begin(&next, Some(&last.name))?;
            begun.push(last);
            begun.extend(next);
        }
        Ok(())
    }

    /// Looks at a module, if it has not been yet and is not built in.
    fn begin(&mut self, name: &str, needed_by: Option<&str>) -> Result<Option<Begun>, Error> {
        // Also ends a circle, which no kernel that loads has.
        if !self.seen.insert(name.to_owned()) {
            return Ok(None);
        }
        if let Some(source) = self.files.get(name).cloned() {
            let rest = content::dependencies(&source)?.into_iter();
            // Where `make modules_install` has them.
            let path = format!("updates/{name}.ko");
            return Ok(Some(Begun { name: name.to_owned(), source, path, rest }));
        }
        let Some(file) = self.index.file(name)? else {
            if self.index.is_builtin(name) {
                return Ok(None);
            }
            let needed_by = needed_by.map(|by| format!(", needed by {by}")).unwrap_or_default();
            return Err(Error::NoModule {
                name: name.to_owned(),
                dir: self.index.dir().to_owned(),
                needed_by,
            });
        };
        let source = self.index.dir().join(&file);
        let rest = self.index.dependencies(name, &source)?.into_iter();
        let path = content::uncompressed_name(&file).to_owned();
        Ok(Some(Begun { name: name.to_owned(), source, path, rest }))
    }
}
