//! Busybox: one static program that is a whole system of small ones.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cache::{Cache, Key};
use crate::child;
use crate::distro::{self, Apt, run};
use crate::elf;
use crate::progress::Progress;

const PACKAGE: &str = "busybox-static";
const MEND: &str = "install a static busybox on this host";

/// A static busybox: this host's, else the distribution's package.
///
/// # Errors
/// The host has none, and it can't be fetched.
pub fn find(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf, Error> {
    if let Some(program) = crate::qemu::on_path("busybox").filter(|path| is_static(path)) {
        return Ok(program);
    }
    let name = format!("busybox-{}", distro::name());
    let entry = cache.entry("busybox", &Key::named(&name), |dir| {
        let tree = dir.join("tree");
        Apt::open(cache, "a static busybox", MEND, progress)?.unpack(&[PACKAGE], &tree)?;
        let place = dir.join("busybox");
        let found =
            ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path)).into_iter().find(|p| p.is_file());
        let Some(found) = found.filter(|path| is_static(path)) else {
            return Err(Error::NoPackage { what: "a static busybox".to_owned(), mend: MEND.to_owned() });
        };
        fs::rename(&found, &place).map_err(Error::io("move busybox to", &place))?;
        fs::remove_dir_all(&tree).map_err(Error::io("remove", &tree))
    })?;
    Ok(entry.join("busybox"))
}

/// The paths of a busybox's applets below the root, in order, as it lists them itself.
///
/// # Errors
/// It does not run, or is no busybox.
pub fn applets(program: &Path) -> Result<Vec<String>, Error> {
    let output = run(child::command(program).arg("--list-full"), "--list-full")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut paths: Vec<String> =
        text.lines().map(str::trim).filter(|path| is_harmless(path)).map(str::to_owned).collect();
    paths.sort();
    if paths.is_empty() {
        return Err(Error::file(program, "it lists no applets: is it a busybox?"));
    }
    Ok(paths)
}

fn is_harmless(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|part| part.is_empty() || part == "..")
}

fn is_static(path: &Path) -> bool {
    elf::needs(path).is_ok_and(|(interpreter, needed)| interpreter.is_none() && needed.is_empty())
}
