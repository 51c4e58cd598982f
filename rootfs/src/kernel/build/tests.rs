//! Builds of trees that only look like kernels, by a make of our own: what is asked of make, and what becomes of
//! what it says.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;

pub(super) fn cache() -> (tempfile::TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(folder.path().join("cache"))).unwrap();
    (folder, cache)
}

pub(super) fn spec(source: &Path) -> BuildSpec {
    BuildSpec { source: source.to_owned(), ..BuildSpec::default() }
}

const KCONFIG: &str = "config X86_64\n\tdef_bool y\nconfig A\n\tbool \"a\"\nconfig B\n\tbool \"b\"\n\tdepends on C\n\
    config C\n\tbool \"c\"\nconfig D\n\tbool \"d\"\n";

/// A folder that passes for a kernel's tree.
pub(super) fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (path, text) in
        [("Makefile", ""), ("Kconfig", KCONFIG), ("arch/x86/Kconfig", ""), ("scripts/kconfig/Makefile", "")]
    {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    tree
}

/// A make that takes every option but B, NEW and NEWER, compiles one file if the source is newer, and fails where the source says.
const MAKE: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        -C) src=$2; out=${out:-$2}; shift ;;
        O=*) out=${1#O=} ;;
        *config|bzImage) target=$1 ;;
    esac
    shift
done
cd "$out" || exit 3
echo "$target" >> asked
case $target in
    olddefconfig) ;;
    *config)
        config=${KCONFIG_CONFIG:-.config}
        [ -e "$config" ] && cp "$config" "$config.old"
        { echo CONFIG_X86_64=y; grep -vE 'CONFIG_(B|NEW|NEWER)=' "$KCONFIG_ALLCONFIG"; } | sort -u > .new
        mv .new "$config" ;;
    bzImage)
        echo "  CALL    scripts/checksyscalls.sh"
        if grep -q error "$src/Makefile"; then
            printf 'main.c:1:2: error: \033[1mno\n  one\n  two\n  three\n  four\nmake: *** [main.o] Error 1\n' >&2
            exit 2
        fi
        if [ ! -e main.o ] || [ "$src/Makefile" -nt main.o ]; then
            echo "  CC      main.o"
            touch main.o
        fi
        mkdir -p arch/x86/boot include/config
        grep -q idle "$src/Makefile" || echo kernel > vmlinux
        echo kernel > arch/x86/boot/bzImage
        echo 6.12.0-test > include/config/kernel.release ;;
esac
"#;

struct Host {
    _folder: tempfile::TempDir,
    tools: Toolchain,
    cache: Cache,
    notes: Notes,
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn step(&self, _at: &str) {}
    fn end(&self) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Makes a script that can be started at once. Another process writes it: one that another test is just starting has all
/// that this process has open, and a file that somebody writes to can't be started.
fn install(path: &Path, script: &str) {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path).stdin(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

impl Host {
    fn new() -> Self {
        let (folder, cache) = cache();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for (name, script) in [
            ("make", MAKE),
            ("cc", "#!/bin/sh\n"),
            ("flex", "#!/bin/sh\n"),
            ("bison", "#!/bin/sh\n"),
            ("bc", ""),
        ] {
            install(&bin.join(name), script);
        }
        let tools = Toolchain::of(|name| match name {
            "PATH" => Some(bin.clone().into()),
            "MAKE" => Some(bin.join("make").into()),
            "CC" | "HOSTCC" => Some(bin.join("cc").into()),
            _ => None::<OsString>,
        });
        Self { _folder: folder, tools, cache, notes: Notes::default() }
    }

    fn build(&self, spec: &BuildSpec) -> Result<Built, Error> {
        build_with(&self.tools, &self.cache, spec, &self.notes)
    }
}

/// A list of options in a file.
fn list(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn based(source: &Path, text: &str) -> BuildSpec {
    BuildSpec { base: Some(list(source, "base", &format!("# over: nothing\n{text}"))), ..spec(source) }
}

#[test]
fn what_has_not_changed_is_neither_configured_nor_made_again() {
    let (host, source) = (Host::new(), tree());
    let spec = based(source.path(), "CONFIG_A=y\n");
    let first = host.build(&spec).unwrap();
    let (image, build_dir) = (first.files.image.clone(), first.build_dir.clone());
    assert_eq!((first.configured, first.made, first.files.release.as_str()), (true, 1, "6.12.0-test"));
    assert!(image.is_file() && first.files.modules_dir.is_none());
    drop(first);
    let second = host.build(&spec).unwrap();
    assert_eq!((second.configured, second.made), (false, 0));
    drop(second);
    assert_eq!(fs::read_to_string(build_dir.join("asked")).unwrap(), "allnoconfig\nbzImage\nbzImage\n");
    // The tree is as it was.
    assert!(!source.path().join(".config").exists() && !source.path().join("main.o").exists());
    fs::write(source.path().join("Kconfig"), format!("{KCONFIG}config E\n\tbool\n")).unwrap();
    assert!(host.build(&spec).unwrap().configured);
}

#[test]
fn compilers_words_are_passed_on_whole_and_kept() {
    let (host, source) = (Host::new(), tree());
    fs::write(source.path().join("Makefile"), "error").unwrap();
    let error = host.build(&based(source.path(), "CONFIG_A=y\n")).unwrap_err();
    let notes = host.notes.0.lock().unwrap();
    let said = ["main.c:1:2: error: \u{1b}[1mno", "  one", "  two", "  three", "  four"];
    assert_eq!(notes[..5], said);
    assert_eq!(notes[5], "make: *** [main.o] Error 1");
    let Error::Make { what, log, .. } = error else { panic!("{error}") };
    assert_eq!(what, "make bzImage");
    assert!(fs::read_to_string(log).unwrap().contains("  four\n"));
}

#[test]
fn option_that_can_not_be_had_is_named_with_its_list_and_the_reason() {
    let (host, source) = (Host::new(), tree());
    let spec = based(source.path(), "CONFIG_A=y\nCONFIG_B=y\nCONFIG_NEW=y\n# optional\nCONFIG_NEWER=y\n");
    let said = host.build(&spec).unwrap_err().to_string();
    assert!(
        said.contains("CONFIG_B=y (") && said.contains("line 3): it depends on CONFIG_C, which is not set"),
        "{said}"
    );
    assert!(said.ends_with("line 4): this kernel has no such option"), "{said}");
    assert!(!said.contains("CONFIG_A=") && !said.contains("NEWER"), "{said}");
}

#[test]
fn option_of_a_base_is_checked_unless_that_is_a_whole_configuration() {
    let (host, source) = (Host::new(), tree());
    let base =
        |text: &str| BuildSpec { base: Some(list(source.path(), "base", text)), ..spec(source.path()) };
    let said = host.build(&base("CONFIG_A=y\nCONFIG_NEW=y\n")).unwrap_err().to_string();
    assert!(
        said.contains("CONFIG_NEW=y (") && said.ends_with("line 2): this kernel has no such option"),
        "{said}"
    );
    host.build(&base("# Linux/x86 6.1.0 Kernel Configuration\nCONFIG_A=y\nCONFIG_NEW=y\n")).unwrap();
}

#[test]
fn own_configuration_is_built_in_place_and_lost_by_no_failure() {
    let (host, source) = (Host::new(), tree());
    let config = source.path().join(".config");
    let own = "CONFIG_D=y\nCONFIG_X86_64=y\n";
    fs::write(&config, own).unwrap();
    let lists = tempfile::tempdir().unwrap();
    let asking =
        |text: &str| BuildSpec { fragments: vec![list(lists.path(), "more", text)], ..spec(source.path()) };
    assert!(host.build(&asking("CONFIG_B=y\n")).is_err());
    assert_eq!(fs::read_to_string(&config).unwrap(), own);
    let built = host.build(&asking("CONFIG_A=y\n")).unwrap();
    assert_eq!((built.base.as_str(), &built.build_dir), (".config", &source.path().canonicalize().unwrap()));
    drop(built);
    assert_eq!(fs::read_to_string(&config).unwrap(), "CONFIG_A=y\nCONFIG_D=y\nCONFIG_X86_64=y\n");
    let before = source.path().join(".kiln/config.before");
    assert_eq!(fs::read_to_string(&before).unwrap(), own);
    let noted = |notes: &Notes| {
        let notes = notes.0.lock().unwrap();
        notes
            .iter()
            .filter(|note| note.contains("is written anew") && note.ends_with("config.before"))
            .count()
    };
    assert_eq!(noted(&host.notes), 1);
    assert!(!host.build(&asking("CONFIG_A=y\n")).unwrap().configured);
    // What is written over now is of our own making.
    assert!(host.build(&asking("CONFIG_A=y\nCONFIG_C=y\n")).unwrap().configured);
    assert_eq!((fs::read_to_string(&before).unwrap().as_str(), noted(&host.notes)), (own, 1));
    assert!(!source.path().join(".config.old").exists());
}

#[test]
fn build_folder_keeps_the_base_that_it_was_given_and_a_users_own_configuration() {
    let (host, source, folder) = (Host::new(), tree(), tempfile::tempdir().unwrap());
    let spec =
        BuildSpec { build_dir: Some(folder.path().to_owned()), ..based(source.path(), "CONFIG_A=y\n") };
    let base = host.build(&spec).unwrap().base;
    let again = BuildSpec { base: None, ..spec };
    let built = host.build(&again).unwrap();
    assert_eq!((&built.base, built.configured), (&base, false));
    drop(built);
    fs::write(folder.path().join(".config"), "CONFIG_X86_64=y\nCONFIG_D=y\n").unwrap();
    assert_eq!(host.build(&again).unwrap().base, ".config");
    let own = fs::read_to_string(folder.path().join(".config")).unwrap();
    assert!(own.contains("CONFIG_D=y"));
    // No base takes its place; what a base made is written anew.
    let based = BuildSpec { base: Some(base), ..again };
    let said = host.build(&based).unwrap_err().to_string();
    assert!(
        said.contains("/.config: it is none that kiln made of a base") && said.contains("move that file"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(folder.path().join(".config")).unwrap(), own);
    fs::remove_file(folder.path().join(".config")).unwrap();
    assert!(host.build(&based).unwrap().configured);
    fs::write(source.path().join("Kconfig"), format!("{KCONFIG}config E\n\tbool\n")).unwrap();
    assert!(host.build(&based).unwrap().configured);
}

#[test]
fn make_that_makes_nothing_is_not_believed() {
    let (host, source) = (Host::new(), tree());
    fs::write(source.path().join("Makefile"), "idle").unwrap();
    let said = host.build(&based(source.path(), "CONFIG_A=y\n")).unwrap_err().to_string();
    assert!(
        said.contains("/vmlinux: make ended well and did not make it; all that it said is in /"),
        "{said}"
    );
}

#[test]
fn kernel_that_was_built_outlives_the_caches_limit_as_long_as_it_is_held() {
    let (host, source) = (Host::new(), tree());
    let built = host.build(&based(source.path(), "CONFIG_A=y\n")).unwrap();
    assert!(built.build_dir.starts_with(host.cache.root().canonicalize().unwrap()));
    assert!(
        host.cache
            .discard(host.cache.beyond(0).unwrap())
            .iter()
            .any(|stayed| stayed.path.file_name() == built.build_dir.file_name())
    );
    assert!(built.files.image.is_file());
    let image = built.files.image.clone();
    drop(built);
    // A program that another test is just starting has the lock's descriptor, too, for a moment.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !host.cache.discard(host.cache.beyond(0).unwrap()).is_empty() {
        assert!(Instant::now() < deadline, "it is held for ever");
        std::thread::yield_now();
    }
    assert!(!image.exists());
}

#[test]
fn build_that_this_host_can_not_do_leaves_no_folder() {
    let (_folder, cache) = cache();
    let (source, tools) = (tree(), Toolchain::of(|name| (name == "PATH").then(|| "/nowhere".into())));
    let error = build_with(&tools, &cache, &spec(source.path()), &crate::progress::Silent).unwrap_err();
    assert!(matches!(error, Error::NoTools { .. }), "{error}");
    assert!(!cache.root().join("build").exists());
}

#[test]
fn configuration_for_another_architecture_is_refused() {
    let (host, source) = (Host::new(), tree());
    fs::write(source.path().join(".config"), "CONFIG_ARM64=y\n").unwrap();
    let said = host.build(&spec(source.path())).unwrap_err().to_string();
    assert!(said.contains("not a configuration for x86-64"), "{said}");
}
