//! What is in a guest's image.

use std::path::PathBuf;

use clap::Args;

use super::parse::{self, Copied};

/// The image.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Image options")]
pub(crate) struct ImageOptions {
    /// Add a static busybox, with a link for each of its applets
    #[arg(long)]
    pub(crate) busybox: bool,

    /// Put a file of this host at a path of the guest; again for more
    #[arg(long = "file", value_name = "SRC:DST", value_parser = parse::copied)]
    pub(crate) files: Vec<Copied>,

    /// Put a folder of this host, with all that is in it, at a path of the guest; again for more
    #[arg(long = "dir", value_name = "SRC:DST", value_parser = parse::copied)]
    pub(crate) dirs: Vec<Copied>,

    /// Put a program of this host, with the shared libraries that it needs, into the guest's /bin; again for
    /// more
    #[arg(long = "exec", value_name = "BIN")]
    pub(crate) executables: Vec<PathBuf>,

    /// Modules to load, beside those that the machine's devices need
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = parse::module)]
    pub(crate) modules: Vec<String>,

    /// The guest's host name
    #[arg(long, value_name = "NAME", default_value = "kiln", value_parser = parse::hostname)]
    pub(crate) hostname: String,

    /// Program of this host that becomes the guest's /init, in place of kiln's agent
    #[arg(long, value_name = "BIN")]
    pub(crate) init: Option<PathBuf>,
}
