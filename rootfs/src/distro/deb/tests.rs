//! Packages, whole and hostile, made here byte by byte.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tar::{EntryType, Header};

use super::*;
use crate::progress::Silent;

/// An entry of a package: its type, its path, what it is linked to, its content.
pub(crate) type Made<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

/// A file of a package.
pub(crate) fn file<'a>(path: &'a str, content: &'a [u8]) -> Made<'a> {
    (EntryType::Regular, path, "", content)
}

fn folder(path: &str) -> Made<'_> {
    (EntryType::Directory, path, "", b"")
}

fn link<'a>(path: &'a str, target: &'a str) -> Made<'a> {
    (EntryType::Symlink, path, target, b"")
}

fn tar(entries: &[Made<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, target, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        // Written past the library, which makes no hostile paths.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_mode(if path.contains("bin/") { 0o4755 } else { 0o600 });
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes(),
        );
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(bytes).unwrap();
    xz.finish().unwrap()
}

/// A package with such files.
pub(crate) fn package(entries: &[Made<'_>]) -> Vec<u8> {
    package_of("data.tar.xz", &xz(&tar(entries)))
}

/// A package as above that says who it is, so that a package manager takes it.
pub(crate) fn package_named(name: &str, entries: &[Made<'_>]) -> Vec<u8> {
    let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: n\nDescription: d\n");
    let control = xz(&tar(&[file("./control", control.as_bytes())]));
    let data = xz(&tar(entries));
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &control), ("data.tar.xz", &data)])
}

fn package_of(name: &str, data: &[u8]) -> Vec<u8> {
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)])
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Unpacks `package` into the folder.
    fn unpack(&self, package: &[u8]) -> Result<(), String> {
        let path = self.dir.path().join("x.deb");
        fs::write(&path, package).unwrap();
        unpack(&path, &self.root()).map_err(|error| error.to_string())
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }
}

#[test]
fn package_in_each_packing_is_unpacked() {
    let tar = tar(&[folder("./"), folder("./usr/bin/"), file("./usr/bin/p", b"program"), file("a", b"text")]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar).unwrap();
    let zst = ruzstd::encoding::compress_to_vec(&tar[..], ruzstd::encoding::CompressionLevel::Fastest);
    for (name, data) in [
        ("data.tar.xz", xz(&tar)),
        ("data.tar.gz", gz.finish().unwrap()),
        ("data.tar.zst", zst),
        ("data.tar", tar.clone()),
    ] {
        let place = Place::new();
        place.unpack(&package_of(name, &data)).unwrap();
        assert_eq!(
            (place.text("usr/bin/p").as_str(), place.text("a").as_str()),
            ("program", "text"),
            "{name}"
        );
        let mode = |path| fs::metadata(place.root().join(path)).unwrap().permissions().mode();
        // Neither set-uid, as in the package, nor unreadable to the owner.
        assert_eq!((mode("usr/bin/p") & 0o7700, mode("a") & 0o7700), (0o700, 0o600), "{name}");
        // The package itself, but for its last byte.
        let whole = package_of(name, &data);
        for cut in [0, 7, 60, 100, 200, whole.len() / 2, whole.len() - 2 - whole.len() % 2] {
            let place = Place::new();
            let error = place.unpack(&whole[..cut]).unwrap_err();
            assert!(error.contains("x.deb: not a whole Debian package: "), "{name} {cut}: {error}");
        }
    }
}

#[test]
fn links_are_kept_and_lead_where_the_package_meant() {
    let place = Place::new();
    place
        .unpack(&package(&[
            file("etc/real", b"1"),
            link("usr/lib/absolute", "/etc/real"),
            link("usr/lib/relative", "../../etc/./real"),
            link("lib", "usr/lib"),
            file("lib/through", b"2"),
            (EntryType::Link, "hard", "./etc/real", b""),
            (EntryType::Char, "dev/null", "", b""),
            (EntryType::Fifo, "dev/pipe", "", b""),
        ]))
        .unwrap();
    for path in ["usr/lib/absolute", "usr/lib/relative", "hard"] {
        assert_eq!(place.text(path), "1", "{path}");
    }
    assert_eq!(place.text("usr/lib/through"), "2");
    assert!(!place.root().join("dev/null").exists());
    // A second package replaces files and links, and writes through none.
    place.unpack(&package(&[file("usr/lib/absolute", b"3")])).unwrap();
    assert_eq!((place.text("usr/lib/absolute").as_str(), place.text("etc/real").as_str()), ("3", "1"));
}

#[test]
fn nothing_comes_to_be_outside_of_the_folder_nor_leads_out_of_it() {
    let refused: &[&[Made<'_>]] = &[
        &[file("../out", b"")],
        &[file("a/../../out", b"")],
        &[file("/out", b"")],
        &[link("a", "../out")],
        &[link("a", "b/../../out")],
        &[link("d/e/f", "../../../out")],
        // The folder is not as deep as its path says.
        &[link("d", "."), link("d/d/d/l", "../../out")],
        // Where a step back leads to depends on the link before it.
        &[folder("a/b"), link("a/u", "."), link("x", "a/u/../../out")],
        &[folder("a/b"), link("a/b/up", "../.."), link("a/b/up/up", "../out")],
        &[(EntryType::Link, "a", "../secret", b"")],
        &[link("a", "etc"), (EntryType::Link, "b", "a", b"")],
        &[(EntryType::Link, "a", "nothing", b"")],
        &[file("a", b""), file("a/b", b"")],
        &[folder("a"), file("a", b"")],
        &[link("a", "b"), link("b", "a"), file("a/c", b"")],
        &[file(".", b"")],
        &[(EntryType::new(b'M'), "a", "", b"")],
    ];
    for entries in refused {
        let place = Place::new();
        fs::write(place.dir.path().join("secret"), "secret").unwrap();
        let error = place.unpack(&package(entries)).unwrap_err();
        assert!(error.contains("x.deb"), "{entries:?}: {error}");
        let mut beside: Vec<_> =
            fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["root", "secret", "x.deb"], "{entries:?}");
    }
}

#[test]
fn names_that_headers_have_no_room_for_are_read_and_bounded() {
    let long = format!("usr/{}/{}", "a".repeat(120), "b".repeat(120));
    let gnu = [
        (EntryType::GNULongName, "././@LongLink", "", format!("{long}\0").into_bytes()),
        (EntryType::Regular, "usr/short", "", b"1".to_vec()),
    ];
    let record = format!("path={long}\n");
    let record = format!("{} {record}", record.len() + 4);
    let pax = [
        (EntryType::XHeader, "PaxHeaders/x", "", record.into_bytes()),
        (EntryType::Regular, "usr/short", "", b"1".to_vec()),
    ];
    for entries in [gnu, pax] {
        let entries: Vec<Made<'_>> =
            entries.iter().map(|(kind, path, to, text)| (*kind, *path, *to, &text[..])).collect();
        let place = Place::new();
        place.unpack(&package(&entries)).unwrap();
        assert_eq!(place.text(&long), "1");
        assert!(place.unpack(&package(&entries[..1])).unwrap_err().contains("cut off"));
    }
    let huge = vec![b'a'; 100 << 10];
    let error = Place::new().unpack(&package(&[(EntryType::GNULongName, "l", "", &huge)])).unwrap_err();
    assert!(error.contains("longer than any path"), "{error}");
}

#[test]
fn what_is_no_package_is_refused_in_one_line() {
    let place = Place::new();
    for bytes in [
        &b""[..],
        b"text",
        b"!<arch>\n",
        &ar(&[("debian-binary", b"2.0\n")]),
        &package_of("data.tar.lzma", b""),
        &package_of("data.tar.xz", b"not xz at all"),
        &package_of("data.tar.zst", b"not zst at all"),
        &package_of("data.tar", &[b'x'; 2048]),
        &b"!<arch>\ndebian-binary   0           0     0     100644  99999999999`\n"[..],
        &b"!<arch>\ndebian-binary   0           0     0     100644  -1        `\n"[..],
    ] {
        let error = place.unpack(bytes).unwrap_err();
        assert!(error.contains("x.deb: not a whole Debian package: ") && !error.contains('\n'), "{error}");
    }
    let pipe = place.dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert!(unpack(&pipe, &place.root()).unwrap_err().to_string().contains("it is no file"));
    assert!(unpack(place.dir.path(), &place.root()).unwrap_err().to_string().contains("it is no file"));
    assert!(unpack(&place.dir.path().join("no"), &place.root()).is_err());
}

#[test]
fn of_several_packages_each_is_unpacked_and_the_first_fault_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let packages: Vec<PathBuf> = (0..20)
        .map(|number| {
            let path = dir.path().join(format!("{number}.deb"));
            let (name, text) = (format!("usr/share/{number}"), number.to_string());
            fs::write(&path, package(&[folder("usr/share"), file(&name, text.as_bytes())])).unwrap();
            path
        })
        .collect();
    let root = dir.path().join("root");
    unpack_all(&packages, &root, "them", &Silent).unwrap();
    assert_eq!(fs::read_dir(root.join("usr/share")).unwrap().count(), 20);
    for path in &packages[3..] {
        fs::write(path, "damaged").unwrap();
    }
    let error = unpack_all(&packages, &dir.path().join("other"), "them", &Silent).unwrap_err();
    assert!(error.to_string().contains("3.deb"), "{error}");
}

#[test]
fn file_in_a_package_is_found_without_unpacking() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.deb");
    fs::write(&path, package(&[file("./boot/config", b""), file("./boot/vmlinuz-6.1", b"k")])).unwrap();
    let look = |name: &str| name.strip_prefix("./boot/vmlinuz-").map(str::to_owned);
    assert_eq!(find(&path, look).unwrap().as_deref(), Some("6.1"));
    assert_eq!(find::<()>(&path, |_| None).unwrap(), None);
}
