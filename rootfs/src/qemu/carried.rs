//! What of QEMU is carried into a lab, to run there.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FIRMWARE, LIBRARIES, Qemu, libraries, modules};
use crate::Error;
use crate::elf::Linker;

/// The firmware that a microvm or a PC without devices loads.
const IMAGES: &[&str] = &[
    "bios.bin",
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "multiboot.bin",
    "multiboot_dma.bin",
    "pvh.bin",
];
/// The parts that QEMU loads to run a guest.
const MODULES: &[&str] = &["accel-tcg-x86_64.so", "accel-tcg-i386.so"];

impl Qemu {
    /// The files that it needs to run elsewhere, without display, network or sound: where they are here, and
    /// where they belong there for [`Qemu::program`] to work.
    ///
    /// # Errors
    /// One of its libraries is missing.
    pub fn carried(&self) -> Result<Vec<(PathBuf, String)>, Error> {
        let (root, linker) = match &self.tree {
            Some(tree) => (tree.as_path(), Linker::within(&libraries(tree))),
            None => (Path::new("/"), Linker::of_host()),
        };
        // Of the four words before the arguments of an unpacked one, the last is the program.
        let program = match &self.tree {
            Some(_) => self.program.get(3),
            None => self.program.first(),
        };
        let program = Path::new(program.map_or("".as_ref(), |word| word.as_os_str()));
        let mut files = linker.closure(program, &program.to_string_lossy())?;
        if self.tree.is_some()
            && let Some(interpreter) = self.program.first().map(Path::new)
        {
            files.push(same(interpreter));
        }
        let folder = modules(root).or_else(|| {
            let beside = LIBRARIES.iter().map(|path| root.join(path).join("qemu"));
            beside.into_iter().find(|path| path.is_dir())
        });
        for name in MODULES {
            if let Some(path) = folder.as_ref().map(|folder| folder.join(name)).filter(|path| path.is_file())
            {
                files.extend(linker.closure(&path, &path.to_string_lossy())?);
            }
        }
        for folder in FIRMWARE.iter().map(|path| root.join(path)) {
            let present = IMAGES.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
            files.extend(present.map(|path| same(&path)));
        }
        files.sort();
        files.dedup();
        // A link in the tree may lead to where the packages think they are: what it means is carried.
        files.retain(|(host, _)| fs::metadata(host).is_ok());
        Ok(files)
    }
}

fn same(path: &Path) -> (PathBuf, String) {
    (path.to_owned(), path.to_string_lossy().into_owned())
}
