//! What a kernel is built with: the tools of this host, and what the user's environment chooses among them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kconfig::Values;
use crate::{Error, child};

/// What of the environment is handed on to make as if it stood on its command line: a kernel's Makefile sets most of
/// these itself.
const PASSED_ON: &[&str] = &[
    "CC",
    "LD",
    "AR",
    "NM",
    "OBJCOPY",
    "OBJDUMP",
    "READELF",
    "STRIP",
    "PAHOLE",
    "RUSTC",
    "BINDGEN",
    "HOSTCC",
    "HOSTCXX",
    "HOSTRUSTC",
    "LLVM",
    "LLVM_IAS",
    "CROSS_COMPILE",
    "KCFLAGS",
    "KAFLAGS",
    "KCPPFLAGS",
    "LOCALVERSION",
];
/// What would change where a kernel is built, which, or what make says of it.
const REMOVED: &[&str] = &[
    "ARCH",
    "SUBARCH",
    "O",
    "M",
    "V",
    "KBUILD_OUTPUT",
    "KBUILD_EXTMOD",
    "KBUILD_VERBOSE",
    "KCONFIG_ALLCONFIG",
    "KCONFIG_CONFIG",
    "KCONFIG_DEFCONFIG_LIST",
    "KCONFIG_OVERWRITECONFIG",
    "KCONFIG_SEED",
    "KCONFIG_PROBABILITY",
    "KCONFIG_AUTOCONFIG",
    "KCONFIG_AUTOHEADER",
    "KCONFIG_RUSTCCFG",
    "KCONFIG_TRISTATE",
    "KCONFIG_NOSILENTUPDATE",
    "KCONFIG_WERROR",
    "KCONFIG_WARN_UNKNOWN_SYMBOLS",
    "KBUILD_ABS_SRCTREE",
    "KBUILD_SRC",
    "KBUILD_KCONFIG",
    "KBUILD_DEFCONFIG",
    "KBUILD_EXTMOD_OUTPUT",
    "MO",
    "sub_make_done",
    "MAKEFLAGS",
    "GNUMAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEFILES",
];
/// What a kernel carries of who built it when: always the same, so that the same inputs make the same bytes
/// (Documentation/kbuild/reproducible-builds.rst).
const FIXED: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "kiln"),
    ("KBUILD_BUILD_HOST", "kiln"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Programs that every build needs, and Debian's packages for them.
const PROGRAMS: &[(&str, &str)] = &[("flex", "flex"), ("bison", "bison"), ("bc", "bc")];

/// Headers and programs that a build with one of these options needs.
const FOR_OPTIONS: &[(&[&str], Need)] = &[
    (&["OBJTOOL", "STACK_VALIDATION"], LIBELF),
    (&["SYSTEM_TRUSTED_KEYRING", "MODULE_SIG"], Need::Header("openssl/opensslv.h", "libssl-dev")),
    (&["KERNEL_XZ", "KERNEL_LZMA"], Need::Program("xz", "xz-utils")),
    (&["KERNEL_ZSTD"], Need::Program("zstd", "zstd")),
    (&["KERNEL_LZ4"], Need::Program("lz4", "lz4")),
    (&["KERNEL_LZO"], Need::Program("lzop", "lzop")),
    (&["KERNEL_BZIP2"], Need::Program("bzip2", "bzip2")),
    (&["IKHEADERS"], Need::Program("cpio", "cpio")),
];
/// objtool is built with it, and objtool checks every x86-64 kernel since 6.1, for its static calls.
const LIBELF: Need = Need::Header("gelf.h", "libelf-dev");

#[derive(Clone, Copy, Debug)]
enum Need {
    Header(&'static str, &'static str),
    Program(&'static str, &'static str),
}

/// The tools that a kernel is built with.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Toolchain {
    /// make's program, and what is behind it.
    make: Vec<OsString>,
    /// What goes on make's command line.
    variables: BTreeMap<&'static str, OsString>,
    path: OsString,
    ccache: bool,
}

impl Toolchain {
    /// As this process's environment chooses.
    pub(in crate::kernel) fn of_environment() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    pub(super) fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let chosen = |name: &str| variable(name).filter(|value| !value.is_empty());
        let variables = PASSED_ON.iter().filter_map(|name| Some((*name, chosen(name)?))).collect();
        let path = chosen("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let mut tools =
            Self { make: words(&chosen("MAKE").unwrap_or_default()), variables, path, ccache: false };
        // Whoever names a compiler has decided whether there is a cache before it.
        let own = ["CC", "LLVM"].iter().any(|name| tools.variables.contains_key(name));
        tools.ccache = !own && tools.find("ccache".as_ref()).is_some();
        tools
    }

    fn maker(&self) -> &OsStr {
        self.make.first().map_or(OsStr::new("make"), OsString::as_os_str)
    }

    /// The compiler's program, and what is before it.
    fn compiler(&self) -> Vec<OsString> {
        if let Some(cc) = self.variables.get("CC") {
            return words(cc);
        }
        if let Some(llvm) = self.variables.get("LLVM") {
            return vec![clang(llvm)];
        }
        let mut gcc = self.variables.get("CROSS_COMPILE").cloned().unwrap_or_default();
        gcc.push("gcc");
        if self.ccache { vec!["ccache".into(), gcc] } else { vec![gcc] }
    }

    fn host_compiler(&self) -> Vec<OsString> {
        match (self.variables.get("HOSTCC"), self.variables.get("LLVM")) {
            (Some(cc), _) => words(cc),
            (None, Some(llvm)) => vec![clang(llvm)],
            (None, None) => vec!["gcc".into()],
        }
    }

    /// make, in the environment that a kernel's build gets, without a target yet.
    pub(super) fn make(&self) -> Command {
        let mut make = child::command(self.maker());
        make.args(self.make.iter().skip(1)).args(["--no-print-directory", "ARCH=x86_64"]);
        for (name, value) in &self.variables {
            make.arg(assignment(name, value));
        }
        if self.ccache {
            make.arg(assignment("CC", &self.compiler().join(OsStr::new(" "))));
        }
        for name in REMOVED {
            make.env_remove(name);
        }
        for (name, value) in FIXED {
            if std::env::var_os(name).is_none_or(|own| own.is_empty()) {
                make.env(name, value);
            }
        }
        // Scripts in the source tree are run, and leave nothing in it.
        make.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        make
    }

    /// What the environment chooses.
    pub(super) fn choices(&self) -> Vec<(String, Vec<u8>)> {
        let chosen = self.variables.iter();
        chosen.map(|(name, value)| ((*name).to_owned(), value.as_encoded_bytes().to_vec())).collect()
    }

    /// What the outcome of configuring depends on beside the options asked for.
    pub(in crate::kernel) fn identity(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = self.choices();
        let mut compiler = self.compiler().into_iter();
        if let Some(program) = compiler.next() {
            let version =
                child::command(program).args(compiler).arg("--version").stdin(Stdio::null()).output();
            all.push(("version".to_owned(), version.map(|output| output.stdout).unwrap_or_default()));
        }
        all
    }

    /// Whether all is there that a build of the kernel in `source` needs.
    ///
    /// # Errors
    /// Names all that is missing, and how to install it.
    pub(super) fn check(&self, source: &Path) -> Result<(), Error> {
        let has_objtool = std::fs::read_to_string(source.join("arch/x86/Kconfig"))
            .is_ok_and(|text| text.contains("HAVE_OBJTOOL"));
        self.check_programs(has_objtool)
    }

    /// Whether all is there that a build of any kernel needs, or of one that has objtool, too.
    ///
    /// # Errors
    /// As [`Toolchain::check`].
    pub(super) fn check_programs(&self, has_objtool: bool) -> Result<(), Error> {
        let mut missing = Missing::default();
        let mut program = |name: &OsStr, package: &'static str| {
            if self.find(name).is_none() {
                missing.add(name.to_string_lossy(), package);
            }
        };
        program(self.maker(), "make");
        for words in [self.compiler(), self.host_compiler()] {
            for word in words.iter().take(2).filter(|word| !word.as_encoded_bytes().starts_with(b"-")) {
                let name = word.to_string_lossy();
                let package = ["ccache", "clang"].into_iter().find(|own| name.contains(own)).unwrap_or("gcc");
                program(word, package);
            }
        }
        for (name, package) in PROGRAMS {
            program(name.as_ref(), package);
        }
        if has_objtool {
            self.look_for(LIBELF, &mut missing);
        }
        missing.into_result()
    }

    /// Whether all is there that a module of others needs, whose kernel was built elsewhere.
    ///
    /// # Errors
    /// As [`Toolchain::check`].
    pub(in crate::kernel) fn check_for_modules(&self) -> Result<(), Error> {
        let mut missing = Missing::default();
        for (word, package) in
            [(Some(self.maker()), "make"), (self.compiler().last().map(AsRef::as_ref), "gcc")]
        {
            if let Some(word) = word.filter(|word| self.find(word).is_none()) {
                missing.add(word.to_string_lossy(), package);
            }
        }
        missing.into_result()
    }

    /// make for a module whose kernel was built in, or has its headers in, `headers`.
    pub(in crate::kernel) fn make_modules(&self, headers: &Path) -> Command {
        let mut make = self.make();
        // Debian's headers name the very compiler that the kernel was built with. Another version does as well, but for
        // the compiler's plugins, which no distribution's kernel has on.
        let named = std::fs::read_to_string(headers.join(".kernelvariables")).unwrap_or_default();
        let named = named.split_whitespace().rev().find_map(|word| word.strip_prefix("$(CROSS_COMPILE)"));
        let chosen = self.ccache || ["CC", "LLVM"].iter().any(|name| self.variables.contains_key(name));
        if let (Some(gcc), false) = (named, chosen)
            && self.find(format!("x86_64-linux-gnu-{gcc}").as_ref()).is_none()
        {
            make.arg("CC=gcc");
        }
        make
    }

    /// Whether all is there that a build with these options needs.
    ///
    /// # Errors
    /// As [`Toolchain::check`].
    pub(super) fn check_for(&self, values: &Values) -> Result<(), Error> {
        let mut missing = Missing::default();
        for (options, need) in FOR_OPTIONS {
            if options.iter().any(|option| values.is_yes(option)) {
                self.look_for(*need, &mut missing);
            }
        }
        missing.into_result()
    }

    fn look_for(&self, need: Need, missing: &mut Missing) {
        match need {
            Need::Program(name, package) if self.find(name.as_ref()).is_none() => {
                missing.add(name.into(), package)
            }
            Need::Header(header, package) if !self.has_header(header) => missing.add(header.into(), package),
            _ => {}
        }
    }

    /// Whether the compiler of the host's own programs finds a header.
    fn has_header(&self, header: &str) -> bool {
        let mut words = self.host_compiler().into_iter();
        let Some(program) = words.next().filter(|program| self.find(program).is_some()) else {
            // It is missing itself, and said so.
            return true;
        };
        let mut command = child::command(program);
        command.args(words).args(["-x", "c", "-fsyntax-only", "-"]);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = started else { return true };
        if let Some(mut stdin) = child.stdin.take() {
            // One that ended early says so by its status.
            let _ = writeln!(stdin, "#include <{header}>");
        }
        child.wait().is_ok_and(|status| status.success())
    }

    /// Where the shell would find a program.
    fn find(&self, name: &OsStr) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            path.metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        };
        if name.as_encoded_bytes().contains(&b'/') {
            return Some(PathBuf::from(name)).filter(is_program);
        }
        std::env::split_paths(&self.path).map(|folder| folder.join(name)).find(is_program)
    }
}

fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(name);
    argument.push("=");
    argument.push(value);
    argument
}

/// `LLVM=1` is clang, `LLVM=-15` clang-15, `LLVM=/opt/llvm/bin/` that one's (Documentation/kbuild/llvm.rst).
fn clang(llvm: &OsStr) -> OsString {
    let text = llvm.to_string_lossy();
    if text.ends_with('/') {
        format!("{text}clang").into()
    } else if text.starts_with('-') {
        format!("clang{text}").into()
    } else {
        "clang".into()
    }
}

/// The words of a command, as a shell would split one without quotes.
fn words(command: &OsStr) -> Vec<OsString> {
    command.to_string_lossy().split_whitespace().map(OsString::from).collect()
}

/// What is missing, with the packages that have it.
#[derive(Debug, Default)]
struct Missing {
    names: Vec<String>,
    packages: Vec<&'static str>,
}

impl Missing {
    fn add(&mut self, name: std::borrow::Cow<'_, str>, package: &'static str) {
        if !self.names.contains(&name.to_string()) {
            self.names.push(name.into_owned());
        }
        if !self.packages.contains(&package) {
            self.packages.push(package);
        }
    }

    fn into_result(self) -> Result<(), Error> {
        if self.names.is_empty() {
            return Ok(());
        }
        let mend = format!("sudo apt-get install {}", self.packages.join(" "));
        Err(Error::NoTools { missing: self.names.join(", "), mend })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Toolchain {
        Toolchain::of(|name| {
            variables.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn compiler_is_the_environments_choice() {
        let of = |variables: &[(&str, &str)]| with(variables).compiler().join(OsStr::new(" "));
        assert_eq!(of(&[("PATH", "/nowhere"), ("CC", "")]), "gcc");
        assert_eq!(of(&[("CC", "ccache gcc-13"), ("LLVM", "1")]), "ccache gcc-13");
        assert_eq!(of(&[("LLVM", "-15")]), "clang-15");
        assert_eq!(of(&[("LLVM", "/opt/bin/")]), "/opt/bin/clang");
        assert_eq!(
            of(&[("PATH", "/nowhere"), ("CROSS_COMPILE", "x86_64-linux-gnu-")]),
            "x86_64-linux-gnu-gcc"
        );
    }

    #[test]
    fn make_may_have_words_of_its_own() {
        let make = |value: &str| {
            let make = with(&[("MAKE", value)]).make();
            let words = std::iter::once(make.get_program()).chain(make.get_args()).take(2);
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(make("gmake --quiet"), ["gmake", "--quiet"]);
        assert_eq!((make(""), make(" ")), (make("make"), make("make")));
    }

    #[test]
    fn what_would_change_make_is_kept_from_it() {
        let make = with(&[]).make();
        let removed: Vec<_> =
            make.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["GNUMAKEFLAGS", "sub_make_done", "KBUILD_ABS_SRCTREE", "MO", "KCONFIG_AUTOCONFIG", "O"] {
            assert!(removed.contains(&OsStr::new(name)), "{name}");
        }
        let mut once = removed.clone();
        once.dedup();
        assert_eq!(removed.len(), once.len());
    }

    #[test]
    fn all_that_is_missing_is_named_in_one_line_with_its_packages() {
        let source = tempfile::tempdir().unwrap();
        let said = with(&[("PATH", "/nowhere")]).check(source.path()).unwrap_err().to_string();
        assert!(said.contains("make, gcc, flex, bison, bc"), "{said}");
        assert!(said.contains("apt-get install make gcc flex bison bc`"), "{said}");
    }

    #[test]
    fn header_that_no_host_has_is_missing() {
        let tools = Toolchain::of_environment();
        assert!(tools.has_header("stddef.h"));
        assert!(!tools.has_header("kiln/no-such-header.h"));
    }
}
