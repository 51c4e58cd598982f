//! Disks that bring programs to a guest.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use super::*;
use crate::image::contents::of_disk;

fn spec(dir: &Path, content: &str) -> DiskSpec {
    let file = host_file(dir, "data", content, 0o644);
    DiskSpec { execs: vec![std::env::current_exe().unwrap()], files: vec![(file, "/etc/x".to_owned())] }
}

#[test]
fn disk_has_a_program_with_its_libraries_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), "one");
    let tree = of_disk(&spec).unwrap();
    let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
    let own = std::fs::canonicalize(&spec.execs[0]).unwrap();
    assert!(paths.contains(&own.to_str().unwrap().trim_start_matches('/')), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("/libc.so.6")), "{paths:?}");
    assert!(paths.contains(&"etc/x"));
    assert!(!paths.iter().any(|path| path.starts_with("dev") || *path == "etc/passwd"), "{paths:?}");
}

#[test]
fn disk_is_made_once_for_the_same_files_and_again_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().join("cache"))).unwrap();
    let began = Instant::now();
    let first = disk(&cache, &spec(dir.path(), "one")).unwrap();
    let made = began.elapsed();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = inode(&first);
    let began = Instant::now();
    let again = spec(dir.path(), "one");
    // The same content in a file that was written anew is the same disk, made again.
    let second = disk(&cache, &again).unwrap();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
    let third = disk(&cache, &again).unwrap();
    eprintln!("{} bytes: {made:?}, and then {:?}", fs::metadata(&first).unwrap().len(), began.elapsed());
    assert_eq!(second, third);
    assert_eq!(inode(&first), before);
    let other = disk(&cache, &spec(dir.path(), "two")).unwrap();
    assert_ne!(other, first);
    assert!(fs::read(&other).unwrap() != fs::read(&first).unwrap());
    assert_eq!(fs::metadata(&other).unwrap().len() % 512, 0);
}
