//! What an image holds, and that it is the same every time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cpio::newc::Reader;

use super::tree::{Node, Tree};
use super::*;

#[derive(Debug)]
struct Entry {
    mode: u32,
    number: u32,
    device: (u32, u32),
    content: Vec<u8>,
}

fn image(spec: &ImageSpec) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(spec, &mut bytes).unwrap();
    bytes
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

fn host_file(dir: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
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
fn what_makes_no_sense_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (host_file(dir.path(), "one", "1", 0o644), host_file(dir.path(), "two", "2", 0o644));
    let refused = |files: &[(&Path, &str)]| {
        let files = files.iter().map(|(host, inside)| ((*host).to_owned(), (*inside).to_owned())).collect();
        let error =
            write(&ImageSpec { files, ..ImageSpec::default() }, &mut Vec::new()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let twice = refused(&[(&one, "/x"), (&two, "/x")]);
    assert!(twice.contains("the image can't have /x: it would be both") && twice.contains("/two"), "{twice}");
    assert!(refused(&[(&one, "/a/../../x")]).contains("climbs"));
    assert!(refused(&[(&one, "x")]).contains("begins with /"));
    assert!(refused(&[(&one, "/")]).contains("the root is a folder"));
    assert!(refused(&[(&one, "/x"), (&two, "/x/y")]).contains("no folder"));
    assert!(refused(&[(&dir.path().join("none"), "/x")]).starts_with("failed to find /"));
    assert!(refused(&[(dir.path(), "/x")]).contains("a folder where a file is asked for"));
    assert!(refused(&[(Path::new("/dev/null"), "/x")]).contains("neither a file nor a folder"));
    image(&ImageSpec {
        files: vec![(one.clone(), "/x".into()), (one, "//x".into())],
        ..ImageSpec::default()
    });
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
    assert!(write(&ImageSpec { release: String::new(), ..spec }, &mut Vec::new()).is_err());
}

#[test]
fn busybox_brings_links_and_a_system() {
    let dir = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\nprintf 'bin/sh\\nsbin/init\\nbin/busybox\\n../x\\n'\n";
    let busybox = host_file(dir.path(), "busybox", script, 0o755);
    let map = map(&ImageSpec { busybox: Some(busybox), ..ImageSpec::default() });
    assert_eq!(map["bin/sh"].content, b"/bin/busybox");
    assert_eq!(map["sbin/init"].content, b"/bin/busybox");
    assert_eq!(map["bin/busybox"].content, script.as_bytes());
    assert_eq!(map["etc/init.d/rcS"].mode, 0o100_755);
    assert!(!map.keys().any(|path| path.contains("..")));
}

#[test]
fn an_image_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
    let first = build(&cache, &ImageSpec::default()).unwrap();
    assert_eq!(build(&cache, &ImageSpec::default()).unwrap(), first);
    assert_eq!(fs::read(&first).unwrap(), image(&ImageSpec::default()));
    assert_ne!(
        build(&cache, &ImageSpec { hostname: Some("other".into()), ..ImageSpec::default() }).unwrap(),
        first
    );
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}
