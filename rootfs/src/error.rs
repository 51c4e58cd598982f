//! What can go wrong, one line each.

use std::io;
use std::path::{Path, PathBuf};

/// Why a kernel, an image, a tool or the cache could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("failed to {what} {}", path.display())]
    Io {
        /// What was tried: "read", "create".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file has not the form that its use asks for.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A program could not be started.
    #[error("failed to start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}): {said}")]
    Program {
        /// The program with its task.
        program: String,
        /// How it ended.
        status: String,
        /// The last of what it said.
        said: String,
    },
    /// A variable of the environment holds what it can't.
    #[error("{name} is '{value}': {why}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The distribution's packages can't be had on this host.
    #[error("{what} is missing and there is no {tool} to fetch it with: {mend}")]
    NoPackages {
        /// What was wanted.
        what: String,
        /// The tool that is not there.
        tool: &'static str,
        /// What to do instead.
        mend: &'static str,
    },
    /// The distribution has no such package.
    #[error("the distribution has no package for {what}: {mend}")]
    NoPackage {
        /// What was wanted.
        what: String,
        /// What to do instead.
        mend: String,
    },
    /// A module that is neither in the modules' folder nor in the kernel.
    #[error("no module {name} in {} and none built into the kernel{needed_by}", dir.display())]
    NoModule {
        /// Its name.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// `, needed by …`, or nothing.
        needed_by: String,
    },
    /// A shared library that is nowhere the dynamic linker would look.
    #[error("{}: its shared library {library} was not found", program.display())]
    NoLibrary {
        /// The library.
        library: String,
        /// Who needs it.
        program: PathBuf,
    },
    /// What a kernel is built with is not installed.
    #[error("to build a kernel, this host lacks {missing}: `{mend}` (Debian, Ubuntu)")]
    NoTools {
        /// Programs and headers.
        missing: String,
        /// The command that installs them.
        mend: String,
    },
    /// Options that were asked for and that a kernel's configuration can't have.
    #[error("not in the kernel's configuration: {unmet}")]
    Options {
        /// Each with the reason.
        unmet: String,
    },
    /// A kernel does not build; what its make said was passed on already.
    #[error("{what} failed ({status}); all that it said is in {}", log.display())]
    Make {
        /// The command.
        what: String,
        /// How it ended.
        status: String,
        /// Where its output is.
        log: PathBuf,
    },
    /// A module's source does not build.
    #[error("the module in {} does not build for Linux {release}:{said}", source_dir.display())]
    DoesNotBuild {
        /// The folder with its source.
        source_dir: PathBuf,
        /// The kernel's release.
        release: String,
        /// What the compiler said, a line each, each after a line's end.
        said: String,
    },
    /// A module that this kernel does not make.
    #[error("no module {name}: {why}")]
    Module {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// What an image was asked to hold makes no sense.
    #[error("the image can't have {path}: {why}")]
    Image {
        /// The path in the image.
        path: String,
        /// Why not.
        why: String,
    },
    /// A file system's size has no room for what goes into it.
    #[error("an ext4 image of {size} bytes has no room for its content: it needs at least {needed_kib}K")]
    TooSmall {
        /// The size that was asked for, in bytes.
        size: u64,
        /// The smallest that would do, in KiB.
        needed_kib: u64,
    },
    /// A file system that the format has no numbers for.
    #[error("an ext4 image of ours is smaller than 16 TiB")]
    TooLarge,
    /// An archive is damaged, or none.
    #[error("the archive is wrong at byte {at}: {why}")]
    Archive {
        /// Where, counted in the archive as it is when unpacked.
        at: u64,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// For `map_err`: what was tried on `path`.
    pub(crate) fn io<'a>(
        what: &'static str,
        path: &'a (impl AsRef<Path> + ?Sized),
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), why: why.into() }
    }
}
