//! Modules by their names: which targets of make they are, which others they need, and where a guest's image looks
//! for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::kconfig::{Kconfig, Values};
use super::place::Place;
use crate::Error;

/// Deeper than any kernel's own folders.
const DEEPEST: usize = 24;

/// The modules that a kernel's Makefiles can make.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    modules: Vec<Made>,
    by_name: BTreeMap<String, Vec<usize>>,
    by_option: BTreeMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Made {
    /// The target: `drivers/block/loop.ko`.
    target: String,
    /// The option that makes it, without `CONFIG_`; none for what is always made.
    option: Option<String>,
}

impl Catalogue {
    /// Reads the Makefiles of a kernel.
    ///
    /// # Errors
    /// A folder can't be read.
    pub(super) fn read(source: &Path) -> Result<Self, Error> {
        let mut catalogue = Self::default();
        catalogue.folder(source, "", DEEPEST)?;
        Ok(catalogue)
    }

    fn folder(&mut self, source: &Path, below: &str, depth: usize) -> Result<(), Error> {
        let folder = source.join(below);
        let mut makefile = None;
        for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let entry = entry.map_err(Error::io("read", &folder))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth > 0 && !is_elsewhere(below, &name) {
                    self.folder(source, &format!("{below}{name}/"), depth - 1)?;
                }
            } else if name == "Kbuild" || (name == "Makefile" && makefile.is_none()) {
                // kbuild prefers the former.
                makefile = Some(entry.path());
            }
        }
        if let Some(path) = makefile {
            let text = fs::read(&path).map_err(Error::io("read", &path))?;
            self.makefile(below, &String::from_utf8_lossy(&text));
        }
        Ok(())
    }

    fn makefile(&mut self, below: &str, text: &str) {
        for line in text.replace("\\\n", " ").lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((left, objects)) = line.split_once('=') else { continue };
            let Some(kind) = left.trim_end_matches([':', '+', ' ', '\t']).trim().strip_prefix("obj-") else {
                continue;
            };
            let option = kind.strip_prefix("$(CONFIG_").and_then(|rest| rest.strip_suffix(')'));
            if option.is_none() && kind != "m" {
                continue;
            }
            for name in objects.split_whitespace().filter_map(|object| object.strip_suffix(".o")) {
                let made = Made { target: format!("{below}{name}.ko"), option: option.map(str::to_owned) };
                let index = self.modules.len();
                let own = name.rsplit('/').next().unwrap_or(name).replace('-', "_");
                self.by_name.entry(own).or_default().push(index);
                if let Some(option) = option {
                    self.by_option.entry(option.to_owned()).or_default().push(index);
                }
                self.modules.push(made);
            }
        }
    }

    fn named(&self, name: &str) -> Vec<&Made> {
        let found = self.by_name.get(&name.replace('-', "_")).into_iter().flatten();
        found.filter_map(|&index| self.modules.get(index)).collect()
    }

    /// The targets of the modules `names` and of those that they need. What is built into the kernel is left out, and
    /// so is what of `also` is not a module of this kernel.
    ///
    /// # Errors
    /// A module is none of this kernel, or off.
    pub(super) fn targets(
        &self,
        names: &[String],
        also: &[&str],
        kconfig: &Kconfig,
        values: &Values,
    ) -> Result<BTreeSet<String>, Error> {
        let mut targets = BTreeSet::new();
        let mut todo: Vec<&str> = Vec::new();
        for name in names {
            let found = self.named(name);
            let on = |made: &&Made| made.option.as_ref().is_some_and(|option| values.is_yes(option));
            if found.iter().copied().any(|made| on(&made)) {
                continue;
            }
            let modular: Vec<&Made> = found.iter().copied().filter(|made| made.is_modular(values)).collect();
            if modular.is_empty() {
                return Err(Error::Module { name: name.clone(), why: why_none(&found, kconfig, values) });
            }
            take(&modular, &mut targets, &mut todo);
        }
        for name in also {
            let modular: Vec<&Made> = self
                .named(name)
                .into_iter()
                .filter(|made| made.option.is_some() && made.is_modular(values))
                .collect();
            take(&modular, &mut targets, &mut todo);
        }
        let mut seen = BTreeSet::new();
        while let Some(option) = todo.pop() {
            for needed in kconfig.needs(option) {
                if values.is_module(needed) && seen.insert(needed.to_owned()) {
                    let made = self.by_option.get(needed).into_iter().flatten();
                    let made: Vec<&Made> = made.filter_map(|&index| self.modules.get(index)).collect();
                    take(&made, &mut targets, &mut todo);
                    // An option that makes nothing itself may need those that do.
                    todo.push(needed);
                }
            }
        }
        Ok(targets)
    }
}

impl Made {
    fn is_modular(&self, values: &Values) -> bool {
        self.option.as_ref().is_none_or(|option| values.is_module(option))
    }
}

fn take<'a>(made: &[&'a Made], targets: &mut BTreeSet<String>, options: &mut Vec<&'a str>) {
    for made in made {
        targets.insert(made.target.clone());
        options.extend(made.option.as_deref());
    }
}

fn why_none(found: &[&Made], kconfig: &Kconfig, values: &Values) -> String {
    let mut options: BTreeSet<&str> = found.iter().filter_map(|made| made.option.as_deref()).collect();
    if options.is_empty() {
        return "no Makefile of this kernel makes it".to_owned();
    }
    let all = list(&options, "", "and");
    options.retain(|option| kconfig.is_tristate(option));
    if options.is_empty() {
        return format!("it is only ever built into this kernel, by {all}");
    }
    let mend = format!("ask for {} by --config", list(&options, "=m", "or"));
    if values.is_yes("MODULES") {
        let verb = if options.len() == 1 { "is" } else { "are" };
        format!("{} {verb} not set: {mend}", list(&options, "", "and"))
    } else {
        format!("modules are off in this configuration: {mend}, and for CONFIG_MODULES=y")
    }
}

/// `CONFIG_A=m, CONFIG_B=m or CONFIG_C=m`.
fn list(options: &BTreeSet<&str>, value: &str, word: &str) -> String {
    let mut all: Vec<String> = options.iter().map(|option| format!("CONFIG_{option}{value}")).collect();
    match (all.pop(), all.join(", ")) {
        (Some(last), before) if before.is_empty() => last,
        (Some(last), before) => format!("{before} {word} {last}"),
        (None, _) => String::new(),
    }
}

/// Folders whose Makefiles are other architectures' or no kernel's.
fn is_elsewhere(below: &str, name: &str) -> bool {
    name.starts_with('.')
        || match below {
            "" => matches!(name, "Documentation" | "tools" | "scripts" | "usr"),
            "arch/" => name != "x86",
            _ => false,
        }
}

/// Lays modules out as `lib/modules/RELEASE` has them, and nothing else there; returns that folder.
///
/// # Errors
/// The file system's own.
pub(super) fn lay_out(place: &Place, release: &str, targets: &BTreeSet<String>) -> Result<PathBuf, Error> {
    let root = place.own("modules")?;
    crate::cache::remove(&root).map_err(Error::io("remove", &root))?;
    let folder = root.join("lib/modules").join(release);
    for target in targets {
        let to = folder.join("kernel").join(target);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let from = place.made(target);
        fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
    }
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    // It says what else is in the kernel.
    let list = place.made("modules.builtin");
    if list.is_file() {
        fs::copy(&list, folder.join("modules.builtin")).map_err(Error::io("copy", &list))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAKEFILES: &[(&str, &str)] = &[
        (
            "drivers/virtio/Makefile",
            "obj-$(CONFIG_VIRTIO) += virtio.o virtio_ring.o\nobj-$(CONFIG_VIRTIO_MMIO) += virtio_mmio.o\n",
        ),
        ("fs/ext4/Makefile", "obj-$(CONFIG_EXT4_FS) += ext4.o\next4-y := balloc.o \\\n\tinode.o\n"),
        ("lib/Makefile", "obj-y += lib.o\nobj-$(CONFIG_A) := a-b.o \\\n  sub/c.o # d.o\nobj-m += always.o\n"),
        ("crypto/Makefile", "obj-$(CONFIG_LAST) += last.o\nobj-$(CONFIG_CACHE) += cache.o\n"),
        ("mm/Makefile", "obj-$(CONFIG_SOLID) += solid.o twice.o\n"),
        ("net/Makefile", "obj-$(CONFIG_E1) += twice.o\nobj-$(CONFIG_E2) += twice.o\n"),
        ("arch/arm64/Makefile", "obj-$(CONFIG_ARM) += arm.o\n"),
    ];
    const KCONFIG: &str = "config VIRTIO\n\ttristate\nconfig VIRTIO_MMIO\n\ttristate \"x\"\n\tselect VIRTIO\n\
        config EXT4_FS\n\ttristate \"x\"\nconfig A\n\ttristate \"x\"\n\tdepends on VIRTIO_MMIO\n\tselect BETWEEN\n\
        config BETWEEN\n\ttristate\n\tselect LAST\nconfig LAST\n\ttristate\nconfig CACHE\n\ttristate\n\tdefault m if A\n\
        config SOLID\n\tbool \"x\"\nconfig E1\n\ttristate \"x\"\nconfig E2\n\ttristate \"x\"\n";

    fn targets(names: &[&str], also: &[&str], config: &str) -> Result<Vec<String>, String> {
        let source = tempfile::tempdir().unwrap();
        for (path, text) in MAKEFILES.iter().chain(&[("Kconfig", KCONFIG)]) {
            let path = source.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let catalogue = Catalogue::read(source.path()).unwrap();
        let kconfig = super::super::kconfig::read(source.path()).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let targets = catalogue.targets(&names, also, &kconfig, &Values::read(config));
        targets.map(|all| all.into_iter().collect()).map_err(|error| error.to_string())
    }

    const MODULAR: &str = "CONFIG_MODULES=y\nCONFIG_BETWEEN=m\nCONFIG_LAST=m\nCONFIG_CACHE=m\nCONFIG_VIRTIO=m\nCONFIG_VIRTIO_MMIO=m\nCONFIG_A=m\nCONFIG_EXT4_FS=y\n";

    #[test]
    fn module_brings_those_that_its_option_needs() {
        let found = targets(&["a_b"], &[], MODULAR).unwrap();
        let virtio =
            ["drivers/virtio/virtio.ko", "drivers/virtio/virtio_mmio.ko", "drivers/virtio/virtio_ring.ko"];
        // By a default, and by way of an option that makes nothing.
        assert_eq!(found[..2], ["crypto/cache.ko", "crypto/last.ko"]);
        // Those of one option are made together.
        assert_eq!(found[2..5], virtio);
        assert_eq!(found[5..], ["lib/a-b.ko"]);
    }

    #[test]
    fn what_is_built_in_or_not_asked_for_by_name_is_left_out() {
        assert!(targets(&["ext4"], &["a-b", "nowhere"], "CONFIG_EXT4_FS=y\n").unwrap().is_empty());
        assert_eq!(targets(&[], &["virtio_mmio"], MODULAR).unwrap().len(), 3);
    }

    #[test]
    fn folder_of_no_modules_says_what_is_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { source: folder.path().to_owned(), output: folder.path().to_owned() };
        fs::write(place.made("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let laid_out = lay_out(&place, "6.12.0", &BTreeSet::new()).unwrap();
        assert!(laid_out.ends_with("lib/modules/6.12.0"));
        let files: Vec<_> =
            fs::read_dir(&laid_out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["modules.builtin"]);
    }

    #[test]
    fn module_that_can_not_be_had_says_why() {
        let why = |name: &str, config: &str| targets(&[name], &[], config).unwrap_err();
        assert_eq!(why("zfs", MODULAR), "no module zfs: no Makefile of this kernel makes it");
        assert!(why("arm", MODULAR).contains("no Makefile"));
        assert!(
            why("ext4", "CONFIG_MODULES=y\n").contains("CONFIG_EXT4_FS is not set: ask for CONFIG_EXT4_FS=m")
        );
        assert!(why("ext4", "").contains("modules are off"));
        // Of the options that make it, those that can be m.
        let twice = "no module twice: CONFIG_E1 and CONFIG_E2 are not set: ask for CONFIG_E1=m or CONFIG_E2=m by --config";
        assert_eq!(why("twice", "CONFIG_MODULES=y\n"), twice);
        assert_eq!(
            why("solid", MODULAR),
            "no module solid: it is only ever built into this kernel, by CONFIG_SOLID"
        );
    }
}
