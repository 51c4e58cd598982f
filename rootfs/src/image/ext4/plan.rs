//! From the tree to inodes with their blocks, before anything is written.

use std::collections::HashMap;
use std::path::Path;

use rustix::fs::FileType;

use super::directory::Directory;
use super::extents;
use super::inode::{self, Inode, Place};
use super::layout::{Layout, Needs};
use super::spec::{BLOCK_BYTES, FAST_LINK, FIRST_INODE, LINKS_MAX, ROOT_INODE, file_type};
use crate::Error;
use crate::image::host;
use crate::image::tree::{Node, Source, Tree, wrong};

/// Where a checker puts what it finds; every file system has it.
const LOST_AND_FOUND: &str = "lost+found";

/// What an inode holds.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Directory(Vec<u8>),
    Bytes(&'a [u8]),
    Host(&'a Path),
    FastLink(&'a str),
    Device(u32, u32),
}

/// One inode.
#[derive(Debug)]
pub(super) struct Item<'a> {
    mode: u32,
    links: u16,
    pub(super) size: u64,
    pub(super) content: Content<'a>,
    /// Its first block, counted from the first of all content.
    pub(super) start: u64,
    blocks: u64,
    /// Blocks of its extent tree, which lie just before.
    pub(super) leaves: u64,
}

impl Item<'_> {
    pub(super) fn inode(&self, layout: &Layout) -> Inode {
        let place = match &self.content {
            Content::FastLink(target) => Place::Itself(inode::fast_link(target)),
            Content::Device(major, minor) => Place::Itself(inode::device(*major, *minor)),
            _ => Place::Extents(self.tree(layout).0),
        };
        Inode {
            mode: self.mode,
            links: self.links,
            size: self.size,
            blocks: self.blocks + self.leaves,
            place,
        }
    }

    pub(super) fn leaf_blocks(&self, layout: &Layout) -> Vec<u8> {
        if self.leaves == 0 { Vec::new() } else { self.tree(layout).1 }
    }

    /// A layout that fits has 32-bit numbers for all blocks.
    fn tree(&self, layout: &Layout) -> ([u8; 60], Vec<u8>) {
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        extents::tree(number(u64::from(layout.data) + self.start), number(self.blocks))
    }
}

/// All inodes, by number: the root, lost+found, then the others by path.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    items: Vec<Item<'a>>,
    /// Blocks of all of them.
    blocks: u64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(tree: &'a Tree) -> Result<Self, Error> {
        const ROOT: &Node = &Node::Dir { mode: 0o755 };
        const EMPTY: &Node = &Node::Dir { mode: 0o700 };
        let mut nodes = vec![("", ROOT), (LOST_AND_FOUND, EMPTY)];
        for (path, node) in tree.iter() {
            match node {
                _ if path != LOST_AND_FOUND => nodes.push((path, node)),
                Node::Dir { .. } => nodes[1].1 = node,
                _ => return Err(wrong("/lost+found", "in ext4 it is a folder of the file system's own")),
            }
        }
        let mut folders = Folders::new(&nodes)?;
        let mut plan = Self { items: Vec::with_capacity(nodes.len()), blocks: 0 };
        for (path, node) in nodes {
            let item = plan.item(path, node, &mut folders)?;
            plan.blocks = item.start.checked_add(item.blocks).ok_or(Error::TooLarge)?;
            plan.items.push(item);
        }
        Ok(plan)
    }

    /// The inode of `node`, its blocks behind all others.
    fn item(&self, path: &str, node: &'a Node, folders: &mut Folders<'a>) -> Result<Item<'a>, Error> {
        let mut links = 1;
        let (kind, mode, size, content) = match node {
            Node::Dir { mode } => {
                let (bytes, subfolders) = folders.take(path);
                links =
                    if subfolders + 2 > LINKS_MAX { 1 } else { u16::try_from(subfolders + 2).unwrap_or(1) };
                (FileType::Directory, *mode, bytes.len() as u64, Content::Directory(bytes))
            }
            Node::Link { target } if target.len() < FAST_LINK => {
                (FileType::Symlink, 0o777, target.len() as u64, Content::FastLink(target))
            }
            Node::Link { target } => {
                (FileType::Symlink, 0o777, target.len() as u64, Content::Bytes(target.as_bytes()))
            }
            Node::Device { major, minor, mode } => {
                (FileType::CharacterDevice, *mode, 0, Content::Device(*major, *minor))
            }
            Node::File { source, executable } => {
                let (size, content) = match source {
                    Source::Bytes(bytes) => (bytes.len() as u64, Content::Bytes(bytes)),
                    Source::Host(host) => (host::length(host)?, Content::Host(host)),
                };
                (FileType::RegularFile, if *executable { 0o755 } else { 0o644 }, size, content)
            }
        };
        let in_blocks = !matches!(content, Content::FastLink(_) | Content::Device(..));
        let blocks = if in_blocks { size.div_ceil(BLOCK_BYTES) } else { 0 };
        let leaves = extents::leaves(blocks)
            .ok_or_else(|| wrong(path, "no file in an ext4 image of ours is larger than 170 GiB"))?;
        let start = self.blocks.checked_add(leaves).ok_or(Error::TooLarge)?;
        Ok(Item { mode: kind.as_raw_mode() | mode, links, size, content, start, blocks, leaves })
    }

    pub(super) fn items(&self) -> &[Item<'a>] {
        &self.items
    }

    pub(super) fn needs(&self) -> Needs {
        // Before lost+found are ten reserved inodes, the root's among them.
        Needs { blocks: self.blocks, inodes: self.items.len() as u64 - 1 + u64::from(FIRST_INODE - 1) }
    }

    /// How many folders' inodes are in each group.
    pub(super) fn folders_by_group(&self, layout: &Layout) -> Vec<u16> {
        let mut counts = vec![0; usize::try_from(layout.groups).unwrap_or(0)];
        for (item, number) in self.items.iter().zip(numbers()) {
            let group = usize::try_from((number - 1) / layout.inodes_per_group).unwrap_or(0);
            if matches!(item.content, Content::Directory(_)) {
                counts[group] += 1;
            }
        }
        counts
    }
}

/// The numbers of inodes, in the order of items.
fn numbers() -> impl Iterator<Item = u32> {
    std::iter::once(ROOT_INODE).chain(FIRST_INODE..u32::MAX)
}

/// The folders' entries, and how many of them are folders.
struct Folders<'a>(HashMap<&'a str, (Directory, usize)>);

impl<'a> Folders<'a> {
    fn new(nodes: &[(&'a str, &'a Node)]) -> Result<Self, Error> {
        let mut numbered = HashMap::from([("", ROOT_INODE)]);
        let mut folders = Self(HashMap::new());
        folders.0.insert("", (Directory::new(ROOT_INODE, ROOT_INODE), 0));
        if u32::try_from(nodes.len()).is_err() {
            return Err(Error::TooLarge);
        }
        for ((path, node), number) in nodes.iter().zip(numbers()).skip(1) {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let kind = match node {
                Node::Dir { .. } => file_type::DIRECTORY,
                Node::File { .. } => file_type::REGULAR,
                Node::Link { .. } => file_type::LINK,
                Node::Device { .. } => file_type::CHARACTER,
            };
            // A tree has the folders above each of its paths, and they come first.
            let Some((directory, subfolders)) = folders.0.get_mut(parent) else {
                return Err(wrong(path, "the folder above it is missing"));
            };
            directory.add(name, number, kind);
            if kind == file_type::DIRECTORY {
                *subfolders += 1;
                let above = numbered.get(parent).copied().unwrap_or(ROOT_INODE);
                numbered.insert(path, number);
                folders.0.insert(path, (Directory::new(number, above), 0));
            }
        }
        Ok(folders)
    }

    /// A folder's blocks, and how many folders are in it.
    fn take(&mut self, path: &str) -> (Vec<u8>, usize) {
        self.0.remove(path).map_or((Vec::new(), 0), |(directory, count)| (directory.into_bytes(), count))
    }
}
