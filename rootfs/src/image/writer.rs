//! The archive: the kernel's `newc` format, with nothing in it that depends on when, where or by whom it is
//! made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, trailer};
use rustix::fs::FileType;

use super::tree::{Node, Source, Tree, wrong};
use crate::Error;

/// Writes all of `tree`, and the archive's end.
pub(super) fn write(tree: &Tree, output: &mut impl Write) -> Result<(), Error> {
    for (number, (path, node)) in (1..).zip(tree.iter()) {
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
                    Source::Host(host) => copy(entry, path, host, output)?,
                }
            }
        }
    }
    trailer(output).map_err(failed).map(drop)
}

pub(super) fn failed(source: io::Error) -> Error {
    Error::Io { what: "write", path: PathBuf::from("the image"), source }
}

fn bytes(entry: Builder, path: &str, content: &[u8], output: &mut impl Write) -> Result<(), Error> {
    let mut writer = entry.write(output, size(path, content.len() as u64)?);
    writer.write_all(content).and_then(|()| writer.finish()).map_err(failed).map(drop)
}

fn copy(entry: Builder, path: &str, host: &Path, output: &mut impl Write) -> Result<(), Error> {
    let mut file = File::open(host).map_err(Error::io("open", host))?;
    let length = file.metadata().map_err(Error::io("measure", host))?.len();
    let mut writer = entry.write(output, size(path, length)?);
    // Files may change under us: what is not as long as it said would shift all that follows.
    let (mut left, mut buffer) = (length, vec![0; 256 << 10]);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read(&mut buffer[..most]).map_err(Error::io("read", host))?;
        if count == 0 {
            return Err(Error::file(host, "it became shorter while it was copied"));
        }
        writer.write_all(&buffer[..count]).map_err(failed)?;
        left -= count as u64;
    }
    writer.finish().map_err(failed).map(drop)
}

/// The format has room for 32 bits.
fn size(path: &str, length: u64) -> Result<u32, Error> {
    u32::try_from(length)
        .ok()
        .filter(|size| *size < u32::MAX)
        .ok_or_else(|| wrong(path, "no file in an image is 4 GiB or larger: give it as a disk"))
}
