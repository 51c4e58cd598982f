//! The archive: the kernel's `newc` format, with nothing in it that depends on when, where or by whom it is
//! made.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, trailer};
use rustix::fs::FileType;

use super::host::{self, HostFile};
use super::tree::{Node, Source, Tree, wrong};
use crate::Error;

/// The name of an archive's last entry: whoever reads it stops there.
const END: &str = "TRAILER!!!";

/// Writes all of `tree`, and the archive's end.
pub(super) fn write(tree: &Tree, output: &mut impl Write) -> Result<(), Error> {
    let mut buffer = host::buffer();
    for (number, (path, node)) in (1..).zip(tree.iter()) {
        if path == END {
            return Err(wrong(path, "an archive ends with an entry of that name"));
        }
        let entry = |kind: FileType, mode: u32| {
            Builder::new(path).ino(number).mode(kind.as_raw_mode() | mode).uid(0).gid(0).nlink(1).mtime(0)
        };
        match node {
            Node::Dir { mode } => bytes(entry(FileType::Directory, *mode), path, &[], output)?,
            Node::Link { target } => bytes(entry(FileType::Symlink, 0o777), path, target.as_bytes(), output)?,
            Node::Device { major, minor, mode } => {
                let entry = entry(FileType::CharacterDevice, *mode).rdev_major(*major).rdev_minor(*minor);
                bytes(entry, path, &[], output)?;
            }
            Node::File { source, executable } => {
                let entry = entry(FileType::RegularFile, if *executable { 0o755 } else { 0o644 });
                match source {
                    Source::Bytes(content) => bytes(entry, path, content, output)?,
                    Source::Host(host) => copy(entry, path, host, &mut buffer, output)?,
                }
            }
        }
    }
    trailer(output).map_err(failed).map(drop)
}

/// What an image is called by those who do not know where it is written to.
const SOMEWHERE: &str = "the image";

/// The image could not be written.
pub(super) fn failed(source: io::Error) -> Error {
    Error::Io { what: "write", path: PathBuf::from(SOMEWHERE), source }
}

/// Says where an image could not be written, if that is what `error` is.
pub(super) fn failed_in(error: Error, place: &Path) -> Error {
    match error {
        Error::Io { what, path, source } if path == Path::new(SOMEWHERE) => {
            Error::Io { what, path: PathBuf::from(format!("{SOMEWHERE} in {}", place.display())), source }
        }
        other => other,
    }
}

fn bytes(entry: Builder, path: &str, content: &[u8], output: &mut impl Write) -> Result<(), Error> {
    let mut writer = entry.write(output, size(path, content.len() as u64)?);
    writer.write_all(content).and_then(|()| writer.finish()).map_err(failed).map(drop)
}

fn copy(
    entry: Builder,
    path: &str,
    host: &Path,
    buffer: &mut [u8],
    output: &mut impl Write,
) -> Result<(), Error> {
    let mut file = HostFile::open(host)?;
    let mut writer = entry.write(output, size(path, file.length())?);
    file.copy(buffer, |bytes| writer.write_all(bytes).map_err(failed))?;
    writer.finish().map_err(failed).map(drop)
}

/// The format has room for 32 bits.
fn size(path: &str, length: u64) -> Result<u32, Error> {
    u32::try_from(length).ok().filter(|size| *size < u32::MAX).ok_or_else(|| {
        wrong(path, "no file in an initramfs is 4 GiB or larger: make the image ext4, or give it as a disk")
    })
}
