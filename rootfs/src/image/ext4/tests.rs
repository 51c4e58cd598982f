//! What is in an ext4 image, read back by a reader of its own, and judged by e2fsprogs where they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::image::tree::{Node, Source};

/// The file system of `tree` in a file of its own.
fn image(tree: &Tree, size: Option<u64>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    write(tree, size, &mut File::create_new(&path).unwrap()).unwrap();
    (dir, path)
}

fn tree(nodes: impl IntoIterator<Item = (String, Node)>) -> Tree {
    let mut tree = Tree::default();
    for (path, node) in nodes {
        tree.put(&path, node).unwrap();
    }
    tree
}

/// One of e2fsprogs, where the host has them: an image is made without, and [`Reader`] looks at each.
fn e2fs(program: &str, arguments: &[&str], image: &Path) -> Option<String> {
    let folders = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"].map(Path::new);
    let Some(program) = folders.map(|folder| folder.join(program)).into_iter().find(|p| p.is_file()) else {
        eprintln!("no {program} on this host: its part of this test is left out");
        return None;
    };
    let output = Command::new(&program).args(arguments).arg(image).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {arguments:?}: {}: {said}", program.display(), output.status);
    Some(said)
}

#[track_caller]
fn assert_sound(image: &Path) {
    if let Some(said) = e2fs("e2fsck", &["-f", "-n"], image) {
        // One line for each pass, one with the counts, and the version: nothing else is well.
        assert_eq!(said.lines().count(), 7, "{said}");
    }
}

/// Reads an image by the kernel's description of the format, not by the code that wrote it.
struct Reader {
    file: File,
}

#[derive(Debug)]
struct Found {
    mode: u16,
    links: u16,
    flags: u32,
    sectors: u32,
    block: [u8; 60],
    size: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Reader {
    fn new(path: &Path) -> Self {
        Self { file: File::open(path).unwrap() }
    }

    fn at(&mut self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.seek(SeekFrom::Start(at)).unwrap();
        self.file.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn inode(&mut self, number: u32) -> Found {
        let superblock = self.at(1024, 1024);
        let per_group = u32_at(&superblock, 40);
        let (group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        let descriptor = self.at(4096 + u64::from(group) * 32, 32);
        let bitmap = self.at(u64::from(u32_at(&descriptor, 4)) * 4096, 4096);
        assert_ne!(bitmap[(index / 8) as usize] & 1 << (index % 8), 0, "inode {number} is not in use");
        let bytes = self.at(u64::from(u32_at(&descriptor, 8)) * 4096 + u64::from(index) * 256, 256);
        assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12), u32_at(&bytes, 16)), (0, 0, 0), "a time");
        assert_eq!((u16_at(&bytes, 2), u16_at(&bytes, 24)), (0, 0), "an owner");
        Found {
            mode: u16_at(&bytes, 0),
            links: u16_at(&bytes, 26),
            flags: u32_at(&bytes, 32),
            sectors: u32_at(&bytes, 28),
            block: bytes[40..100].try_into().unwrap(),
            size: u64::from(u32_at(&bytes, 4)) | u64::from(u32_at(&bytes, 108)) << 32,
        }
    }

    /// Logical block, length, physical block of each extent.
    fn extents(&mut self, node: &[u8]) -> Vec<(u32, u16, u32)> {
        assert_eq!(u16_at(node, 0), 0xf30a);
        let entries = node[12..].chunks(12).take(u16_at(node, 2).into());
        let mut extents = Vec::new();
        for entry in entries {
            if u16_at(node, 6) == 0 {
                extents.push((u32_at(entry, 0), u16_at(entry, 4), u32_at(entry, 8)));
            } else {
                let leaf = self.at(u64::from(u32_at(entry, 4)) * 4096, 4096);
                extents.extend(self.extents(&leaf));
            }
        }
        extents
    }

    fn content(&mut self, found: &Found) -> Vec<u8> {
        assert_eq!(found.flags, 0x80000);
        let mut content = vec![0; usize::try_from(found.size).unwrap().next_multiple_of(4096)];
        for (logical, length, physical) in self.extents(&found.block) {
            let run = self.at(u64::from(physical) * 4096, usize::from(length) * 4096);
            content[logical as usize * 4096..][..run.len()].copy_from_slice(&run);
        }
        content.truncate(usize::try_from(found.size).unwrap());
        content
    }

    /// A folder's names, each with its inode and type.
    fn names(&mut self, inode: u32) -> BTreeMap<String, (u32, u8)> {
        let found = self.inode(inode);
        assert_eq!(found.mode & 0o170_000, 0o040_000);
        let (bytes, mut names, mut at) = (self.content(&found), BTreeMap::new(), 0);
        while at < bytes.len() {
            let name = String::from_utf8(bytes[at + 8..][..bytes[at + 6].into()].to_vec()).unwrap();
            assert!(names.insert(name, (u32_at(&bytes, at), bytes[at + 7])).is_none());
            at += usize::from(u16_at(&bytes, at + 4));
        }
        names
    }

    fn find(&mut self, path: &str) -> Found {
        let number = path.split('/').fold(2, |at, name| self.names(at)[name].0);
        self.inode(number)
    }
}

fn device(major: u32, minor: u32) -> Node {
    Node::Device { major, minor, mode: 0o600 }
}

#[test]
fn files_links_and_devices_are_as_they_were_put() {
    let long = "n".repeat(255);
    let target = "t".repeat(300);
    let text = b"text ".repeat(2000);
    let (_dir, path) = image(
        &tree([
            ("/dev/console".into(), device(5, 1)),
            ("/dev/far".into(), device(260, 70_000)),
            ("/empty".into(), Node::text("")),
            ("/bin/tool".into(), Node::File { source: Source::Bytes(b"tool".to_vec()), executable: true }),
            (format!("/etc/{long}"), Node::text(text.clone())),
            ("/fast".into(), Node::link("f".repeat(59))),
            ("/slow".into(), Node::link("s".repeat(60))),
            ("/slower".into(), Node::link(&target)),
            ("/tmp".into(), Node::Dir { mode: 0o1777 }),
        ]),
        None,
    );
    assert_sound(&path);
    let mut reader = Reader::new(&path);
    let root = reader.names(2);
    assert_eq!((root["."], root[".."], root["lost+found"]), ((2, 2), (2, 2), (11, 2)));
    let numbers: Vec<u32> = root.values().map(|(inode, _)| *inode).filter(|inode| *inode > 11).collect();
    assert!(numbers.is_sorted(), "inodes are numbered by path: {root:?}");
    assert_eq!(
        (reader.inode(2).links, reader.inode(2).mode, reader.inode(11).mode),
        (7, 0o040_755, 0o040_700)
    );
    let found = reader.find("dev/console");
    assert_eq!((found.mode, u32_at(&found.block, 0), found.flags), (0o020_600, 0x501, 0));
    let found = reader.find("dev/far");
    assert_eq!((u32_at(&found.block, 0), u32_at(&found.block, 4)), (0, 0x1111_0470));
    let found = reader.find("empty");
    assert_eq!((found.mode, found.size, found.sectors, found.links), (0o100_644, 0, 0, 1));
    assert_eq!(reader.content(&found), b"");
    let found = reader.find("bin/tool");
    assert_eq!((found.mode, reader.content(&found)), (0o100_755, b"tool".to_vec()));
    let found = reader.find(&format!("etc/{long}"));
    assert_eq!((found.sectors, reader.content(&found)), (24, text));
    let found = reader.find("fast");
    assert_eq!((found.mode, found.size, found.sectors, found.flags), (0o120_777, 59, 0, 0));
    assert_eq!(found.block[..59], [b'f'; 59]);
    let found = reader.find("slow");
    assert_eq!((found.sectors, reader.content(&found)), (8, vec![b's'; 60]));
    let found = reader.find("slower");
    assert_eq!(reader.content(&found), target.as_bytes());
    assert_eq!(reader.find("tmp").mode, 0o041_777);
    if let Some(said) = e2fs("debugfs", &["-R", "stat /dev/far"], &path) {
        assert!(said.contains("Device major/minor number: 260:70000"), "{said}");
        let said = e2fs("debugfs", &["-R", "stat /slower"], &path).unwrap();
        assert!(said.contains("Type: symlink") && said.contains("Size: 300"), "{said}");
        assert!(e2fs("debugfs", &["-R", "cat /bin/tool"], &path).unwrap().starts_with("tool"));
    }
}

#[test]
fn folder_of_5000_names_has_them_all() {
    let names = (0..5000).map(|n| (format!("/many/{n}-{}", "x".repeat(n % 200)), Node::text(n.to_string())));
    let (_dir, path) = image(&tree(names), None);
    assert_sound(&path);
    let mut reader = Reader::new(&path);
    let many = reader.names(12);
    assert_eq!(many.len(), 5002);
    for n in [0, 1, 4999] {
        let found = reader.inode(many[&format!("{n}-{}", "x".repeat(n % 200))].0);
        assert_eq!(reader.content(&found), n.to_string().as_bytes());
    }
}

#[test]
fn file_of_600_mib_has_a_tree_of_extents_and_its_holes_take_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("sparse");
    let sparse = File::create_new(&host).unwrap();
    sparse.set_len(600 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 300 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"at the end", (600 << 20) - 10).unwrap();
    let node = Node::File { source: Source::Host(host), executable: false };
    let (_dir, path) = image(&tree([("/big".into(), node), ("/zz".into(), Node::text("behind"))]), None);
    assert_sound(&path);
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.len() > 600 << 20 && metadata.blocks() * 512 < 4 << 20, "{metadata:?}");
    let mut reader = Reader::new(&path);
    let found = reader.find("big");
    let extents = reader.extents(&found.block);
    assert_eq!((found.size, extents.len(), found.sectors), (600 << 20, 5, (150 * 1024 + 1) * 8));
    let at = |offset: u64| {
        let (block, inside) = (u32::try_from(offset / 4096).unwrap(), offset % 4096);
        let extent =
            extents.iter().find(|(first, count, _)| (*first..first + u32::from(*count)).contains(&block));
        let (first, _, physical) = extent.unwrap();
        u64::from(physical + block - first) * 4096 + inside
    };
    assert_eq!(reader.at(at(300 << 20), 13), b"in the middle");
    assert_eq!(reader.at(at((600 << 20) - 10), 10), b"at the end");
    let found = reader.find("zz");
    assert_eq!(reader.content(&found), b"behind");
}

#[test]
fn image_with_no_block_to_spare_is_sound() {
    for files in [0, 1, 300] {
        let content = (0..files).map(|n| (format!("/f/{n}"), Node::text(vec![1; 40_000])));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        write_full(&tree(content), &mut File::create_new(&path).unwrap()).unwrap();
        assert_sound(&path);
        let (length, content) = (fs::metadata(&path).unwrap().len(), files * 40_960);
        // What it takes beside: the file system's own, and a folder's blocks.
        assert!(length.is_multiple_of(4096) && length < content + (256 << 10), "{length} for {content}");
    }
}

#[test]
fn image_of_a_size_is_as_large_as_it_says() {
    let content = tree((0..300).map(|n| (format!("/f/{n}"), Node::text(vec![1; 40_000]))));
    // The last: a last group of a single block.
    for size in [20 << 20, (16 << 20) + 4095, 1 << 30, (128 << 20) + 4096] {
        let (_dir, path) = image(&content, Some(size));
        assert_eq!(fs::metadata(&path).unwrap().len(), size / 4096 * 4096);
        assert_sound(&path);
    }
    let write = |size| write(&content, Some(size), &mut Cursor::new(Vec::new()));
    let Err(Error::TooSmall { size: 4096, needed_kib }) = write(4096) else { panic!("it fits") };
    assert!(write((needed_kib << 10) - 4096).is_err());
    let (_dir, path) = image(&content, Some(needed_kib << 10));
    assert_sound(&path);
    let said = write(1 << 20).unwrap_err().to_string();
    assert!(said.contains("1048576") && said.contains(&format!("at least {needed_kib}K")), "{said}");
}

#[test]
fn image_with_metadata_of_more_than_a_group_is_sound() {
    let (_dir, path) = image(&tree([("/f".into(), Node::text("x"))]), Some(40 << 30));
    assert_sound(&path);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 4 << 20);
}

#[test]
fn folder_with_more_subfolders_than_links_is_sound() {
    let (_dir, path) =
        image(&tree((0..65_100).map(|n| (format!("/d/{n}"), Node::Dir { mode: 0o755 }))), None);
    assert_sound(&path);
    assert_eq!(Reader::new(&path).find("d").links, 1);
}

#[test]
fn lost_and_found_is_a_folder_or_refused() {
    let (_dir, path) = image(&tree([("/lost+found/x".into(), Node::text("y"))]), None);
    assert_sound(&path);
    let mut reader = Reader::new(&path);
    let found = reader.find("lost+found/x");
    assert_eq!(reader.content(&found), b"y");
    let refused = write(&tree([("/lost+found".into(), Node::text("y"))]), None, &mut Cursor::new(Vec::new()));
    assert!(refused.unwrap_err().to_string().contains("/lost+found"));
}

#[test]
fn file_of_more_than_170_gib_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("huge");
    if File::create_new(&host).unwrap().set_len((170 << 30) + 4096).is_err() {
        eprintln!("this host's file system has no such files: nothing to refuse");
        return;
    }
    let node = Node::File { source: Source::Host(host), executable: false };
    let refused = write(&tree([("/huge".into(), node)]), None, &mut Cursor::new(Vec::new())).unwrap_err();
    assert!(refused.to_string().contains("170 GiB"), "{refused}");
}
