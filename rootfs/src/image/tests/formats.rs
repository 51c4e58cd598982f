//! The formats: each is made once, can be read by others' tools, and is the same for the same content.

use std::process::{Command, Stdio};

use super::*;

#[test]
fn an_image_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
    let other = ImageSpec { hostname: Some("other".into()), ..ImageSpec::default() };
    for (format, name) in FORMATS {
        let first = build(&cache, &ImageSpec::default(), format).unwrap();
        assert_eq!(first.file_name().unwrap(), name);
        assert_eq!(build(&cache, &ImageSpec::default(), format).unwrap(), first);
        assert!(fs::read(&first).unwrap() == as_format(&ImageSpec::default(), format).unwrap(), "{name}");
        assert_ne!(build(&cache, &other, format).unwrap(), first);
    }
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

/// What a tool of this host makes of an image; none if the host has no such tool.
fn tool(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.rewind().unwrap();
    let output = match Command::new(program).args(arguments).stdin(Stdio::from(file)).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("no {program} on this host: its part of this test is left out");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

/// All that can be in an image, in two folders that differ in all that must not matter.
fn spec(dir: &Path, order: &[usize], mode: u32) -> ImageSpec {
    let tree = dir.join("tree");
    let noise: String =
        (0..300_000_u32).map(|n| char::from((n.wrapping_mul(n) >> 5).to_le_bytes()[0] % 128)).collect();
    let files =
        [("b/c", "c"), ("a-b", ""), ("b.d", &noise), ("a/z", "z"), ("a/y/x", &*"zeros\0".repeat(99_999))];
    for index in order {
        let (name, content) = files[*index];
        let path = host_file(&tree, name, content, mode);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(mode) << 20);
        fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
        fs::set_permissions(tree.join(name).parent().unwrap(), fs::Permissions::from_mode(mode | 0o300))
            .unwrap();
    }
    std::os::unix::fs::symlink("a/z", tree.join("link")).unwrap();
    ImageSpec { dirs: vec![(tree, "/data".into())], ..ImageSpec::default() }
}

#[test]
fn same_content_makes_the_same_bytes_in_every_format() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let specs = [spec(one.path(), &[0, 1, 2, 3, 4], 0o644), spec(two.path(), &[4, 2, 0, 3, 1], 0o600)];
    for (format, name) in FORMATS {
        let [first, second] = specs.each_ref().map(|spec| as_format(spec, format).unwrap());
        assert!(first == second, "{name}");
    }
}

#[test]
fn parents_come_first_and_inodes_are_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(&spec(dir.path(), &[0, 1, 2, 3, 4], 0o644));
    let entries = archive::entries(&bytes).unwrap();
    assert!(entries.iter().any(|entry| entry.listed.path == "data/a/y/x"));
    for ((number, entry), before) in (1..).zip(&entries).zip(0..) {
        assert_eq!(entry.inode, number);
        if let Some((parent, _)) = entry.listed.path.rsplit_once('/') {
            let above = entries[..before].iter().find(|entry| entry.listed.path == parent);
            assert_eq!(above.map(|entry| entry.listed.mode), Some(0o040_755), "{parent}");
        }
    }
}

#[test]
fn compressed_images_are_the_archive_to_others_and_to_us() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), &[0, 1, 2, 3, 4], 0o644);
    let plain = image(&spec);
    let entries = archive::entries(&plain).unwrap();
    for (format, program) in [(FORMATS[1].0, "gzip"), (FORMATS[2].0, "zstd")] {
        let packed = as_format(&spec, format).unwrap();
        assert!(packed.len() < plain.len());
        assert_eq!(archive::entries(&packed).unwrap(), entries, "{program}");
        if let Some(unpacked) = tool(program, &["-d", "-c"], &packed) {
            assert!(unpacked == plain, "{program}");
        }
    }
    let listed: Vec<_> = entries.into_iter().map(|entry| entry.listed).collect();
    assert_eq!(list(&spec).unwrap(), listed);
    if let Some(names) = tool("cpio", &["-t", "--quiet"], &plain) {
        let names = String::from_utf8(names).unwrap();
        assert!(names.lines().eq(listed.iter().map(|listed| listed.path.as_str())), "{names}");
    }
}

#[test]
fn compressed_images_say_neither_when_nor_where_they_were_made_and_need_little_memory() {
    let gzip = as_format(&ImageSpec::default(), FORMATS[1].0).unwrap();
    // RFC 1952 §2.3: deflate, no name, no time; the system is unknown.
    assert_eq!((&gzip[..8], gzip[9]), (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..], 255));
    let zstd = as_format(&ImageSpec::default(), FORMATS[2].0).unwrap();
    // RFC 8878 §3.1.1: a checksum, no dictionary; the window is the byte behind, 2^(10 + its exponent) and eighths
    // of it. The kernel's decoder refuses more than 128 MiB (lib/decompress_unzstd.c).
    assert_eq!(zstd[..5], [0x28, 0xb5, 0x2f, 0xfd, 0b0000_0100]);
    assert!(zstd[5] >> 3 < 27 - 10, "{:#x}", zstd[5]);
}
