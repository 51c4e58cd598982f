//! Files that are no kernels, or not whole ones, and configurations beside those that are.

use super::*;

/// A bzImage for Linux 6.9.1 whose payload nobody here can decompress.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x800];
    image[0x1f1] = 3;
    image[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x236] = 1;
    image[0x1f4] = 0x10;
    image[0x24c] = 0x40;
    image[0x300..0x311].copy_from_slice(b"6.9.1 (me@here) #");
    let mut payload = b"BZh9".to_vec();
    payload.resize(0x100, 7);
    image.extend(payload);
    image
}

struct Place {
    folder: tempfile::TempDir,
    cache: Cache,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().join("cache"))).unwrap();
        Self { folder, cache }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn check(&self, path: &Path) -> Result<Checked, String> {
        let chained = |error: &dyn std::error::Error| kiln_vmm::chain(error);
        let kernel = kernel::from_files(path, None).map_err(|error| chained(&error))?;
        check(&self.cache, kernel).map_err(|error| chained(&error))
    }
}

#[test]
fn what_is_no_kernel_is_refused_in_a_line_that_says_what_it_is() {
    let place = Place::new();
    let payload = kiln_fixtures::by_name("halt-32").unwrap().elf();
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for (name, bytes, said) in [
        ("empty", &b""[..], "it is empty"),
        ("text", b"not a kernel\n", "neither a bzImage nor an ELF"),
        ("short", b"x", "neither a bzImage nor an ELF"),
        ("cut", &bzimage()[..0x820], "truncated or damaged"),
        ("header", &bzimage()[..0x210], "neither a bzImage nor an ELF"),
        ("program", &own, "an ELF program or library"),
        ("elf", &own[..0x20], "neither a bzImage nor an ELF"),
        ("payload", &payload, "it says no version of Linux"),
    ] {
        let path = place.write(name, bytes);
        let error = place.check(&path).unwrap_err();
        assert!(error.contains(said) && error.contains(name) && !error.contains('\n'), "{name}: {error}");
    }
    assert!(place.check(place.folder.path()).unwrap_err().contains("a kernel is a file"));
    assert!(place.check(Path::new("/nonexistent/kernel")).is_err());
}

#[test]
fn kernel_that_decompresses_itself_is_told_by_its_header() {
    let place = Place::new();
    let checked = place.check(&place.write("bzImage", &bzimage())).unwrap();
    assert_eq!((checked.entry, checked.banner.release.as_str()), (Entry::Image64, "6.9.1"));
    assert!(checked.vmlinux.is_none() && checked.config.is_none());
    assert_eq!(checked.notes.len(), 1, "{:?}", checked.notes);
}

#[test]
fn configuration_is_taken_from_where_it_lies_if_it_can_be_the_kernels() {
    let own = b"# Linux/x86 6.9.0 Kernel Configuration\nCONFIG_ACPI=y\n";
    for (image, config) in [
        ("bzImage", ".config"),
        ("vmlinuz-6.9.1", "config-6.9.1"),
        ("arch/x86/boot/bzImage", ".config"),
        ("cache/kernels/6.9.1/vmlinuz", "cache/kernels/6.9.1/config"),
    ] {
        let place = Place::new();
        let (image, config) = (place.write(image, &bzimage()), place.write(config, own));
        let checked = place.check(&image).unwrap();
        assert_eq!(checked.config.unwrap().1, Origin::File(config.canonicalize().unwrap()), "{image:?}");
    }
    let place = Place::new();
    let entry = place.write("cache/kernels/6.9.1/vmlinuz", &bzimage());
    assert!(place.check(&entry).unwrap().notes[1].contains("no configuration in its entry of the cache"));
    let image = place.write("bzImage", &bzimage());
    place.write("config", own);
    place.write(".config", b"# Linux/x86 5.10.1 Kernel Configuration\nCONFIG_ACPI=y\n");
    let checked = place.check(&image).unwrap();
    assert_eq!(checked.config, None, "one is another kernel's, one is nobody knows whose");
    assert!(checked.notes[1].ends_with(".config is of Linux 5.10.1, and so is not taken for this kernel's"));
    let named = place.write("config-6.9.1", own);
    assert_eq!(place.check(&image).unwrap().config.unwrap().1, Origin::File(named.clone()));
    fs::remove_file(named).unwrap();
    for (text, said) in [
        ("CONFIG_ACPI=y\n", "has not the head"),
        ("# Linux/arm64 6.9.1 Kernel Configuration\nCONFIG_A=y\n", "is for arm64"),
    ] {
        place.write(".config", text.as_bytes());
        let checked = place.check(&image).unwrap();
        assert!(checked.config.is_none() && checked.notes[1].contains(said), "{:?}", checked.notes);
    }
}
