//! What an image holds, read back by another reader of archives than ours.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::os::unix::fs::symlink;

use cpio::newc::Reader;

use super::*;
use crate::image::tree::{Node, Tree};

#[derive(Debug)]
struct Entry {
    mode: u32,
    number: u32,
    device: (u32, u32),
    content: Vec<u8>,
}

fn entries(bytes: &[u8]) -> Vec<(String, Entry)> {
    let (mut left, mut entries) = (Cursor::new(bytes.to_vec()), Vec::new());
    loop {
        let mut reader = Reader::new(left).unwrap();
        let entry = reader.entry().clone();
        if entry.is_trailer() {
            return entries;
        }
        assert_eq!(
            (entry.mtime(), entry.uid(), entry.gid(), entry.nlink()),
            (0, 0, 0, 1),
            "{}",
            entry.name()
        );
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        let device = (entry.rdev_major(), entry.rdev_minor());
        let own = Entry { mode: entry.mode(), number: entry.ino(), device, content };
        entries.push((entry.name().to_owned(), own));
        left = reader.finish().unwrap();
    }
}

fn map(spec: &ImageSpec) -> BTreeMap<String, Entry> {
    entries(&image(spec)).into_iter().collect()
}

#[test]
fn an_image_has_its_agent_its_folders_and_its_devices() {
    let dir = tempfile::tempdir().unwrap();
    let agent = host_file(dir.path(), "agent", "AGENT", 0o640);
    let map = map(&ImageSpec { agent: Some(agent), hostname: Some("tester".into()), ..ImageSpec::default() });
    assert_eq!((map["init"].mode, &*map["init"].content), (0o120_777, &b"/sbin/kiln-agent"[..]));
    assert_eq!((map["sbin/kiln-agent"].mode, &*map["sbin/kiln-agent"].content), (0o100_755, &b"AGENT"[..]));
    assert_eq!((map["dev/console"].mode, map["dev/console"].device), (0o020_600, (5, 1)));
    assert_eq!((map["dev/null"].mode, map["dev/null"].device), (0o020_666, (1, 3)));
    assert_eq!((map["tmp"].mode, map["root"].mode, map["proc"].mode), (0o041_777, 0o040_700, 0o040_755));
    assert_eq!(map["etc/hostname"].content, b"tester\n");
}

#[test]
fn the_same_content_makes_the_same_bytes_and_parents_come_first() {
    let bytes = [0o644, 0o600].map(|mode| {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for name in ["b/c", "a-b", "b.d", "a/z"] {
            host_file(&tree, name, name, mode);
        }
        let one = host_file(dir.path(), "one", "1", mode);
        image(&ImageSpec {
            dirs: vec![(tree, "/data".into())],
            files: vec![(one, "/x/y/one".into())],
            ..ImageSpec::default()
        })
    });
    assert_eq!(bytes[0], bytes[1]);
    let entries = entries(&bytes[0]);
    for (index, (name, entry)) in entries.iter().enumerate() {
        assert_eq!(entry.number as usize, index + 1);
        if let Some((parent, _)) = name.rsplit_once('/') {
            assert!(entries[..index].iter().any(|(name, _)| name == parent), "{name}");
        }
    }
}

#[test]
fn links_are_kept_and_decide_where_things_are() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    host_file(&tree, "usr/sbin/tool", "", 0o755);
    host_file(&tree, "etc/hostname", "own\n", 0o644);
    symlink("usr/sbin", tree.join("sbin")).unwrap();
    let agent = host_file(dir.path(), "agent", "AGENT", 0o755);
    let spec = ImageSpec { agent: Some(agent), dirs: vec![(tree, "/".into())], ..ImageSpec::default() };
    let map = map(&spec);
    assert_eq!((map["sbin"].mode, &*map["sbin"].content), (0o120_777, &b"usr/sbin"[..]));
    assert_eq!(map["usr/sbin/kiln-agent"].content, b"AGENT");
    assert_eq!(map["etc/hostname"].content, b"own\n");
    let mut circle = Tree::default();
    circle.put("/a", Node::link("b")).unwrap();
    circle.put("/b", Node::link("/a")).unwrap();
    assert!(circle.put("/a/x", Node::text("")).unwrap_err().to_string().contains("circle"));
}

#[test]
fn programs_bring_their_libraries_and_a_shell_finds_them() {
    let own = std::env::current_exe().unwrap();
    let map = map(&ImageSpec { execs: vec![own.clone()], init: Some(own.clone()), ..ImageSpec::default() });
    let inside = own.to_str().unwrap();
    assert_eq!(map[&inside[1..]].mode, 0o100_755);
    assert_eq!(map["init"].mode, 0o100_755);
    let name = own.file_name().unwrap().to_str().unwrap();
    assert_eq!(map[&format!("bin/{name}")].content, inside.as_bytes());
    assert!(map.keys().any(|path| path.contains("libc.so")));
}

#[test]
fn modules_are_listed_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let module = |name: &str| Module {
        name: name.into(),
        source: {
            let path = dir.path().join(format!("{name}.ko"));
            fs::write(&path, crate::modules::tests::module(name)).unwrap();
            path
        },
        path: format!("kernel/{name}.ko"),
    };
    let modules = vec![module("z"), module("a")];
    let spec = ImageSpec { modules, release: "6.1".into(), ..ImageSpec::default() };
    let map = map(&spec);
    assert_eq!(
        map["etc/kiln/modules"].content,
        b"/lib/modules/6.1/kernel/z.ko\n/lib/modules/6.1/kernel/a.ko\n"
    );
    assert_eq!(map["lib/modules/6.1/kernel/a.ko"].content, crate::modules::tests::module("a"));
    assert!(as_format(&ImageSpec { release: String::new(), ..spec }, Format::default()).is_err());
}

#[test]
fn busybox_brings_links_and_a_system() {
    let dir = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\nprintf 'bin/sh\\nsbin/init\\nbin/busybox\\n../x\\n'\n";
    // Written by another process: one that a test beside this one is just starting may have a file of ours open for
    // writing, and then it can't be run.
    let (written, busybox) = (host_file(dir.path(), "script", script, 0o755), dir.path().join("busybox"));
    assert!(std::process::Command::new("cp").arg(&written).arg(&busybox).status().unwrap().success());
    let map = map(&ImageSpec { busybox: Some(busybox), ..ImageSpec::default() });
    assert_eq!(map["bin/sh"].content, b"/bin/busybox");
    assert_eq!(map["sbin/init"].content, b"/bin/busybox");
    assert_eq!(map["bin/busybox"].content, script.as_bytes());
    assert_eq!(map["etc/init.d/rcS"].mode, 0o100_755);
    assert!(!map.keys().any(|path| path.contains("..")));
}
