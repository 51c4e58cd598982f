//! Apt, from a repository in a folder.

use super::*;
use crate::cache::{Key, sha256_of_file};
use crate::distro::deb::tests::{file, package_named};
use crate::progress::Silent;

#[test]
fn records_and_lists_are_read() {
    let record = "Package: a\nDepends: linux-image-6.1.0-48-cloud-amd64 (= 6.1.1-1), kmod | b:any\nSize: 3\n";
    assert_eq!(depends_in(record), ["linux-image-6.1.0-48-cloud-amd64", "kmod", "b"]);
    assert_eq!(total_in("'a' b.deb 100 SHA256:1\nnonsense\n'c' d.deb 23 MD5:2\n'e' f x\n"), 123);
}

/// A repository with one package, `kiln-tiny`, and the list that names it as a source.
struct Repository {
    folder: tempfile::TempDir,
    cache: Cache,
}

impl Repository {
    /// Its index has the hash that `hash` makes of the package's own.
    fn new(hash: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let package = package_named("kiln-tiny", &[file("./usr/share/tiny", b"here")]);
        fs::write(at("kiln-tiny.deb"), &package).unwrap();
        let hash = hash(sha256_of_file(&at("kiln-tiny.deb")).unwrap());
        let index = format!(
            "Package: kiln-tiny\nVersion: 1\nArchitecture: all\nMaintainer: n\nDescription: d\n\
             Filename: ./kiln-tiny.deb\nSize: {}\nSHA256: {hash}\n",
            package.len()
        );
        fs::write(at("Packages"), &index).unwrap();
        let hash = sha256_of_file(&at("Packages")).unwrap();
        let release =
            format!("Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {hash} {} Packages\n", index.len());
        fs::write(at("Release"), release).unwrap();
        // What is not signed is taken here for once: it was made here.
        let source = format!("deb [trusted=yes] file:{} ./\n", folder.path().display());
        fs::write(at("sources.list"), source).unwrap();
        let cache = Cache::open(Some(at("cache"))).unwrap();
        Self { folder, cache }
    }

    /// Makes an entry of the cache out of the package; none where there is no apt.
    fn entry(&self) -> Option<Result<PathBuf, Error>> {
        let sources = self.folder.path().join("sources.list");
        let opened = Apt::open_with(&self.cache, "the test", "do without", &Silent, Some(sources));
        if let Err(Error::NoPackages { .. }) = opened {
            eprintln!("skipped: there is no apt on this host");
            return None;
        }
        let apt = opened.unwrap();
        Some(self.cache.entry("kernels", &Key::named("tiny"), |dir| apt.unpack(&["kiln-tiny"], dir)))
    }
}

#[test]
fn package_with_the_hash_of_the_index_is_unpacked() {
    let repository = Repository::new(|hash| hash);
    let Some(entry) = repository.entry() else { return };
    assert_eq!(fs::read_to_string(entry.unwrap().join("usr/share/tiny")).unwrap(), "here");
}

#[test]
fn package_with_another_hash_than_the_index_has_is_refused() {
    let repository = Repository::new(|hash| hash.chars().rev().collect());
    let Some(entry) = repository.entry() else { return };
    let error = entry.unwrap_err().to_string();
    assert!(error.contains("kiln-tiny") && error.contains("Hash Sum mismatch"), "{error}");
    assert!(!error.contains('\n') && !error.contains("without the network"), "{error}");
    assert!(!repository.cache.root().join("kernels/tiny").exists());
}
