//! Guest images, kernels, emulators and the cache that they are kept in.
//!
//! Nothing here needs root: packages come from the host's own distribution, through its signed index, and are
//! unpacked into the cache.

use std::path::Path;

pub mod agent;
pub mod busybox;
pub mod cache;
mod child;
pub mod distro;
pub mod elf;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod image;
pub mod kernel;
pub mod modules;
mod packing;
pub mod progress;
pub mod qemu;
pub mod size;

pub use error::Error;

/// The source tree that this was compiled from. It may be gone: whoever uses it checks.
#[must_use]
pub fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}
