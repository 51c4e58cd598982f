//! Guest images: an initial RAM disk with the agent, modules and whatever else is asked for, the same bytes for
//! the same content wherever and whenever it is made.

mod base;
mod contents;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use kiln_protocol::wire::AGENT_PATH;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::cache::{Cache, Key, hex};
use crate::modules::Module;
pub use base::PROMPT;

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

/// Writes the image: a cpio archive, not compressed.
///
/// # Errors
/// Something that goes in is missing, or two things would be at one path.
pub fn write(spec: &ImageSpec, output: &mut impl Write) -> Result<(), Error> {
    let tree = contents::collect(spec)?;
    let mut output = BufWriter::with_capacity(1 << 20, output);
    writer::write(&tree, &mut output)?;
    output.flush().map_err(writer::failed)
}

/// The image in the cache, made if it is not there.
///
/// # Errors
/// As [`write()`], and the cache can't be written.
pub fn build(cache: &Cache, spec: &ImageSpec) -> Result<PathBuf, Error> {
    let mut scratch = cache.scratch()?;
    let mut output = Hashing { output: scratch.as_file_mut(), hash: Sha256::new() };
    write(spec, &mut output)?;
    let hash = hex(&output.hash.finalize());
    let entry = cache.entry("images", &Key::new("cpio").field("sha256", hash.as_bytes()), |dir| {
        let path = dir.join(NAME);
        match scratch.persist(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io("keep", &path)(error.error)),
        }
    })?;
    Ok(entry.join(NAME))
}

/// The image's name in its entry.
const NAME: &str = "initrd.cpio";

/// Hashes what passes through.
struct Hashing<W> {
    output: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
