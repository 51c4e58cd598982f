//! What a case's half in the guest asserts with: registers, disks, modules, and what the kernel tells of itself.
//!
//! Errors name the file that they are about, so that `?` says enough.

mod block;
mod kernel;
mod log;
mod module;
mod registers;
mod sysfs;

pub use block::Block;
pub use kernel::{kernel_config, tainted};
pub use log::dmesg;
pub(crate) use log::{begin as begin_log, whole as whole_log};
pub use module::Module;
pub use registers::{Mmio, Ports};
pub use sysfs::Sysfs;

use std::io;
use std::path::Path;

/// An error with the file in it that it is about.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
