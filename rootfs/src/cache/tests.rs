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
                    Ok::<_, Error>(())
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
    assert!(cache.entry("kernels", &key, |_| Ok::<_, Error>(())).unwrap().ends_with("kernels/6.1"));
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

#[test]
fn entry_that_was_cut_off_or_changed_is_made_again() {
    let (_folder, cache) = cache();
    let key = Key::named("6.1");
    let made = AtomicUsize::new(0);
    let make = || {
        let entry = cache.entry("kernels", &key, |dir| {
            made.fetch_add(1, Ordering::SeqCst);
            fs::write(dir.join("vmlinuz"), "kernel").map_err(Error::io("write", dir))
        });
        fs::read_to_string(entry.unwrap().join("vmlinuz")).unwrap()
    };
    assert_eq!(make(), "kernel");
    assert_eq!(make(), "kernel");
    assert_eq!(made.load(Ordering::SeqCst), 1);
    let file = cache.root().join("kernels/6.1/vmlinuz");
    for damage in ["kern", "KERNEL"] {
        fs::write(&file, damage).unwrap();
        assert!(cache.find("kernels", &key).is_none());
        assert_eq!(make(), "kernel");
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(make(), "kernel");
    assert_eq!(made.load(Ordering::SeqCst), 4);
    assert_eq!(fs::read_dir(cache.tmp()).unwrap().count(), 0);
}

#[test]
fn room_is_made_by_what_was_not_used_for_longest_and_what_is_in_use_stays() {
    let (_folder, cache) = cache();
    let entry = |name: &str, used: u64| {
        let path = cache.root().join("images").join(name);
        fs::create_dir_all(&path).unwrap();
        let mut image = fs::File::create(path.join("image")).unwrap();
        // Some file systems say how much they take only once they have written it.
        std::io::Write::write_all(&mut image, &[1; 40_000]).and_then(|()| image.sync_all()).unwrap();
        manifest::write(&path).unwrap();
        let folder = fs::File::open(&path).unwrap();
        folder.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(used)).unwrap();
        folder
    };
    // Somebody uses the one that has not been taken up for longest.
    let held = entry("a", 100);
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared).unwrap();
    for (name, used) in [("b", 300), ("c", 200), ("d", 400)] {
        entry(name, used);
    }
    let left = || -> Vec<String> {
        let name = |entry: Entry| entry.path.file_name().unwrap().to_string_lossy().into_owned();
        cache.entries().unwrap().into_iter().map(name).collect()
    };
    let one = cache.entries().unwrap()[0].size;
    let shrink = |limit| cache.discard(cache.beyond(limit).unwrap()).len();
    assert_eq!((shrink(4 * one), left().len()), (0, 4));
    assert_eq!(cache.beyond(2 * one).unwrap().len(), 2);
    assert_eq!(shrink(2 * one), 1);
    assert_eq!(left(), ["a", "b", "d"]);
    assert_eq!(shrink(0), 1);
    assert_eq!(left(), ["a"]);
    // Not only closed: a process that another test is just starting has the descriptor, too.
    rustix::fs::flock(&held, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(shrink(0), 0);
    assert!(left().is_empty());
    assert_eq!(fs::read_dir(cache.tmp()).unwrap().count(), 0);
}

#[test]
fn entry_is_its_makers_from_the_moment_that_it_is_there() {
    let (_folder, cache) = cache();
    let key = Key::named("mine");
    cache
        .entry("images", &key, |dir| fs::write(dir.join("image"), "x").map_err(Error::io("write", dir)))
        .unwrap();
    assert_eq!(cache.discard(cache.entries().unwrap()).len(), 1);
    assert!(cache.find("images", &key).is_some());
}

#[test]
fn discarded_entry_is_made_anew_and_another_in_its_place_stays() {
    let (_folder, cache) = cache();
    let key = Key::named("6.1");
    let build = |text: &'static str| {
        let entry = cache.entry("kernels", &key, |dir| {
            fs::write(dir.join("file"), text).unwrap();
            Ok::<_, Error>(())
        });
        fs::read_to_string(entry.unwrap().join("file")).unwrap()
    };
    assert_eq!(build("first"), "first");
    cache.give_up("kernels", &key, |_| false).unwrap();
    assert_eq!(build("second"), "first");
    cache.give_up("kernels", &key, |entry| entry.join("file").is_file()).unwrap();
    assert_eq!(build("third"), "third");
    cache.give_up("kernels", &Key::named("6.2"), |entry| entry.exists()).unwrap();
}
