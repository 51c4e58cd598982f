//! A build folder made up of a Makefile, so that no kernel's headers are needed.

use super::*;
use crate::progress::Silent;

/// What kbuild would do, as far as it is seen from outside.
const KBUILD: &str = "modules:\n\
    \t@test -f $(M)/driver.c || { echo \"$(M)/driver.c:3:1: error: no such thing\" >&2; exit 1; }\n\
    \t@echo built >> $(M)/driver.ko\n\
    \t@echo made >> log\n";

struct Place {
    folder: tempfile::TempDir,
    kernel: KernelFiles,
    cache: Cache,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, text) in [
        ("kernel/arch/x86/boot/bzImage", ""),
        ("kernel/include/generated/autoconf.h", ""),
        ("kernel/Makefile", KBUILD),
        ("driver/Makefile", "obj-m := driver.o\n"),
        ("driver/driver.c", "int x;\n"),
    ] {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), text).unwrap();
    }
    let image = at("kernel/arch/x86/boot/bzImage");
    let kernel = KernelFiles { image, modules_dir: None, release: "6.1".to_owned() };
    let cache = Cache::open(Some(at("cache"))).unwrap();
    Place { folder, kernel, cache }
}

impl Place {
    fn build(&self) -> Result<Vec<PathBuf>, Error> {
        build_modules(&self.cache, &self.kernel, &self.folder.path().join("driver"), &Silent)
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.folder.path().join("kernel/log")).unwrap_or_default().lines().count()
    }
}

#[test]
fn module_is_built_once_for_each_state_of_its_source() {
    let place = place();
    let first = place.build().unwrap();
    assert!(first.len() == 1 && first[0].ends_with("driver.ko"), "{first:?}");
    // What a build by hand leaves there is no other state.
    fs::write(place.folder.path().join("driver/driver.o"), "").unwrap();
    assert_eq!(place.build().unwrap(), first);
    assert_eq!(place.builds(), 1);
    fs::write(place.folder.path().join("driver/driver.c"), "int y;\n").unwrap();
    assert_ne!(place.build().unwrap(), first);
    assert_eq!(place.builds(), 2);
    // The author's folder is as it was.
    assert!(!place.folder.path().join("driver/driver.ko").exists());
}

#[test]
fn what_the_compiler_says_names_the_authors_file() {
    let place = place();
    let file = place.folder.path().canonicalize().unwrap().join("driver/driver.c");
    fs::remove_file(&file).unwrap();
    let said = place.build().unwrap_err().to_string();
    let expected = format!("\n{}:3:1: error: no such thing", file.display());
    assert!(said.contains("does not build for Linux 6.1") && said.ends_with(&expected), "{said}");
}

#[test]
fn folder_without_a_makefile_is_refused() {
    let place = place();
    fs::remove_file(place.folder.path().join("driver/Makefile")).unwrap();
    assert!(place.build().unwrap_err().to_string().contains("obj-m := NAME.o"));
}
