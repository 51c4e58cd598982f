//! The files of an image before they are written, each at its path.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Error;

/// More links one after the other are a circle.
const MOST_LINKS: usize = 40;
/// The longest name in a folder, in bytes: Linux's `NAME_MAX`.
const NAME_MAX: usize = 255;
/// The longest path, and the longest target of a link, in bytes: Linux's `PATH_MAX` without the NUL.
const PATH_MAX: usize = 4095;

/// Where a file's content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A file of this host.
    Host(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A folder.
    Dir { mode: u32 },
    /// A file.
    File { source: Source, executable: bool },
    /// A symbolic link.
    Link { target: String },
    /// A character device.
    Device { major: u32, minor: u32, mode: u32 },
}

impl Node {
    pub(super) fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::File { source: Source::Bytes(text.into()), executable: false }
    }

    pub(super) fn link(target: impl Into<String>) -> Self {
        Self::Link { target: target.into() }
    }

    fn describe(&self) -> String {
        match self {
            Self::Dir { .. } => "a folder".to_owned(),
            Self::File { source: Source::Host(path), .. } => path.display().to_string(),
            Self::File { source: Source::Bytes(_), .. } => "a file that is made for it".to_owned(),
            Self::Link { target } => format!("a link to {target}"),
            Self::Device { .. } => "a device".to_owned(),
        }
    }
}

/// By path, without the leading `/`: a folder comes before what is in it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Puts `node` at the absolute `path`, with the folders above it.
    pub(super) fn put(&mut self, path: &str, node: Node) -> Result<(), Error> {
        if let Node::Link { target } = &node
            && (target.is_empty() || target.len() > PATH_MAX)
        {
            return Err(wrong(path, "a link's target is 1 to 4095 bytes long"));
        }
        let place = self.place(path)?;
        if place.len() >= PATH_MAX {
            return Err(wrong(path, "a path is at most 4095 bytes long"));
        }
        if place.is_empty() {
            return match node {
                Node::Dir { .. } => Ok(()),
                _ => Err(wrong(path, "the root is a folder")),
            };
        }
        match (self.nodes.get(&place), &node) {
            // The first to say what a folder's mode is, is right.
            (Some(Node::Dir { .. }), Node::Dir { .. }) => return Ok(()),
            (Some(there), _) if *there == node => return Ok(()),
            (Some(there), _) => {
                return Err(wrong(
                    path,
                    &format!("it would be both {} and {}", there.describe(), node.describe()),
                ));
            }
            (None, _) => {}
        }
        self.nodes.insert(place, node);
        Ok(())
    }

    /// Puts `node` where nothing is yet.
    pub(super) fn put_if_free(&mut self, path: &str, node: Node) -> Result<(), Error> {
        match self.place(path) {
            Ok(place) if self.nodes.contains_key(&place) => Ok(()),
            Ok(_) => self.put(path, node),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing was put below the folder at the absolute `path`.
    pub(super) fn is_empty_below(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_matches('/'));
        !self.nodes.keys().any(|there| there.starts_with(&folder))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The key for an absolute path. Folders above it are made; links among them are followed, as the guest
    /// will.
    fn place(&mut self, path: &str) -> Result<String, Error> {
        if !path.starts_with('/') {
            return Err(wrong(path, "a path in the image begins with /"));
        }
        if path.contains('\0') {
            return Err(wrong(path, "a path has no NUL in it"));
        }
        if path.split('/').any(|name| name.len() > NAME_MAX) {
            return Err(wrong(path, "a name is at most 255 bytes long"));
        }
        let names = |path: &str| -> Vec<String> {
            path.split('/').rev().filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
        };
        let mut rest = names(path);
        if rest.iter().any(|name| name == "..") {
            return Err(wrong(path, "it climbs with .."));
        }
        let (mut at, mut links) = (String::new(), 0);
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            let next = if at.is_empty() { name } else { format!("{at}/{name}") };
            if rest.is_empty() {
                return Ok(next);
            }
            match self.nodes.get(&next) {
                None => {
                    self.nodes.insert(next.clone(), Node::Dir { mode: 0o755 });
                    at = next;
                }
                Some(Node::Dir { .. }) => at = next,
                Some(Node::Link { target }) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(wrong(path, "the links on the way to it lead in a circle"));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(names(target));
                }
                Some(other) => {
                    return Err(wrong(path, &format!("/{next} is {} and no folder", other.describe())));
                }
            }
        }
        Ok(at)
    }
}

pub(super) fn wrong(path: &str, why: &str) -> Error {
    Error::Image { path: path.to_owned(), why: why.to_owned() }
}
