//! `kiln rootfs` as a user would run it, with a kernel and an agent that only have to be files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder with a cache, and all that `kiln rootfs` would otherwise fetch or build.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::write(home.path().join("kernel"), "kernel").unwrap();
        fs::write(home.path().join("agent"), "agent").unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn rootfs(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(["rootfs", "--kernel", "kernel"])
            .args(arguments)
            .env("KILN_CACHE", self.path().join("cache"))
            .env("KILN_AGENT", self.path().join("agent"))
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// How many images the cache has, and files that are half done.
    fn kept(&self) -> (usize, usize) {
        let count =
            |folder: &str| fs::read_dir(self.path().join("cache").join(folder)).map_or(0, Iterator::count);
        (count("images"), count("tmp"))
    }

    #[track_caller]
    fn assert_refused(&self, arguments: &[&str], words: &str) {
        let before = self.kept().0;
        let output = self.rootfs(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.lines().count() == 1 && said.contains(words), "{words} is not in: {said}");
        assert_eq!(self.kept(), (before, 0), "{arguments:?}");
    }
}

#[test]
fn rootfs_makes_every_format_and_says_which() {
    let home = Home::new();
    for (options, format, compress, start) in [
        (&["--compress=none"][..], "initramfs", Some("none"), &b"070701"[..]),
        (&["--compress=gzip"], "initramfs", Some("gzip"), b"\x1f\x8b"),
        (&["--compress=zstd"], "initramfs", Some("zstd"), b"\x28\xb5\x2f\xfd"),
        (&["--format=ext4"], "ext4", None, &[0; 1024]),
        (&["--format=ext4", "--size=8M"], "ext4", None, &[0; 1024]),
    ] {
        let output = home.rootfs(&[options, &["--verify", "--json", "--output=image"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.lines().last(), Some("verified: two builds, the same bytes"));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["format"], &report["verified"]), (&format.into(), &true.into()));
        assert_eq!(report["compress"].as_str(), compress);
        let image = fs::read(home.path().join("image")).unwrap();
        assert!(image.starts_with(start) && report["bytes"] == image.len());
        if options.contains(&"--size=8M") {
            assert_eq!(image.len(), 8 << 20);
        }
    }
    assert_eq!(home.kept(), (5, 0));
}

#[test]
fn rootfs_lists_the_same_in_every_format() {
    let home = Home::new();
    let list = |options: &[&str]| {
        let output = home.rootfs(&[&["--list"], options].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        // The first line names the image.
        String::from_utf8(output.stdout).unwrap().lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = list(&[]);
    for line in ["lrwxrwxrwx  0:0    16  /init -> /sbin/kiln-agent", "crw-------  0:0  5, 1  /dev/console"] {
        assert!(lines.iter().any(|one| one == line), "{line} is not in: {lines:#?}");
    }
    for options in [&["--compress=gzip"][..], &["--compress=zstd"], &["--format=ext4"]] {
        assert_eq!(list(options), lines, "{options:?}");
    }
}

#[test]
fn rootfs_of_bad_input_says_one_line_and_keeps_nothing() {
    let home = Home::new();
    fs::create_dir(home.path().join("folder")).unwrap();
    for format in [&["--format=initramfs"][..], &["--compress=zstd"], &["--format=ext4"]] {
        let refused = |more: &[&str], words| home.assert_refused(&[format, more].concat(), words);
        refused(&["--file=none:/x"], "failed to find none: No such file");
        refused(&["--file=folder:/x"], "folder: a folder where a file is asked for");
        refused(&["--dir=kernel:/x"], "kernel: a file where a folder is asked for");
        refused(&["--file=kernel:/x", "--file=agent:/x"], "the image can't have /x: it would be both");
        refused(&["--file=/dev/null:/x"], "/dev/null: a device");
        refused(&["--output=folder"], "--output folder: a folder");
        refused(&["--output=none/image"], "--output none/image: no such folder");
    }
    home.assert_refused(&["--format=ext4", "--size=64K"], "an ext4 image of 65536 bytes has no room");
    home.assert_refused(&["--format=ext4", "--size=99999G"], "smaller than 16 TiB");
}

#[test]
fn rootfs_to_a_full_device_keeps_the_image_in_the_cache() {
    let home = Home::new();
    let output = home.rootfs(&["--output=/dev/full"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(125), 1), "{said}");
    assert!(said.contains("failed to write /dev/full: No space left"), "{said}");
    assert_eq!(home.kept(), (1, 0));
    assert_eq!(home.rootfs(&["--output=/dev/null"]).status.code(), Some(0));
}
