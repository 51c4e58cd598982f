//! Modules of others' than the kernel's tree, built for the kernel that a guest boots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::build::Toolchain;
use super::{KernelFiles, headers};
use crate::cache::{Cache, Key};
use crate::progress::{Progress, Work};
use crate::{Error, elf};

/// The folder of the cache with one entry for each state of a module's source, kernel and compiler.
const SHELF: &str = "modules";
/// Deeper than any module's folders.
const DEEPEST: usize = 32;
/// The most lines of what a failed build said that are passed on.
const LINES: usize = 60;

/// Builds the modules in the folder `source` for `kernel`, as kbuild does for `make M=`; the files, in order of their names. What was built once is in
/// the cache. The folder is as its author left it: a copy of it is built.
///
/// # Errors
/// A tool or the kernel's headers are missing, or the modules don't build: what the compiler said is in the error.
pub fn build_modules(
    cache: &Cache,
    kernel: &KernelFiles,
    source: &Path,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, Error> {
    let source = source.canonicalize().map_err(Error::io("find the module's source", source))?;
    if !["Makefile", "Kbuild"].iter().any(|name| source.join(name).is_file()) {
        let why =
            "a module's source is a folder with a Makefile or Kbuild, in which there is `obj-m := NAME.o`";
        return Err(Error::file(&source, why));
    }
    let tools = Toolchain::of_environment();
    tools.check_for_modules()?;
    let headers = headers::folder(cache, kernel, progress)?;
    let objtool = headers.join("tools/objtool/objtool");
    if objtool.is_file()
        && let Err(Error::NoLibrary { library, .. }) = elf::closure(&objtool)
    {
        let mend = "sudo apt-get install libelf1".to_owned();
        return Err(Error::NoTools { missing: library, mend });
    }
    let mut files = Vec::new();
    list(&source, Path::new(""), DEEPEST, &mut files)?;
    let mut key = Key::new("modules-1").field("release", kernel.release.as_bytes());
    for (name, value) in tools.identity() {
        key = key.field(&name, &value);
    }
    for name in [".config", "Module.symvers"] {
        let path = headers.join(name);
        if path.is_file() {
            key = key.file(name, &path)?;
        }
    }
    for file in &files {
        key = key.file(&file.to_string_lossy(), &source.join(file))?;
    }
    let entry = cache.entry(SHELF, &key, |dir| -> Result<(), Error> {
        let copy = dir.join("source");
        for file in &files {
            let (from, to) = (source.join(file), copy.join(file));
            let folder = to.parent().unwrap_or(&copy);
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
        }
        let what = format!("building {} for Linux {}", source.display(), kernel.release);
        let _work = Work::begin(progress, &what, None);
        make(&tools, &headers, &copy, &source, &kernel.release, progress)?;
        let mut made = Vec::new();
        find_modules(&copy, DEEPEST, &mut made)?;
        for module in &made {
            let to = dir.join(module.file_name().unwrap_or_default());
            fs::rename(module, &to).map_err(Error::io("move the module to", &to))?;
        }
        fs::remove_dir_all(&copy).map_err(Error::io("remove", &copy))?;
        match made.is_empty() {
            true => Err(Error::file(&source, "it makes no module: its Makefile needs `obj-m := NAME.o`")),
            false => Ok(()),
        }
    })?;
    let mut modules = Vec::new();
    find_modules(&entry, 1, &mut modules)?;
    modules.sort();
    Ok(modules)
}

/// Runs make on the `copy` of `source`.
fn make(
    tools: &Toolchain,
    headers: &Path,
    copy: &Path,
    source: &Path,
    release: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut command = tools.make_modules(headers);
    let mut folder = std::ffi::OsString::from("M=");
    folder.push(copy);
    // The types of BPF programs take pahole, and the kernel's own; a module loads without.
    command.arg("-C").arg(headers).arg(folder).args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    let started = command.output();
    let output = started.map_err(|source| Error::Start { program: "make".to_owned(), source })?;
    // The author's file, not the copy of it.
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.replace(&*copy.to_string_lossy(), &source.to_string_lossy());
    let mut lines: Vec<&str> = said.lines().filter(|line| !is_makes_own(line)).collect();
    if output.status.success() {
        lines.iter().for_each(|line| progress.note(line));
        return Ok(());
    }
    // Without a compiler's word, make's own has to do.
    if lines.is_empty() {
        lines = said.lines().collect();
    }
    let said = lines.iter().take(LINES).fold(String::new(), |text, line| text + "\n" + line);
    Err(Error::DoesNotBuild { source_dir: source.to_owned(), release: release.to_owned(), said })
}

/// Whether a line is make's on how it went, or kbuild's on the compiler.
fn is_makes_own(line: &str) -> bool {
    let compiler = ["warning: the compiler differs", "  The kernel was built by", "  You are using"];
    line.is_empty() || line.starts_with("make") || compiler.iter().any(|start| line.starts_with(start))
}

/// The files that are there to be built, below `folder` of `root`, in order: not what a build of it has left.
fn list(root: &Path, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let place = root.join(folder);
    if depth == 0 {
        return Err(Error::file(&place, "folders this deep are a mistake"));
    }
    let entries = fs::read_dir(&place).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(Error::io("read", &place))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name);
        let metadata = fs::metadata(entry.path()).map_err(Error::io("find", &entry.path()))?;
        if is_left(&name) {
            continue;
        }
        if metadata.is_dir() {
            list(root, &path, depth - 1, files)?;
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether kbuild makes files of such a name.
fn is_left(name: &str) -> bool {
    const ENDINGS: &[&str] = &[".o", ".ko", ".mod", ".mod.c", ".order", ".symvers", ".a"];
    name.starts_with('.') || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The modules in `folder` and below it.
fn find_modules(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))?.flatten() {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("find", &path))?;
        if kind.is_dir() && depth > 1 {
            find_modules(&path, depth - 1, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "ko") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
