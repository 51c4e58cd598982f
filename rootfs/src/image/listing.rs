//! What an image would hold, without making it.

use rustix::fs::FileType;

use super::tree::{Node, Source};
use super::{ImageSpec, contents, host};
use crate::Error;

/// What is at one path of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The path, without a `/` before it.
    pub path: String,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Bytes of content; of a link, of its target.
    pub size: u64,
    /// A device's number, major and minor.
    pub device: Option<(u32, u32)>,
    /// A link's target.
    pub target: Option<String>,
}

/// All that `spec` puts into an image, by path.
///
/// # Errors
/// As [`write`](super::write()), but for what only shows when files are read.
pub fn list(spec: &ImageSpec) -> Result<Vec<Listed>, Error> {
    let tree = contents::collect(spec)?;
    tree.iter().map(|(path, node)| listed(path, node)).collect()
}

fn listed(path: &str, node: &Node) -> Result<Listed, Error> {
    let (kind, mode, size) = match node {
        Node::Dir { mode } => (FileType::Directory, *mode, 0),
        Node::Link { target } => (FileType::Symlink, 0o777, target.len() as u64),
        Node::Device { mode, .. } => (FileType::CharacterDevice, *mode, 0),
        Node::File { source, executable } => {
            let size = match source {
                Source::Bytes(bytes) => bytes.len() as u64,
                Source::Host(host) => host::length(host)?,
            };
            (FileType::RegularFile, if *executable { 0o755 } else { 0o644 }, size)
        }
    };
    let device = match node {
        Node::Device { major, minor, .. } => Some((*major, *minor)),
        _ => None,
    };
    let target = match node {
        Node::Link { target } => Some(target.clone()),
        _ => None,
    };
    Ok(Listed {
        path: path.to_owned(),
        mode: kind.as_raw_mode() | mode,
        uid: 0,
        gid: 0,
        size,
        device,
        target,
    })
}
