//! QEMU: the host's own, or the distribution's packages unpacked in the cache.

mod carried;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::cache::{Cache, Key};
use crate::distro::{self, Apt, run};
use crate::progress::Progress;

const PROGRAM: &str = "qemu-system-x86_64";
/// Chooses the QEMU to use.
const VARIABLE: &str = "KILN_QEMU";
const PACKAGE: &str = "qemu-system-x86";
const MEND: &str = "install qemu-system-x86_64, or name one in KILN_QEMU";

/// Where packages have libraries, the more particular folder first.
const LIBRARIES: &[&str] =
    &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib"];
/// Folders with libraries for a few programs, below the others.
const NESTED: &[&str] = &["pulseaudio", "blas", "lapack", "ceph", "samba"];
/// Where packages have the firmware that QEMU loads.
const FIRMWARE: &[&str] =
    &["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu", "usr/share/ipxe/qemu"];
const INTERPRETERS: &[&str] = &[
    "lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib64/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
];

/// An emulator that can be started.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program and its first arguments.
    pub program: Vec<OsString>,
    /// What it needs in its environment.
    pub env: Vec<(String, String)>,
    /// The folder that its packages are unpacked in, if they are.
    tree: Option<PathBuf>,
}

impl Qemu {
    /// The first line that it says of its version.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String, Error> {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg("--version");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let output = run(&mut command, "--version")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// The QEMU that `KILN_QEMU` names, else the one on `PATH`, else the distribution's package.
///
/// # Errors
/// There is none, and it can't be fetched.
pub fn find(cache: &Cache, progress: &dyn Progress) -> Result<Qemu, Error> {
    if let Some(chosen) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let path = std::path::absolute(&chosen).map_err(Error::io("resolve", &chosen))?;
        if !is_program(&path) {
            return Err(Error::file(&path, format!("{VARIABLE} names it, and it is not a program")));
        }
        return Ok(own(path));
    }
    if let Some(path) = on_path(PROGRAM) {
        return Ok(own(path));
    }
    let entry = cache.entry("qemu", &Key::named(&distro::name()), |dir| {
        Apt::open(cache, "QEMU", MEND, progress)?.unpack_with_depends(&[PACKAGE], dir)?;
        let qemu = unpacked(dir)?;
        // A tree that does not run is no entry.
        qemu.version().map(drop)
    })?;
    unpacked(&entry)
}

fn own(path: PathBuf) -> Qemu {
    Qemu { program: vec![path.into_os_string()], env: Vec::new(), tree: None }
}

/// The QEMU in a folder that packages were unpacked in. It runs with its own libraries, which are newer or older
/// than the host's, and so by its own linker.
fn unpacked(tree: &Path) -> Result<Qemu, Error> {
    let there = |paths: &[&str]| -> Vec<PathBuf> {
        paths.iter().map(|path| tree.join(path)).filter(|path| path.exists()).collect()
    };
    let (interpreter, program) = (there(INTERPRETERS), tree.join("usr/bin").join(PROGRAM));
    let Some(interpreter) = interpreter.first().filter(|_| program.is_file()) else {
        return Err(Error::file(tree, "QEMU is not in its packages: remove the folder to fetch them again"));
    };
    let libraries = std::env::join_paths(libraries(tree))
        .map_err(|error| Error::file(tree, format!("QEMU can't run from here: {error}")))?;
    let mut words: Vec<OsString> =
        vec![interpreter.into(), "--library-path".into(), libraries, program.into_os_string()];
    for folder in there(FIRMWARE) {
        words.extend(["-L".into(), folder.into_os_string()]);
    }
    let modules =
        modules(tree).map(|folder| ("QEMU_MODULE_DIR".to_owned(), folder.to_string_lossy().into_owned()));
    Ok(Qemu { program: words, env: modules.into_iter().collect(), tree: Some(tree.to_owned()) })
}

/// The folders of the tree's libraries.
fn libraries(tree: &Path) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> =
        LIBRARIES.iter().map(|path| tree.join(path)).filter(|path| path.is_dir()).collect();
    let nested = folders.iter().flat_map(|folder| NESTED.iter().map(move |name| folder.join(name)));
    folders.iter().cloned().chain(nested.filter(|path| path.is_dir())).collect()
}

/// The folder with the parts of QEMU that it loads as it needs them.
fn modules(tree: &Path) -> Option<PathBuf> {
    LIBRARIES.iter().map(|path| tree.join(path).join("qemu")).find(|path| path.is_dir())
}

/// The program of that name that a shell would start.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_without_qemu_is_refused_and_one_with_it_runs_by_its_own_linker() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unpacked(dir.path()).unwrap_err().to_string().contains("not in its packages"));
        for file in [
            "usr/bin/qemu-system-x86_64",
            "lib64/ld-linux-x86-64.so.2",
            "usr/share/seabios/bios.bin",
            "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let qemu = unpacked(dir.path()).unwrap();
        assert!(Path::new(&qemu.program[0]).ends_with("lib64/ld-linux-x86-64.so.2"));
        assert!(Path::new(&qemu.program[3]).ends_with("usr/bin/qemu-system-x86_64"));
        assert_eq!(qemu.program[4], "-L");
        assert!(qemu.env[0].1.ends_with("usr/lib/x86_64-linux-gnu/qemu"));
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(on_path("sh").is_some());
        assert_eq!(on_path("no-such-program-anywhere"), None);
    }
}
