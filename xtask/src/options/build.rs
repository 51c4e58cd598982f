//! How a kernel is built from source.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use kiln::rootfs::kernel::build::BuildSpec;

/// The build, for commands that have `--src`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kernel build options")]
pub(crate) struct BuildOptions {
    /// What the configuration begins with: tiny, smoke, debug, kasan, kunit, coverage, or a file (`kernel build --help` tells of its
    /// lines); tiny if not given, except where there is a .config to begin with: in the tree, or in --build-dir
    #[arg(long, value_name = "NAME|FILE", requires = "src", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) base: Option<String>,

    /// Options merged over it, by one of these names or from a file; the last of several wins; a .config of
    /// your own in the tree or in --build-dir is written anew with them, and kept beside as .kiln/config.before
    #[arg(long = "config", value_name = "NAME|FILE", requires = "src", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) fragments: Vec<String>,

    /// Where it is built; without it in the cache, or in place if the tree has a .config
    #[arg(long, value_name = "DIR", requires = "src")]
    pub(crate) build_dir: Option<PathBuf>,
}

impl BuildOptions {
    /// What is to be built of the tree `source`.
    pub(crate) fn spec(&self, source: &Path) -> BuildSpec {
        BuildSpec {
            source: source.to_owned(),
            base: self.base.clone(),
            fragments: self.fragments.clone(),
            build_dir: self.build_dir.clone(),
            ..BuildSpec::default()
        }
    }
}
