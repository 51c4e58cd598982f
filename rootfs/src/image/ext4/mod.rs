//! ext4 images, written once from front to back: the bytes depend on the tree alone, owners and devices need no
//! root, and no host has to have `mke2fs`.
//!
//! No journal and no checksums: an image is a test's disk, and can be made again.

mod directory;
mod extents;
mod inode;
mod layout;
mod output;
mod plan;
mod spec;
mod superblock;
#[cfg(test)]
mod tests;

use std::io::{Seek, Write};

use self::layout::Layout;
use self::output::Output;
use self::plan::{Content, Plan};
use self::spec::{BLOCK, FIRST_INODE, INODE, ROOT_INODE};
use self::superblock::Used;
use super::host::{self, HostFile};
use super::tree::Tree;
use crate::Error;

/// Writes all of `tree` as a file system of `size` bytes, or of as many as leave room. `output` is empty;
/// blocks of zeros become holes in it.
pub(super) fn write(tree: &Tree, size: Option<u64>, output: &mut (impl Write + Seek)) -> Result<(), Error> {
    let plan = Plan::new(tree)?;
    let layout = Layout::fit(plan.needs(), size)?;
    write_as(&plan, layout, output)
}

/// As [`write`], with no room for anything else.
pub(super) fn write_full(tree: &Tree, output: &mut (impl Write + Seek)) -> Result<(), Error> {
    let plan = Plan::new(tree)?;
    let layout = Layout::full(plan.needs())?;
    write_as(&plan, layout, output)
}

fn write_as(plan: &Plan, layout: Layout, output: &mut (impl Write + Seek)) -> Result<(), Error> {
    let mut output = Output::new(output);
    metadata(plan, &layout, &mut output)?;
    content(plan, &layout, &mut output)?;
    output.finish(layout.blocks.into())
}

fn metadata<W: Write + Seek>(plan: &Plan, layout: &Layout, output: &mut Output<W>) -> Result<(), Error> {
    let needs = plan.needs();
    // What has passed `Layout::fit` has as many blocks and inodes as 32 bits can count.
    let count = |number: u64| u32::try_from(number).map_err(|_| Error::TooLarge);
    let used = Used { blocks: count(u64::from(layout.data) + needs.blocks)?, inodes: count(needs.inodes)? };
    output.put(0, &superblock::front(layout, used, &plan.folders_by_group(layout)))?;
    for group in 0..layout.groups {
        let (blocks, _) = superblock::bitmaps(layout, used, group);
        output.put((layout.block_bitmaps + group).into(), &blocks)?;
    }
    for group in 0..layout.groups {
        let (_, inodes) = superblock::bitmaps(layout, used, group);
        output.put((layout.inode_bitmaps + group).into(), &inodes)?;
    }
    inodes(plan, layout, output)
}

/// The groups' tables follow each other, so they are one.
fn inodes<W: Write + Seek>(plan: &Plan, layout: &Layout, output: &mut Output<W>) -> Result<(), Error> {
    // Inodes count from 1. The root's is the second, lost+found's the eleventh, all others follow.
    let reserved = |count: u32| std::iter::repeat_n([0; INODE], usize::try_from(count).unwrap_or(0));
    let mut items = plan.items().iter().map(|item| item.inode(layout).to_bytes());
    let root = items.next();
    let table =
        reserved(ROOT_INODE - 1).chain(root).chain(reserved(FIRST_INODE - ROOT_INODE - 1)).chain(items);
    let (mut block, mut bytes) = (u64::from(layout.inode_tables), Vec::with_capacity(BLOCK));
    for inode in table {
        bytes.extend_from_slice(&inode);
        if bytes.len() == BLOCK {
            output.put(block, &bytes)?;
            block += 1;
            bytes.clear();
        }
    }
    output.put(block, &bytes)
}

fn content<W: Write + Seek>(plan: &Plan, layout: &Layout, output: &mut Output<W>) -> Result<(), Error> {
    let mut buffer = host::buffer();
    for item in plan.items() {
        let start = u64::from(layout.data) + item.start;
        output.put(start - item.leaves, &item.leaf_blocks(layout))?;
        match &item.content {
            Content::Directory(bytes) => output.put(start, bytes)?,
            Content::Bytes(bytes) => output.put(start, bytes)?,
            Content::Host(path) => {
                let mut file = HostFile::open(path)?;
                file.expect_length(item.size)?;
                file.copy_data(&mut buffer, |offset, bytes| {
                    output.put(start + offset / spec::BLOCK_BYTES, bytes)
                })?;
            }
            Content::FastLink(_) | Content::Device(..) => {}
        }
    }
    Ok(())
}
