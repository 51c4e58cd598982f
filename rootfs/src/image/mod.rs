//! Guest images: the agent, modules and whatever else is asked for, as an initial RAM disk or a disk, the same
//! bytes for the same content wherever and whenever it is made.
//!
//! What goes in becomes a tree of paths; each format is another way to write it.

pub mod archive;
mod base;
mod contents;
mod digest;
mod disk;
mod ext4;
mod format;
mod hashing;
mod host;
mod listing;
mod pack;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::PathBuf;

use kiln_protocol::wire::AGENT_PATH;

use self::hashing::Hashing;
use crate::Error;
use crate::cache::{Cache, Key};
use crate::modules::Module;
pub use base::PROMPT;

pub use digest::sha256;
pub use disk::{DiskSpec, disk, empty_disk};
pub use format::{Compression, Format};
pub use listing::{Listed, list};

/// Where a guest's agent finds the paths of the modules to load, one a line, in order.
pub const MODULES_LIST: &str = "/etc/kiln/modules";

/// What goes into an image.
#[derive(Clone, Debug, Default)]
pub struct ImageSpec {
    /// The agent, which is also `/init` if there is no other.
    pub agent: Option<PathBuf>,
    /// Kernel modules, in the order to load them.
    pub modules: Vec<Module>,
    /// The kernel's release; needed if there are modules.
    pub release: String,
    /// A static busybox, whose applets become links.
    pub busybox: Option<PathBuf>,
    /// Files of this host, and where they go.
    pub files: Vec<(PathBuf, String)>,
    /// Folders of this host with all that is in them, and where they go.
    pub dirs: Vec<(PathBuf, String)>,
    /// Programs of this host, each with its interpreter and shared libraries, at their own paths.
    pub execs: Vec<PathBuf>,
    /// What the guest calls itself.
    pub hostname: Option<String>,
    /// A program of this host that becomes `/init`.
    pub init: Option<PathBuf>,
}

/// Writes the image to `output`, which is empty and at its beginning. Blocks of zeros of a file system are
/// left out: in a file they are holes.
///
/// # Errors
/// Something that goes in is missing or changes while it is read, two things would be at one path, the format
/// or the size has no room for it, or `output` can't be written.
pub fn write(spec: &ImageSpec, format: Format, output: &mut (impl Write + Seek)) -> Result<(), Error> {
    match format {
        Format::Initramfs(Compression::None) | Format::Ext4 { .. } => write_plain(spec, format, output),
        Format::Initramfs(compression) => {
            // A file without a name: nothing is left of it, however this process ends.
            let mut archive =
                tempfile::tempfile().map_err(Error::io("create a file in", &std::env::temp_dir()))?;
            write_plain(spec, format, &mut archive)?;
            pack::pack(compression, &mut archive, output)
        }
    }
}

/// Writes the image, not compressed.
fn write_plain(spec: &ImageSpec, format: Format, output: &mut (impl Write + Seek)) -> Result<(), Error> {
    let tree = contents::collect(spec)?;
    match format {
        Format::Ext4 { size } => ext4::write(&tree, size, output),
        Format::Initramfs(_) => {
            let mut output = BufWriter::with_capacity(1 << 20, output);
            writer::write(&tree, &mut output)?;
            output.flush().map_err(writer::failed)
        }
    }
}

/// The image in the cache, made if it is not there.
///
/// # Errors
/// As [`write()`], and the cache can't be written.
pub fn build(cache: &Cache, spec: &ImageSpec, format: Format) -> Result<PathBuf, Error> {
    let mut scratch = cache.scratch()?;
    let mut output = Hashing::new(scratch.as_file_mut());
    write_plain(spec, format, &mut output).map_err(|error| writer::failed_in(error, &cache.tmp()))?;
    // What is compressed is known by what it was before: it is compressed once.
    let hash = output.finish();
    let mut key = Key::new(format.name()).field("sha256", hash.as_bytes());
    if let Format::Initramfs(compression) = format {
        key = key.field("packing", pack::settings(compression).as_bytes());
    }
    let entry = cache.entry("images", &key, |dir| {
        let path = dir.join(format.name());
        match format {
            Format::Initramfs(Compression::None) | Format::Ext4 { .. } => match scratch.persist(&path) {
                Ok(_) => Ok(()),
                Err(error) => Err(Error::io("keep", &path)(error.error)),
            },
            Format::Initramfs(compression) => {
                let mut packed = File::create(&path).map_err(Error::io("create", &path))?;
                pack::pack(compression, scratch.as_file_mut(), &mut packed)
                    .map_err(|error| writer::failed_in(error, &path))
            }
        }
    })?;
    Ok(entry.join(format.name()))
}
