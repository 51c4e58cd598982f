//! Kernels from files, and how releases are named.

use std::io::Cursor;

use super::*;

fn bz_image(version: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    image[0x300..0x300 + version.len()].copy_from_slice(version);
    image
}

#[test]
fn releases_are_read_from_kernels() {
    let release = |bytes: Vec<u8>| header::release(&mut Cursor::new(bytes)).unwrap();
    assert_eq!(release(bz_image(b"6.1.0-48-cloud-amd64 (x@y) #1\0")).unwrap(), "6.1.0-48-cloud-amd64");
    for hostile in [&b"../../etc \0"[..], b"\0", &[b'a'; 0x100]] {
        assert_eq!(release(bz_image(hostile)), None);
    }
    let mut pointing_out = bz_image(b"");
    pointing_out[0x20e..0x210].fill(0xff);
    assert_eq!(release(pointing_out), None);
    let mut elf = b"\x7fELF".to_vec();
    elf.extend(b"Linux version %s\0");
    elf.resize((1 << 20) + 0x20a, 0);
    elf.extend(b"Linux version 6.6.1 (gcc)\0");
    assert_eq!(release(elf).unwrap(), "6.6.1");
    assert_eq!(release(b"MZ".to_vec()), None);
}

#[test]
fn files_are_checked_before_a_guest_is_made_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("bzImage");
    let missing = from_files(&image, None).unwrap_err();
    assert!(missing.to_string().starts_with("failed to find the kernel /"), "{missing}");
    assert!(from_files(dir.path(), None).unwrap_err().to_string().contains("a kernel is a file"));
    fs::write(&image, bz_image(b"6.1.2 x\0")).unwrap();
    assert_eq!(from_files(&image, None).unwrap().release, "6.1.2");
    assert!(from_files(&image, Some(&dir.path().join("no"))).is_err());
    fs::write(&image, "raw").unwrap();
    let modules = dir.path().join("6.7.8");
    fs::create_dir(&modules).unwrap();
    assert_eq!(from_files(&image, Some(&modules)).unwrap().release, "6.7.8");
}

#[test]
fn a_release_is_chosen_by_as_much_as_is_said() {
    let releases = [
        "6.1.0-9-cloud-amd64",
        "6.1.0-48-cloud-amd64",
        "6.1.0-50-amd64",
        "6.1.0-50-rt-amd64",
        "6.12.3-cloud-amd64",
        "6.12-cloud-amd64",
        "6.1.0-48-cloud-amd64-unsigned",
        "6.5.0-amd64",
    ];
    let choose = |wanted| choose(releases.into_iter(), wanted).map(str::to_owned);
    assert_eq!(choose("6.1").unwrap(), "6.1.0-48-cloud-amd64");
    assert_eq!(choose("6.1.0-9").unwrap(), "6.1.0-9-cloud-amd64");
    assert_eq!(choose("6.12").unwrap(), "6.12.3-cloud-amd64");
    assert_eq!(choose("6.1.0-50-amd64").unwrap(), "6.1.0-50-amd64");
    assert_eq!(choose("6.5").unwrap(), "6.5.0-amd64");
    assert_eq!(choose("6"), Some("6.12.3-cloud-amd64".to_owned()));
    assert_eq!((choose("5"), choose("")), (None, None));
}

#[test]
fn cached_kernels_are_found_without_a_package_manager() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
    for release in ["6.1.0-9-x", "6.1.0-10-x"] {
        let made = cache.entry("kernels", &Key::named(release), |entry| {
            fs::create_dir_all(entry.join("lib/modules").join(release)).unwrap();
            fs::write(entry.join("vmlinuz"), "").map_err(Error::io("write", entry))
        });
        made.unwrap();
    }
    point(&dir.path().join("kernels/latest"), "6.1.0-9-x").unwrap();
    let fetched = |release| fetch(&cache, release, &crate::progress::Silent).unwrap();
    assert_eq!(fetched(Some("6.1")).release, "6.1.0-10-x");
    assert_eq!(fetched(None).release, "6.1.0-9-x");
    assert!(fetched(None).modules_dir.unwrap().ends_with("lib/modules/6.1.0-9-x"));
    assert_eq!(list(&cache).unwrap().len(), 2);
}

#[test]
fn name_that_is_no_file_is_a_release_if_it_can_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().join("cache"))).unwrap();
    for release in ["6.1.0-9-amd64", "6.1.0-9-cloud-amd64", "5.5.5"] {
        let made = cache.entry("kernels", &Key::named(release), |entry| {
            fs::create_dir_all(entry.join("lib/modules").join(release)).unwrap();
            let image = bz_image(format!("{release} x\0").as_bytes());
            fs::write(entry.join("vmlinuz"), image).map_err(Error::io("write", entry))
        });
        made.unwrap();
    }
    let find =
        |name: &str, modules: Option<&Path>| find(&cache, Path::new(name), modules, &crate::progress::Silent);
    // Of the same version the one that suits a guest better.
    assert_eq!(find("6.1", None).unwrap().release, "6.1.0-9-cloud-amd64");
    let generic = find("6.1.0-9-amd64", None).unwrap();
    assert!(generic.modules_dir.unwrap().ends_with("lib/modules/6.1.0-9-amd64"));
    assert_eq!(find("5.5.5", None).unwrap().release, "5.5.5");
    let other = find("5.5.5", Some(dir.path())).unwrap();
    assert_eq!(other.modules_dir.as_deref(), Some(dir.path()));
    let long = format!("6.1{}", "0".repeat(62));
    for name in ["./6.1", "vmlinuz", "6-1", "6.1/", &long] {
        assert!(find(name, None).unwrap_err().to_string().starts_with("failed to find the kernel"), "{name}");
    }
}

#[test]
fn kernel_out_of_packages_by_hand_is_kept_and_replaced_by_a_sound_one_only() {
    use crate::distro::deb::tests::{file, package};

    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().join("cache"))).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let image = |text: &str| bz_image(format!("6.9.1-own {text}\0").as_bytes());
    let kernel = |text: &str| {
        package(&[
            file("./boot/vmlinuz-6.9.1-own", &image(text)),
            file("./boot/config-6.9.1-own", b"CONFIG_ACPI=y\n"),
        ])
    };
    let modules = write("modules.deb", &package(&[file("./lib/modules/6.9.1-own/kernel/a.ko", b"a")]));
    let fetch = |packages: &[PathBuf]| {
        from_packages(&cache, packages, &crate::progress::Silent).map_err(|error| error.to_string())
    };
    let first = fetch(&[write("first.deb", &kernel("one")), modules.clone()]).unwrap();
    assert_eq!(first.release, "6.9.1-own");
    assert_eq!(fs::read(&first.image).unwrap(), image("one"));
    assert!(first.modules_dir.unwrap().join("kernel/a.ko").is_file());
    assert!(first.image.with_file_name("config").is_file());
    assert_eq!(fetch(&[write("second.deb", &kernel("two"))]).unwrap().modules_dir, None);
    assert_eq!(fs::read(&first.image).unwrap(), image("two"));

    // Of what several packages have, the last one's stays.
    let more = write("more.deb", &package(&[file("./lib/modules/6.9.1-own/kernel/a.ko", b"b")]));
    for (packages, stays) in [([&modules, &more], "b"), ([&more, &modules], "a")] {
        let packages =
            [vec![write("second.deb", &kernel("two"))], packages.into_iter().cloned().collect()].concat();
        let file = fetch(&packages).unwrap().modules_dir.unwrap().join("kernel/a.ko");
        assert_eq!(fs::read_to_string(file).unwrap(), stays);
    }

    let whole = kernel("three");
    // The kernel is found in it, and its end is not there.
    let cut = write("cut.deb", &whole[..whole.len() - 20]);
    let error = fetch(&[cut]).unwrap_err();
    assert!(error.contains("cut.deb: not a whole Debian package"), "{error}");
    // Nor is it replaced by what only has its name, or by another.
    for (bytes, said) in
        [(b"rubbish".to_vec(), "no kernel that tells"), (bz_image(b"6.9.2 x\0"), "is Linux 6.9.2")]
    {
        let error =
            fetch(&[write("odd.deb", &package(&[file("./boot/vmlinuz-6.9.1-own", &bytes)]))]).unwrap_err();
        assert!(
            error.contains("boot/vmlinuz-6.9.1-own: what the package has") && error.contains(said),
            "{error}"
        );
    }
    // Nor while someone else uses it.
    let used = File::open(first.image.parent().unwrap()).unwrap();
    rustix::fs::flock(&used, rustix::fs::FlockOperation::LockShared).unwrap();
    let error = fetch(&[write("third.deb", &whole)]).unwrap_err();
    assert!(error.contains("another process uses it"), "{error}");
    rustix::fs::flock(&used, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(fs::read(&first.image).unwrap(), image("two"), "what was there is there");
    assert!(
        fetch(std::slice::from_ref(&modules))
            .unwrap_err()
            .contains("modules.deb: there is no kernel in this package")
    );
    let twice = fetch(&[write("a.deb", &whole), write("b.deb", &whole)]).unwrap_err();
    assert!(twice.contains("b.deb: a second package with a kernel"), "{twice}");
    let odd = write("odd.deb", &package(&[file("./boot/vmlinuz-../../x", b"")]));
    assert!(fetch(&[odd]).is_err());
    assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(list(&cache).unwrap().len(), 1);
}

#[test]
fn links_of_a_package_are_followed_within_it_and_not_out_of_it() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let bytes = bz_image(b"6.9.1 x\0");
    fs::write(dir.path().join("outside"), &bytes).unwrap();
    fs::create_dir(dir.path().join("away")).unwrap();
    let arranged = |name: &str, image: &str, modules: &str| {
        let (tree, entry) = (dir.path().join(name).join("tree"), dir.path().join(name));
        for folder in ["boot", "lib/modules", "usr/lib/modules/own"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        fs::write(tree.join("usr/lib/image"), &bytes).unwrap();
        fs::write(tree.join("usr/lib/modules/own/a.ko"), "").unwrap();
        symlink(image, tree.join("boot/vmlinuz-6.9.1")).unwrap();
        symlink(modules, tree.join("lib/modules/6.9.1")).unwrap();
        package::arrange(&tree, &entry, "6.9.1").map(|()| entry).map_err(|error| error.to_string())
    };
    let entry = arranged("in", "../usr/lib/image", "../../usr/lib/modules/own").unwrap();
    assert!(entry.join("vmlinuz").symlink_metadata().unwrap().is_file());
    let modules = entry.join("lib/modules/6.9.1");
    assert!(modules.symlink_metadata().unwrap().is_dir() && modules.join("a.ko").is_file());
    let leads_out = "a link that leads out of it";
    let image = arranged("image", "../../../outside", "../../usr/lib/modules/own").unwrap_err();
    assert!(image.contains("boot/vmlinuz-6.9.1: ") && image.contains(leads_out), "{image}");
    let modules = arranged("modules", "../usr/lib/image", "../../../../away").unwrap_err();
    assert!(modules.contains("lib/modules/6.9.1: ") && modules.contains(leads_out), "{modules}");
    assert!(dir.path().join("away").is_dir() && dir.path().join("outside").is_file());
    assert!(
        arranged("folder", "../usr/lib", "../../usr/lib/modules/own").unwrap_err().contains("is no file")
    );
    assert!(
        arranged("dangling", "no", "no").unwrap_err().contains("failed to find the kernel in its package")
    );
}
