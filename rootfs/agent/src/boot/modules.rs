//! The kernel modules that the image's maker listed, in an order that fits.

use std::fs::{self, File};

use rustix::io::Errno;
use rustix::system::{finit_module, init_module};

use super::Warnings;

/// One path a line.
const LIST: &str = "/etc/kiln/modules";

/// Loads each; one that fails is a warning: what needed it will say more.
pub(super) fn load(warnings: &mut Warnings) {
    let Ok(list) = fs::read_to_string(LIST) else { return };
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match load_one(path) {
            Ok(()) => {}
            Err(error) => warnings.add(format!("load {path}: {error}")),
        }
    }
}

fn load_one(path: &str) -> std::io::Result<()> {
    let file = File::open(path)?;
    let result = match finit_module(&file, c"", 0) {
        // A kernel or a file system without it.
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => init_module(&fs::read(path)?, c""),
        other => other,
    };
    match result {
        Err(Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}
