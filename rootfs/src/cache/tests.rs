//! The cache under concurrency, failure and death.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn cache() -> (tempfile::TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(folder.path().join("cache"))).unwrap();
    (folder, cache)
}

#[test]
fn one_of_many_builds_and_all_get_it_whole() {
    let (_folder, cache) = cache();
    let (built, ready) = (AtomicUsize::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                ready.wait();
                let entry = cache.entry("kind", &Key::new("1").field("a", b"b"), |dir| {
                    built.fetch_add(1, Ordering::SeqCst);
                    fs::write(dir.join("one"), "1").unwrap();
                    std::thread::yield_now();
                    fs::write(dir.join("two"), "2").unwrap();
                    Ok(())
                });
                assert_eq!(fs::read_to_string(entry.unwrap().join("two")).unwrap(), "2");
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
    assert_eq!(fs::read_dir(cache.tmp()).unwrap().count(), 0);
}

#[test]
fn failed_build_leaves_nothing() {
    let (_folder, cache) = cache();
    let key = Key::named("6.1");
    let failed = cache.entry("kernels", &key, |dir| {
        fs::write(dir.join("half"), "").unwrap();
        Err(Error::file(dir, "no"))
    });
    assert!(failed.is_err());
    assert!(!cache.root().join("kernels/6.1").exists());
    assert_eq!(fs::read_dir(cache.tmp()).unwrap().count(), 0);
    assert!(cache.entry("kernels", &key, |_| Ok(())).unwrap().ends_with("kernels/6.1"));
}

#[test]
fn what_the_dead_left_goes_and_what_the_living_build_stays() {
    let (_folder, cache) = cache();
    let [dead, living] = ["k-dead.1", "k-living.1"].map(|name| cache.tmp().join(format!("{name}.part")));
    fs::create_dir(&dead).unwrap();
    fs::create_dir(&living).unwrap();
    let held = cache.lock("k-living.1").unwrap();
    Cache::open(Some(cache.root().to_owned())).unwrap();
    assert!(!dead.exists() && living.exists());
    drop(held);
    Cache::open(Some(cache.root().to_owned())).unwrap();
    assert!(!living.exists());
}

#[test]
fn keys_tell_fields_apart_and_names_are_harmless() {
    let name = |fields: &[(&str, &str)]| {
        fields.iter().fold(Key::new("1"), |key, (label, value)| key.field(label, value.as_bytes())).name()
    };
    assert_ne!(name(&[("a", "bc")]), name(&[("ab", "c")]));
    assert_ne!(name(&[("a", "b"), ("c", "d")]), name(&[("c", "d"), ("a", "b")]));
    assert_eq!(name(&[("a", "b")]).len(), 32);
    assert_eq!(Key::named("../x y").name(), "_.._x_y");
}

#[test]
fn a_cache_is_marked_and_a_file_is_refused() {
    let (folder, cache) = cache();
    assert!(
        fs::read_to_string(cache.root().join("CACHEDIR.TAG"))
            .unwrap()
            .starts_with("Signature: 8a477f597d28d172")
    );
    let file = folder.path().join("file");
    fs::write(&file, "abc").unwrap();
    assert!(Cache::open(Some(file.clone())).unwrap_err().to_string().contains("failed to create"));
    assert_eq!(
        sha256_of_file(&file).unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
